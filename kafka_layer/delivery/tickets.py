"""Tickets for outcomes that are still open, and procedures that wait for tickets.

Coroutines await the outcome of a ticket, threads block on it. A procedure is written once, as a
generator that yields the tickets it waits for; ``run_in_loop`` and ``run_blocking`` carry it out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..config.realtime import monotonic
from ..config.threads import new_future, new_thread

__all__ = ["Steps", "Ticket", "in_thread", "run_blocking", "run_in_loop", "wait", "within"]

T = TypeVar("T")


class Ticket(Generic[T]):
    """The one outcome of a send, a start or a command; any number of callers may wait for it.

    States: open, then resolved with a result or failed with an error; the first outcome stays.
    It cannot be cancelled: a cancelled coroutine leaves the other waiters their outcome. Any thread
    and any event loop may use it.
    """

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: Future[T] = new_future()
        self._future.set_running_or_notify_cancel()

    @classmethod
    def resolved(cls, result: T) -> Ticket[T]:
        """Return a resolved ticket."""
        ticket = cls()
        ticket._future.set_result(result)
        return ticket

    @classmethod
    def failed(cls, error: BaseException) -> Ticket[T]:
        """Return a failed ticket."""
        ticket = cls()
        ticket._future.set_exception(error)
        return ticket

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """The error of a ticket that failed; None while it is open or once it is resolved."""
        return self._future.exception() if self._future.done() else None

    def resolve(self, result: T) -> bool:
        """Set the result; returns whether this call decided the outcome."""
        try:
            self._future.set_result(result)
        except concurrent.futures.InvalidStateError:
            return False
        return True

    def fail(self, error: BaseException) -> bool:
        """Set the error; returns whether this call decided the outcome."""
        try:
            self._future.set_exception(error)
        except concurrent.futures.InvalidStateError:
            return False
        return True

    def on_done(self, callback: Callable[[Ticket[T]], None]) -> None:
        """Call back once with this ticket: at once if it has its outcome, else when it gets it.

        Args:
            callback: Runs in the thread that decides the outcome; must not block or raise.
        """
        self._future.add_done_callback(lambda _: callback(self))

    def result(self, timeout: float | None = None) -> T:
        """Block until the outcome is there; for threads without an event loop.

        Args:
            timeout: Seconds to wait; None waits without end.

        Returns:
            The result.

        Raises:
            TimeoutError: If there is no outcome in time.
            BaseException: A copy of the error that the ticket failed with.
        """
        try:
            error = self._future.exception(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"no outcome within {timeout} s") from None
        if error is not None:
            raise _own_copy(error)
        return self._future.result()

    async def outcome(self, timeout: float | None = None) -> T:
        """Do what ``result`` does, in a coroutine of any event loop."""
        if not self._future.done():
            # A future of its own for each waiter: cancelling one leaves the others.
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._future.add_done_callback(lambda _: _release_from_thread(waiter))
            timer = None if timeout is None else loop.call_later(timeout, _release, waiter)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
            if not self._future.done():
                raise TimeoutError(f"no outcome within {timeout} s")
        return self.result(0)


Steps = Generator["tuple[Ticket[Any], float | None]", Any, T]
"""A procedure: a generator that yields each ticket it waits for, with a time-out in seconds, gets
the ticket's result sent or its error thrown in, and returns its own result."""


def wait(ticket: Ticket[T], timeout: float | None = None) -> Steps[T]:
    """Wait for a ticket within a procedure.

    For instance ``position = yield from wait(ticket)``.

    Args:
        ticket: The ticket.
        timeout: Seconds that this may take; None waits without end.

    Raises:
        TimeoutError: If there is no outcome in time.
        BaseException: A copy of the error that the ticket failed with.
    """
    result: T = yield ticket, timeout
    return result


def within(seconds: float, steps: Steps[T]) -> Steps[T]:
    """Carry a procedure out within a time.

    Raises:
        TimeoutError: If the procedure still waits when the time is over; it may raise another error
            in its place.
    """
    deadline = monotonic() + seconds
    try:
        ticket, timeout = next(steps)
        while True:
            left = max(0.0, deadline - monotonic())
            try:
                result = yield ticket, left if timeout is None else min(left, timeout)
            except BaseException as error:
                ticket, timeout = steps.throw(error)
            else:
                ticket, timeout = steps.send(result)
    except StopIteration as end:
        outcome: T = end.value
        return outcome


async def run_in_loop(steps: Steps[T]) -> T:
    """Carry a procedure out in a coroutine; nothing blocks the event loop."""
    try:
        ticket, timeout = next(steps)
        while True:
            try:
                result = await ticket.outcome(timeout)
            except BaseException as error:
                ticket, timeout = steps.throw(error)
            else:
                ticket, timeout = steps.send(result)
    except StopIteration as end:
        outcome: T = end.value
        return outcome


def run_blocking(steps: Steps[T]) -> T:
    """Carry a procedure out in the calling thread, which it blocks."""
    try:
        ticket, timeout = next(steps)
        while True:
            try:
                result = ticket.result(timeout)
            except BaseException as error:
                ticket, timeout = steps.throw(error)
            else:
                ticket, timeout = steps.send(result)
    except StopIteration as end:
        outcome: T = end.value
        return outcome


def in_thread(name: str, function: Callable[[], T]) -> Ticket[T]:
    """Run a function in a daemon thread of its own.

    Args:
        name: The thread's name.
        function: What it runs.

    Returns:
        The ticket of the function's outcome; failed if no thread can be started.
    """
    ticket: Ticket[T] = Ticket()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            ticket.fail(error)
        else:
            ticket.resolve(result)

    try:
        new_thread(run, name).start()
    except RuntimeError as error:
        # The process has too many threads, or is about to end.
        ticket.fail(error)
    return ticket


def _release_from_thread(waiter: asyncio.Future[None]) -> None:
    try:
        waiter.get_loop().call_soon_threadsafe(_release, waiter)
    except RuntimeError:
        # The loop of the waiter is closed.
        return


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _own_copy(error: BaseException) -> BaseException:
    """Return a copy of an error for one waiter: a shared one would gather every traceback."""
    try:
        own = copy.copy(error)
    except Exception:
        # Share an error that cannot be copied.
        return error
    own.__traceback__ = error.__traceback__
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own
