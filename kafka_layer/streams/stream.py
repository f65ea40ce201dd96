"""One stream on one server: puts its parts together, and describes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import Start, StreamSettings
from ..delivery.mailbox import Mailbox
from ..delivery.registry import Registry
from ..delivery.tickets import Ticket
from ..exceptions import RegistryAway, UnreadableRecord
from ..observe.counters import Stats
from ..recovery.recent import Key
from ..recovery.stream_log import Keeper
from ..server.expiry import Expiry
from ..transport import Streams, StreamSource
from ..wire.records import Record
from ..wire.topics import StreamTopic
from .delivery import Delivery, Last, addresses
from .following import Following
from .latest import LatestRecords
from .payload import StreamPayload
from .rate import Rate
from .reading import Reading

__all__ = ["Stream"]

logger = logging.getLogger("kafka_layer")

# Seconds between two log lines about errors of one cause.
_LOG_INTERVAL = 60.0
# Seconds between two checks whether the server has channels.
_LOOK = 0.1


class Stream:
    """Reads a stream while its server has channels, and delivers its records; a ``StreamSink``.

    ``Reading`` decides whether it is read, ``Delivery`` delivers the records, and ``Following``
    keeps them for tracked channels. Any thread may call ``awake``, ``wake``, ``pause``, ``resume``,
    ``seek``, ``describe``, ``close`` and ``answer``, and the methods of ``Followed``.

    Args:
        settings: Those of the stream.
        config: The layer's settings.
        registry: The server's channels.
        expiry: Judges the age of messages that wait.
        stats: Counts the deliveries of the server.
        transport: Opens what reads the stream.

    Attributes:
        settings: As given.
        name: See ``Followed``.
        stops_at_errors: See ``Followed``.
        latest: The last record of each group; None unless the settings ask for it.
    """

    def __init__(
        self,
        settings: StreamSettings,
        config: LayerConfig,
        registry: Registry,
        expiry: Expiry,
        stats: Stats,
        transport: Streams,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.stops_at_errors = settings.on_error == "stop"
        self._transport = transport
        self._errors = Stats(
            config.prefix,
            replace(config.timings, drop_summary=_LOG_INTERVAL),
            logged_as=f"{config.prefix}, stream {settings.name}",
        )
        self.latest: LatestRecords[Last] | None = None
        if settings.last_value:
            self.latest = LatestRecords(registry.groups, self.answer)
        self._reading = Reading(
            self._open,
            settings.start,
            self.latest,
            registry,
            config.timings.stream_idle,
            self._on_idle,
        )
        self._following = Following(self._reading, self.latest)
        self._delivery = Delivery(
            settings,
            config,
            registry,
            expiry,
            stats,
            self._errors,
            self.latest,
            self._reading,
            self._following,
            self.addresses,
        )
        # Of the thread that reads.
        self._next_look = 0.0
        self._rate = Rate(monotonic())
        self._per_second = 0.0

    # Any thread

    @property
    def awake(self) -> bool:
        """See ``Reading``."""
        return self._reading.awake

    def wake(self) -> Ticket[None]:
        """See ``Reading``."""
        return self._reading.wake()

    def pause(self) -> Ticket[None]:
        """See ``Reading``."""
        return self._reading.pause()

    def resume(self) -> Ticket[None]:
        """See ``Reading``; the schema registry is asked again for schemas that it did not know."""
        self.settings.forget_unknown_schemas()
        return self._reading.resume()

    def seek(self, start: Start) -> Ticket[None]:
        """See ``Reading``."""
        return self._reading.seek(start)

    def describe(self) -> dict[str, Any]:
        """Return the figures for ``LayerStats.streams``; no I/O."""
        reading, delivery, latest = self._reading, self._delivery, self.latest
        source = reading.source
        facts = None if source is None else source.facts()
        situation = replace(
            reading.situation,
            missing=facts is None or not facts.partitions,
            held_up=delivery.held_up,
            loading=latest is not None and latest.loading,
        )
        trouble = "" if facts is None else facts.trouble
        return {
            "state": situation.state.value,
            "detail": situation.failure or situation.held_up or trouble or None,
            "topics": 0 if facts is None else len(facts.topics),
            "partitions": 0 if facts is None else facts.partitions,
            "lag": 0 if facts is None else facts.lag,
            "records": delivery.records,
            "records_per_second": round(self._per_second, 1),
            "delivered": delivery.delivered,
            "filtered": delivery.filtered,
            "errors": self._errors.by_name("dropped"),
            "replaced": sum(self._errors.replaced().values()),
        }

    def answer(self, mailbox: Mailbox, last: Last, group: str) -> None:
        """See ``Delivery``."""
        self._delivery.answer(mailbox, last, group)

    def close(self) -> None:
        """End for good; the transport ends the source."""
        self._reading.close()
        self._errors.close(0.0)

    def abandon(self) -> None:
        """Read no more, in a forked child."""
        self._reading.abandon()

    # For tracked channels

    def keep(self, keeper: Keeper) -> None:
        """See ``Followed``."""
        self._following.keep(keeper)

    def concerns(self, key: Key) -> bool:
        """See ``Followed``."""
        return self.settings.may_reach(*key)

    def addresses(self, record: Record) -> Sequence[Key]:
        """See ``Followed``."""
        settings = self.settings
        if record[2] is None and settings.tombstone is None:
            return ()
        payload = self.payload(record)
        try:
            if settings.where is not None and not settings.where(payload):
                return ()
            return addresses(*settings.names(payload))
        except RegistryAway:
            raise
        except Exception as error:
            if not self.stops_at_errors:
                return ()
            raise UnreadableRecord("undecodable", str(error)) from error

    def payload(self, record: Record) -> StreamPayload:
        """See ``Followed``."""
        return StreamPayload(record, self.settings)

    @property
    def asks_registry(self) -> bool:
        """See ``Followed``."""
        return self.settings.asks_registry

    def count_error(self, record: Record, error: Exception) -> str:
        """See ``Followed``."""
        return self._delivery.count_error(record, error)

    # The thread that reads

    def deliver(self, messages: Sequence[Any]) -> None:
        """See ``StreamSink``."""
        self._delivery.deliver(messages)

    def turn(self) -> None:
        """See ``StreamSink``."""
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        self._reading.look_for_channels(now)
        self._per_second = self._rate.note(now, self._delivery.records)
        self._errors.tick()

    def caught_up(self) -> None:
        """See ``StreamSink``."""
        if self.latest is not None:
            self._delivery.loaded()
            self._following.loaded()

    def sought(self) -> None:
        """See ``StreamSink``."""
        if self._following.log is not None:
            self._following.log.sought = True
        if self.latest is not None:
            self.latest.load()
            self.latest.clear()
            self._following.load()

    def missed(self, topic: str, partition: int) -> None:
        """See ``StreamSink``."""
        if self._following.log is not None:
            self._following.log.lose((StreamTopic(self.name, topic), partition), "truncated")

    def made_anew(self, topic: str, partition: int) -> None:
        """See ``StreamSink``."""
        if self._following.log is not None:
            self._following.log.lose((StreamTopic(self.name, topic), partition), "epoch")
        if self.latest is not None:
            where = topic, partition
            self.latest.forget(lambda last: self._delivery.partition_of(last) == where)

    def failed(self, error: BaseException) -> None:
        """See ``StreamSink``."""
        self._reading.fail(str(error))
        logger.error("The stream %s cannot be read: %s", self.name, error)

    def _open(self) -> StreamSource:
        source = self._transport.open_stream(self.settings, self, self._errors)
        self._delivery.read_from(source)
        return source

    def _on_idle(self) -> None:
        self._following.end()
