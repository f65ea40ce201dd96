"""The states of a server, and its starts: each runs once, in a thread of its own."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..config.threads import RLock
from ..delivery.tickets import Ticket, in_thread
from ..exceptions import LayerClosed

__all__ = ["TRANSITIONS", "Lifecycle", "State"]

T = TypeVar("T")


class State(enum.Enum):
    """The states of a server; ``Lifecycle`` says what leads from one to another."""

    NEW = "new"
    SENDING = "sending"
    RECEIVING = "receiving"
    CLOSING = "closing"
    CLOSED = "closed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.NEW: frozenset({State.SENDING, State.CLOSING, State.CLOSED}),
    State.SENDING: frozenset({State.RECEIVING, State.CLOSING, State.CLOSED}),
    State.RECEIVING: frozenset({State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""The states that may follow each state."""

# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_CLOSING, _CLOSED = State.CLOSING, State.CLOSED


class Lifecycle:
    """The state of one server; any thread.

    States::

        NEW -> SENDING -> RECEIVING      a start succeeded
        NEW, SENDING, RECEIVING -> CLOSING -> CLOSED      close() began, and ended
        any -> CLOSED      the process was forked: the child has nothing to close

    While a start runs, the state is still the one before it. A start that ``close()`` overtakes
    fails with ``LayerClosed``.

    Args:
        on_change: Called with each new state, under the lock; must not block.

    Attributes:
        state: The present state.
        closed: Resolves when the state is CLOSED.
        lock: Guards the state and the starts. Re-entrant: a signal handler or a finalizer may
            interrupt the thread that holds it and call the layer.
    """

    def __init__(self, on_change: Callable[[State], None]) -> None:
        self.state = State.NEW
        self.closed: Ticket[None] = Ticket()
        self.lock = RLock()
        self._on_change = on_change
        self._starts: dict[object, Ticket[Any]] = {}

    @property
    def started(self) -> bool:
        """Whether a start began, so that the server has to be closed."""
        return bool(self._starts)

    @property
    def ended(self) -> bool:
        """Whether ``close()`` has begun or ended."""
        return self.state is _CLOSING or self.state is _CLOSED

    def advance(self, state: State) -> bool:
        """Go on to another state.

        Returns:
            Whether the table has that transition; without it the state stays.
        """
        with self.lock:
            if state not in TRANSITIONS[self.state]:
                return False
            self.state = state
            self._on_change(state)
        if state is State.CLOSED:
            self.closed.resolve(None)
        return True

    def once(self, what: object, thread_name: str, function: Callable[[], T]) -> Ticket[T]:
        """Run a start once, in a thread; again only after it failed.

        Args:
            what: The key of the start. Callers with one key share one run.
            thread_name: The name of the thread.
            function: Runs the start.

        Returns:
            The ticket of its result; fails with ``LayerClosed`` if the server closes.
        """
        with self.lock:
            if self.ended:
                return Ticket.failed(closed_meanwhile())
            start = self._starts.get(what)
            if start is None or start.error is not None:
                start = self._starts[what] = in_thread(thread_name, function)
            return start

    def abandon(self) -> None:
        """Become CLOSED, with new locks: threads of the parent may have held the old ones."""
        self.lock = RLock()
        self.closed = Ticket.resolved(None)
        self.advance(State.CLOSED)


def closed_meanwhile() -> LayerClosed:
    """Return the error of a call that ``close()`` overtook."""
    return LayerClosed("The channel layer was closed meanwhile.")
