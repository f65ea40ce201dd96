"""Whether a stream is read, in any course of events: its table, and that the source obeys."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.delivery.tickets import Ticket
from kafka_layer.streams.reading import Reading
from kafka_layer.streams.state import StreamState

IDLE_AFTER = 5.0


class Source:
    """Reads, or does not."""

    def __init__(self) -> None:
        self.reads = False
        self.began_at: Any = None
        self.listener: Any = None

    def begin(self, start: Any) -> Ticket[None]:
        self.began_at, self.reads = start, True
        return Ticket.resolved(None)

    def read(self, on: bool) -> Ticket[None]:
        self.reads = on
        return Ticket.resolved(None)

    def seek(self, start: Any) -> Ticket[None]:
        self.began_at = start
        return Ticket.resolved(None)

    def follow(self, listener: Any, on_epoch: Any) -> None:
        self.listener = listener

    def stop(self) -> None:
        self.reads = False


class Course(RuleBasedStateMachine):
    """Any thread steers a stream while channels come and go, and its source may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: list[int] = []
        self.idle_told = 0
        self.now = 0.0
        self.opened: list[Source] = []
        registry: Any = self.channels
        self.reading = Reading(self.open, "latest", None, registry, IDLE_AFTER, self.on_idle)
        # What holds of the table, and since when no channel was seen.
        self.holds = {StreamState.IDLE}
        self.empty_since: float | None = None
        self.follows = False

    def open(self) -> Any:
        self.opened.append(Source())
        return self.opened[-1]

    def on_idle(self) -> None:
        assert self.reading.situation.idle
        self.idle_told += 1

    def is_open(self) -> bool:
        return self.reading.source is not None

    @rule()
    def wake(self) -> None:
        if StreamState.IDLE in self.holds:
            self.empty_since = None
        self.holds.discard(StreamState.IDLE)
        assert self.reading.wake().done
        assert self.reading.awake

    @rule()
    def pause(self) -> None:
        self.holds.add(StreamState.PAUSED)
        assert self.reading.pause().done

    @rule()
    def resume(self) -> None:
        self.holds -= {StreamState.PAUSED, StreamState.STOPPED}
        assert self.reading.resume().done

    @rule(start=st.sampled_from(["earliest", "latest"]))
    def seek(self, start: Any) -> None:
        self.holds.discard(StreamState.STOPPED)
        assert self.reading.seek(start).done
        source: Any = self.reading.source
        if source is not None:
            # Also one that this has opened, because the one before failed.
            assert source.began_at == start

    @precondition(lambda self: not self.holds)
    @rule(client=st.booleans())
    def fail(self, client: bool) -> None:
        self.holds.add(StreamState.STOPPED)
        if client:
            self.reading.fail("no such property")
        else:
            self.reading.stop("a poison record")
        assert self.is_open() is not client

    @rule(count=st.integers(0, 1), later=st.sampled_from([1.0, IDLE_AFTER]))
    def look(self, count: int, later: float) -> None:
        self.now += later
        self.channels[:] = range(count)
        if count:
            self.empty_since = None
            self.holds.discard(StreamState.IDLE)
        elif self.empty_since is None:
            self.empty_since = self.now
        elif self.now - self.empty_since >= IDLE_AFTER:
            self.holds.add(StreamState.IDLE)
        told = self.idle_told
        was_idle = self.reading.situation.idle
        self.reading.look_for_channels(self.now)
        assert self.idle_told - told == (self.reading.situation.idle and not was_idle)

    @rule()
    def follow(self) -> None:
        self.follows = True
        self.reading.follow(lambda positions, whole: None, lambda where, offset, epoch: None)

    @precondition(lambda self: StreamState.CLOSED not in self.holds)
    @rule(really=st.integers(0, 20), forked=st.booleans())
    def close(self, really: int, forked: bool) -> None:
        if really:
            return
        self.holds.add(StreamState.CLOSED)
        if forked:
            self.reading.abandon()
        else:
            self.reading.close()

    @invariant()
    def it_is_in_the_states_that_the_table_says(self) -> None:
        found = self.reading.situation
        assert self.holds == {
            state
            for state, holds in {
                StreamState.CLOSED: found.closed,
                StreamState.PAUSED: found.paused,
                StreamState.STOPPED: bool(found.failure),
                StreamState.IDLE: found.idle,
            }.items()
            if holds
        }

    @invariant()
    def the_source_reads_where_none_of_them_holds_and_nowhere_else(self) -> None:
        source: Any = self.reading.source
        assert (source is not None and source.reads) is not bool(self.holds)
        if source is not None and self.follows:
            assert source.listener is not None


TestCourse = Course.TestCase
TestCourse.settings = settings(max_examples=4 * settings().max_examples)


def test_a_channel_that_comes_and_goes_starts_the_time_anew() -> None:
    channels: list[int] = []
    registry: Any = channels
    source: Any = Source()
    reading = Reading(lambda: source, "latest", None, registry, IDLE_AFTER, lambda: None)
    for now, idle in ((0.0, True), (IDLE_AFTER, True), (IDLE_AFTER + 1, False)):
        reading.look_for_channels(now)
        if not idle:
            reading.wake()
            reading.look_for_channels(now)
        assert reading.situation.idle is idle
        assert source.reads is not idle


def test_the_table_has_the_states_on_which_it_decides() -> None:
    lines = (Reading.__doc__ or "").splitlines()
    names = [line.split()[0] for line in lines if line.strip()[:4].isupper()]
    assert names == ["CLOSED", "PAUSED", "STOPPED", "IDLE"]
