"""Waking receives: many loops and threads on one channel, loops that stand still or end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.wakeups import Wakeups
from tests.delivery.receiving import abandon_a_receive, put, receive
from tests.support.loops import left_waiting
from tests.support.waiting import PATIENCE, wait_until, wait_until_async


@pytest.fixture
def wakeups() -> Wakeups:
    return Wakeups(Timings(echo=0.2))


@pytest.fixture
def mailbox(wakeups: Wakeups) -> Mailbox:
    return Mailbox("specific.0-a!b", 10_000, wakeups)


class Receiver:
    """A thread with a loop of its own that receives until it gets a negative number."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.received: list[int] = []
        self.error: Exception | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._blocked = threading.Event()
        self._go_on = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        wait_until(lambda: mailbox.receiving, "the receive to wait")

    def _run(self) -> None:
        try:
            asyncio.run(self._receive())
        except Exception as error:
            self.error = error

    async def _receive(self) -> None:
        self.loop = asyncio.get_running_loop()
        while (number := await receive(self.mailbox)) >= 0:
            self.received.append(number)

    def block(self) -> None:
        """Let a handler block the loop, until ``unblock``."""

        def handler() -> None:
            self._blocked.set()
            self._go_on.wait(30)

        assert self.loop is not None
        self._blocked.clear()
        self._go_on.clear()
        self.loop.call_soon_threadsafe(handler)
        assert self._blocked.wait(PATIENCE)

    def unblock(self) -> None:
        self._go_on.set()


def end_a_receive(mailbox: Mailbox) -> asyncio.AbstractEventLoop:
    """Let a receive end without a message, in a loop that stands still from then on."""
    loop = asyncio.new_event_loop()
    with pytest.raises(asyncio.TimeoutError):
        loop.run_until_complete(asyncio.wait_for(receive(mailbox), 0.02))
    return loop


@pytest.fixture
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    loops: list[asyncio.AbstractEventLoop] = []
    yield loops
    for loop in loops:
        loop.close()


class TestLoopsBesideEachOther:
    """A loop that does not run delays nobody but its own receives."""

    @pytest.mark.parametrize("closed", [False, True], ids=["standing still", "closed"])
    @pytest.mark.parametrize("waiting", [False, True], ids=["its receive ended", "it waits"])
    def test_a_receive_is_woken_though_another_loop_received_last(
        self,
        mailbox: Mailbox,
        wakeups: Wakeups,
        loops: list[asyncio.AbstractEventLoop],
        closed: bool,
        waiting: bool,
    ) -> None:
        receiver = Receiver(mailbox)
        loops.append(abandon_a_receive(mailbox) if waiting else end_a_receive(mailbox))
        if closed:
            loops[0].close()
        for number in range(3):
            put(mailbox, wakeups, number)
            wait_until(lambda n=number: receiver.received == list(range(n + 1)), "the message")
        put(mailbox, wakeups, -1)
        receiver.thread.join(PATIENCE)
        assert not receiver.thread.is_alive()

    def test_a_receive_is_woken_after_another_loop_was_closed_with_its_callback_pending(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receiver = Receiver(mailbox)
        receiver.block()
        loop = abandon_a_receive(mailbox)
        put(mailbox, wakeups, 1)
        loop.close()
        put(mailbox, wakeups, 2)
        receiver.unblock()
        wait_until(lambda: receiver.received == [1, 2], "both messages")
        put(mailbox, wakeups, 3)
        wait_until(lambda: receiver.received == [1, 2, 3], "a later message")
        put(mailbox, wakeups, -1)

    def test_a_loop_that_stood_still_gets_what_came_meanwhile_when_it_runs_again(
        self, mailbox: Mailbox, wakeups: Wakeups, loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        async def receive_again() -> int:
            return await asyncio.wait_for(receive(mailbox), PATIENCE)

        loop = asyncio.new_event_loop()
        loops.append(loop)
        first = loop.create_task(receive(mailbox))
        loop.run_until_complete(asyncio.sleep(0))
        for number in range(2):
            put(mailbox, wakeups, number)
        assert loop.run_until_complete(asyncio.wait_for(first, PATIENCE)) == 0
        assert loop.run_until_complete(receive_again()) == 1
        waiting = loop.create_task(receive_again())
        loop.run_until_complete(asyncio.sleep(0))
        put(mailbox, wakeups, 2)
        assert loop.run_until_complete(waiting) == 2

    def test_each_of_many_loops_with_one_message_each(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receivers = [Receiver(mailbox) for _ in range(5)]
        wait_until(lambda: mailbox.demand == 5, "five receives to wait")
        for receiver in receivers[:4]:
            receiver.block()
        for number in range(20):
            put(mailbox, wakeups, number)
        wait_until(lambda: len(receivers[4].received) == 20, "the one that runs to take all")
        for receiver in receivers[:4]:
            receiver.unblock()
        for _ in receivers:
            put(mailbox, wakeups, -1)
        for receiver in receivers:
            receiver.thread.join(PATIENCE)
            assert not receiver.thread.is_alive()

    @pytest.mark.parametrize("seed", range(3))
    def test_no_message_waits_while_loops_come_and_go(
        self, mailbox: Mailbox, wakeups: Wakeups, seed: int
    ) -> None:
        """One loop receives all the time; others poll, are closed, or are left with a receive."""
        chance = random.Random(seed)
        steady = Receiver(mailbox)
        elsewhere: list[int] = []
        stop = threading.Event()
        threads = [
            threading.Thread(
                target=come_and_go,
                args=(mailbox, random.Random(seed * 10 + number), elsewhere, stop),
            )
            for number in range(2)
        ]
        for thread in threads:
            thread.start()
        sent = 0
        for _ in range(10):
            for _ in range(30):
                put(mailbox, wakeups, sent)
                sent += 1
                if chance.random() < 0.2:
                    stop.wait(chance.random() / 500)
            wait_until(lambda: not len(mailbox), "the mailbox to be drained")
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        put(mailbox, wakeups, sent)
        wait_until(lambda: sent in steady.received, "the steady receiver to get the last one")
        put(mailbox, wakeups, -1)
        steady.thread.join(PATIENCE)
        assert sorted(steady.received + elsewhere) == list(range(sent + 1))


def come_and_go(
    mailbox: Mailbox, chance: random.Random, received: list[int], stop: threading.Event
) -> None:
    """Receive in one loop after another; leave some of them with a receive that waits."""
    left: list[asyncio.AbstractEventLoop] = []
    while not stop.is_set():
        if chance.random() < 0.5:
            with contextlib.suppress(asyncio.TimeoutError):
                received.append(
                    asyncio.run(asyncio.wait_for(receive(mailbox), chance.random() / 500))
                )
        else:
            left.append(left_waiting(mailbox.wait()))
            if len(left) > 3:
                left.pop(chance.randrange(len(left))).close()
    for loop in left:
        loop.close()


class TestClose:
    """Every receive that waits, and every later one, ends with the error."""

    def test_receives_that_wait_raise_in_each_loop(
        self, mailbox: Mailbox, loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        receivers = [Receiver(mailbox) for _ in range(3)]
        loops.append(abandon_a_receive(mailbox))
        mailbox.close(LookupError("the layer was closed"))
        for receiver in receivers:
            receiver.thread.join(PATIENCE)
            assert not receiver.thread.is_alive()
            assert str(receiver.error) == "the layer was closed"
        assert len({id(receiver.error) for receiver in receivers}) == 3, "each has its own error"

    async def test_later_receives_raise(self, mailbox: Mailbox, wakeups: Wakeups) -> None:
        put(mailbox, wakeups, 1)
        assert mailbox.close(LookupError("closed")) == 1
        for _ in range(2):
            with pytest.raises(LookupError, match="closed"):
                await asyncio.wait_for(receive(mailbox), PATIENCE)
        assert not mailbox.receiving

    async def test_a_receive_that_another_loop_left_behind_raises_when_it_runs_again(
        self, mailbox: Mailbox
    ) -> None:
        receiver = Receiver(mailbox)
        receiver.block()
        mailbox.close(LookupError("closed"))
        receiver.unblock()
        await wait_until_async(lambda: receiver.error is not None, "the receive to raise")

    async def test_a_closed_mailbox_takes_no_message(self, mailbox: Mailbox) -> None:
        mailbox.close(LookupError("closed"))
        assert not mailbox.put(Envelope(b"1", time.monotonic() + 60))
        assert len(mailbox) == 0

    async def test_a_receive_that_is_cancelled_meanwhile_is_cancelled(
        self, mailbox: Mailbox
    ) -> None:
        receiving = asyncio.create_task(receive(mailbox))
        await wait_until_async(lambda: mailbox.receiving, "the receive to wait")
        mailbox.close(LookupError("closed"))
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving


class TestDemand:
    """A receive in a loop that does not run asks for nothing."""

    async def test_receives_without_a_message(self) -> None:
        # The loop counts as one that runs for as long as this test may take.
        wakeups = Wakeups(Timings(echo=PATIENCE))
        mailbox = Mailbox("jobs", 10, wakeups)
        receives = [asyncio.create_task(receive(mailbox)) for _ in range(3)]
        await asyncio.sleep(0)
        assert mailbox.demand == 3
        mailbox.put(Envelope(b"1", time.monotonic() + 60))
        assert mailbox.demand == 2
        wakeups.flush()
        for task in receives:
            task.cancel()
        await asyncio.wait(receives)
        assert mailbox.demand == 0

    def test_a_loop_that_is_blocked_asks_for_nothing_until_it_runs_again(
        self, wakeups: Wakeups
    ) -> None:
        asked = threading.Event()
        mailbox = Mailbox("jobs", 10, wakeups, asked.set)
        blocked, idle = Receiver(mailbox), Receiver(mailbox)
        wait_until(lambda: mailbox.demand == 2, "both receives to wait")
        blocked.block()
        wait_until(lambda: mailbox.demand == 1, "the blocked one to count no more")
        asked.clear()
        blocked.unblock()
        assert asked.wait(PATIENCE), "nobody was told that there is demand again"
        wait_until(lambda: mailbox.demand == 2, "both to count again")
        for _ in (blocked, idle):
            put(mailbox, wakeups, -1)

    def test_a_loop_that_runs_counts_after_a_long_time_without_a_question(
        self, wakeups: Wakeups
    ) -> None:
        asked = threading.Event()
        mailbox = Mailbox("jobs", 10, wakeups, asked.set)
        receiver = Receiver(mailbox)
        age = wakeups.timings.echo * 1.5
        time.sleep(age)  # the time itself is what is tested
        asked.clear()
        if not mailbox.demand:
            assert asked.wait(PATIENCE), "nobody was told that there is demand"
        wait_until(lambda: mailbox.demand == 1, "the receive to count")
        put(mailbox, wakeups, -1)
        receiver.thread.join(PATIENCE)

    @pytest.mark.parametrize("closed", [False, True], ids=["standing still", "closed"])
    def test_a_loop_that_nobody_runs_asks_for_nothing(
        self,
        mailbox: Mailbox,
        loops: list[asyncio.AbstractEventLoop],
        closed: bool,
    ) -> None:
        loops.append(abandon_a_receive(mailbox))
        if closed:
            loops[0].close()
        wait_until(lambda: mailbox.demand == 0, "the receive to count no more")


async def test_time_in_which_two_threads_wait_for_a_loop_counts_once(
    wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("kafka_layer.delivery.wakeups.time", clock)
    loop = wakeups.running_loop()
    loop.count(0.05, 10.0)
    now[0] += 0.02
    loop.count(0.05, 10.0)
    assert loop.ran == pytest.approx(0.07)
