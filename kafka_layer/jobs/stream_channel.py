"""The receives of this process on a worker channel that gets the records of a stream.

The channel's consumer group shares the stream's topic, which belongs to other programs: its records
are not encrypted, do not expire, and are not dropped by a flush of the layer.
"""

from __future__ import annotations

import logging
from typing import Any

from ..config.realtime import monotonic
from ..config.streams import StreamSettings
from ..config.topics import WorkerSettings
from ..delivery.mailbox import Read
from ..delivery.wakeups import Wakeups
from ..exceptions import UnreadableRecord
from ..observe.counters import Stats
from ..server.clock import BrokerClock
from ..streams.payload import StreamPayload
from ..transport import FetchedRecord
from ..wire.encryption import Encryption, ReplayGuard
from ..wire.records import Place
from ..wire.topics import StreamTopic, WorkTopic
from .ack import AckPolicy
from .channel import WorkChannel
from .job import Job

__all__ = ["StreamChannel"]

logger = logging.getLogger("kafka_layer")


class _StreamJob(Job):
    """A record of a stream as a job; its message is decoded already."""

    __slots__ = ("message",)

    def __init__(self, message: dict[str, Any], place: Place, assignment: object) -> None:
        super().__init__(b"", float("inf"), place, assignment)
        self.message = message


class StreamChannel(WorkChannel):
    """One worker channel of a stream, of one server; the ``JobSink`` that a backplane serves.

    Args:
        topic: The topic that a worker channel of this name has without a stream.
        stream: The settings of the stream, with one topic and no pattern.
        settings: The channel's ``prefetch_count``.
        stats: Counts deliveries and drops.
        wakeups: The event loops that receive.
        policy: Gets reports of the jobs that receives take, and of their ends.
    """

    def __init__(
        self,
        topic: WorkTopic,
        stream: StreamSettings,
        settings: WorkerSettings,
        stats: Stats,
        wakeups: Wakeups,
        policy: AckPolicy,
    ) -> None:
        guard = ReplayGuard(Encryption(), settings.expiry)
        super().__init__(topic, settings, guard, stats, BrokerClock(), wakeups, policy)
        self.source = StreamTopic(stream.name, stream.topic or "")
        self._stream = stream

    def accept(self, record: FetchedRecord, place: Place, assignment: object) -> Job | None:
        """Make a job of a record; the thread that serves the channel.

        Args:
            record: The record.
            place: Its place in the topic.
            assignment: As in ``Job``.

        Returns:
            The job; None if the record has no receiver, or cannot be read (that is counted).

        Raises:
            RegistryAway: If the schema registry does not answer.
            UnreadableRecord: If it cannot be read, and ``on_error`` is ``stop``.
        """
        try:
            payload = self._payload(record, place)
            message = None if payload is None else payload.message()
        except UnreadableRecord as error:
            if self._stream.on_error == "stop":
                raise
            self._stats.dropped(error.cause, f"a record of {self._where(place)}: {error}")
            return None
        return None if message is None else _StreamJob(message, place, assignment)

    def stop(self, error: UnreadableRecord, place: Place) -> None:
        """Let every receive raise an error that names the record at which the stream stopped."""
        channel = self.topic.channel
        stopped = UnreadableRecord(
            error.cause,
            f"Worker channel {channel!r} stopped before a record of {self._where(place)}, because "
            f"the stream's on_error is 'stop': {error}. Correct the codec or function and start "
            f"again; to skip the record, commit the next offset in consumer group {channel!r}.",
        )
        self._stats.count("errors.stream_stopped")
        logger.error("%s", stopped)
        self.mailbox.close(stopped)

    def forget_until(self, timestamp: float) -> int:
        """Drop nothing: a flush concerns messages of the layer."""
        return 0

    def _open(self, read: Read, job: Job) -> dict[str, Any] | None:
        self.mailbox.last_seen = monotonic()
        return job.message if isinstance(job, _StreamJob) else read(self.mailbox, job)

    def _where(self, place: Place) -> str:
        _, partition, offset, _ = place
        return f"stream {self._stream.name!r} at {self._stream.topic}[{partition}] offset {offset}"

    def _payload(self, record: FetchedRecord, place: Place) -> StreamPayload | None:
        """Return the decoded record; None if it has no receiver."""
        _, partition, offset, timestamp = place
        stream = self._stream
        value = record.value()
        if value is None and stream.tombstone is None:
            return None
        try:
            headers = record.headers() or ()
        except Exception as error:
            # The name of a header is not UTF-8.
            raise UnreadableRecord("undecodable", f"its headers: {error!r}") from error
        topic = StreamTopic(stream.name, stream.topic or "")
        read: Any = topic, record.key(), value, headers, timestamp, partition, offset
        payload = StreamPayload(read, stream)
        if stream.where is not None and not stream.where(payload):
            return None
        payload.decode()
        return payload
