"""The streams of one server: opened with its first channel; paused, resumed and sought."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any

from ..config.realtime import monotonic
from ..config.streams import Start
from ..delivery.mailbox import Mailbox
from ..delivery.tickets import Steps, Ticket, wait
from ..exceptions import LayerClosed
from ..server.server import Server
from .payload import StreamPayload
from .stream import Stream

__all__ = ["Streams"]


class Streams:
    """The streams that one server reads; see ``Feature``. Any thread may call any method.

    Args:
        server: The server to which it is attached.

    Attributes:
        followed: The streams, for the tracked channels of the server.
    """

    needs_clock = False

    def __init__(self, server: Server) -> None:
        self._server = server
        self._timeout = server.config.timings.stream_start
        self._streams = {
            name: Stream(
                settings,
                server.config,
                server.registry,
                server.expiry,
                server.stats,
                server.transport,
            )
            for name, settings in server.config.streams.items()
            if settings.is_read
        }
        self.followed = tuple(self._streams.values())
        self._latest = [each.latest for each in self._streams.values() if each.latest is not None]
        decode = server.decode

        def open_or_decode(payload: Any) -> dict[str, Any]:
            if type(payload) is StreamPayload:
                return payload.open()
            # A record with one receiver is decoded already.
            return payload if type(payload) is dict else decode(payload)

        server.decode = open_or_decode
        if self._latest:
            server.registry.join = self._join
        server.commands.streams = self.describe
        server.commands.steer_stream = self._on_command

    @property
    def awake(self) -> bool:
        """Whether a channel that was just opened needs no ``wake``; see ``Stream.awake``."""
        return all(stream.awake for stream in self._streams.values())

    def wake(self) -> Steps[None]:
        """Read the streams, because the server has a channel.

        It waits until each stream whose brokers answer knows where it begins, but at most
        ``timings.stream_start``. Every record that is written later reaches the channel.
        """
        tickets = [stream.wake() for stream in self._streams.values()]
        deadline = monotonic() + self._timeout
        for ticket in tickets:
            # An error here shows in the state of the stream.
            with contextlib.suppress(Exception):
                yield from wait(ticket, max(0.0, deadline - monotonic()))
            # Channels that are opened later do not wait for this start again.
            ticket.resolve(None)

    def get(self, name: str) -> Stream:
        """Return a stream that this server reads."""
        return self._streams[name]

    def reads(self, name: str) -> bool:
        """Tell whether there is a stream of this name."""
        return name in self._streams

    def steer(self, action: str, name: str, start: Start = "latest") -> Ticket[None]:
        """Pause, resume or seek a stream on this server.

        Args:
            action: ``pause``, ``resume`` or ``seek``.
            name: The stream.
            start: Where a ``seek`` goes to.

        Returns:
            A ticket, resolved when it has taken effect.

        Raises:
            ValueError: If there is no such stream or action.
        """
        stream = self._streams.get(name)
        if stream is None:
            raise ValueError(f"this server reads no stream {name!r}")
        if action == "seek":
            return stream.seek(start)
        if action not in ("pause", "resume"):
            raise ValueError(f"this server does not know the action {action!r}")
        return stream.pause() if action == "pause" else stream.resume()

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the figures of each stream, for ``LayerStats.streams``."""
        return {name: stream.describe() for name, stream in self._streams.items()}

    def flush(self, until: float) -> int:
        """Do nothing: the topics belong to other programs, and mailboxes are flushed elsewhere."""
        return 0

    def close(self, error: LayerClosed) -> int:
        """End the streams."""
        for stream in self._streams.values():
            stream.close()
        return 0

    def abandon(self) -> None:
        """Read no more, in a forked child."""
        for stream in self._streams.values():
            stream.abandon()

    def _on_command(self, value: Mapping[str, Any]) -> Ticket[None]:
        start = value.get("start", "latest")
        if isinstance(start, (int, float)):
            start = datetime.datetime.fromtimestamp(start, datetime.timezone.utc)
        elif start not in ("latest", "earliest"):
            raise ValueError(f"this server does not know the start {start!r}")
        return self.steer(str(value.get("action")), str(value.get("stream")), start)

    def _join(self, name: str, mailbox: Mailbox) -> None:
        groups = self._server.registry.groups
        with contextlib.ExitStack() as held:
            for latest in self._latest:
                held.enter_context(latest.lock)
            is_new = name not in groups.names(mailbox)
            groups.add(name, mailbox)
            if is_new:
                for latest in self._latest:
                    latest.joined(name, mailbox)
        self._server.registry.wakeups.flush()
