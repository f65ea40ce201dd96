"""From a record to the mailboxes that it is addressed to, with back-pressure instead of loss.

Hot path: every message that a server reads passes here, in the data reader's thread.

``FullMailboxes`` has what happens where a mailbox is full.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..config.settings import LayerConfig
from ..delivery.mailbox import Mailbox
from ..delivery.registry import Registry
from ..delivery.wakeups import Envelope
from ..exceptions import UnreadableRecord
from ..observe.counters import Stats
from ..wire.encryption import Encryption, ReplayGuard
from ..wire.headers import excluded, has_command
from ..wire.idempotency import Duplicates, has_key
from ..wire.records import Record, unreadable_key
from ..wire.topics import Topic, kind_of
from .expiry import Expiry
from .full_mailboxes import FullMailboxes

if TYPE_CHECKING:
    from .feature import RecentRecords

__all__ = ["OnCommand", "Resolve", "Router", "channels_by_name"]

logger = logging.getLogger("kafka_layer")

# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_SEND_CONN = Topic.SEND_CONN

_new_envelope = Envelope.__new__

Resolve = Callable[[str], Sequence[Mailbox]]
"""Returns the mailboxes that a record's key addresses."""

OnCommand = Callable[[str, bytes, float], None]
"""Carries out a command: gets the record's key, its decrypted value and its timestamp."""


class Router:
    """Delivers records to the channels of one server.

    The data reader's thread calls ``deliver``; any thread may call the rest.

    Args:
        config: For ``capacity``, the times of back-pressure, and how old a replayed record may be.
        registry: The server's channels.
        encryption: Decrypts the values of records.
        stats: Counts deliveries and drops.
        expiry: Judges the age of a record.

    Attributes:
        duplicates: Tells which records are duplicates by their idempotency keys.
        look_back: Called with each record that has an idempotency key, before it is judged, in the
            reading thread. Returns the function that has ``duplicates`` learn what this server has
            not read, and blocks; None if there is nothing to learn.
        guard: Refuses copies of tokens; of the reading thread.
        recent: Gets the records of each batch before they are routed; None if no channel is
            tracked.
    """

    def __init__(
        self,
        config: LayerConfig,
        registry: Registry,
        encryption: Encryption,
        stats: Stats,
        expiry: Expiry,
    ) -> None:
        self.recent: RecentRecords | None = None
        # As ``recent`` was when the present batch came.
        self._recent: RecentRecords | None = None
        self._expiry = expiry
        self._slice = max(1, config.capacity // 2)
        self._registry = registry
        self.guard = ReplayGuard(encryption, config.expiry)
        self._decrypt = self.guard.decrypt
        self._stats = stats
        self._put_into_full = FullMailboxes(
            config.timings, registry, expiry, stats, self._wake, expiry.read_clocks
        ).put
        self.duplicates = Duplicates(
            encryption.active, lambda number: stats.count("errors.idempotency_keys", number)
        )
        self.look_back: Callable[[Record], Callable[[], None] | None] = lambda record: None
        # By topic: whom to ask, and the counter of its messages.
        self._routes: dict[Topic, tuple[Resolve, OnCommand | None, str]] = {}
        # Messages that are in a mailbox and not counted yet, and their counter.
        self._delivered = 0
        self._counter = ""

    def register(self, topic: Topic, resolve: Resolve, on_command: OnCommand | None = None) -> None:
        """Say how to deliver the records of a topic; before its first record.

        Args:
            topic: The topic.
            resolve: Returns the mailboxes that a key addresses.
            on_command: Gets the records with a header ``command``; None if the topic carries
                messages only.
        """
        self._routes[topic] = resolve, on_command, f"delivered.{kind_of(topic)}"

    def deliver(self, records: Sequence[Record]) -> None:
        """Deliver records in order; the reading thread. Blocks while a mailbox is full.

        A record that cannot be delivered is counted, and costs no other.
        """
        route, size = self._route, self._slice
        self._recent = recent = self.recent
        if recent is not None:
            recent.append(records)
        self._expiry.read_clocks()
        try:
            for begin in range(0, len(records), size):
                # Receivers start on the first half while this thread delivers the second.
                if begin:
                    self._wake()
                    self._expiry.read_clocks()
                for record in records[begin : begin + size]:
                    try:
                        route(record)
                    except UnreadableRecord as error:
                        self._stats.dropped(error.cause, f"a record of {record[0].value}: {error}")
                    except Exception:
                        self._stats.count("errors.routing")
                        logger.exception("A record of %s was skipped", record[0].value)
        finally:
            if recent is not None:
                recent.note_routed()
            self._wake()

    def _wake(self) -> None:
        """Count delivered messages, then wake their receives."""
        delivered, self._delivered = self._delivered, 0
        if delivered:
            self._stats.count(self._counter, delivered)
        self._registry.wakeups.flush()

    def _route(self, record: Record) -> None:
        topic, raw_key, value, headers, timestamp, partition, offset = record
        try:
            key = raw_key.decode() if raw_key else ""
        except UnicodeDecodeError:
            raise unreadable_key(raw_key) from None
        resolve, on_command, counter = self._routes[topic]
        if on_command is not None and has_command(headers):
            place = topic, partition, offset, timestamp
            on_command(key, self._decrypt(topic, key, value, timestamp, place), timestamp)
            return
        mailboxes = resolve(key)
        if headers:
            mailboxes = self._narrowed(record, mailboxes)
        if not mailboxes:
            return
        deadline = self._expiry.deadline(timestamp, topic, key, mailboxes)
        if deadline is None:
            self._pass_by_tracked(topic, mailboxes, timestamp)
            return
        place = topic, partition, offset, timestamp
        payload = self._decrypt(topic, key, value, timestamp, place)
        # The constructor, in place, which takes half the time.
        envelope = _new_envelope(Envelope)
        envelope.payload = payload
        envelope.deadline = deadline
        envelope.topic = topic
        envelope.partition = partition
        envelope.offset = offset
        envelope.timestamp = timestamp
        # The mailbox of a single channel has its name: a text less for each message that waits.
        envelope.key = "" if topic is _SEND_CONN else key
        envelope.before = None if self._recent is None else self._recent.before(record)
        envelope.unreadable = False
        if headers:
            envelope.trace = headers
        delivered = 0
        try:
            for mailbox in mailboxes:
                if mailbox.put(envelope) or self._put_into_full(mailbox, envelope):
                    delivered += 1
        finally:
            if counter is not self._counter:
                self._count_as(counter)
            self._delivered += delivered

    def _count_as(self, counter: str) -> None:
        """Count what was delivered, and all that follows by another counter."""
        delivered, self._delivered = self._delivered, 0
        if delivered:
            self._stats.count(self._counter, delivered)
        self._counter = counter

    def _narrowed(self, record: Record, mailboxes: Sequence[Mailbox]) -> Sequence[Mailbox]:
        """Return those of the addressed mailboxes that a record with headers is for."""
        topic, headers = record[0], record[3]
        left_out = excluded(headers)
        mailboxes = [each for each in mailboxes if each.channel not in left_out]
        if has_key(headers) and topic is not Topic.SEND_CONN and self._is_duplicate(record):
            if mailboxes:
                self._stats.count("dropped.duplicate", len(mailboxes))
            return ()
        return mailboxes

    def _is_duplicate(self, record: Record) -> bool:
        # Also where nobody is addressed: a channel may join before the copy comes.
        learn = self.look_back(record)
        if learn is not None:
            self._wake()
            learn()
            self._expiry.read_clocks()
        return self.duplicates.is_duplicate(record, self._expiry.flushed_until)

    def _pass_by_tracked(
        self, topic: Topic, mailboxes: Sequence[Mailbox], timestamp: float
    ) -> None:
        """Have tracked channels read a message that is too old for mailboxes, from the log."""
        if topic is Topic.SEND_CONN or timestamp <= self._expiry.flushed_until:
            return
        for mailbox in mailboxes:
            if mailbox.tracked is not None:
                mailbox.tracked.pass_by(None)
                self._stats.count("dropped.expired", -1)


def channels_by_name(registry: Registry, stats: Stats, is_mine: Callable[[str], bool]) -> Resolve:
    """Return the resolver of ``send-conn``, whose keys are channel names.

    Args:
        registry: The server's channels.
        stats: Counts drops because a channel is closed.
        is_mine: Tells whether a channel is of this server; servers may share the partition.
    """
    mailbox_of = registry.mailbox

    def resolve(key: str) -> Sequence[Mailbox]:
        mailbox = mailbox_of(key)
        if mailbox is not None:
            return (mailbox,)
        if is_mine(key):
            stats.count("dropped.closed")
        return ()

    return resolve
