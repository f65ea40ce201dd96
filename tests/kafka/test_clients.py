"""Requests of clients, as far as no broker is needed to show what comes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.kafka.clients import partition_counts
from kafka_layer.kafka.connection import Connection
from kafka_layer.observe.counters import Stats


class SlowClient:
    """Gets an answer, or is refused, at its ``answered_at``-th request; until then nothing."""

    def __init__(self, answered_at: int) -> None:
        self.answered_at = answered_at
        self.requests = 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        self.requests += 1
        if self.requests < self.answered_at:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        partition = SimpleNamespace(leader=1)
        return SimpleNamespace(
            topics={topic: SimpleNamespace(error=None, partitions={0: partition, 1: partition})}
        )


def refuse(connection: Connection) -> None:
    connection.on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    connection.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))


@pytest.fixture
def connection() -> Connection:
    return Connection("kafka:9093", Stats("test"))


class TestRefusals:
    def test_an_earlier_one_may_be_mended_by_now(self, connection: Connection) -> None:
        refuse(connection)
        client = SlowClient(answered_at=2)
        assert partition_counts(client, ["t"], connection, 5) == {"t": 2}

    def test_one_that_stays_ends_it_long_before_the_time_is_over(
        self, connection: Connection
    ) -> None:
        """librdkafka does not report the same error of a broker again for a while."""
        refuse(connection)
        client = SlowClient(answered_at=100)
        with pytest.raises(BrokerUnavailable, match="wrong password"):
            partition_counts(client, ["t"], connection, 60)
        assert client.requests == 2

    def test_a_new_one_ends_it_at_once(self, connection: Connection) -> None:
        class Refused(SlowClient):
            def list_topics(self, topic: str, timeout: float) -> Any:
                refuse(connection)
                return super().list_topics(topic, timeout)

        client = Refused(answered_at=100)
        with pytest.raises(BrokerUnavailable, match="wrong password"):
            partition_counts(client, ["t"], connection, 60)
        assert client.requests == 1
