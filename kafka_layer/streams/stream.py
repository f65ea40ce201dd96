"""One stream on one server: from a record of its topics to the mailboxes of those it is for.

Hot path: every record of the stream passes ``Stream.deliver``, in the thread that reads it. Of a
record that concerns nobody here it decodes what ``where``, ``group`` and ``user`` need; where those
need the key alone, ``interest`` leaves such records out before anything else is read of them.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config.realtime import monotonic, wall_clock
from ..config.settings import LayerConfig
from ..config.streams import Start, StreamSettings
from ..config.threads import RLock
from ..delivery.mailbox import Envelope, Mailbox
from ..delivery.registry import Registry
from ..delivery.tickets import Ticket
from ..exceptions import RegistryAway, UnreadableRecord
from ..observe.counters import Stats
from ..recovery.recent import Key
from ..recovery.stream_log import Keeper, StreamLog
from ..server.expiry import Expiry
from ..server.full_mailboxes import FullMailboxes
from ..transport import ReadFrom, Streams, StreamSource, StreamStart
from ..wire.records import Record
from ..wire.topics import StreamTopic, Topic, Where
from .interest import interest
from .latest import LatestRecords
from .payload import StreamPayload
from .rate import Rate
from .record import StreamRecord
from .state import Situation

__all__ = ["Stream"]

logger = logging.getLogger("kafka_layer")

# Seconds between two log lines about errors of one cause.
_LOG_INTERVAL = 60.0

_SEND_GROUP, _SEND_USER = Topic.SEND_GROUP, Topic.SEND_USER

_NOBODY: Sequence[str] = ()

_Last = Record | StreamPayload
"""The last record of a group: undecoded, or decoded where no join may decode it."""


class Stream:
    """Reads a stream while its server has channels, and delivers its records; a ``StreamSink``.

    ``Situation`` says in which states it is. Any thread may call ``wake``, ``pause``, ``resume``,
    ``seek``, ``describe``, ``close`` and ``answer``, and ask whether it is ``awake``; and what
    ``Followed`` has for the tracked channels of the server.

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
        self._registry = registry
        self._lifetime = config.expiry
        self._retry = config.timings.registry_retry
        self._idle_after = config.timings.stream_idle
        self._slice = max(1, config.capacity // 2)
        self._server_stats = stats
        self._transport = transport
        self._stats = Stats(
            config.prefix,
            replace(config.timings, drop_summary=_LOG_INTERVAL),
            logged_as=f"{config.prefix}, stream {settings.name}",
        )
        self.latest: LatestRecords[_Last] | None = None
        if settings.last_value:
            self.latest = LatestRecords(registry.groups, self.answer)
        # Whether to keep last records as they were decoded: a join may happen in an event loop,
        # which must not wait for a schema registry.
        self._keeps_decoded = settings.key.blocking or settings.value.blocking
        # Other last records are decoded when a channel gets them, unless an error is to stop the
        # stream.
        self._decodes_at_once = self._keeps_decoded or settings.on_error == "stop"
        self._interest = interest(settings, registry)
        # Most streams have one setting of one kind.
        has_one = len(settings.groups) == 1 and not settings.users
        self._only_group = settings.groups[0] if has_one else None
        self._put_into_full = FullMailboxes(
            config.timings, registry, expiry, stats, self._wake_receives, self._read_clock
        ).put
        # Guards the situation, and the source with which it has to agree. Re-entrant: a signal
        # handler may interrupt the holder and use the layer.
        self._lock = RLock()
        self._situation = Situation(loading=self.latest is not None)
        self._source: StreamSource | None = None
        # How the source's messages are read.
        self._key_of: Callable[[Any], bytes | None]
        self._record_of: Callable[[Any], Record]
        # Where it begins if it is not open yet.
        self._start: Start = settings.start
        # Of the last ``wake`` that had an effect.
        self._woken: Ticket[None] = Ticket.resolved(None)
        # Keeps the youngest records for tracked channels; None while none follows.
        self._keeper: Keeper | None = None
        # The same records, from when the keeper knows where reading goes on; the reading thread's.
        self._log: StreamLog | None = None
        # From here on for the thread that reads.
        self._deadline = 0.0
        self._delivered = 0
        self._records = self._filtered = self._total = 0
        self._rate = Rate(monotonic())
        self._per_second = 0.0
        self._next_second = 0.0
        self._empty_since: float | None = None

    # Any thread

    @property
    def awake(self) -> bool:
        """Whether it is read while the server has channels, and nobody has to wait for its start.

        To be asked after a channel was opened: then either this is False, or the stream has seen
        the channel.
        """
        with self._lock:
            return not self._situation.idle and self._woken.done

    def wake(self) -> Ticket[None]:
        """Read, because the server has a channel.

        Returns:
            A ticket, the same one for all who call while it is open. It is resolved once every
            later record is read, or where that can take long; or by a caller who waits no longer.
        """
        with self._lock:
            if self._situation.idle:
                self._situation.idle = False
                self._empty_since = None
                self._woken = self._read_on()
            return self._woken

    def pause(self) -> Ticket[None]:
        """Read no more; returns a ticket, resolved when no record is delivered any more."""
        with self._lock:
            self._situation.paused = True
            return self._read_as_decided()

    def resume(self) -> Ticket[None]:
        """Go on where reading stopped, also behind an error; returns a ticket as ``wake``."""
        with self._lock:
            self._situation.paused = False
            self._situation.failure = ""
            return self._read_as_decided()

    def seek(self, start: Start) -> Ticket[None]:
        """Go on elsewhere; returns a ticket, resolved when all partitions begin there."""
        with self._lock:
            self._situation.failure = ""
            if self._source is None:
                self._start = start
                return Ticket.resolved(None)
            sought = self._source.seek(_absolute(start))
            self._read_as_decided()
            return sought

    def describe(self) -> dict[str, Any]:
        """Return the figures for ``LayerStats.streams``; no I/O."""
        source, situation = self._source, self._situation
        told: dict[str, Any] = {
            "state": situation.state.value,
            "detail": situation.failure or situation.held_up or None,
            "topics": 0,
            "partitions": 0,
            "lag": 0,
            "records": self._records,
            "records_per_second": round(self._per_second, 1),
            "delivered": self._total,
            "filtered": self._filtered,
            "errors": self._stats.by_name("dropped"),
            "replaced": sum(self._stats.replaced().values()),
        }
        if source is not None:
            facts = source.facts()
            told["topics"], told["partitions"] = len(facts.topics), facts.partitions
            told["lag"] = facts.lag
            told["detail"] = told["detail"] or facts.trouble or None
        return told

    def keep(self, keeper: Keeper) -> None:
        """See ``Followed``."""
        with self._lock:
            self._keeper, self._log = keeper, None
            if self._source is not None:
                self._source.follow(self._on_positions, self._on_epoch)

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
            return _addresses(*self._names(payload))
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
        return self.settings.key.blocking or self.settings.value.blocking

    def count_error(self, record: Record, error: Exception) -> str:
        """See ``Followed``."""
        return self._count_error(record, error)

    def answer(self, mailbox: Mailbox, last: _Last, group: str) -> None:
        """Give a channel the last record of a group that it has joined; does not block."""
        if mailbox.closed:
            return
        if isinstance(last, StreamPayload):
            payload = last
        else:
            try:
                payload = StreamPayload(last, self.settings)
                payload.decode()
            except (UnreadableRecord, RegistryAway) as error:
                self._count_error(last, error)
                return
        # Whatever its capacity: a consumer may join many groups before its first receive, and an
        # event loop cannot wait.
        key = ((_SEND_GROUP, group),)
        mailbox.refill([Envelope(payload, monotonic() + self._lifetime, None, key)])
        mailbox.note()
        self._server_stats.count("delivered")

    def close(self) -> None:
        """End for good; the transport ends the source."""
        with self._lock:
            self._situation.closed = True
            if self._source is not None:
                self._source.stop()
        self._stats.close(0.0)

    def abandon(self) -> None:
        """Read no more, in a forked child."""
        self._lock = RLock()
        self._situation = Situation(closed=True)
        self._source = None

    def _open(self) -> Ticket[None]:
        source = self._transport.open_stream(self.settings, self, self._stats)
        self._source, self._key_of, self._record_of = source, source.key, source.record
        start: Start = "earliest" if self.latest is not None else self._start
        begun = source.begin(_absolute(start))
        if self._keeper is not None:
            source.follow(self._on_positions, self._on_epoch)
        return begun

    def _read_on(self) -> Ticket[None]:
        """Read after a time without channels; the lock is held."""
        if self._source is not None and self._situation.reads:
            # What came while nobody was here is for nobody.
            if self.latest is not None:
                self.latest.load()
                self._situation.loading = True
            elif self._start == "latest":
                self._source.seek("latest")
        return self._read_as_decided()

    def _read_as_decided(self) -> Ticket[None]:
        """Have the source read or not; the lock is held."""
        reads = self._situation.reads
        if self._source is None:
            return self._open() if reads else Ticket.resolved(None)
        return self._source.read(reads)

    # The thread that reads

    def turn(self) -> None:
        """See ``StreamSink``."""
        now = monotonic()
        if now < self._next_second:
            return
        self._next_second = now + 0.1
        self._look_for_channels(now)
        source = self._source
        if source is not None:
            self._situation.missing = not source.facts().partitions
        self._per_second = self._rate.note(now, self._records)
        self._stats.tick()

    def caught_up(self) -> None:
        """See ``StreamSink``."""
        if self.latest is not None:
            self.latest.loaded()
            self._situation.loading = False
            self._wake_receives()
            if self._keeper is not None:
                self.keep(self._keeper)

    def sought(self) -> None:
        """See ``StreamSink``."""
        if self._log is not None:
            self._log.sought = True
        if self.latest is not None:
            self.latest.load()
            self.latest.clear()
            self._situation.loading = True
            self._log = None

    def missed(self, topic: str, partition: int) -> None:
        """See ``StreamSink``."""
        if self._log is not None:
            self._log.lose((StreamTopic(self.name, topic), partition), "truncated")

    def made_anew(self, topic: str, partition: int) -> None:
        """See ``StreamSink``."""
        if self._log is not None:
            self._log.lose((StreamTopic(self.name, topic), partition), "epoch")
        if self.latest is not None:
            self.latest.forget(lambda last: _partition_of(last) == (topic, partition))

    def failed(self, error: BaseException) -> None:
        """See ``StreamSink``."""
        with self._lock:
            self._source = None
            self._situation.failure = str(error)
        logger.error("The stream %s cannot be read: %s", self.settings.name, error)

    def deliver(self, messages: Sequence[Any]) -> None:
        """See ``StreamSink``."""
        self._situation.missing = False
        concerned = messages
        if self._interest is not None and self._log is None:
            concerned = self._interest.concerned(messages, self._key_of)
        route, size = self._route, self._slice
        number = 0
        try:
            for number, message in enumerate(concerned):
                if not number % size:
                    if not self._situation.reads:
                        break
                    # Receivers start on the first half while this thread delivers the second.
                    self._wake_receives()
                    self._read_clock()
                try:
                    route(message)
                except Exception as error:
                    if not self._pass(message, error):
                        break
            else:
                number = len(concerned)
            if number < len(concerned) and self._source is not None:
                self._source.leave(concerned[number:])
        finally:
            self._records += len(messages) - len(concerned) + number
            if self._log is not None:
                self._log.note_routed()
            self._wake_receives()

    def _route(self, message: Any) -> None:
        record = self._record_of(message)
        settings, latest = self.settings, self.latest
        has_message = record[2] is not None or settings.tombstone is not None
        # A record without a value ends what is known of a group, or has a handler.
        if not has_message and latest is None:
            return
        payload = StreamPayload(record, settings)
        if settings.where is not None and has_message and not settings.where(payload):
            self._filtered += 1
            return
        if self._only_group is not None:
            groups, users = self._only_group.names(payload), _NOBODY
        else:
            groups, users = self._names(payload)
        if self._log is not None:
            self._log.append(record, _addresses(groups, users) if has_message else ())
        if latest is not None:
            self._put_latest(latest, groups, users, record, payload)
            return
        members = self._members(groups, users)
        if len(members) == 1 and self._log is None and members[0].tracked is None:
            # Fewer objects wait for the receiver, and Python's garbage collector looks at each.
            self._put(members, Envelope(payload.message(), self._deadline))
        elif members:
            payload.decode()
            self._put(members, self._kept(payload, record, groups, users))

    def _names(self, record: StreamRecord) -> tuple[Sequence[str], Sequence[str]]:
        """Return the groups and the users that a record is for."""
        groups, users = self.settings.groups, self.settings.users
        return (
            list(dict.fromkeys(name for each in groups for name in each.names(record))),
            list(dict.fromkeys(name for each in users for name in each.names(record))),
        )

    def _members(self, groups: Sequence[str], users: Sequence[str]) -> Sequence[Mailbox]:
        registry = self._registry
        if len(groups) == 1 and not users:
            return registry.groups.members(groups[0])
        found = [mailbox for name in groups for mailbox in registry.groups.members(name)]
        found += [mailbox for name in users for mailbox in registry.users.members(name)]
        return list(dict.fromkeys(found))

    def _put_latest(
        self,
        latest: LatestRecords[_Last],
        groups: Sequence[str],
        users: Sequence[str],
        record: Record,
        payload: StreamPayload,
    ) -> None:
        if self._decodes_at_once:
            # Before it is noted: a record that cannot be read is nobody's last one.
            payload.decode()
        last: _Last | None = payload if self._keeps_decoded else record
        if record[2] is None:
            last = None
        if latest.loading:
            latest.note(groups, last)
            return
        if self._members(groups, users):
            payload.decode()
        envelope = self._kept(payload, record, groups, users)
        delivers = record[2] is not None or self.settings.tombstone is not None

        def put(mailbox: Mailbox) -> bool:
            if not delivers:
                return True
            has_room = mailbox.put(envelope)
            self._delivered += has_room
            return has_room

        full = latest.note(groups, last, put)
        if full:
            self._put(full, envelope)
            latest.delivered()
        if users and delivers and not latest.loading:
            reached = set(self._members(groups, ())) if groups else set()
            self._put([each for each in self._members((), users) if each not in reached], envelope)

    def _kept(
        self,
        payload: StreamPayload,
        record: Record,
        groups: Sequence[str],
        users: Sequence[str],
    ) -> Envelope:
        """Return what is put into mailboxes, with its place while tracked channels follow."""
        log = self._log
        if log is None:
            return Envelope(payload, self._deadline)
        place = record[0], record[5], record[6], record[4]
        addresses = _addresses(groups, users)
        return Envelope(payload, self._deadline, place, addresses, log.before(record))

    def _put(self, members: Sequence[Mailbox], envelope: Envelope) -> None:
        delivered = 0
        try:
            for mailbox in members:
                if mailbox.put(envelope) or self._put_into_full(mailbox, envelope):
                    delivered += 1
        finally:
            self._delivered += delivered

    def _pass(self, message: Any, error: Exception) -> bool:
        """Decide what becomes of a message that failed; return whether to go on with the next."""
        while isinstance(error, RegistryAway):
            # It delays records, and drops none.
            if not self._situation.held_up:
                logger.warning("The stream %s waits: %s", self.settings.name, error)
            self._situation.held_up = str(error)
            self._wake_receives()
            source = self._source
            if source is None or not source.wait(self._retry):
                # A pause, a seek or the end: what comes next says whether it waits again.
                self._situation.held_up = ""
                return False
            self._read_clock()
            try:
                self._route(message)
            except Exception as another:
                error = another
            else:
                self._situation.held_up = ""
                return True
        self._situation.held_up = ""
        try:
            told = self._count_error(self._record_of(message), error)
        except UnreadableRecord as unread:
            told = str(unread)
            self._stats.dropped(unread.cause, told)
        if self.settings.on_error == "skip":
            return True
        with self._lock:
            self._situation.failure = told
            self._read_as_decided()
        logger.error("The stream %s stops at %s", self.settings.name, self._situation.failure)
        return False

    def _count_error(self, record: Record, error: Exception) -> str:
        """Count the error of a record; return it in words."""
        topic, _, _, _, _, partition, offset = record
        told = f"{topic.value}[{partition}] at offset {offset}: {error}"
        if isinstance(error, UnreadableRecord):
            self._stats.dropped(error.cause, told)
        else:
            self._stats.dropped("function", f"{told} ({type(error).__name__})")
            logger.error("A record of the stream %s failed", self.settings.name, exc_info=error)
        return told

    def _look_for_channels(self, now: float) -> None:
        if len(self._registry):
            self._empty_since = None
            if self._situation.idle:
                self.wake()
        elif self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since >= self._idle_after and not self._situation.idle:
            with self._lock:
                # In this order: whoever opens a channel sees that the stream is idle and wakes it,
                # or the channel is seen here.
                self._situation.idle = True
                if len(self._registry):
                    self._situation.idle = False
                else:
                    self._read_as_decided()
                    self._end_keeping()

    def _end_keeping(self) -> None:
        """Keep no records any more: no channel follows the stream; the lock is held."""
        keeper, self._keeper, self._log = self._keeper, None, None
        if keeper is not None:
            keeper.ended()

    def _on_positions(self, positions: Mapping[Where, ReadFrom], whole: bool) -> None:
        """Take from where the partitions are read on."""
        keeper = self._keeper
        if keeper is None:
            return
        if self._log is not None:
            keeper.moved(positions)
        elif whole and not self._situation.loading:
            keeper.begun(positions)
            self._log = keeper.log

    def _on_epoch(self, where: Where, offset: int, epoch: int) -> None:
        if self._log is not None:
            self._log.epochs.read(where, offset, epoch)

    def _read_clock(self) -> None:
        # The time of the source is its producers': a message lives from now on.
        self._deadline = monotonic() + self._lifetime

    def _wake_receives(self) -> None:
        """Count delivered messages, then wake their receives."""
        delivered, self._delivered = self._delivered, 0
        if delivered:
            self._total += delivered
            self._server_stats.count("delivered", delivered)
        self._registry.wakeups.flush()


def _partition_of(last: _Last) -> tuple[str, int]:
    if isinstance(last, StreamPayload):
        return last.topic, last.partition
    return last[0].value, last[5]


def _addresses(groups: Sequence[str], users: Sequence[str]) -> Sequence[Key]:
    if not users and len(groups) == 1:
        return ((_SEND_GROUP, groups[0]),)
    return (
        *((_SEND_GROUP, group) for group in groups),
        *((_SEND_USER, user) for user in users),
    )


def _absolute(start: Start) -> StreamStart:
    if isinstance(start, datetime.timedelta):
        return datetime.datetime.fromtimestamp(wall_clock(), datetime.timezone.utc) - start
    return start
