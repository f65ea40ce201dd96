"""The thread that runs the receivers of Django signals: order, bounds, ends and forks."""

from __future__ import annotations

import asyncio
import os
import signal as unix_signals
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from kafka_layer.observe.dispatch import SignalDispatch
from tests.support.waiting import PATIENCE, wait_until

THREAD = "kafka-layer-signals"


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == THREAD]


class Receiver:
    """Notes the numbers it gets, and the threads it was called in."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, number: int, **kwargs: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.numbers.append(number)


class Blocking(Receiver):
    """Stands still in the first call until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, number: int, **kwargs: Any) -> None:
        self.entered.set()
        assert self.go_on.wait(3 * PATIENCE)
        super().__call__(number)


@pytest.fixture
def signal() -> Signal:
    return Signal()


@pytest.fixture
def overflows() -> list[int]:
    return []


@pytest.fixture
def dispatch(overflows: list[int]) -> Iterator[SignalDispatch]:
    dispatch = SignalDispatch(lambda: overflows.append(1), linger=10 * PATIENCE, limit=10)
    yield dispatch
    dispatch.close(PATIENCE)
    wait_until(lambda: not threads(), "the thread of the signals to end")


def send(dispatch: SignalDispatch, signal: Signal, *numbers: int) -> None:
    for number in numbers:
        dispatch.on_signal(signal, None, {"number": number})


def test_signals_without_receivers_start_no_thread(
    dispatch: SignalDispatch, signal: Signal
) -> None:
    send(dispatch, signal, 1, 2, 3)
    assert threads() == []


def test_receivers_run_in_one_thread_in_the_order_of_the_signals(
    dispatch: SignalDispatch, signal: Signal
) -> None:
    receiver = Receiver()
    signal.connect(receiver)
    send(dispatch, signal, *range(8))
    assert wait_until(lambda: len(receiver.numbers) == 8, "the receiver to get them")
    assert receiver.numbers == list(range(8))
    assert receiver.threads == {THREAD}
    assert threads() == [THREAD]


def test_the_thread_ends_when_no_signal_comes_for_a_while_and_starts_again(signal: Signal) -> None:
    dispatch = SignalDispatch(lambda: None, linger=0.01)
    receiver = Receiver()
    signal.connect(receiver)
    for number in range(3):
        send(dispatch, signal, number)
        wait_until(lambda: not threads(), "the thread to end")
    assert receiver.numbers == [0, 1, 2]


def test_no_signal_is_lost_between_the_end_of_one_thread_and_the_next(signal: Signal) -> None:
    dispatch = SignalDispatch(lambda: None, linger=0.0005)
    receiver = Receiver()
    signal.connect(receiver)
    for number in range(300):
        send(dispatch, signal, number)
        if number % 3 == 0:
            time.sleep(0.0005)  # As long as the thread lingers: some meet it as it ends.
    wait_until(lambda: len(receiver.numbers) == 300, "the receiver to get all")
    assert receiver.numbers == list(range(300))


def test_what_does_not_fit_is_counted_and_not_sent(
    dispatch: SignalDispatch, signal: Signal, overflows: list[int]
) -> None:
    receiver = Blocking()
    signal.connect(receiver)
    send(dispatch, signal, 0)
    assert receiver.entered.wait(PATIENCE)
    send(dispatch, signal, *range(1, 14))
    assert len(overflows) == 3
    receiver.go_on.set()
    wait_until(lambda: len(receiver.numbers) == 11, "the receiver to get what fitted")
    assert receiver.numbers == list(range(11))


class TestReceiversThatMisbehave:
    def test_one_that_raises_does_not_stop_the_others(
        self, dispatch: SignalDispatch, signal: Signal
    ) -> None:
        def raises(**kwargs: Any) -> None:
            raise ValueError("no")

        def ends_the_thread(**kwargs: Any) -> None:
            sys.exit(1)

        receiver = Receiver()
        signal.connect(raises)
        signal.connect(receiver)
        signal.connect(ends_the_thread)
        send(dispatch, signal, 1, 2)
        wait_until(lambda: receiver.numbers == [1, 2], "the other receiver to get both")

    def test_coroutines_are_awaited(self, dispatch: SignalDispatch, signal: Signal) -> None:
        numbers = []

        async def receive(number: int, **kwargs: Any) -> None:
            await asyncio.sleep(0)
            numbers.append(number)

        signal.connect(receive)
        send(dispatch, signal, 1, 2)
        wait_until(lambda: numbers == [1, 2], "the coroutine to run")

    def test_a_coroutine_that_an_older_django_returns_unawaited_is_awaited(
        self, dispatch: SignalDispatch, signal: Signal
    ) -> None:
        numbers = []

        async def awaited(number: int) -> None:
            numbers.append(number)

        def receive(number: int, **kwargs: Any) -> Any:
            return awaited(number)

        signal.connect(receive)
        send(dispatch, signal, 1)
        wait_until(lambda: numbers == [1], "the coroutine to run")

    def test_one_that_stands_still_holds_up_no_sender(
        self, dispatch: SignalDispatch, signal: Signal
    ) -> None:
        receiver = Blocking()
        signal.connect(receiver)
        began = time.monotonic()
        send(dispatch, signal, 1, 2, 3)
        assert time.monotonic() - began < PATIENCE
        receiver.go_on.set()


class TestClose:
    def test_it_waits_until_all_is_sent(self, dispatch: SignalDispatch, signal: Signal) -> None:
        receiver = Receiver()

        def slow(**kwargs: Any) -> None:
            time.sleep(0.02)

        signal.connect(slow)
        signal.connect(receiver)
        send(dispatch, signal, *range(5))
        dispatch.close(PATIENCE)
        assert receiver.numbers == list(range(5))

    def test_it_waits_no_longer_than_it_may(
        self, dispatch: SignalDispatch, signal: Signal, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver = Blocking()
        signal.connect(receiver)
        send(dispatch, signal, 1, 2, 3)
        assert receiver.entered.wait(PATIENCE)
        began = time.monotonic()
        dispatch.close(0.1)
        assert time.monotonic() - began < PATIENCE
        assert "2 signal(s) wait behind them" in caplog.text
        receiver.go_on.set()
        wait_until(lambda: receiver.numbers == [1, 2, 3], "the rest to be sent all the same")

    def test_it_does_not_wait_for_the_receiver_that_calls_it(
        self, dispatch: SignalDispatch, signal: Signal
    ) -> None:
        took = []

        def closes(**kwargs: Any) -> None:
            began = time.monotonic()
            dispatch.close(2 * PATIENCE)
            took.append(time.monotonic() - began)

        signal.connect(closes)
        send(dispatch, signal, 1)
        wait_until(lambda: took, "the receiver to close")
        assert took[0] < PATIENCE

    def test_a_signal_afterwards_is_sent_as_well(
        self, dispatch: SignalDispatch, signal: Signal
    ) -> None:
        receiver = Receiver()
        signal.connect(receiver)
        dispatch.close(PATIENCE)
        send(dispatch, signal, 1)
        wait_until(lambda: receiver.numbers == [1], "the receiver to get it")

    def test_where_no_thread_can_be_started_it_sends_what_is_queued(
        self, dispatch: SignalDispatch, signal: Signal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cannot_start(self: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        receiver = Receiver()
        signal.connect(receiver)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            send(dispatch, signal, 1, 2)
            assert receiver.numbers == []
            dispatch.close(PATIENCE)
        assert receiver.numbers == [1, 2]
        send(dispatch, signal, 3)
        wait_until(lambda: receiver.numbers == [1, 2, 3], "a thread to send the next")


def test_a_signal_that_interrupts_another_does_not_deadlock(
    dispatch: SignalDispatch, signal: Signal
) -> None:
    receiver = Receiver()
    signal.connect(receiver)

    def handler(*_: object) -> None:
        dispatch.on_signal(signal, None, {"number": -1})

    before = unix_signals.signal(unix_signals.SIGUSR1, handler)
    try:
        for number in range(200):
            os.kill(os.getpid(), unix_signals.SIGUSR1)
            send(dispatch, signal, number)
            dispatch.close(PATIENCE)
    finally:
        unix_signals.signal(unix_signals.SIGUSR1, before)
    wait_until(lambda: len(receiver.numbers) == 400, "both kinds to be sent")
    assert [each for each in receiver.numbers if each >= 0] == list(range(200))


_FORK = """
import os, signal, threading
from django.conf import settings
settings.configure()
from kafka_layer.observe.counters import Stats
from kafka_layer.signals import produce_failed
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.inspect import server_of

layer = InMemoryKafkaChannelLayer(prefix="fork")
inside, go_on, got = threading.Event(), threading.Event(), []

def receiver(number, **kwargs):
    got.append((os.getpid(), number))
    inside.set()
    if os.getpid() == parent:
        go_on.wait(60)

parent = os.getpid()
produce_failed.connect(receiver)
server_of(layer).stats.signal(produce_failed, None, number=1)
server_of(layer).stats.signal(produce_failed, None, number=2)
assert inside.wait(30)
inside.clear()
produce_failed.lock.acquire()     # as the parent's thread has it for a moment, at each signal
child = os.fork()
if child == 0:
    signal.alarm(60)
    server_of(layer).stats.signal(produce_failed, None, number=3)
    assert inside.wait(30), "the child's receiver was not called"
    assert (parent, 1) in got and (os.getpid(), 3) in got and len(got) == 2, got
    os._exit(0)
produce_failed.lock.release()
_, status = os.waitpid(child, 0)
go_on.set()
assert status == 0, status
"""


@pytest.mark.slow
def test_a_forked_child_sends_its_own_signals_and_not_those_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


_END = """
import time
from django.conf import settings
settings.configure()
from kafka_layer.signals import messages_dropped
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.inspect import server_of

def receiver(number, **kwargs):
    time.sleep(0.05)
    print("told of", number, flush=True)

messages_dropped.connect(receiver)
layer = InMemoryKafkaChannelLayer(prefix="end")
layer.group_send_sync("room", {"type": "x"})
server_of(layer).stats.dropped("full", "the first")
server_of(layer).stats.dropped("full", "two more, which no summary told of yet", 2)
"""


@pytest.mark.slow
def test_a_process_that_ends_sends_what_waits() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _END], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split("\n")[:2] == ["told of 1", "told of 2"], done.stderr
