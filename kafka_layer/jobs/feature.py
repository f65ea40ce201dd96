"""Worker channels as a feature of a server, which opens them for sending and receiving."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..config.realtime import monotonic
from ..delivery.mailbox import Mailbox
from ..delivery.tickets import Ticket
from ..exceptions import LayerClosed, ProduceFailed, TopicError
from ..server.lifecycle import closed_meanwhile
from ..server.server import Server
from ..wire.encryption import ReplayGuard
from ..wire.topics import WorkTopic
from .ack import AtMostOnce, JobInHand
from .channel import WorkChannel

if TYPE_CHECKING:
    from .stream_channel import StreamChannel

__all__ = ["Jobs"]

# Seconds that a start waits for the broker's time.
_CLOCK_TIMEOUT = 1.0


class Jobs:
    """The worker channels that one server writes to and receives on; see ``Feature``.

    Any thread may call any method. It has no lock that a thread of the parent could hold at a fork.

    Args:
        server: The server to which it is attached.

    Attributes:
        channel_class: The class of the worker channels that are not of streams.
        channel: Returns the worker channel of a name; None if it is not open here.
    """

    channel_class: ClassVar[type[WorkChannel]] = WorkChannel

    def __init__(self, server: Server) -> None:
        self._server = server
        self._channels: dict[str, WorkChannel] = {}
        # The same without a call of Python's: each receive asks.
        self.channel: Callable[[str], WorkChannel | None] = self._channels.get
        self._error: LayerClosed | None = None
        self._measured = False

    @property
    def needs_clock(self) -> bool:
        """Whether this process receives on a worker channel whose messages expire."""
        return any(channel.source is None for channel in list(self._channels.values()))

    def measure(self) -> None:
        """Keep the backlogs of the worker channels from now on."""
        self._measured = True
        for channel in list(self._channels.values()):
            channel.measured = True

    def backlogs(self) -> dict[str, int]:
        """Return the backlogs of the worker channels, as far as they are known; no I/O."""
        known = {name: channel.backlog for name, channel in list(self._channels.items())}
        return {name: backlog for name, backlog in known.items() if backlog is not None}

    def mailbox(self, channel: str) -> Mailbox | None:
        """Return the mailbox of a worker channel; None if the channel is not open here."""
        opened = self.channel(channel)
        return None if opened is None else opened.mailbox

    async def receive(self, channel: str) -> tuple[dict[str, Any], JobInHand]:
        """Wait for a job of an open worker channel; see ``WorkChannel.receive``.

        Raises:
            LayerClosed: If the server closes, or has closed.
        """
        opened = self.channel(channel)
        if opened is None:
            raise closed_meanwhile()
        return await opened.receive(self._server.decode_for_receive)

    def start_sending(self, topic: WorkTopic) -> Ticket[None]:
        """Get ready to write to a worker channel, in a thread; callers share one start."""
        return self._server.start(
            ("sending", topic), "kafka-layer-start-sending-jobs", partial(self._open_sender, topic)
        )

    def start_receiving(self, topic: WorkTopic) -> Ticket[Mailbox]:
        """Start to serve the receives of a worker channel, in a thread; callers share one start.

        Returns:
            The ticket of the mailbox on which the receives wait.
        """
        return self._server.start(
            ("working", topic), "kafka-layer-start-jobs", partial(self._open_receiver, topic)
        )

    def flush(self, until: float) -> int:
        """Drop jobs that were written up to a time and that no receive has taken."""
        return sum(channel.forget_until(until) for channel in list(self._channels.values()))

    def close(self, error: LayerClosed) -> int:
        """Let every receive that waits raise a copy of ``error``, and open no more channels."""
        # First, so that a channel that is opened from here on is taken back.
        self._error = error
        return sum(self._drop(name, error) for name in list(self._channels))

    def abandon(self) -> None:
        """Forget the parent's channels, in a forked child."""
        self._error = closed_meanwhile()
        self._channels.clear()

    def _open_sender(self, topic: WorkTopic) -> None:
        stream = self._server.config.stream_of_worker_channel(topic.channel)
        if stream is not None:
            raise TopicError(
                f"Worker channel {topic.channel!r} gets the records of stream {stream.name!r}, and "
                f"no messages; produce({stream.name!r}, ...) writes a record."
            )
        timings = self._server.config.timings
        deadline = monotonic() + timings.start
        self._server.start_sending().result()
        left = max(timings.start_step, deadline - monotonic())
        self._server.transport.open_work_topic(topic, left)
        self._server.sender.open_topic(topic)

    def _open_receiver(self, topic: WorkTopic) -> Mailbox:
        server = self._server
        deadline = monotonic() + server.config.timings.start
        server.start_sending().result()
        channel = self._channel_of_stream(topic) or self._own_channel(topic)
        channel.measured = self._measured
        server.transport.open_work_channel(channel, deadline - monotonic())
        self._channels[topic.channel] = channel
        if self._error is not None:
            # close() may have run before the channel was added. Closing.guard() undoes the start.
            dropped = self._drop(topic.channel, self._error)
            if dropped:
                server.stats.count("dropped.closed", dropped)
            raise closed_meanwhile()
        return channel.mailbox

    def _channel_of_stream(self, topic: WorkTopic) -> StreamChannel | None:
        server = self._server
        stream = server.config.stream_of_worker_channel(topic.channel)
        if stream is None:
            return None
        # Imported by the first of them: most worker channels have topics of their own.
        from .stream_channel import StreamChannel

        return StreamChannel(
            topic,
            stream,
            server.config.worker_settings(topic.channel),
            server.stats,
            server.registry.wakeups,
            AtMostOnce(server.stats, topic.channel),
        )

    def _own_channel(self, topic: WorkTopic) -> WorkChannel:
        server = self._server
        # Set the clock before the first message's age is judged: this machine's may be wrong.
        with contextlib.suppress(TimeoutError, ProduceFailed):
            server.commands.probe_clock().result(_CLOCK_TIMEOUT)
        return self.channel_class(
            topic,
            server.config.worker_settings(topic.channel),
            ReplayGuard(server.encryption, server.config.expiry),
            server.stats,
            server.clock,
            server.registry.wakeups,
            AtMostOnce(server.stats, topic.channel),
        )

    def _drop(self, name: str, error: LayerClosed) -> int:
        channel = self._channels.pop(name, None)
        return 0 if channel is None else channel.mailbox.close(error)
