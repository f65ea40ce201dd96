"""Delivers the records of a stream to the mailboxes of their receivers.

Hot path: every record of the stream passes ``Delivery.deliver``, in the thread that reads it. For a
record without a receiver it decodes only what ``where``, ``group`` and ``user`` need. If these need
nothing but the key, ``interest`` leaves the record out before anything else of it is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import StreamSettings
from ..delivery.mailbox import Envelope, Mailbox
from ..delivery.registry import Registry
from ..exceptions import RegistryAway, UnreadableRecord
from ..observe.counters import Stats
from ..recovery.recent import Key
from ..recovery.stream_log import StreamLog
from ..server.expiry import Expiry
from ..server.full_mailboxes import FullMailboxes
from ..transport import StreamSource
from ..wire.records import Record
from ..wire.topics import Topic
from .following import Following
from .interest import by_key, interest
from .latest import LatestRecords
from .payload import StreamPayload, message_of
from .reading import Reading
from .unread import UnreadMessages

__all__ = ["Delivery", "Last", "addresses"]

logger = logging.getLogger("kafka_layer")

_SEND_GROUP, _SEND_USER = Topic.SEND_GROUP, Topic.SEND_USER

_NOBODY: Sequence[str] = ()

Last = Any
"""The last record of a group: a message of the source, or a ``StreamPayload`` that is decoded, if
decoding in a join could block."""


class Delivery:
    """Delivers the records of one stream; the thread that reads it calls every method.

    Any thread may call ``answer`` and ``count_error``, and read the figures.

    It *delivers*; or it is *held up*: a schema registry does not answer, and the thread waits at
    the record that needs it, until the registry answers or a pause, a seek or the end interrupts.

    Args:
        settings: Those of the stream.
        config: The layer's settings.
        registry: The server's channels.
        expiry: Judges the age of messages that wait.
        stats: Counts the deliveries of the server.
        errors: Counts the errors of the stream.
        latest: The last record of each group; None unless the settings ask for it.
        reading: Decides whether records are read; stopped by errors if the settings say so.
        following: Has the log for tracked channels.
        addresses_of: Returns the addresses of a record, as ``Followed.addresses``.

    Attributes:
        source: Reads the stream.
        held_up: The error of the registry; empty while it delivers.
        records: Number of records that were read.
        filtered: Number of records that ``where`` left out.
        delivered: Number of messages that were put into mailboxes.
    """

    source: StreamSource

    def __init__(
        self,
        settings: StreamSettings,
        config: LayerConfig,
        registry: Registry,
        expiry: Expiry,
        stats: Stats,
        errors: Stats,
        latest: LatestRecords[Last] | None,
        reading: Reading,
        following: Following,
        addresses_of: Callable[[Record], Sequence[Key]],
    ) -> None:
        self.held_up = ""
        self.records = self.filtered = self.delivered = 0
        self._settings = settings
        self._lifetime = config.expiry
        self._retry = config.timings.registry_retry
        self._slice = max(1, config.capacity // 2)
        self._registry = registry
        self._server_stats = stats
        self._errors = errors
        self._latest = latest
        self._reading = reading
        self._following = following
        # Whether to keep last records decoded: a join may run in an event loop, which must not wait
        # for a schema registry.
        self._keeps_decoded = settings.asks_registry
        self._stops = settings.on_error == "stop"
        # Other last records are decoded when a channel gets them, unless an error has to stop the
        # stream.
        self._decodes_at_once = self._keeps_decoded or self._stops
        self._interest = interest(settings, registry)
        self._by_key = by_key(settings, registry)
        # Most streams have one setting of one kind.
        has_one = len(settings.groups) == 1 and not settings.users
        self._only_group = settings.groups[0] if has_one else None
        self._put_into_full = FullMailboxes(
            config.timings, registry, expiry, stats, self._wake_receives, self._read_clock
        ).put
        self._addresses_of = addresses_of
        # Reads kept messages whose keys alone decide on receivers; None if each message has to be
        # decoded for that.
        self._unread: UnreadMessages | None = None
        # When messages that are put now expire, on monotonic().
        self._deadline = 0.0
        # Number of messages in mailboxes that are not counted yet.
        self._uncounted = 0
        self._route_one: Callable[[Any], None] = (
            self._route if latest is None else partial(self._route_last, latest)
        )

    def read_from(self, source: StreamSource) -> None:
        """Use another source from now on."""
        self.source = source
        settings = self._settings
        # Not with on_error "stop", because such a stream keeps no record after the one that failed.
        if self._interest is not None and not settings.key.blocking and settings.on_error == "skip":
            takes_tombstones = settings.tombstone is not None
            self._unread = UnreadMessages(source, self._addresses_of, takes_tombstones)

    def deliver(self, messages: Sequence[Any]) -> None:
        """See ``StreamSink``."""
        log = self._following.log
        concerned = self._concerned(messages, log)
        route, size = self._route_one, self._slice
        number = left = 0
        try:
            for number, message in enumerate(concerned):
                if not number % size:
                    if not self._reading.situation.reads:
                        break
                    # Wake receives now, so that they run while this thread delivers the rest.
                    self._wake_receives()
                    self._read_clock()
                try:
                    route(message)
                except Exception as error:
                    if not self._pass(message, route, error):
                        break
            else:
                number = len(concerned)
            if number < len(concerned):
                rest = concerned[number:]
                if log is not None and self._unread is not None:
                    # With the messages that have no receiver: the log must not have a gap.
                    rest = messages[len(messages) - log.leave(concerned[number]) :]
                left = len(rest)
                self.source.leave(rest)
        finally:
            self.records += len(messages) - left
            if log is not None:
                log.note_routed()
            self._wake_receives()

    def _concerned(self, messages: Sequence[Any], log: StreamLog | None) -> Sequence[Any]:
        """Return the messages that have to be routed one by one."""
        if log is not None:
            if self._unread is None:
                return messages
            log.extend(messages, self._unread)
        if self._interest is not None:
            return self._interest.concerned(messages, self.source.key)
        latest = self._latest
        if latest is not None and latest.loading and self._reading.situation.reads:
            return () if self._load(latest, messages) else messages
        return messages

    def loaded(self) -> None:
        """Note that the last record of each group is known, and give it to the members."""
        if self._latest is not None:
            self._latest.loaded()
            self._wake_receives()

    def answer(self, mailbox: Mailbox, last: Last, group: str) -> None:
        """Give a channel the last record of a group that it has joined; does not block."""
        if mailbox.closed:
            return
        payload = last
        if not isinstance(last, StreamPayload):
            try:
                payload = StreamPayload(self.source.record(last), self._settings)
                payload.decode()
            except (UnreadableRecord, RegistryAway) as error:
                self._count_failed(last, error)
                return
        # Beyond its capacity if need be: a consumer may join many groups before its first receive,
        # and an event loop cannot wait.
        key = ((_SEND_GROUP, group),)
        mailbox.refill([Envelope(payload, monotonic() + self._lifetime, key=key)])
        mailbox.note()
        self._server_stats.count("delivered.stream")

    def partition_of(self, last: Last) -> tuple[str, int]:
        """Return Kafka's name of the topic of a last record, and the number of its partition."""
        if isinstance(last, StreamPayload):
            return last.topic, last.partition
        topic, number = self.source.where(last)
        return topic.name, number

    def count_error(self, record: Record, error: Exception) -> str:
        """Count the error of a record; return it as text."""
        topic, _, _, _, _, partition, offset = record
        told = f"{topic.value}[{partition}] at offset {offset}: {error}"
        if isinstance(error, UnreadableRecord):
            self._errors.dropped(error.cause, told)
        else:
            self._errors.dropped("function", f"{told} ({type(error).__name__})")
            logger.error("A record of the stream %s failed", self._settings.name, exc_info=error)
        return told

    def _load(self, latest: LatestRecords[Last], messages: Sequence[Any]) -> bool:
        """Note the last record of each group while loading, by the keys alone.

        Returns:
            Whether that was possible. If not, none is noted, and each record has to be decoded.
        """
        if self._decodes_at_once or self._by_key is None or self._by_key.of_key is None:
            return False
        of_key, key, value = self._by_key.of_key, self.source.key, self.source.value
        try:
            names = [of_key(key(message).decode()) for message in messages]  # type: ignore[union-attr]
        except (AttributeError, UnicodeDecodeError, UnreadableRecord):
            # A record has no key, or a key that gives no name.
            return False
        latest.fill(names, [None if value(each) is None else each for each in messages])
        return True

    def _route(self, message: Any) -> None:
        record = self.source.record(message)
        settings, log = self._settings, self._following.log
        if (record[2] is None and settings.tombstone is None) or self._put_by_key(record, log):
            return
        payload = StreamPayload(record, settings)
        if settings.where is not None and not settings.where(payload):
            self.filtered += 1
            return
        if self._only_group is not None:
            groups, users = self._only_group.names(payload), _NOBODY
        else:
            groups, users = settings.names(payload)
        if log is not None and self._unread is None:
            if self._stops and self._members(groups, users):
                # Not even for a moment may a recovery find a record that stops the stream.
                payload.decode()
            log.append(record, addresses(groups, users))
        members = self._members(groups, users)
        if len(members) == 1 and log is None and members[0].tracked is None:
            self._put(members, Envelope(payload.message(), self._deadline))
        elif members:
            payload.decode()
            self._put(members, self._envelope(payload, record, groups, users, message))

    def _put_by_key(self, record: Record, log: StreamLog | None) -> bool:
        """Do what ``_route`` does, with fewer objects, if a known key has one receiver.

        Python's garbage collector traverses each object that waits in a mailbox.

        Returns:
            Whether it is done.
        """
        if self._by_key is None or log is not None:
            return False
        names = self._by_key.names.get(record[1])
        if names is None:
            return False
        members = self._by_key.membership.members(names[0])
        if len(members) != 1 or members[0].tracked is not None:
            return not members
        self._put(members, Envelope(message_of(record, self._settings), self._deadline))
        return True

    def _route_last(self, latest: LatestRecords[Last], message: Any) -> None:
        """Do what ``_route`` does, for a stream that keeps the last record of each group."""
        record = self.source.record(message)
        settings, log = self._settings, self._following.log
        payload = StreamPayload(record, settings)
        # A record without a value removes the last record of its group, and may have a handler.
        delivers = record[2] is not None or settings.tombstone is not None
        if delivers and settings.where is not None and not settings.where(payload):
            self.filtered += 1
            return
        groups, users = settings.names(payload)
        if self._stops:
            # As in _route.
            payload.decode()
        if log is not None:
            log.append(record, addresses(groups, users) if delivers else ())
        if self._decodes_at_once:
            # Before it is noted: a record that cannot be decoded is no last record.
            payload.decode()
        last: Last | None = payload if self._keeps_decoded else message
        if record[2] is None:
            last = None
        if latest.loading or not delivers:
            latest.note(groups, last)
            return
        if self._members(groups, users):
            payload.decode()
        envelope = self._envelope(payload, record, groups, users, message)
        self._put_last(latest, groups, users, last, envelope)

    def _put_last(
        self,
        latest: LatestRecords[Last],
        groups: Sequence[str],
        users: Sequence[str],
        last: Last | None,
        envelope: Envelope,
    ) -> None:
        """Note the last record of groups and put it into mailboxes: one step, as joins see it."""

        def put(mailbox: Mailbox) -> bool:
            has_room = mailbox.put(envelope)
            self._uncounted += has_room
            return has_room

        full = latest.note(groups, last, put)
        if full:
            self._put(full, envelope)
            latest.delivered()
        if users:
            reached = set(self._members(groups, ())) if groups else set()
            self._put([each for each in self._members((), users) if each not in reached], envelope)

    def _members(self, groups: Sequence[str], users: Sequence[str]) -> Sequence[Mailbox]:
        registry = self._registry
        if len(groups) == 1 and not users:
            return registry.groups.members(groups[0])
        found = [mailbox for name in groups for mailbox in registry.groups.members(name)]
        found += [mailbox for name in users for mailbox in registry.users.members(name)]
        return list(dict.fromkeys(found))

    def _envelope(
        self,
        payload: StreamPayload,
        record: Record,
        groups: Sequence[str],
        users: Sequence[str],
        message: Any,
    ) -> Envelope:
        """Return the envelope for mailboxes; with the record's place if the stream is kept."""
        log = self._following.log
        if log is None:
            return Envelope(payload, self._deadline)
        topic, _, _, _, timestamp, partition, offset = record
        before = log.before(record) if self._unread is None else log.before_in_batch(message)
        place = topic, partition, offset, timestamp
        return Envelope(payload, self._deadline, *place, addresses(groups, users), before)

    def _put(self, members: Sequence[Mailbox], envelope: Envelope) -> None:
        delivered = 0
        try:
            for mailbox in members:
                if mailbox.put(envelope) or self._put_into_full(mailbox, envelope):
                    delivered += 1
        finally:
            self._uncounted += delivered

    def _pass(self, message: Any, route: Callable[[Any], None], error: Exception) -> bool:
        """Handle a message that failed; return whether to continue with the next one."""
        try:
            while isinstance(error, RegistryAway):
                # A registry that does not answer delays records, and drops none.
                if not self.held_up:
                    logger.warning("The stream %s waits: %s", self._settings.name, error)
                self.held_up = str(error)
                self._wake_receives()
                if not self.source.wait(self._retry):
                    # A pause, a seek or the end of the stream interrupted the wait.
                    return False
                self._read_clock()
                try:
                    route(message)
                except Exception as another:
                    error = another
                else:
                    return True
        finally:
            self.held_up = ""
        told = self._count_failed(message, error)
        if self._settings.on_error == "skip":
            return True
        self._reading.stop(told)
        logger.error("The stream %s stops at %s", self._settings.name, told)
        return False

    def _count_failed(self, message: Any, error: Exception) -> str:
        """Do what ``count_error`` does, for a message of the source."""
        try:
            return self.count_error(self.source.record(message), error)
        except UnreadableRecord as unread:
            self._errors.dropped(unread.cause, str(unread))
            return str(unread)

    def _read_clock(self) -> None:
        # Messages expire by the time of their delivery: the record's time is set by its producer.
        self._deadline = monotonic() + self._lifetime

    def _wake_receives(self) -> None:
        """Count delivered messages, then wake their receives."""
        delivered, self._uncounted = self._uncounted, 0
        if delivered:
            self.delivered += delivered
            self._server_stats.count("delivered.stream", delivered)
        self._registry.wakeups.flush()


def addresses(groups: Sequence[str], users: Sequence[str]) -> Sequence[Key]:
    """Return the addresses of some groups and users."""
    if not users and len(groups) == 1:
        return ((_SEND_GROUP, groups[0]),)
    return (
        *((_SEND_GROUP, group) for group in groups),
        *((_SEND_USER, user) for user in users),
    )
