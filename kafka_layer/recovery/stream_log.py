"""The most recent records of one stream, for replays. Pure.

Hot path: while a tracked channel follows the stream, every record of it passes ``extend`` or
``append``.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..config.realtime import monotonic
from ..streams.payload import StreamPayload
from ..transport import BatchFacts, ReadFrom
from ..wire.record_block import RECORD_BYTES
from ..wire.records import Record, offset_of, written_at
from ..wire.topics import StreamTopic, Topic, Where, topic_ids_differ
from .epochs import LeaderEpochs
from .recent import Key, Loss, until_told
from .tails import Run, Tail, Tails, size_of

__all__ = ["UNREADABLE", "Followed", "Keeper", "StreamLog", "Unread"]

# Limit of the messages in a block; and of its time span, as a part of the time that records are
# kept.
_BLOCK = 1000
_SPAN = 1 / 16

UNREADABLE: Key = (Topic.SEND_ALL, "unreadable")
"""The address of records whose receivers cannot be determined."""


class Keeper(Protocol):
    """Keeps the most recent records of a stream; the reading thread calls the methods.

    Attributes:
        log: The records.
    """

    log: StreamLog

    def begun(self, positions: Mapping[Where, ReadFrom]) -> None:
        """Note that records from these positions on will be appended."""

    def moved(self, positions: Mapping[Where, ReadFrom]) -> None:
        """Note that partitions are read from other positions on."""

    def ended(self) -> None:
        """Note that no more records will be appended until ``begun`` is called again."""


class Followed(Protocol):
    """A stream that tracked channels follow; any thread.

    Attributes:
        name: The stream's name in the settings.
        stops_at_errors: Whether it stops at a record that cannot be delivered.
    """

    name: str
    stops_at_errors: bool

    def concerns(self, key: Key) -> bool:
        """Tell whether the settings allow a record for an address."""

    def addresses(self, record: Record) -> Sequence[Key]:
        """Return the addresses that a record is for; none for a record that is skipped.

        Raises:
            UnreadableRecord: If they cannot be determined, and the stream stops at such a record.
            RegistryAway: If a schema registry is needed, and does not answer.
        """

    def payload(self, record: Record) -> StreamPayload:
        """Return the payload of a record's envelopes; not decoded yet."""

    def count_error(self, record: Record, error: Exception) -> object:
        """Count a record that cannot be decoded, and log it."""

    @property
    def asks_registry(self) -> bool:
        """Whether ``payload(record).decode()`` may wait for a schema registry."""

    def keep(self, keeper: Keeper) -> None:
        """Let the reading thread append each record to a keeper, beginning with ``begun``.

        It ends when the server has no channel any more.
        """


class Unread(Protocol):
    """Reads messages of a stream as the client returned them, if keys alone decide on receivers.

    Any thread may call it.
    """

    def facts(self, messages: Sequence[Any]) -> BatchFacts:
        """Return the facts of messages that are cheap to get."""

    def where(self, message: Any) -> Where:
        """Return the partition of a message."""

    def offset(self, message: Any) -> int:
        """Return the offset of a message."""

    def addresses(self, message: Any) -> Sequence[Key]:
        """Return the addresses that a message is for; none for a message that is skipped."""

    def record(self, message: Any) -> Record | None:
        """Return the record of a message; None if it cannot be read."""


class _Block:
    """Some messages that were read one after another; at least one.

    They stay as the client returned them, because most are never needed. The first ``find`` makes
    the index, and further calls extend it.

    Args:
        unread: Reads the messages.
        now: When the first one came, on ``monotonic()``.

    Attributes:
        ends: For each partition in it the offset after its last message.
        size: Bytes of the messages, roughly.
        began: As ``now``.
        arrived: When the last one came, on ``monotonic()``.
    """

    __slots__ = ("_index", "_indexed", "_messages", "_unread", "arrived", "began", "ends", "size")

    def __init__(self, unread: Unread, now: float) -> None:
        self.ends: dict[Where, int] = {}
        self.size = 0
        self.began = self.arrived = now
        self._unread = unread
        self._messages: list[Any] = []
        # The messages by partition and address; and the number of messages that are indexed.
        self._index: dict[tuple[Where, Key], list[Any]] = {}
        self._indexed = 0

    def __len__(self) -> int:
        return len(self._messages)

    def is_of(self, unread: Unread) -> bool:
        """Tell whether its messages are read by ``unread``."""
        return self._unread is unread

    def add(self, messages: Sequence[Any], facts: BatchFacts) -> None:
        """Add messages after the others."""
        self._messages += messages
        self.ends.update(facts.ends)
        self.size += RECORD_BYTES * len(messages) + facts.size

    def find(self, where: Where, key: Key, first: int, end: int) -> list[Any]:
        """Return the records of an address in a part of a partition, with their addresses."""
        if self.ends.get(where, 0) <= first:
            return []
        if self._indexed < len(self._messages):
            self._go_on_indexing()
        unread = self._unread
        return [
            (*record, unread.addresses(message))
            for message in self._index.get((where, key), ())
            if first <= unread.offset(message) < end
            and (record := unread.record(message)) is not None
        ]

    def cut(self, where: Where, offset: int) -> None:
        """Forget the messages of a partition from an offset on."""
        if self.ends.get(where, 0) <= offset:
            return
        unread = self._unread
        kept = [
            each
            for each in self._messages
            if unread.where(each) != where or unread.offset(each) < offset
        ]
        self._messages, self._index, self._indexed = [], {}, 0
        self.ends, self.size = {}, 0
        if kept:
            self.add(kept, unread.facts(kept))

    def _go_on_indexing(self) -> None:
        index, where, addresses = self._index, self._unread.where, self._unread.addresses
        for message in self._messages[self._indexed :]:
            for key in addresses(message):
                index.setdefault((where(message), key), []).append(message)
        self._indexed = len(self._messages)


class StreamLog(Tails[Key]):
    """Keeps the tail of each partition of a stream, bounded in bytes and in time, by address.

    ``find`` returns a record with its addresses as a further item. It returns no records without
    receivers, because no replay needs them. The age of a record counts from its arrival here,
    because its timestamp is set by its producer.

    The reading thread adds records before it puts them into mailboxes, and notes after a batch that
    all of them are there. As in ``RecentLog``, a record below ``ends`` is found here, and a record
    below ``routed`` is in the mailboxes. There are two ways to add records, of which one log uses
    only one. If keys alone decide on receivers, whole batches are added as they were read
    (``extend``). Otherwise each record is added with its addresses (``append``).

    Args:
        most_bytes: As for ``Tails``.
        seconds: For how long a record is kept.

    Attributes:
        routed: For each partition the offset after its last routed record. Replaced, never changed.
        topic_ids: As of ``RecentLog``.
        epochs: As of ``RecentLog``.
        sought: Whether the next ``move`` is a seek.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        super().__init__(most_bytes)
        self.sought = False
        self.routed: Mapping[Where, int] = {}
        self.topic_ids: Mapping[StreamTopic, str | None] = {}
        self.epochs = LeaderEpochs()
        self._seconds = seconds
        # The offsets after the last records; the reading thread changes them with each record.
        self._reached: dict[Where, int] = {}
        # The number of appended records; and what it was at some times on monotonic().
        self._appended = 0
        self._arrivals: deque[tuple[float, int]] = deque()
        # Partitions that lost records, until move() gets their new positions.
        self._losses: dict[Where, Loss] = {}
        # The messages that extend() added; all of them are more recent than the records in _order.
        self._blocks: deque[_Block] = deque()
        # The last batch: its reader, the number of messages that before_in_batch() has passed, and
        # the ends at that place.
        self._batch: Sequence[Any] = ()
        self._unread: Unread
        self._passed = 0
        self._passed_ends: dict[Where, int] = {}

    @property
    def ends(self) -> Mapping[Where, int]:
        """For each partition the offset after its last record; a copy."""
        with self._lock:
            return dict(self._reached)

    def append(self, record: Record, addresses: Sequence[Key]) -> None:
        """Add a record that was read and is in no mailbox yet; called by the reading thread.

        It ignores a record that it has: routing is repeated after a schema registry did not answer.
        """
        where = record[0], record[5]
        with self._lock:
            if record[6] < self._reached.get(where, 0):
                return
            tail = self._tails.get(where) or self._begin(where, record[6])
            if addresses:
                self._add(tail, (*record, addresses))
                self._appended += 1
            self._reached[where] = record[6] + 1

    def extend(self, messages: Sequence[Any], unread: Unread) -> None:
        """Add a batch that was read and is in no mailbox yet; called by the reading thread.

        Args:
            messages: At least one, in the order of each partition.
            unread: Reads them.
        """
        facts, now = unread.facts(messages), monotonic()
        with self._lock:
            self._batch, self._unread, self._passed = messages, unread, 0
            self._passed_ends = dict(self._reached)
            for where in facts.ends:
                if where not in self._tails:
                    self._begin(where, min(_offsets_in(where, messages, unread)))
            block = self._blocks[-1] if self._blocks else None
            if (
                block is None
                or len(block) >= _BLOCK
                or now - block.began > self._seconds * _SPAN
                or not block.is_of(unread)
            ):
                block = _Block(unread, now)
                self._blocks.append(block)
            self.size -= block.size
            block.add(messages, facts)
            self.size += block.size
            self._reached.update(facts.ends)
            while self.size > self._most_bytes and (self._order or self._blocks):
                self._drop_oldest()

    def before_in_batch(self, message: Any) -> Mapping[Where, int]:
        """Return the ends before a message of the last batch; called by the reading thread.

        Args:
            message: The message; not before that of the last call.
        """
        batch, unread, ends = self._batch, self._unread, self._passed_ends
        while batch[self._passed] is not message:
            passed = batch[self._passed]
            ends[unread.where(passed)] = unread.offset(passed) + 1
            self._passed += 1
        return {**ends, unread.where(message): unread.offset(message)}

    def leave(self, message: Any) -> int:
        """Forget a message of the last batch and those after it, which will be read again.

        Called by the reading thread.

        Args:
            message: As for ``before_in_batch``.

        Returns:
            The number of forgotten messages.
        """
        ends = self.before_in_batch(message)
        with self._lock:
            for where, end in ends.items():
                if end < self._reached[where]:
                    self._cut(where, end)
            self._reached.update(ends)
        return len(self._batch) - self._passed

    def before(self, record: Record) -> Mapping[Where, int]:
        """Return the ends before the record that was appended last; the reading thread."""
        return {**self._reached, (record[0], record[5]): record[6]}

    def note_routed(self) -> None:
        """Note that all appended records are routed; the reading thread."""
        now = monotonic()
        with self._lock:
            self.routed = dict(self._reached)
            if self._blocks:
                self._blocks[-1].arrived = now
                while self._blocks and self._blocks[0].arrived < now - self._seconds:
                    self._drop_block()
                return
            arrivals = self._arrivals
            if not arrivals or arrivals[-1][1] < self._appended:
                arrivals.append((now, self._appended))
            while arrivals and arrivals[0][0] < now - self._seconds:
                younger = self._appended - arrivals.popleft()[1]
                while len(self._order) > younger:
                    self._drop_first()

    def lose(self, where: Where, loss: Loss) -> None:
        """Note how a partition lost records, just before ``move`` gets its new position."""
        self._losses[where] = loss

    def move(self, positions: Mapping[Where, ReadFrom]) -> dict[Where, Loss]:
        """Note the offsets from which partitions are read; the reading thread, between batches.

        A partition may continue at another offset without a loss: after markers of transactions,
        before records that were left, or after a seek. ``routed`` is as in ``RecentLog.move``.

        Args:
            positions: The next offset of each partition that is read.

        Returns:
            The partitions that lost records, and how. Their kept records are dropped.
        """
        lost: dict[Where, Loss] = {}
        with self._lock:
            reached, ids = self._reached, dict(self.topic_ids)
            for where, (offset, topic_id) in positions.items():
                topic: Any = where[0]
                known, end = self.topic_ids.get(topic), reached.get(where)
                loss = "epoch" if topic_ids_differ(topic_id, known) else self._losses.get(where)
                if end is not None and loss is not None:
                    lost[where] = loss
                if end is None or where in lost or (self.sought and offset != end):
                    # The records between the two offsets were not read.
                    self._begin(where, offset)
                elif offset < end:
                    self._cut(where, offset)
                reached[where] = offset
                ids[topic] = topic_id or known
            self._losses, self.sought = {}, False
            if lost:
                former, self.epochs = self.epochs, self.epochs.without(lost)
                former.end(reached)
            self.routed = until_told(reached, lost, self.routed)
            self.topic_ids = ids
        return lost

    def prepend(self, parts: Mapping[Where, tuple[int, int, Sequence[Any]]]) -> None:
        """Add records before the kept ones.

        Args:
            parts: For some partitions a first offset, the offset from which records were kept a
                moment ago, and all records between the two. A part is ignored if records were
                dropped meanwhile.
        """
        with self._lock:
            added = []
            for where, (first, end, records) in parts.items():
                tail = self._tails.get(where)
                if tail is not None and first < tail.begin <= end:
                    older = records[: bisect_left(records, tail.begin, key=offset_of)]
                    self._put_before(tail, first, older)
                    added.append(older)
            for record in reversed(list(heapq.merge(*added, key=written_at))):
                self._order.appendleft(record)
                self.size += size_of(record)

    def clear(self) -> None:
        """Forget all records, and how far the partitions are read."""
        with self._lock:
            self._tails.clear()
            self._order.clear()
            self._arrivals.clear()
            self._losses.clear()
            self._blocks.clear()
            self._batch = ()
            self._reached = {}
            self.routed = {}
            self.topic_ids = {}
            self.epochs = LeaderEpochs()
            self.size = self._appended = 0

    def find(
        self, where: Where, key: Key, first: int, end: int, most: int | None = None
    ) -> list[Any] | None:
        """As ``Tails.find``."""
        with self._lock:
            found = super().find(where, key, first, end, most)
            if found is None or first >= end:
                return found
            for block in self._blocks:
                if most is not None and len(found) >= most:
                    break
                found += block.find(where, key, first, end)
            return found if most is None else found[:most]

    def _count(self) -> int:
        return super()._count() + sum(map(len, self._blocks))

    def _begin(self, where: Where, offset: int) -> Tail[Key]:
        self._cut_blocks(where, 0)
        return super()._begin(where, offset)

    def _add(self, tail: Tail[Key], record: Any) -> None:
        """Add a record after the others of its partition."""
        for key in record[7]:
            run = tail.runs.get(key)
            if run is None:
                run = tail.runs[key] = Run()
            run.records.append(record)
        self._order.append(record)
        self.size += size_of(record)
        while self.size > self._most_bytes:
            self._drop_first()

    def _cut(self, where: Where, offset: int) -> None:
        """Forget the records of a partition from an offset on."""
        self._cut_blocks(where, offset)
        tail = self._tails[where]
        if offset <= tail.begin:
            self._begin(where, offset)
            return
        kept: deque[Any] = deque()
        for record in self._order:
            if (record[0], record[5]) == where and record[6] >= offset:
                self.size -= size_of(record)
                for key in record[7]:
                    run = tail.runs[key]
                    del run.records[
                        max(run.head, bisect_left(run.records, offset, key=offset_of)) :
                    ]
            else:
                kept.append(record)
        self._order = kept
        tail.runs = {key: run for key, run in tail.runs.items() if run.head < len(run.records)}

    def _put_before(self, tail: Tail[Key], first: int, records: Sequence[Any]) -> None:
        by_key: dict[Key, list[Any]] = {}
        for record in records:
            for key in record[7]:
                by_key.setdefault(key, []).append(record)
        for key, older in by_key.items():
            run = tail.runs.setdefault(key, Run())
            run.records[: run.head] = older
            run.head = 0
        tail.begin = first

    def _cut_blocks(self, where: Where, offset: int) -> None:
        for block in self._blocks:
            self.size -= block.size
            block.cut(where, offset)
            self.size += block.size

    def _drop_oldest(self) -> None:
        if self._order:
            self._drop_first()
        else:
            self._drop_block()

    def _drop_block(self) -> None:
        while self._order:
            self._drop_first()
        block = self._blocks.popleft()
        self.size -= block.size
        for where, end in block.ends.items():
            self._tails[where].begin = max(end, self._tails[where].begin)

    def _drop_first(self) -> None:
        record = self._order.popleft()
        self.size -= size_of(record)
        tail = self._tails[record[0], record[5]]
        tail.begin = record[6] + 1
        for key in record[7]:
            tail.drop_first(key)


def _offsets_in(where: Where, messages: Sequence[Any], unread: Unread) -> list[int]:
    return [unread.offset(each) for each in messages if unread.where(each) == where]
