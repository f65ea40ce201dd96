"""What a console reads, on a client that only answers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka import tail as tail_module
from kafka_layer.kafka.tail import Tail


class Client:
    """Two partitions with ten records each; the leader of the second does not answer at first."""

    def __init__(self, properties: dict[str, Any]) -> None:
        self.assigned: dict[int, int] = {}
        self.silent = {1}

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions={0: 0, 1: 1})})

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        return [
            TopicPartition(each.topic, each.partition, -1 if each.partition in self.silent else 10)
            for each in partitions
        ]

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.assigned.update({each.partition: each.offset for each in partitions})

    def close(self) -> None: ...


def test_a_leader_that_answers_late_has_its_partition_begin_at_the_start_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client({})
    monkeypatch.setattr(tail_module, "Consumer", lambda properties: client)
    config = LayerConfig.from_keywords(bootstrap_servers="nowhere:1")
    with Tail(config, "orders", "latest") as tail:
        tail.look()
        assert client.assigned == {0: 10}
        client.silent = set()
        tail.look()
    assert client.assigned == {0: 10, 1: 10}
