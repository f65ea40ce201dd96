"""Joins and leaves behind the messages of their own process: marks that come back, or never do."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import ProduceFailed
from kafka_layer.server import ordering
from kafka_layer.server.identity import Identity
from kafka_layer.server.ordering import Ordering
from kafka_layer.transport import Health
from kafka_layer.wire.topics import Topic
from tests.support.steps import waits

QUICK = Timings(read_back=0.05, read_back_window=0.0)


class Site:
    """An ``Ordering`` whose sender keeps the marks, and whose transport is connected."""

    def __init__(self, timings: Timings | None = None) -> None:
        self.marks: list[tuple[Any, Ticket[Any]]] = []
        self.failing: Exception | None = None
        self.keys: dict[Topic, dict[str, None]] = {}
        self.records: list[Any] = []
        identity = Identity()
        identity.take(0)
        self.ordering = Ordering(identity, self, self, self, timings or QUICK)  # type: ignore[arg-type]
        self.ordering.begin()

    def note_keys(self, topic: Topic, keys: dict[str, None]) -> None:
        self.keys[topic] = keys

    def publish(self, record: Any, ticket: Ticket[Any]) -> None:
        self.marks.append((record, ticket))
        if self.failing is not None:
            ticket.fail(self.failing)

    def health(self) -> Health:
        return Health(connected=True, queued=0, lag=0)

    def partitions(self, topic: Topic) -> int:
        return 3

    def deliver(self, records: Any) -> None:
        self.records += records

    def send(self, group: str) -> None:
        self.keys[Topic.SEND_GROUP][group] = None

    def join(self, group: str) -> float:
        """Return how long a join waits, in seconds, for what never comes."""
        return waits(self.ordering.settle(Topic.SEND_GROUP, group))


def test_a_join_writes_nothing_where_nothing_was_sent() -> None:
    site = Site()
    site.send("elsewhere")

    site.join("room")

    assert site.marks == []


def test_at_no_line_of_a_join_does_its_group_seem_settled_to_another_thread() -> None:
    site = Site(Timings(read_back=30.0))
    site.send("room")
    seen: list[bool] = []

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != ordering.__file__:
            return None
        if event == "line":
            seen.append(site.ordering.is_settled(Topic.SEND_GROUP, "room"))
        return look

    steps = site.ordering.settle(Topic.SEND_GROUP, "room")
    before = sys.gettrace()
    sys.settrace(look)
    try:
        next(steps)
    finally:
        sys.settrace(before)

    assert len(seen) > 10
    assert not any(seen)
    site.ordering.close()
    assert site.ordering.is_settled(Topic.SEND_GROUP, "room")


def test_a_mark_that_is_not_written_is_waited_for_by_nobody() -> None:
    site = Site(Timings(read_back=30.0))
    site.failing = ProduceFailed("no broker took it")
    site.send("room")

    assert site.join("room") == site.join("room") == 0
    assert len(site.marks) == 1


def test_a_mark_that_never_comes_back_delays_one_join_and_no_later_one() -> None:
    site = Site(Timings(read_back=0.5, read_back_window=0.0))
    site.send("room")

    assert site.join("room") == 0.5
    assert sum(site.join("room") for _ in range(10)) == 0
    assert len(site.marks) == 1


def test_a_rotation_does_not_forget_that_more_keys_were_sent_to_than_are_noted() -> None:
    site = Site()
    for number in range(100_001):
        site.send(f"room-{number}")
    site.ordering.tick()

    site.failing = ProduceFailed("it is enough to see that it was tried")
    site.join("room-7")

    assert len(site.marks) == 1
