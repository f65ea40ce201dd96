"""A mailbox: order, bounds, waking, cancelling, loops that come and go, back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.backpressure import BackPressure, Verdict
from kafka_layer.delivery.mailbox import Mailbox
from kafka_layer.delivery.wakeups import Wakeups
from tests.delivery.receiving import abandon_a_receive, envelope, put, receive
from tests.support.waiting import PATIENCE, wait_until, wait_until_async


@pytest.fixture
def wakeups() -> Wakeups:
    return Wakeups()


@pytest.fixture
def mailbox(wakeups: Wakeups) -> Mailbox:
    return Mailbox("specific.0-a!b", 10, wakeups)


class TestQueue:
    def test_first_in_first_out(self, mailbox: Mailbox) -> None:
        envelopes = [envelope() for _ in range(3)]
        assert all(mailbox.put(each) for each in envelopes)
        assert [mailbox.take() for _ in range(4)] == [*envelopes, None]

    def test_it_holds_its_capacity_and_no_more(self, mailbox: Mailbox) -> None:
        assert [mailbox.put(envelope()) for _ in range(12)] == [True] * 10 + [False] * 2
        assert len(mailbox) == 10
        assert mailbox.take()
        assert mailbox.put(envelope())

    def test_clear(self, mailbox: Mailbox) -> None:
        for _ in range(3):
            mailbox.put(envelope())
        assert mailbox.clear() == 3
        assert mailbox.take() is None


def put_beside(mailbox: Mailbox, line: int, beside: Callable[[], object]) -> bool:
    """Put a message; before a line of ``put``, or after the last, another thread does something."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code is not Mailbox.put.__code__:
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join(PATIENCE)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        taken = mailbox.put(envelope())
    finally:
        sys.settrace(before)
    if lines < line:
        beside()
    return taken


@pytest.mark.parametrize("line", range(1, 12))
class TestPutBesideAnotherThread:
    """The reading thread and local senders put into one mailbox, which may be closed meanwhile."""

    def test_a_mailbox_that_two_puts_fill_counts_as_full_since_then(self, line: int) -> None:
        timings = Timings()
        wakeups = Wakeups(timings)
        mailbox = Mailbox("specific.0-a!b", 2, wakeups)
        assert put_beside(mailbox, line, lambda: mailbox.put(envelope()))
        wakeups.nowhere.ran += timings.stalled
        verdict = BackPressure(timings, lambda: [mailbox]).verdict(mailbox)
        assert verdict is Verdict.STALLED

    def test_of_two_puts_into_the_last_place_one_is_refused(
        self, wakeups: Wakeups, line: int
    ) -> None:
        mailbox = Mailbox("specific.0-a!b", 1, wakeups)
        others: list[bool] = []
        taken = put_beside(mailbox, line, lambda: others.append(mailbox.put(envelope())))
        assert [*others, taken].count(True) == len(mailbox) == 1

    def test_a_message_beside_a_close_is_refused_or_counted(
        self, mailbox: Mailbox, line: int
    ) -> None:
        dropped: list[int] = []
        taken = put_beside(mailbox, line, lambda: dropped.append(mailbox.close(ValueError())))
        assert len(mailbox) == 0
        assert taken == sum(dropped)

    @pytest.mark.parametrize("capacity", [1, 2, 10])
    @pytest.mark.parametrize("receives", [1, 2])
    async def test_no_receive_waits_beside_a_message(
        self, wakeups: Wakeups, line: int, capacity: int, receives: int
    ) -> None:
        mailbox = Mailbox("specific.0-a!b", capacity, wakeups)
        waiting = [asyncio.create_task(receive(mailbox)) for _ in range(receives)]
        await asyncio.sleep(0)
        others: list[bool] = []
        taken = put_beside(mailbox, line, lambda: others.append(mailbox.put(envelope())))
        wakeups.flush()
        for _ in range(3):
            await asyncio.sleep(0)
        messages = [*others, taken].count(True)
        assert sum(each.done() for each in waiting) == min(receives, messages)
        for each in waiting:
            each.cancel()


class TestWaking:
    async def test_a_put_from_a_thread_wakes_a_receive(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receiving = asyncio.create_task(receive(mailbox))
        await asyncio.sleep(0)
        assert mailbox.receiving
        await asyncio.to_thread(put, mailbox, wakeups, 7)
        assert await asyncio.wait_for(receiving, PATIENCE) == 7
        assert not mailbox.receiving

    async def test_a_put_from_the_loop_itself_wakes_a_receive(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receiving = asyncio.create_task(receive(mailbox))
        await asyncio.sleep(0)
        put(mailbox, wakeups, 7)
        assert await asyncio.wait_for(receiving, PATIENCE) == 7

    async def test_as_many_receives_wake_as_there_are_messages(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receives = [asyncio.create_task(receive(mailbox)) for _ in range(5)]
        await asyncio.sleep(0)
        for number in range(3):
            mailbox.put(envelope(number))
        wakeups.flush()
        done, waiting = await asyncio.wait(
            receives, timeout=PATIENCE, return_when="FIRST_COMPLETED"
        )
        while len(done) < 3:
            more, waiting = await asyncio.wait(
                waiting, timeout=PATIENCE, return_when="FIRST_COMPLETED"
            )
            done |= more
        assert sorted(each.result() for each in done) == [0, 1, 2]
        assert len(waiting) == 2
        for number in (3, 4):
            put(mailbox, wakeups, number)
        assert sorted(await asyncio.gather(*waiting)) == [3, 4]

    async def test_one_callback_wakes_many_mailboxes(self, wakeups: Wakeups) -> None:
        mailboxes = [Mailbox(str(number), 10, wakeups) for number in range(50)]
        receives = [asyncio.create_task(receive(each)) for each in mailboxes]
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        scheduled = []
        original = loop.call_soon_threadsafe

        def counting(callback: Callable[..., object], *args: object) -> asyncio.Handle:
            scheduled.append(getattr(callback, "__name__", str(callback)))
            return original(callback, *args)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]

        def put_all() -> None:
            for each in mailboxes:
                each.put(envelope(1))
            wakeups.flush()

        thread = threading.Thread(target=put_all)
        thread.start()
        thread.join()
        assert await asyncio.gather(*receives) == [1] * 50
        assert scheduled.count("_wake_due") == 1

    async def test_receives_run_in_the_turn_in_which_they_are_woken(self, wakeups: Wakeups) -> None:
        mailboxes = [Mailbox(str(number), 10, wakeups) for number in range(5)]
        receives = [asyncio.create_task(receive(each)) for each in mailboxes]
        await asyncio.sleep(0)
        for each in mailboxes:
            put(each, wakeups, 1)
        assert not any(each.done() for each in receives)  # not within the task that puts
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: done.set_result([each.done() for each in receives])
        )
        assert await done == [True] * 5

    async def test_a_receive_runs_in_the_context_of_its_task(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        who = contextvars.ContextVar("who", default="nobody")

        async def receive_as(name: str) -> tuple[str, asyncio.Task[Any] | None]:
            who.set(name)
            await receive(mailbox)
            return who.get(), asyncio.current_task()

        receives = [asyncio.create_task(receive_as(name)) for name in "ab"]
        await asyncio.sleep(0)
        for number in range(2):
            await asyncio.to_thread(put, mailbox, wakeups, number)
        assert await asyncio.gather(*receives) == [("a", receives[0]), ("b", receives[1])]
        assert who.get() == "nobody"

    async def test_that_context_may_be_empty(self, mailbox: Mailbox, wakeups: Wakeups) -> None:
        who = contextvars.ContextVar("who", default="nobody")

        async def receive_and_change() -> str:
            await receive(mailbox)
            token = who.set("somebody")
            await asyncio.sleep(0)
            changed = who.get()
            who.reset(token)  # ValueError in another context
            return changed

        receiving = contextvars.Context().run(asyncio.create_task, receive_and_change())
        await wait_until_async(lambda: mailbox.receiving, "the receive to wait")
        await asyncio.to_thread(put, mailbox, wakeups, 1)
        assert await asyncio.wait_for(receiving, PATIENCE) == "somebody"

    async def test_messages_that_never_cease_leave_the_loop_time_for_others(
        self, wakeups: Wakeups
    ) -> None:
        turns = 0

        def put_the_next() -> None:
            # As a thread may, as soon as a receive waits: in the middle of the waking.
            put(mailbox, wakeups, 1)

        async def receive_many() -> None:
            for _ in range(100):
                await receive(mailbox)

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        mailbox = Mailbox("specific.0-a!b", 10, wakeups, put_the_next)
        loop = asyncio.get_running_loop()
        loop.call_soon(turn)
        await asyncio.wait_for(asyncio.create_task(receive_many()), PATIENCE)
        assert turns >= 100


class TestCancelling:
    async def test_a_receive_cancelled_in_the_turn_it_was_woken_takes_nothing(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receiving = asyncio.create_task(receive(mailbox))
        await asyncio.sleep(0)
        put(mailbox, wakeups, 1)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert await asyncio.wait_for(receive(mailbox), PATIENCE) == 1

    async def test_it_wakes_the_next_receive_instead(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        first, second = (asyncio.create_task(receive(mailbox)) for _ in range(2))
        await asyncio.sleep(0)
        put(mailbox, wakeups, 1)
        first.cancel()
        assert await asyncio.wait_for(second, PATIENCE) == 1

    async def test_a_wait_for_that_is_cancelled_as_its_receive_runs_loses_nothing(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        receiving = asyncio.create_task(asyncio.wait_for(receive(mailbox), PATIENCE))
        await wait_until_async(lambda: mailbox.receiving, "the receive to wait")
        put(mailbox, wakeups, 1)
        receiving.cancel()
        await asyncio.wait([receiving])
        # Python < 3.12 returns what was taken, later ones cancel before it is.
        left = asyncio.wait_for(receive(mailbox), PATIENCE) if receiving.cancelled() else receiving
        assert await left == 1

    async def test_a_cancelled_receive_does_not_count_as_waiting(self, mailbox: Mailbox) -> None:
        receiving = asyncio.create_task(receive(mailbox))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        assert not mailbox.receiving


class TestLoops:
    """A mailbox belongs to the loop that last received; earlier ones may be closed."""

    def test_the_next_loop_takes_over(self, mailbox: Mailbox, wakeups: Wakeups) -> None:
        for number in range(5):
            timer = threading.Timer(0.01, put, (mailbox, wakeups, number))
            timer.start()
            assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == number

    def test_a_loop_that_was_closed_under_a_waiting_receive(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        for number in range(3):
            abandon_a_receive(mailbox).close()
            timer = threading.Timer(0.01, put, (mailbox, wakeups, number))
            timer.start()
            assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == number

    def test_such_a_receive_does_not_count_as_waiting(self, mailbox: Mailbox) -> None:
        abandon_a_receive(mailbox).close()
        assert not mailbox.receiving

    def test_a_loop_that_was_closed_before_it_ran_its_callback(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        loop = abandon_a_receive(mailbox)
        in_a_thread(lambda: put(mailbox, wakeups, 1))  # scheduled, and never run
        loop.close()
        assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == 1
        timer = threading.Timer(0.05, put, (mailbox, wakeups, 2))
        timer.start()
        assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == 2

    def test_a_loop_that_stands_still_and_is_not_closed(
        self, mailbox: Mailbox, wakeups: Wakeups
    ) -> None:
        loop = abandon_a_receive(mailbox)
        in_a_thread(lambda: put(mailbox, wakeups, 1))  # scheduled, and never run
        assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == 1
        timer = threading.Timer(0.05, put, (mailbox, wakeups, 2))
        timer.start()
        assert asyncio.run(asyncio.wait_for(receive(mailbox), PATIENCE)) == 2
        loop.close()

    def test_a_task_that_ends_its_loop_keeps_no_others_from_waking(self, wakeups: Wakeups) -> None:
        mailboxes = [Mailbox(str(number), 10, wakeups) for number in range(3)]

        async def receive_and_exit() -> None:
            await receive(mailboxes[0])
            raise SystemExit

        async def both() -> list[int]:
            return [await asyncio.wait_for(each, PATIENCE) for each in others]

        loop = asyncio.new_event_loop()
        exiting = loop.create_task(receive_and_exit())
        others = [loop.create_task(receive(each)) for each in mailboxes[1:]]
        loop.run_until_complete(asyncio.sleep(0))
        in_a_thread(lambda: [put(each, wakeups, 7) for each in mailboxes])
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert loop.run_until_complete(both()) == [7, 7]
        assert isinstance(exiting.exception(), SystemExit)
        loop.close()

    def test_two_loops_at_once_share_the_messages(self, wakeups: Wakeups) -> None:
        mailbox = Mailbox("specific.0-a!b", 1000, wakeups)
        received: list[int] = []

        async def receive_until_the_end() -> None:
            while (number := await asyncio.wait_for(receive(mailbox), PATIENCE)) >= 0:
                received.append(number)

        threads = [
            threading.Thread(target=asyncio.run, args=(receive_until_the_end(),)) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for number in range(1000):
            put(mailbox, wakeups, number)
            if not number % 50:
                wait_until(lambda: not len(mailbox), "the mailbox to be drained")
        for _ in threads:
            put(mailbox, wakeups, -1)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert sorted(received) == list(range(1000))

    def test_it_keeps_no_loop_alive(self, mailbox: Mailbox, wakeups: Wakeups) -> None:
        async def weak_loop() -> weakref.ref[asyncio.AbstractEventLoop]:
            await receive(mailbox)
            return weakref.ref(asyncio.get_running_loop())

        timer = threading.Timer(0.01, put, (mailbox, wakeups, 1))
        timer.start()
        loop = asyncio.run(weak_loop())
        # Its thread holds the loop until its call returns.
        timer.join()
        gc.collect()
        assert loop() is None

    async def test_random_cancels_lose_nothing(self, wakeups: Wakeups) -> None:
        mailbox = Mailbox("specific.0-a!b", 5000, wakeups)
        received: list[int] = []
        chance = random.Random(1)

        async def receiver() -> None:
            while len(received) < 3000:
                task = asyncio.create_task(receive(mailbox))
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    received.append(await task)

        def sender() -> None:
            for number in range(3000):
                put(mailbox, wakeups, number)

        receivers = [asyncio.create_task(receiver()) for _ in range(3)]
        await asyncio.to_thread(sender)
        await asyncio.wait_for(asyncio.gather(*receivers), 30)
        assert sorted(received) == list(range(3000))


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
