"""The broker's clock as a server sees it: steps, quick and slow records, and who dated them."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.config.realtime import monotonic
from kafka_layer.messages import Position, SelfTimedPosition
from kafka_layer.server.clock import BrokerClock
from tests.support.tables import for_each

EPOCH = 1_800_000_000.0
"""Where the broker's clock of these tests begins, in seconds since the epoch."""


class World:
    """Real time in which nothing passes by itself, a broker's clock and this machine's.

    Attributes:
        clock: What is tested.
        now: Seconds since the start.
        broker: By how much the broker's clock is ahead of ``EPOCH``, beside ``now``.
        wall: The same of this machine's clock.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.broker = 0.0
        self.wall = 0.0
        self.clock = BrokerClock(lambda: self.now, lambda: EPOCH + self.now + self.wall)

    @property
    def wrong_by(self) -> float:
        """The layer's error, in seconds."""
        return self.clock.now() - (EPOCH + self.now + self.broker)

    def record(self, there: float = 0.001, back: float = 0.001) -> None:
        """Let a record go there and its report come back, in so many seconds each."""
        sent = self.now
        self.now += there
        appended = EPOCH + self.now + self.broker
        self.now += back
        self.clock.observe(appended, sent, self.now)


def test_before_anything_is_known_it_is_this_machines() -> None:
    before = time.time()
    assert before - 1 <= BrokerClock().now() <= time.time() + 1


@for_each("offset", [-3600.0, -0.5, 0.0, 0.5, 3600.0])
def test_one_record_sets_it(offset: float) -> None:
    world = World()
    world.broker = offset
    world.record()
    assert world.wrong_by == pytest.approx(0, abs=0.001)


@for_each("step", [-3600.0, -120.0, 120.0, 3600.0])
@for_each("measured", [False, True])
def test_a_step_of_this_machines_clock_changes_nothing(step: float, measured: bool) -> None:
    world = World()
    if measured:
        world.record()
    world.wall = step
    assert world.wrong_by == pytest.approx(0, abs=0.001)
    world.record(there=0.03, back=0.03)
    assert world.wrong_by == pytest.approx(0, abs=0.001)


@for_each("step", [-3600.0, -120.0, 120.0, 3600.0])
def test_a_slow_record_tells_of_a_step_of_the_brokers_clock(step: float) -> None:
    """As where this machine slept: its own clock stood still meanwhile."""
    world = World()
    world.record(there=0.004, back=0.004)
    world.broker = step
    world.record(there=0.02, back=0.04)
    assert world.wrong_by == pytest.approx(0, abs=0.03)


def test_a_quick_record_counts_for_more_than_a_slow_one_that_agrees() -> None:
    world = World()
    world.record(there=0.001, back=0.001)
    world.record(there=1.0, back=0.0)
    assert world.wrong_by == pytest.approx(0, abs=0.001)


def test_a_quick_record_is_forgotten_after_some_minutes() -> None:
    world = World()
    world.record(there=0.001, back=0.001)
    for _ in range(30):
        world.now += 30
        world.broker += 0.002  # it drifts
        world.record(there=0.02, back=0.02)
    assert world.wrong_by == pytest.approx(0, abs=0.045)


def test_thousands_of_records_cost_no_more_each_than_a_few() -> None:
    """A server that sends many commands measures with each: all of the last ten minutes count."""
    world = World()

    def steps(records: int) -> int:
        """Return how many calls, of C as well, so many records take."""
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            for number in range(records):
                # Some are quicker than others, in no order.
                world.record(there=0.001 + number * 7 % 11 / 10_000)
        finally:
            sys.setprofile(None)
        return calls

    first = steps(100)
    steps(5000)
    assert steps(100) <= 2 * first


@given(
    drift=st.floats(-5e-5, 5e-5),
    records=st.lists(
        st.tuples(
            st.floats(0, 60),
            st.floats(0, 2),
            st.floats(0, 2),
            st.sampled_from([0.0] * 8 + [-3600.0, -1.0, 1.0, 120.0]),
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_the_last_record_bounds_the_error(
    drift: float, records: list[tuple[float, float, float, float]]
) -> None:
    """Whatever the clocks do: each record bounds the error that is left."""
    world = World()
    for pause, there, back, step in records:
        world.now += pause
        world.broker += drift * pause + step
        world.record(there, back)
        # The record's own error, that of the best one, which is no larger, and what both allow.
        error = (there + back) / 2
        assert abs(world.wrong_by) <= error + (error + error) + 0.06


@pytest.mark.parametrize(("offset", "word"), [(60.0, "behind"), (-60.0, "ahead of")])
def test_a_wrong_clock_of_this_machine_is_logged_once(
    offset: float, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.broker = offset
    with caplog.at_level(logging.WARNING, "kafka_layer"):
        for _ in range(3):
            world.record()
    (record,) = caplog.records
    assert f"60.0 s {word} the Kafka broker's" in record.getMessage()
    assert "NTP" in record.getMessage()


def test_a_clock_that_is_nearly_right_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.broker = 2.0
    world.record()
    assert not caplog.records


class TestWhoDatedTheRecord:
    """Only what the broker says of its time counts."""

    @staticmethod
    def position(timestamp: float, kind: type[Position] = Position) -> Position:
        return kind("channels-ack", 0, 0, timestamp)

    def test_an_append_time_in_the_report_counts(self) -> None:
        world = World()
        timed = world.clock.time("channels-ack")
        timed.reported(self.position(EPOCH + 100))
        assert world.clock.now() == pytest.approx(EPOCH + 100)
        timed.read(EPOCH + 200)
        assert world.clock.now() == pytest.approx(EPOCH + 100)

    @pytest.mark.parametrize("read_first", [False, True])
    def test_where_the_report_has_none_the_record_that_was_read_counts(
        self, read_first: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As with a broker that leaves the time of an append out of its answers."""
        world = World()
        timed = world.clock.time("channels-ack")
        steps = [
            lambda: timed.reported(self.position(EPOCH, SelfTimedPosition)),
            lambda: timed.read(EPOCH + 100),
        ]
        for step in reversed(steps) if read_first else steps:
            step()
        assert world.clock.now() == pytest.approx(EPOCH + 100)
        assert not world.clock.append_times_reported
        assert not [each for each in caplog.records if "CreateTime" in each.getMessage()]

    def test_a_time_of_this_machine_in_the_report_does_not_count(self) -> None:
        world = World()
        world.record()
        world.wall = 3600.0
        world.clock.time("channels-ack").reported(self.position(EPOCH + 3600, SelfTimedPosition))
        assert world.wrong_by == pytest.approx(0, abs=0.001)

    def test_a_topic_that_keeps_the_senders_times_is_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World()
        for _ in range(3):
            timed = world.clock.time("channels-ack")
            timed.reported(self.position(EPOCH, SelfTimedPosition))
            timed.read(EPOCH)
        (record,) = caplog.records
        assert "channels-ack" in record.getMessage()
        assert "message.timestamp.type=LogAppendTime" in record.getMessage()


def test_the_default_clock_runs_with_real_time() -> None:
    clock = BrokerClock()
    now = monotonic()
    clock.observe(EPOCH, now, now)
    before = monotonic()
    told = clock.now() - EPOCH
    assert before - now - 0.001 <= told <= monotonic() - now + 0.001
