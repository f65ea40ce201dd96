"""Requests about topics, as far as no broker is needed to show what comes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import BrokerUnavailable, TopicError
from kafka_layer.kafka import admin
from kafka_layer.kafka.specs import TopicSpec

FENCED = KafkaError(
    KafkaError.INVALID_REPLICATION_FACTOR,
    "Unable to replicate the partition 1 time(s): All brokers are currently fenced.",
)
TOO_FEW = KafkaError(
    KafkaError.INVALID_REPLICATION_FACTOR,
    "The target replication factor of 3 cannot be reached because only 1 broker(s) are registered.",
)


class Cluster:
    """Answers requests for partitions; as a client, too, that is asked to make one."""

    def __init__(self, refusals: Mapping[str, Iterator[KafkaError]]) -> None:
        self.asked: list[list[str]] = []
        self._refusals = refusals

    def poll(self, timeout: float) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def create_topics(self, topics: Sequence[Any], **_: Any) -> dict[str, Future[None]]:
        return self._answer([each.topic for each in topics])

    def create_partitions(self, topics: Sequence[Any], **_: Any) -> dict[str, Future[None]]:
        return self._answer([each.topic for each in topics])

    def _answer(self, names: list[str]) -> dict[str, Future[None]]:
        self.asked.append(names)
        answers: dict[str, Future[None]] = {}
        for name in names:
            answers[name] = Future()
            error = next(self._refusals.get(name, iter(())), None)
            if error is None:
                answers[name].set_result(None)
            else:
                answers[name].set_exception(KafkaException(error))
        return answers


@pytest.fixture
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    def asking(refusals: Mapping[str, Iterator[KafkaError]], timeout: float = 30.0) -> Cluster:
        cluster = Cluster(refusals)
        monkeypatch.setattr(admin, "new_client", lambda *_: cluster)
        with admin.TopicAdmin(
            LayerConfig.from_keywords(bootstrap_servers="kafka:9092"), timeout
        ) as topics:
            request.param(topics)
        return cluster

    return asking


def create(topics: admin.TopicAdmin) -> None:
    topics.create([TopicSpec(name, 1, 1, {}) for name in ("a", "b")])


def add_partitions(topics: admin.TopicAdmin) -> None:
    topics.add_partitions({"a": 2, "b": 2})


@pytest.mark.parametrize("ask", [create, add_partitions], indirect=True)
class TestFencedBrokers:
    """What brokers are for some seconds after their start."""

    def test_what_they_did_not_take_is_asked_for_again(self, ask: Callable[..., Cluster]) -> None:
        asked = ask({"a": iter([FENCED, FENCED])}).asked
        assert asked == [["a", "b"], ["a"], ["a"]]

    def test_brokers_that_stay_so_are_away(self, ask: Callable[..., Cluster]) -> None:
        with pytest.raises(BrokerUnavailable, match="All brokers are currently fenced"):
            ask({"a": itertools.repeat(FENCED)}, timeout=0.2)

    def test_another_refusal_ends_it_at_once(self, ask: Callable[..., Cluster]) -> None:
        with pytest.raises(TopicError, match="lower it, or leave it at -1"):
            ask({"a": iter([TOO_FEW])})
