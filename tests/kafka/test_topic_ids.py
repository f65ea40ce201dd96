"""Who follows the topic of a stream is told that it was created again, whatever brokers answer."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.kafka import stream_producers, topics
from kafka_layer.kafka.backplane import KafkaBackplane
from kafka_layer.kafka.topic_ids import TopicIds
from kafka_layer.kafka.topics import KnownTopic
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import StreamTopic

UNANSWERED = KafkaException(KafkaError(KafkaError._TIMED_OUT))
AT_EACH_LOOK = Timings(topics=0.0)


class Watch:
    """Stands in for a client that looks: each question stays open until the test answers it."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Future[Any]]] = []

    def ask(self, names: Collection[str], timeout: float) -> dict[str, Future[Any]]:
        self.questions.append({name: Future() for name in names})
        return self.questions[-1]

    def answer(self, topic: str, topic_id: str, leader: int) -> None:
        partition = SimpleNamespace(leader=SimpleNamespace(id=leader))
        told = SimpleNamespace(topic_id=topic_id, partitions=[partition])
        last = next(each for each in reversed(self.questions) if topic in each)
        last[topic].set_result(told)


class Follower:
    def __init__(self) -> None:
        self.told: list[tuple[str | None, bool]] = []

    def __call__(self, known: KnownTopic, moved: bool) -> None:
        self.told.append((known.topic_id, moved))


def case(timings: Timings = AT_EACH_LOOK) -> tuple[Any, TopicIds, Follower]:
    watch: Any = Watch()
    follower = Follower()
    ids = TopicIds(watch, timings)
    ids.follow("orders", follower)
    return watch, ids, follower


def test_each_follower_is_told_the_id_and_once_that_the_leaders_are_others() -> None:
    watch, ids, follower = case()
    bills = Follower()
    ids.follow("bills", bills)
    ids.look()
    for topic_id, leader in (("one", 1), ("two", 1), ("three", 2), ("three", 2)):
        watch.answer("orders", topic_id, leader)
        watch.answer("bills", "its own", 1)
        ids.look()
    assert follower.told == [("one", False), ("two", False), ("three", True), ("three", False)]
    assert bills.told == [("its own", False)] * 4


def test_the_next_look_takes_the_answers_and_asks_not_before_it_is_due() -> None:
    watch, ids, follower = case(Timings(topics=60.0))
    ids.look()
    ids.look()
    assert follower.told == []
    watch.answer("orders", "one", 1)
    ids.look()
    assert follower.told == [("one", False)]
    assert len(watch.questions) == 1


def test_a_topic_that_was_asked_for_before_it_is_followed_is_the_one_that_is_known() -> None:
    watch, ids, follower = case()
    ids.ask(["bills"])
    watch.answer("bills", "one", 1)
    bills = Follower()
    ids.follow("bills", bills)
    ids.look()
    watch.answer("bills", "two", 2)
    ids.look()
    assert bills.told == [("one", False), ("two", True)]
    assert follower.told == []


def test_a_topic_of_which_nothing_is_known_is_asked_for_at_each_look() -> None:
    watch, ids, follower = case(Timings(topics=60.0))
    for _ in range(3):
        ids.look()
        watch.questions[-1]["orders"].set_exception(UNANSWERED)
    ids.look()
    watch.answer("orders", "one", 1)
    ids.look()
    ids.look()
    assert follower.told == [("one", False)]
    assert len(watch.questions) == 4


def test_what_a_stream_is_written_to_is_asked_for_before_the_producer_learns_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the first answer may tell of a topic that was created again since."""
    watch, producer = Watch(), MagicMock()

    def learn(*_: object) -> MagicMock:
        watch.answer("orders", "one", 1)
        return producer

    monkeypatch.setattr(topics, "TopicWatch", lambda *_: watch)
    monkeypatch.setattr(stream_producers.StreamProducers, "open", learn)
    streams = {"orders": {"topic": "orders", "group": "all", "type": "order.changed"}}
    config = LayerConfig.from_keywords(bootstrap_servers="127.0.0.1:1", streams=streams)
    object.__setattr__(config, "timings", Timings(topics=0.0))
    backplane = KafkaBackplane(config, Stats("test"))
    backplane.open_stream_writer(StreamTopic("orders", "orders"), 1.0)
    backplane.check()
    watch.answer("orders", "two", 2)
    backplane.check()
    producer.leave_leaders.assert_called_once_with(["orders"])


def test_brokers_that_do_not_answer_or_have_no_such_topic_tell_nothing() -> None:
    watch, ids, follower = case()
    ids.look()
    ids.look()
    gone = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    watch.questions[-1]["orders"].set_exception(gone)
    ids.look()
    assert follower.told == []
    assert len(watch.questions) == 3
