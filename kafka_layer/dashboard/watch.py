"""Asks all servers for their reports, while a page is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.realtime import monotonic
from ..config.threads import RLock, new_event
from ..delivery.tickets import Ticket, in_thread
from ..server.requests import RollCall
from ..server.server import Server
from ..transport_values import Backlog
from .report import Reporter

__all__ = ["Watch"]


@dataclass(frozen=True)
class _Backlogs:
    """The answer to the last question for the backlogs of worker channels.

    Attributes:
        found: The backlogs.
        trouble: The error of the last question, as text; empty if it was answered.
    """

    found: Sequence[Backlog] = ()
    trouble: str = ""


class Watch:
    """The reports of all servers of a prefix, while pages ask this server for them; any thread.

    States, with what leads from one to the other:

    - *idle*: no thread runs, and no server is asked. ``look`` starts the thread: *watching*.
    - *watching*: the thread asks all servers each second. It ends when ``look`` was not called for
      ``timings.looking``, and when the server closes: *idle*.

    Args:
        server: The server that asks; the first ``look`` starts its receiving.
        reporter: Makes the report of this server.
    """

    def __init__(self, server: Server, reporter: Reporter) -> None:
        self._server = server
        self._reporter = reporter
        self._timings = server.config.timings
        # Re-entrant: a signal handler may interrupt the holder and look, too.
        self._lock = RLock()
        self._watching = False
        self._until = 0.0
        # Never set: the thread sleeps on it, also where gevent replaces threads.
        self._pause = new_event()
        self._call: RollCall | None = None
        # The last report of this server; empty while idle.
        self._own: dict[str, Any] = {}
        self._trouble = ""
        self._backlogs = _Backlogs()
        self._asked_backlogs: Ticket[None] = Ticket.resolved(None)
        self._next_backlogs = 0.0

    @property
    def watching(self) -> bool:
        """Whether the thread runs."""
        return self._watching

    def look(self) -> dict[str, Any]:
        """Return the present figures, and keep asking for a while; does not block.

        Returns:
            A dict for JSON: ``server``, ``state`` and ``trouble`` of this server; ``servers``, the
            last report of each by its name, with the seconds since then as ``silent``; and
            ``backlogs``.
        """
        self._until = monotonic() + self._timings.looking
        with self._lock:
            if not self._watching and not self._server.lifecycle.ended:
                self._watching = True
                started = in_thread("kafka-layer-watch", self._watch)
                if started.error is not None:  # the process is about to end
                    self._watching = False
        return self._picture()

    def _picture(self) -> dict[str, Any]:
        server, call, now = self._server, self._call, monotonic()
        servers: dict[str, Any] = {}
        if call is not None:
            for name, told in list(call.servers.items()):
                heard = call.heard.get(name, now)
                report = told.get("report")
                # A server of an earlier version sends fewer figures.
                servers[name] = {**(report or told), "silent": round(now - heard, 1)}
        own = server.identity.name
        state = self._state()
        if own is not None and self._own:
            servers[str(own)] = {**self._own, "silent": 0}
        backlogs = self._backlogs
        return {
            "prefix": server.config.prefix,
            "server": None if own is None else str(own),
            "state": state,
            "trouble": self._trouble,
            "servers": servers,
            "backlogs": [each._asdict() for each in backlogs.found],
            "backlog_trouble": backlogs.trouble,
        }

    def _state(self) -> str:
        server = self._server
        if server.lifecycle.ended:
            return "closed"
        if not server.transport.health().connected:
            return "disconnected"
        return "connected" if server.receiving else "starting"

    # The thread

    def _watch(self) -> None:
        while self._goes_on():
            try:
                self._server.start_receiving().result()
                self._trouble = ""
                self._ask_all()
            except Exception as error:
                self._trouble = str(error)
                self._pause.wait(self._timings.ask_servers)

    def _goes_on(self) -> bool:
        with self._lock:
            if self._server.lifecycle.ended or monotonic() > self._until:
                self._watching = False
                self._call = None
                self._own = {}
            return self._watching

    def _ask_all(self) -> None:
        server, timings = self._server, self._timings
        with server.commands.asking_for_reports() as (call, ask):
            self._call = call
            while self._goes_on():
                # Before ask(), so that ``queued`` does not count the questions themselves.
                self._own = self._reporter()
                # Without a broker the questions would wait in the producer, and all be answered at
                # once afterwards.
                if server.transport.health().connected:
                    ask()
                    self._ask_for_backlogs()
                self._pause.wait(timings.ask_servers)
                for name, heard in list(call.heard.items()):
                    if monotonic() - heard > timings.gone:
                        call.servers.pop(name, None)
                        call.heard.pop(name, None)

    def _ask_for_backlogs(self) -> None:
        # In a thread of its own, because the brokers may take seconds.
        if self._asked_backlogs.done and monotonic() >= self._next_backlogs:
            self._next_backlogs = monotonic() + self._timings.ask_backlogs
            self._asked_backlogs = in_thread("kafka-layer-backlogs", self._read_backlogs)

    def _read_backlogs(self) -> None:
        try:
            self._backlogs = _Backlogs(self._server.transport.backlogs(self._timings.ask_backlogs))
        except Exception as error:
            self._backlogs = _Backlogs(trouble=str(error))
