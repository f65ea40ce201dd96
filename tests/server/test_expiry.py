"""When a message is too old, by the broker's time and by its deadline."""

from __future__ import annotations

import pytest

from kafka_layer.config import realtime
from kafka_layer.observe.counters import Stats
from kafka_layer.server.clock import BrokerClock
from kafka_layer.server.expiry import Expiry
from kafka_layer.wire.topics import Topic

LIMIT = 60.0


class Site:
    """A broker whose time is 1,000, and this machine's monotonic clock at 50."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(realtime, "monotonic", lambda: 50.0)
        self.stats = Stats()
        self.ages: list[float] = []
        clock = BrokerClock(now=lambda: 50.0, wall=lambda: 1000.0)
        self.expiry = Expiry(LIMIT, self.stats, clock, self.ages.append)
        self.expiry.read_clocks()

    def deadline(self, timestamp: float) -> float | None:
        return self.expiry.deadline(timestamp, Topic.SEND_GROUP, "room", ("a", "b"))

    @property
    def counted(self) -> dict[str, int]:
        return self.stats.by_name("dropped")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


def test_the_deadline_is_what_is_left_of_the_expiry(site: Site) -> None:
    assert site.deadline(1000.0) == 50.0 + LIMIT
    assert site.deadline(990.0) == 50.0 + LIMIT - 10.0
    assert site.deadline(1000.0 - LIMIT) == 50.0
    assert site.ages == [0.0, 10.0, LIMIT]


def test_a_record_from_the_future_is_new(site: Site) -> None:
    assert site.deadline(1005.0) == 50.0 + LIMIT
    assert site.ages == [0.0]


def test_one_that_is_older_is_counted_for_each_receiver(site: Site) -> None:
    assert site.deadline(999.0 - LIMIT) is None
    assert site.counted == {"expired": 2}


def test_a_flush_drops_what_was_written_up_to_it(site: Site) -> None:
    assert site.expiry.forget_until(995.0) == 995.0
    # An older flush takes nothing back.
    assert site.expiry.forget_until(900.0) == 995.0
    assert site.deadline(995.0) is None
    assert site.deadline(995.1) is not None
    assert site.counted == {"flushed": 2}
    assert site.ages == [pytest.approx(4.9)]


def test_a_flush_from_the_future_drops_little_more_than_there_is(site: Site) -> None:
    assert site.expiry.forget_until(5000.0) == 1001.0
