"""A ticket for something that is under way: coroutines await it, threads wait for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Ticket"]

T = TypeVar("T")


class Ticket(Generic[T]):
    """The one outcome of a send, a start or a command; any number of callers may wait for it.

    States: open, then resolved with a result or failed with an error; the first outcome stays.
    Nobody can cancel it: a coroutine that is cancelled while it awaits the ticket leaves the others
    their outcome. Any thread and any event loop may use it.
    """

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()

    @classmethod
    def resolved(cls, result: T) -> Ticket[T]:
        """Return a ticket whose result is there already."""
        ticket = cls()
        ticket._future.set_result(result)
        return ticket

    @classmethod
    def failed(cls, error: BaseException) -> Ticket[T]:
        """Return a ticket that has failed already."""
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
        """Call back once with this ticket: at once if the outcome is there, else when it comes.

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

    def __await__(self) -> Generator[object, None, T]:
        if not self._future.done():
            # Shielded by wrapping anew: each waiter gets a future of its own loop.
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._future.add_done_callback(lambda _: _release(waiter))
            yield from waiter
        return self.result(0)


def _release(waiter: asyncio.Future[None]) -> None:
    def release() -> None:
        if not waiter.done():
            waiter.set_result(None)

    try:
        waiter.get_loop().call_soon_threadsafe(release)
    except RuntimeError:
        # Its loop is closed: nobody waits there any more.
        return


def _own_copy(error: BaseException) -> BaseException:
    """Return a copy of an error for one waiter: a shared one would gather every traceback."""
    try:
        own = copy.copy(error)
    except Exception:
        # One that cannot be copied is shared.
        return error
    own.__traceback__ = error.__traceback__
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own
