"""Requests of one server to others, and their answers."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from ..config.realtime import monotonic
from ..delivery.tickets import Ticket
from ..exceptions import CommandFailed
from ..wire.names import ServerName

__all__ = ["BroadcastCommand", "PendingRequest", "Requests", "RollCall"]

_KEPT = 1000

Answer = dict[str, Any]
"""The value of an answer's record."""


class _Pending(Protocol):
    number: int

    def take(self, answer: Answer, written: float) -> bool:
        """Take an answer; return whether it was the last."""


class PendingRequest:
    """A request to one server. Its ticket has one outcome: the answer, or an error.

    Args:
        number: The number that the answer repeats.
        within: Seconds that the caller waits for the answer.
        server: The other server.

    Attributes:
        number: The number that the answer repeats.
        server: The other server.
        deadline: When the caller gives up, on ``monotonic()``.
        answer: Resolves, with the timestamp of the answer's record, when the other server has
            carried the request out; fails with ``CommandFailed`` if it could not.
    """

    __slots__ = ("answer", "deadline", "number", "server")

    def __init__(self, number: int, within: float, server: ServerName) -> None:
        self.number = number
        self.server = server
        self.deadline = monotonic() + within
        self.answer: Ticket[float] = Ticket()

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - monotonic())

    def take(self, answer: Answer, written: float) -> bool:
        """Take the answer; the reading thread."""
        if answer.get("error"):
            self.answer.fail(CommandFailed(str(answer["error"])))
        else:
            self.answer.resolve(written)
        return True


class RollCall:
    """A request to all servers.

    Args:
        number: The number that the answers repeat.

    Attributes:
        number: The number that the answers repeat.
        servers: The last answers so far, by the name of the server.
        heard: When each of these came, on ``monotonic()``.
    """

    __slots__ = ("heard", "number", "servers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.servers: dict[str, Answer] = {}
        self.heard: dict[str, float] = {}

    def take(self, answer: Answer, written: float) -> bool:
        """Note the answer of one server; the reading thread."""
        told = {name: each for name, each in answer.items() if name != "id"}
        server = str(told.get("server"))
        self.servers[server], self.heard[server] = told, monotonic()
        return False


class BroadcastCommand:
    """A command to all servers. Each answers at once that it has it, and again when it is done.

    Args:
        number: The number that the answers repeat.

    Attributes:
        number: The number that the answers repeat.
        servers: The last answer of each server, by its name.
        done: Resolves once ``expect_no_more`` was called and every server that answered is done.
    """

    __slots__ = ("_complete", "done", "number", "servers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.servers: dict[str, Answer] = {}
        self.done: Ticket[None] = Ticket()
        self._complete = False

    @property
    def under_way(self) -> list[str]:
        """The servers that have the command and are not done."""
        return [name for name, told in tuple(self.servers.items()) if told.get("taken")]

    def expect_no_more(self) -> None:
        """Wait no longer for servers that did not answer yet."""
        self._complete = True
        self._look()

    def take(self, answer: Answer, written: float) -> bool:
        """Note the answer of one server; the reading thread."""
        name = str(answer.get("server"))
        # What a server said when it was done stays.
        if not answer.get("taken") or name not in self.servers:
            self.servers[name] = answer
        self._look()
        return False

    def _look(self) -> None:
        if self._complete and not self.under_way:
            self.done.resolve(None)


class Requests:
    """The open requests, by number, and the servers that owe answers; any thread.

    A server is silent from a request that was given up without an answer until it answers any
    request, also a given-up one. After ``close`` every request fails.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        # Every operation is one on a dict, without a lock that a thread could hold at a fork or
        # when a signal handler interrupts it.
        self._pending: dict[int, _Pending] = {}
        self._given_up: dict[int, ServerName] = {}
        # Since when, on monotonic(), oldest first.
        self._silent: dict[ServerName, float] = {}
        self._error: Exception | None = None

    def __len__(self) -> int:
        """Return how many requests are open."""
        return len(self._pending)

    @property
    def silent(self) -> int:
        """How many servers are silent, of the last thousand."""
        return len(self._silent)

    def fell_silent_within(self, seconds: float) -> int:
        """Return how many servers are silent since less than ``seconds``."""
        earliest = monotonic() - seconds
        return sum(since > earliest for since in list(self._silent.values()))

    def is_silent(self, server: ServerName) -> bool:
        """Tell whether a server is silent."""
        return server in self._silent

    def open(self, within: float, server: ServerName) -> PendingRequest:
        """Open a request to one server.

        Args:
            within: As in ``PendingRequest``.
            server: The other server.
        """
        request = PendingRequest(next(self._numbers), within, server)
        self._pending[request.number] = request
        if self._error is not None:
            request.answer.fail(self._error)
        return request

    def close(self, error: Exception) -> None:
        """Let every open and later request fail with ``error``."""
        # First, so that a request that is opened from here on fails at once.
        self._error = error
        for pending in list(self._pending.values()):
            if isinstance(pending, PendingRequest):
                pending.answer.fail(error)
            elif isinstance(pending, BroadcastCommand):
                pending.done.fail(error)

    def open_broadcast(self) -> BroadcastCommand:
        """Open a command to all servers."""
        broadcast = BroadcastCommand(next(self._numbers))
        self._pending[broadcast.number] = broadcast
        if self._error is not None:
            broadcast.done.fail(self._error)
        return broadcast

    def open_roll_call(self) -> RollCall:
        """Open a request to all servers."""
        call = RollCall(next(self._numbers))
        self._pending[call.number] = call
        return call

    def answer(self, number: object, answer: Answer, written: float) -> None:
        """Pass an answer to its request; if that was given up, it only ends a silence.

        Args:
            number: The number in the answer.
            answer: The answer.
            written: The timestamp of its record.
        """
        if not isinstance(number, int):
            return
        pending = self._pending.get(number)
        if pending is None:
            server = self._given_up.pop(number, None)
            if server is not None:
                self._silent.pop(server, None)
        elif pending.take(answer, written):
            if isinstance(pending, PendingRequest):
                self._silent.pop(pending.server, None)
            self._pending.pop(number, None)

    def forget(self, request: PendingRequest | RollCall | BroadcastCommand) -> None:
        """Stop waiting for answers; ignore later ones."""
        self._pending.pop(request.number, None)

    def give_up(self, request: PendingRequest) -> None:
        """Stop waiting, because no answer came in time; a later one ends the silence."""
        self._pending.pop(request.number, None)
        if not request.answer.done:
            self._given_up[request.number] = request.server
            self._silent[request.server] = monotonic()
            _keep_latest(self._given_up)
            _keep_latest(self._silent)


def _keep_latest(entries: dict[Any, Any]) -> None:
    while len(entries) > _KEPT:
        try:
            entries.pop(next(iter(entries)), None)
        except (StopIteration, RuntimeError):  # another thread changes it
            return
