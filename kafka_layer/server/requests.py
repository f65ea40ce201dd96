"""Requests of one server to others, and the answers that they wait for."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from ..config.realtime import monotonic
from ..delivery.tickets import Ticket
from ..exceptions import CommandFailed

__all__ = ["PendingRequest", "Requests", "RollCall"]

Answer = dict[str, Any]
"""The value of an answer's record."""


class _Pending(Protocol):
    number: int

    def take(self, answer: Answer, written: float) -> bool:
        """Take an answer; returns whether no other is to come."""


class PendingRequest:
    """A request to one server. Its ticket has one outcome: the answer, or what went wrong.

    Args:
        number: What the answer repeats.
        within: Seconds from now until nobody waits for the answer any more.

    Attributes:
        number: What the answer repeats.
        deadline: When nobody waits any more, on ``monotonic()``.
        answer: Resolves, with the timestamp of the answer's record, when the other server has
            carried the request out; fails with ``CommandFailed`` if it could not.
    """

    __slots__ = ("answer", "deadline", "number")

    def __init__(self, number: int, within: float) -> None:
        self.number = number
        self.deadline = monotonic() + within
        self.answer: Ticket[float] = Ticket()

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - monotonic())

    def take(self, answer: Answer, written: float) -> bool:
        """Take the answer; the thread that reads."""
        if answer.get("error"):
            self.answer.fail(CommandFailed(str(answer["error"])))
        else:
            self.answer.resolve(written)
        return True


class RollCall:
    """A request to all servers.

    Args:
        number: What the answers repeat.

    Attributes:
        number: What the answers repeat.
        servers: What each server that answered so far told of itself, by its name.
    """

    __slots__ = ("number", "servers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.servers: dict[str, Answer] = {}

    def take(self, answer: Answer, written: float) -> bool:
        """Note what one server tells; the thread that reads."""
        told = {name: each for name, each in answer.items() if name != "id"}
        self.servers[str(told.get("server"))] = told
        return False


class Requests:
    """The requests that wait for answers, by number; any thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        # Every operation is a single one on the dict, so there is no lock to be held at a fork or
        # by a thread that a signal handler interrupts.
        self._pending: dict[int, _Pending] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._pending)

    def open(self, within: float) -> PendingRequest:
        """Open a request to one server.

        Args:
            within: As in ``PendingRequest``.
        """
        request = PendingRequest(next(self._numbers), within)
        self._pending[request.number] = request
        return request

    def open_roll_call(self) -> RollCall:
        """Open a request to all servers."""
        call = RollCall(next(self._numbers))
        self._pending[call.number] = call
        return call

    def answer(self, number: object, answer: Answer, written: float) -> None:
        """Hand an answer to the request that waits for it; without one it is ignored.

        Args:
            number: What the answer says that it answers.
            answer: The answer.
            written: The timestamp of its record.
        """
        pending = self._pending.get(number) if isinstance(number, int) else None
        if pending is not None and pending.take(answer, written):
            self.forget(pending)

    def forget(self, request: PendingRequest | RollCall | _Pending) -> None:
        """Stop waiting; an answer that comes later is ignored."""
        self._pending.pop(request.number, None)
