"""Back-pressure: which full channels are waited for, for how long, and when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kafka_layer.config.timings import Timings
from kafka_layer.delivery import backpressure as backpressure_module
from kafka_layer.delivery import wakeups as wakeups_module
from kafka_layer.delivery.backpressure import BackPressure, Congestion, Verdict
from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.wakeups import Loop, Wakeups
from tests.support.waiting import PATIENCE, wait_until_async

TIMINGS = Timings(stalled=0.1, holding_up=0.4, blocked_loop=1.0, echo=0.2)
CAPACITY = 10


def envelope(number: int = 0) -> Envelope:
    return Envelope(str(number).encode(), time.monotonic() + 60)


def fill(mailbox: Mailbox) -> None:
    while mailbox.put(envelope()):
        pass


class Clock:
    """Seconds that pass only while the reading thread waits, and what happens in them.

    So no machine is too slow for a test, and none waits for what takes seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def at(self, seconds: float, happens: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), happens))

    @contextlib.contextmanager
    def takes(self, mailbox: Mailbox, interval: float, at_least: int = 0) -> Iterator[None]:
        """Have a receiver take a message from a mailbox every so many seconds."""
        ends = False

        def take() -> None:
            if len(mailbox) > at_least:
                mailbox.take()
            if not ends:
                self.at(interval, take)

        self.at(interval, take)
        yield
        ends = True

    def wait(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Let the time pass until something is over, or so many seconds have passed."""
        end = self.now + seconds
        while not is_over():
            if not self._due or self._due[0][0] > end:
                self.now = end
                return
            self.now, _, happens = heapq.heappop(self._due)
            happens()

    def new_event(self) -> threading.Event:
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                clock.wait(self.is_set, timeout)
                return self.is_set()

        return Event()


class Site:
    """Back-pressure over some mailboxes."""

    def __init__(self, timings: Timings = TIMINGS) -> None:
        self.wakeups = Wakeups(timings)
        self.mailboxes: list[Mailbox] = []
        self.back_pressure = BackPressure(timings, lambda: self.mailboxes)

    def mailbox(self, capacity: int = CAPACITY) -> Mailbox:
        self.mailboxes.append(Mailbox("specific.0-a!b", capacity, self.wakeups))
        return self.mailboxes[-1]

    @property
    def waited(self) -> float:
        """The seconds of all waits; those in which a machine stands still do not count."""
        return max(loop.ran for each in self.mailboxes for loop in each.loops)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all sites that a test makes."""
    clock = Clock()
    for module in (backpressure_module, wakeups_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(backpressure_module, "new_event", clock.new_event)
    return clock


@pytest.fixture
def site(clock: Clock) -> Site:
    return Site()


@pytest.fixture
def mailbox(site: Site) -> Mailbox:
    return site.mailbox()


def held_up_for(clock: Clock, site: Site, mailbox: Mailbox) -> float:
    """Keep a mailbox full whose receiver is slow, until it stalls; return how long that took."""
    fill(mailbox)
    started = clock.now
    with clock.takes(mailbox, TIMINGS.stalled / 2, at_least=1):
        while site.back_pressure.wait_for_room(mailbox):
            fill(mailbox)
            assert clock.now - started < PATIENCE
    return clock.now - started


class TestWaiting:
    def test_room_is_there_at_once(self, site: Site, mailbox: Mailbox) -> None:
        for _ in range(5):
            mailbox.put(envelope())
        assert site.back_pressure.wait_for_room(mailbox)
        assert site.waited == 0

    def test_a_full_channel_is_waited_for_until_half_is_taken(self) -> None:
        site = Site(Timings(stalled=20.0))
        mailbox = site.mailbox()
        fill(mailbox)
        result: list[bool] = []
        waiting = threading.Thread(
            target=lambda: result.append(site.back_pressure.wait_for_room(mailbox))
        )
        waiting.start()
        for left in range(9, 5, -1):
            mailbox.take()
            assert len(mailbox) == left
            assert waiting.is_alive()
        mailbox.take()
        waiting.join(PATIENCE)
        assert result == [True]

    def test_a_thread_that_waits_is_woken_once(self, mailbox: Mailbox) -> None:
        """And not again by each further take."""
        left: list[int] = []

        class Room(threading.Event):
            def set(self) -> None:
                left.append(len(mailbox))

        fill(mailbox)
        mailbox.congestion().await_room(Room(), CAPACITY // 2)
        while mailbox.take() is not None:
            pass
        assert left == [CAPACITY // 2]

    def test_a_channel_that_takes_nothing_stalls(self, site: Site, mailbox: Mailbox) -> None:
        fill(mailbox)
        assert not site.back_pressure.wait_for_room(mailbox)
        assert TIMINGS.stalled * 0.9 <= site.waited < TIMINGS.stalled * 3
        assert mailbox.stalled

    def test_nothing_waits_for_a_stalled_channel_until_it_is_drained(
        self, site: Site, mailbox: Mailbox
    ) -> None:
        fill(mailbox)
        assert not site.back_pressure.wait_for_room(mailbox)
        for _ in range(4):
            mailbox.take()
            before = site.waited
            assert not site.back_pressure.wait_for_room(mailbox)
            assert site.waited == before
        mailbox.clear()
        assert not mailbox.stalled
        assert site.back_pressure.wait_for_room(mailbox)

    def test_a_slow_channel_that_takes_is_waited_for(
        self, clock: Clock, site: Site, mailbox: Mailbox
    ) -> None:
        fill(mailbox)
        started = clock.now
        with clock.takes(mailbox, TIMINGS.stalled / 2):
            assert site.back_pressure.wait_for_room(mailbox)
        assert clock.now - started > TIMINGS.stalled

    def test_a_slow_channel_may_hold_up_the_others_for_so_long_only(
        self, clock: Clock, site: Site, mailbox: Mailbox
    ) -> None:
        for _ in range(3):
            site.mailbox()
        assert held_up_for(clock, site, mailbox) > TIMINGS.holding_up / 2
        mailbox.clear()
        fill(mailbox)
        assert site.back_pressure.verdict(mailbox) is Verdict.WAIT, "drained: new patience"

    def test_where_most_are_behind_nobody_is_held_up(
        self, clock: Clock, site: Site, mailbox: Mailbox
    ) -> None:
        fill(site.mailbox())
        fill(mailbox)
        with clock.takes(mailbox, TIMINGS.stalled / 2, at_least=CAPACITY // 2):
            assert site.back_pressure.wait_for_room(mailbox)
        assert mailbox.congestion().held_up == 0.0

    def test_one_that_keeps_up_is_not_held_up_for_ever_by_the_only_other_one(
        self, clock: Clock, site: Site, mailbox: Mailbox
    ) -> None:
        site.mailbox()
        held_up_for(clock, site, mailbox)
        assert mailbox.stalled

    @pytest.mark.parametrize(
        ("behind", "keep_up", "counts"),
        [(0, 0, False), (1, 0, False), (0, 1, True), (1, 1, True), (2, 1, False), (2, 2, True)],
    )
    def test_the_wait_counts_where_as_many_of_the_others_keep_up_as_are_behind(
        self,
        clock: Clock,
        site: Site,
        mailbox: Mailbox,
        behind: int,
        keep_up: int,
        counts: bool,
    ) -> None:
        for _ in range(behind):
            fill(site.mailbox())
        for _ in range(keep_up):
            site.mailbox()
        fill(mailbox)
        congestion = mailbox.congestion()
        with clock.takes(mailbox, TIMINGS.stalled / 2, at_least=CAPACITY // 2):
            assert site.back_pressure.wait_for_room(mailbox)
        assert bool(congestion.held_up) is counts

    def test_a_process_that_gets_no_processor_holds_up_nobody(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timings = replace(TIMINGS, holding_up=0.15)

        class Starved(threading.Event):
            """A wait for it ends long after its time; meanwhile the channel has taken one."""

            def wait(self, timeout: float | None = None) -> bool:
                clock.now += timings.holding_up
                mailbox.take()
                return self.is_set()

        monkeypatch.setattr(backpressure_module, "new_event", Starved)
        site = Site(timings)
        site.mailbox()
        mailbox = site.mailbox()
        fill(mailbox)
        assert site.back_pressure.wait_for_room(mailbox)

    def test_nobody_is_held_up_where_the_others_are_stalled(
        self, clock: Clock, site: Site, mailbox: Mailbox
    ) -> None:
        other = site.mailbox()
        fill(other)
        assert not site.back_pressure.wait_for_room(other)
        fill(mailbox)
        with clock.takes(mailbox, TIMINGS.stalled / 2, at_least=CAPACITY // 2):
            assert site.back_pressure.wait_for_room(mailbox)
        assert mailbox.congestion().held_up == 0.0

    def test_a_channel_that_is_drained_owes_nothing_for_the_wait(self, clock: Clock) -> None:
        site = Site(Timings(stalled=1.0))
        site.mailbox()
        mailbox = site.mailbox()
        fill(mailbox)
        # Within the first round, which takes a fifth of ``stalled``, and late enough to count.
        clock.at(0.15, mailbox.clear)
        assert site.back_pressure.wait_for_room(mailbox)
        assert mailbox.congestion().held_up == 0.0

    def test_a_capacity_of_one(self, clock: Clock, site: Site) -> None:
        mailbox = site.mailbox(1)
        mailbox.put(envelope())
        clock.at(0.02, mailbox.take)
        assert site.back_pressure.wait_for_room(mailbox)
        assert mailbox.put(envelope())

    async def test_a_thread_that_puts_and_a_loop_that_takes_lose_nothing(self) -> None:
        site = Site(Timings())
        mailbox = site.mailbox(20)

        def put_all() -> None:
            for number in range(20_000):
                if not mailbox.put(envelope(number)):
                    site.wakeups.flush()
                    assert site.back_pressure.wait_for_room(mailbox)
                    assert mailbox.put(envelope(number))
                if not number % 7:
                    site.wakeups.flush()
            site.wakeups.flush()

        async def receive() -> int:
            while (taken := mailbox.take()) is None:
                await mailbox.wait()
            return int(taken.payload)

        async def receive_all() -> list[int]:
            return [await receive() for _ in range(20_000)]

        putting = asyncio.create_task(asyncio.to_thread(put_all))
        received = await asyncio.wait_for(receive_all(), 2 * PATIENCE)
        await putting
        assert received == list(range(20_000))
        await wait_until_async(lambda: not len(mailbox), "the mailbox to be empty")


class TestLoopsThatDoNotRun:
    """Only time in which all loops run that receive on a channel counts against it."""

    @pytest.fixture
    def loops(self) -> Iterator[list[asyncio.AbstractEventLoop]]:
        loops: list[asyncio.AbstractEventLoop] = []
        yield loops
        for loop in loops:
            loop.close()

    def receive_once_in(self, loop: asyncio.AbstractEventLoop, site: Site) -> None:
        mailbox = site.mailboxes[0]

        async def receive() -> None:
            while mailbox.take() is None:
                await mailbox.wait()

        receiving = loop.create_task(receive())
        loop.run_until_complete(asyncio.sleep(0))
        mailbox.put(envelope())
        site.wakeups.flush()
        loop.run_until_complete(receiving)

    def test_a_channel_of_a_loop_that_stands_still_is_waited_for_longer(
        self, clock: Clock, site: Site, mailbox: Mailbox, loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        loops.append(asyncio.new_event_loop())
        self.receive_once_in(loops[0], site)
        fill(mailbox)
        started = clock.now
        assert not site.back_pressure.wait_for_room(mailbox)
        assert clock.now - started >= TIMINGS.blocked_loop

    def test_another_loop_that_runs_does_not_count_for_one_that_stands_still(
        self, loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        """By the real clock: the other loop has to answer meanwhile."""
        timings = replace(TIMINGS, stalled=0.05, blocked_loop=0.3)
        site = Site(timings)
        mailbox = site.mailbox()
        loops.append(asyncio.new_event_loop())
        self.receive_once_in(loops[0], site)
        stop = threading.Event()
        entered = threading.Event()

        async def receive_without_a_message() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(mailbox.wait(), 0.01)
            entered.set()
            await asyncio.to_thread(stop.wait, 10)

        running = threading.Thread(target=asyncio.run, args=(receive_without_a_message(),))
        running.start()
        assert entered.wait(PATIENCE)
        fill(mailbox)
        started = time.monotonic()
        assert not site.back_pressure.wait_for_room(mailbox)
        assert time.monotonic() - started >= timings.blocked_loop
        stop.set()
        running.join()

    def test_a_channel_whose_loop_was_closed_stalls_like_any_other(
        self, site: Site, mailbox: Mailbox
    ) -> None:
        loop = asyncio.new_event_loop()
        self.receive_once_in(loop, site)
        loop.close()
        fill(mailbox)
        assert not site.back_pressure.wait_for_room(mailbox)
        assert site.waited < TIMINGS.blocked_loop / 2


class DrainedWhileItIsJudged:
    """A channel whose receiver takes everything between two steps of its judgement."""

    def __init__(self, mailbox: Mailbox, drain_at: int) -> None:
        self._mailbox = mailbox
        self._drain_at = drain_at
        self.capacity = mailbox.capacity

    def _step(self) -> Mailbox:
        self._drain_at -= 1
        if not self._drain_at:
            self._mailbox.clear()
        return self._mailbox

    def __len__(self) -> int:
        return len(self._step())

    @property
    def taken(self) -> int:
        return self._step().taken

    @property
    def loops(self) -> Sequence[Loop]:
        return self._step().loops

    @property
    def stalled(self) -> bool:
        return self._step().stalled

    def congestion(self) -> Congestion:
        return self._step().congestion()


class TestDrains:
    """A channel that is drained, at whatever moment, is not stalled."""

    @pytest.mark.parametrize("step", range(1, 8))
    def test_a_channel_that_is_drained_while_it_is_judged_is_not_stalled(
        self, clock: Clock, site: Site, mailbox: Mailbox, step: int
    ) -> None:
        fill(mailbox)
        site.wakeups.nowhere.ran += TIMINGS.stalled  # the moment before it stalls
        site.back_pressure.wait_for_room(DrainedWhileItIsJudged(mailbox, step))
        mailbox.clear()
        assert not mailbox.stalled
        lost = 0
        for _ in range(3):
            with clock.takes(mailbox, 0.001):
                for _ in range(3 * CAPACITY):
                    if not mailbox.put(envelope()):
                        lost += not site.back_pressure.wait_for_room(mailbox)
                        mailbox.put(envelope())
                clock.wait(lambda: not len(mailbox), PATIENCE)
                assert not len(mailbox)
        assert lost == 0


class TestExpiredMessages:
    """Messages that are too old to be received hold no room."""

    def stale(self, mailbox: Mailbox, count: int) -> None:
        for _ in range(count):
            assert mailbox.put(Envelope(b"stale", time.monotonic() - 1))

    def test_they_are_dropped_where_a_mailbox_is_full(self, site: Site) -> None:
        mailbox = site.mailbox(3)
        self.stale(mailbox, 3)
        assert not mailbox.put(envelope())
        assert mailbox.drop_expired() == 3
        assert mailbox.put(envelope(7))
        taken = mailbox.take()
        assert taken is not None
        assert taken.payload == b"7"

    def test_those_behind_fresh_ones_are_dropped_as_well(self, site: Site) -> None:
        mailbox = site.mailbox(3)
        mailbox.put(envelope(1))
        self.stale(mailbox, 1)
        mailbox.put(envelope(2))
        assert mailbox.drop_expired() == 1
        assert mailbox.drop_expired() == 0
        taken = [mailbox.take(), mailbox.take()]
        assert [each and each.payload for each in taken] == [b"1", b"2"]

    def test_a_full_mailbox_is_looked_through_once_and_not_for_each_message(
        self, site: Site, later: Callable[[float], None]
    ) -> None:
        mailbox = site.mailbox(1)
        soon = envelope()
        mailbox.put(soon)
        assert mailbox.drop_expired() == 0
        assert mailbox.congestion().none_expires_before == soon.deadline
        later(60)
        assert mailbox.drop_expired() == 1
        assert mailbox.put(envelope())

    def test_a_stalled_mailbox_whose_messages_expire_stays_so_until_a_receive_comes(
        self, site: Site, mailbox: Mailbox
    ) -> None:
        self.stale(mailbox, CAPACITY)
        assert not site.back_pressure.wait_for_room(mailbox)
        assert mailbox.drop_expired() == CAPACITY
        fill(mailbox)
        assert site.back_pressure.verdict(mailbox) is Verdict.STALLED

    def test_a_receive_that_comes_to_a_mailbox_that_expiry_emptied_is_waited_for_again(
        self, site: Site, mailbox: Mailbox
    ) -> None:
        self.stale(mailbox, CAPACITY)
        assert not site.back_pressure.wait_for_room(mailbox)
        mailbox.drop_expired()
        assert mailbox.take() is None
        fill(mailbox)
        assert site.back_pressure.verdict(mailbox) is Verdict.WAIT


class Congestions(RuleBasedStateMachine):
    """The states none, full and stalled, and nothing but the transitions that Congestion lists."""

    @initialize(capacity=st.integers(1, 6))
    def open(self, capacity: int) -> None:
        self.site = Site()
        self.mailbox = self.site.mailbox(capacity)
        self.site.mailbox()
        self.site.mailbox()
        self.loop = self.site.wakeups.nowhere
        self.state = "none"
        self.idle = 0.0
        self.was_taken = False
        self.held_up = 0.0

    @rule()
    def put(self) -> None:
        held = len(self.mailbox)
        assert self.mailbox.put(envelope()) == (held < self.mailbox.capacity)
        if held == self.mailbox.capacity - 1:
            self.idle = 0.0
            self.was_taken = False
            if self.state == "none":
                self.state = "full"

    @rule()
    def take(self) -> None:
        if self.mailbox.take() is not None:
            self.was_taken = True
        if not len(self.mailbox):
            self.state = "none"
            self.held_up = 0.0

    @rule(seconds=st.floats(0.001, TIMINGS.stalled))
    def the_loop_runs(self, seconds: float) -> None:
        self.loop.ran += seconds
        self.idle += seconds

    @rule(seconds=st.floats(0.001, TIMINGS.holding_up))
    def the_others_wait(self, seconds: float) -> None:
        if self.state != "none":
            self.mailbox.congestion().held_up += seconds
            self.held_up += seconds

    @rule()
    def judge(self) -> None:
        verdict = self.site.back_pressure.verdict(self.mailbox)
        if len(self.mailbox) <= self.mailbox.capacity // 2:
            assert verdict is Verdict.ROOM
            return
        if self.state == "none":
            # More than half full and never full: it is watched from now on.
            self.state = "full"
            self.idle = 0.0
        if self.was_taken:
            # Idle from the first look after the take on.
            self.idle = 0.0
            self.was_taken = False
        # Sums of floats: the machine does not ask where it is a matter of rounding.
        is_due = self.idle >= TIMINGS.stalled + 1e-9 or self.held_up >= TIMINGS.holding_up + 1e-9
        if self.state == "full" and is_due:
            self.state = "stalled"
        if self.state == "stalled":
            assert verdict is Verdict.STALLED
        elif self.idle < TIMINGS.stalled - 1e-9 and self.held_up < TIMINGS.holding_up - 1e-9:
            assert verdict is Verdict.WAIT
        else:
            self.state = "stalled" if verdict is Verdict.STALLED else self.state

    @invariant()
    def it_is_stalled_only_where_it_was_judged_so(self) -> None:
        assert self.mailbox.stalled == (self.state == "stalled")
        assert self.state == "none" or len(self.mailbox)


TestCongestions = Congestions.TestCase
