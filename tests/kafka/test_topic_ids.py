"""Who follows the topic of a stream is told that it was created again, whatever brokers answer."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from kafka_layer.config.timings import Timings
from kafka_layer.kafka.topic_ids import TopicIds
from kafka_layer.kafka.topics import KnownTopic

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
        self.questions[-1][topic].set_result(told)


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


def test_brokers_that_do_not_answer_or_have_no_such_topic_tell_nothing() -> None:
    watch, ids, follower = case()
    ids.look()
    ids.look()
    gone = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    watch.questions[-1]["orders"].set_exception(gone)
    ids.look()
    assert follower.told == []
    assert len(watch.questions) == 3
