"""From a record to the mailboxes it is addressed to, with back-pressure instead of loss.

Runs in the one thread that a backplane reads with. The log is the buffer: where a mailbox is full,
the thread waits until it has room, and the records behind it wait in the broker. A mailbox whose
receiver stopped taking is not waited for; it alone loses messages, and they are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..config import realtime as time
from ..config.settings import LayerConfig
from ..delivery.backpressure import BackPressure
from ..delivery.mailbox import Mailbox
from ..delivery.registry import Registry
from ..delivery.wakeups import Envelope
from ..exceptions import UnreadableRecord
from ..observe.counters import Stats
from ..wire.encryption import Encryption, ReplayGuard
from ..wire.headers import excluded
from ..wire.records import Record
from ..wire.topics import Topic
from .clock import BrokerClock

__all__ = ["Router"]

logger = logging.getLogger("kafka_layer")

_CLOCK_ERROR = 1.0


class Router:
    """Hands records to the channels of one server.

    Args:
        config: For ``expiry`` and ``capacity``.
        registry: Who is here.
        encryption: Decrypts the values of records.
        stats: Counts what is delivered and what is dropped.
        clock: Tells the age of a record.
        commands: What to do with a record of a topic that carries commands; each gets the record's
            key, its opened payload and its timestamp. ``SEND_ALL`` stands for records with a
            command header.
        is_mine: Tells whether a channel name is one of this server's.
    """

    def __init__(
        self,
        config: LayerConfig,
        registry: Registry,
        encryption: Encryption,
        stats: Stats,
        clock: BrokerClock,
        commands: Mapping[Topic, Callable[[str, bytes, float], None]],
        is_mine: Callable[[str], bool],
    ) -> None:
        self._expiry = config.expiry
        self._slice = max(1, config.capacity // 2)
        self._registry = registry
        self._decrypt = ReplayGuard(encryption, config.expiry).decrypt
        self._stats = stats
        self._clock = clock
        self._commands = commands
        # By topic, as each record is looked up: whom a key means.
        self._addressees: Mapping[Topic, Callable[[str], Sequence[Mailbox]]] = {
            Topic.SEND_GROUP: registry.groups.of,
            Topic.SEND_USER: registry.users.of,
            Topic.SEND_ALL: lambda _: registry.open_channels(),
            Topic.SEND_CONN: self._channel,
        }
        self._is_mine = is_mine
        self._back_pressure = BackPressure(config.timings, registry.open_channels)
        self._flushed_until = float("-inf")
        # Not looked at for each record: that took a tenth of the time of all this.
        self._now = self._monotonic = 0.0

    def deliver(self, records: Iterable[Record]) -> None:
        """Hand over records in their order; the backplane's reading thread. Blocks on full ones."""
        flush = self._registry.wakeups.flush
        delivered = 0
        self._look_at_clocks()
        for number, record in enumerate(records, 1):
            try:
                delivered += self._route(record)
            except UnreadableRecord as error:
                self._stats.dropped(error.cause, f"a record of {record[0].value}: {error}")
            except Exception:
                self._stats.count("errors.routing")
                logger.exception("A record of %s was skipped", record[0].value)
            # Receivers start on the first half while the second is handed over.
            if not number % self._slice:
                flush()
                self._look_at_clocks()
        flush()
        if delivered:
            self._stats.count("delivered", delivered)

    def forget_until(self, timestamp: float) -> float:
        """Drop the records that were written up to ``timestamp`` (the broker's, in seconds).

        Returns:
            The time up to which they are dropped.
        """
        # On a topic with its writers' timestamps one may lie ahead, and would mute the server.
        latest = self._clock.now() + _CLOCK_ERROR
        self._flushed_until = max(self._flushed_until, min(timestamp, latest))
        return self._flushed_until

    def _route(self, record: Record) -> int:
        topic, raw_key, value, headers, timestamp, partition, offset = record
        try:
            key = raw_key.decode() if raw_key else ""
        except UnicodeDecodeError:
            raise UnreadableRecord("undecodable", f"its key {raw_key!r} is not UTF-8") from None
        if topic in self._commands and _is_command(topic, headers):
            self._commands[topic](key, self._decrypt(topic, key, value, timestamp), timestamp)
            return 0
        mailboxes = self._addressees[topic](key)
        if not mailboxes:
            return 0
        if timestamp <= self._flushed_until:
            self._stats.count("dropped.flushed", len(mailboxes))
            return 0
        age = self._now - timestamp
        if age < 0.0:
            age = 0.0
        self._stats.arrived(age)
        expiry = self._expiry
        if age > expiry:
            self._stats.dropped(
                "expired", f"{topic.value} {key!r} was {age:.1f} s old", len(mailboxes)
            )
            return 0
        envelope = Envelope(
            self._decrypt(topic, key, value, timestamp),
            self._monotonic + expiry - age,
            (topic, partition, offset, timestamp),
        )
        if headers:
            left_out = excluded(headers)
            mailboxes = [each for each in mailboxes if each.channel not in left_out]
        delivered = 0
        for mailbox in mailboxes:
            if mailbox.put(envelope) or self._put_when_there_is_room(mailbox, envelope):
                delivered += 1
        return delivered

    def _channel(self, key: str) -> Sequence[Mailbox]:
        mailbox = self._registry.mailbox(key)
        if mailbox is None:
            # The inbox partition is shared with other servers, whose channels are not looked for.
            if self._is_mine(key):
                self._stats.count("dropped.closed")
            return ()
        return (mailbox,)

    def _put_when_there_is_room(self, mailbox: Mailbox, envelope: Envelope) -> bool:
        if not self._registry.is_open(mailbox):
            self._stats.count("dropped.closed")
            return False
        self._registry.wakeups.flush()
        there_is_room = self._back_pressure.wait_for_room(mailbox)
        self._look_at_clocks()
        if there_is_room and mailbox.put(envelope):
            return True
        self._stats.dropped("full", f"channel {mailbox.channel} does not take its messages")
        return False

    def _look_at_clocks(self) -> None:
        self._now, self._monotonic = self._clock.now(), time.monotonic()


def _is_command(topic: Topic, headers: Sequence[tuple[str, bytes | None]]) -> bool:
    # On the other topics that carry commands there is nothing else.
    return topic is not Topic.SEND_ALL or any(name == "command" for name, _ in headers)
