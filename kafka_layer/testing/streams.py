"""The topics of streams without a broker, and what reads them: see ``testing/memory.py``."""

from __future__ import annotations

import datetime
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from ..config.realtime import wall_clock
from ..config.streams import Start, StreamSettings, place_at
from ..config.threads import is_current, new_condition, new_event, new_thread
from ..delivery.tickets import Ticket
from ..exceptions import LayerClosed
from ..messages import Position
from ..transport import (
    BatchFacts,
    Extent,
    OnEpoch,
    OnStreamPositions,
    ReadFrom,
    StreamFacts,
    StreamSink,
    StreamStart,
)
from ..wire.partitions import partition_of_bytes
from ..wire.record_block import size_of_headers
from ..wire.records import Record
from ..wire.topics import StreamTopic
from .jobs import JobRecord
from .shared_log import LogPast, SharedLog

__all__ = ["InMemoryStream", "InMemoryStreamPast", "StreamGroup", "StreamTopics"]

# Records that a partition keeps.
_KEPT = 10_000
_BATCH = 100
# Seconds between two turns without records.
_PAUSE = 0.1

_Partition = tuple[str, int]


class _Kept:
    """The youngest records of one partition."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque(maxlen=_KEPT)
        self.end = 0


class StreamTopics(SharedLog["InMemoryStream | StreamGroup"]):
    """The topics that streams read and write, of all layers of one prefix; any thread.

    A topic exists from its first record on, with one partition, or as many as records name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._topics: dict[str, list[_Kept]] = {}
        # By the name of a consumer group and of its topic.
        self._groups: dict[tuple[str, str], StreamGroup] = {}

    def write(
        self,
        topic: StreamTopic,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> Position:
        """Append a record.

        Args:
            topic: The topic.
            key: The raw key.
            value: The raw value; None for a tombstone.
            partition: The number of the partition; None: the key decides.
            headers: The headers.

        Returns:
            The place of the record.
        """
        timestamp = wall_clock()
        with self._lock:
            partitions = self._topics.setdefault(topic.name, [_Kept()])
            number = partition
            if number is None:
                number = partition_of_bytes(key or b"", len(partitions))
            partitions += [_Kept() for _ in range(number + 1 - len(partitions))]
            kept = partitions[number]
            offset = kept.end
            made: Any = topic, key, value, headers, timestamp, number, offset
            kept.records.append(made)
            kept.end += 1
            readers = tuple(self._readers)
        for reader in readers:
            reader.look()
        return Position(topic.name, number, offset, timestamp)

    def group(self, name: str, topic: str, start: Start) -> StreamGroup:
        """Return a consumer group that shares a topic.

        Args:
            name: The group's name.
            topic: Kafka's name of the topic.
            start: Where the group begins, if there is none yet.
        """
        with self._lock:
            group = self._groups.get((name, topic))
            if group is None:
                group = self._groups[name, topic] = StreamGroup(self, topic, start)
                self._readers.append(group)
            return group

    def partitions(self, takes: Callable[[str], bool]) -> list[_Partition]:
        """Return the partitions of all topics with such a name."""
        with self._lock:
            return [
                (name, number)
                for name, partitions in self._topics.items()
                if takes(name)
                for number in range(len(partitions))
            ]

    def place(self, where: _Partition, start: StreamStart) -> int:
        """Return the offset at which a reader of a partition starts."""
        with self._lock:
            name, number = where
            kept = self._topics[name][number]
            if start == "latest":
                return kept.end
            since = float("-inf") if isinstance(start, str) else start.timestamp()
            return next((each[6] for each in kept.records if each[4] >= since), kept.end)

    def read(self, where: _Partition, offset: int, most: int = _BATCH) -> list[Record]:
        """Return the next records of a partition; at most ``most``."""
        with self._lock:
            name, number = where
            kept = self._topics[name][number]
            first = max(0, offset - (kept.end - len(kept.records)))
            return [kept.records[at] for at in range(first, len(kept.records))][:most]

    def extent(self, where: _Partition) -> Extent:
        """Return what is kept of a partition."""
        with self._lock:
            name, number = where
            kept = self._topics[name][number]
            return Extent(None, kept.end - len(kept.records), kept.end)

    def delete_before(self, where: _Partition, offset: int) -> None:
        """Delete the records of a partition before an offset, as retention does."""
        with self._lock:
            name, number = where
            records = self._topics[name][number].records
            while records and records[0][6] < offset:
                records.popleft()

    def unread(self, where: _Partition, offset: int) -> int:
        """Return how many records of a partition follow an offset."""
        with self._lock:
            name, number = where
            return self._topics[name][number].end - offset


class StreamGroup:
    """The records of a topic of which each is for one worker of a consumer group; any thread.

    Args:
        topics: The topics.
        topic: Kafka's name of the topic.
        start: Where the group begins; partitions that come later it reads from their start.
    """

    def __init__(self, topics: StreamTopics, topic: str, start: Start) -> None:
        place = place_at(start, wall_clock())
        self._topics = topics
        self._takes = topic.__eq__
        self._changed = new_condition()
        self._taken = 0
        self._given_back: deque[JobRecord] = deque()
        self._offsets = {each: topics.place(each, place) for each in topics.partitions(self._takes)}

    def look(self) -> None:
        """Take note that there are new records."""
        with self._changed:
            self._changed.notify()

    def take(self, timeout: float) -> JobRecord | None:
        """Return the next record; None if there is none within ``timeout`` seconds."""
        with self._changed:
            record = self._next()
            if record is None and self._changed.wait(timeout):
                record = self._next()
            return record

    def give_back(self, records: Iterable[JobRecord]) -> None:
        """Take back records that no receive of a server took."""
        with self._changed:
            self._given_back = deque(sorted([*records, *self._given_back]))
            self._changed.notify_all()

    def wake(self) -> None:
        """Let each ``take`` that waits return at once."""
        with self._changed:
            self._changed.notify_all()

    def _next(self) -> JobRecord | None:
        if self._given_back:
            return self._given_back.popleft()
        for where in self._topics.partitions(self._takes):
            records = self._topics.read(where, self._offsets.get(where, 0))
            if records:
                _, key, value, headers, timestamp, partition, offset = records[0]
                self._offsets[where] = offset + 1
                self._taken += 1
                return JobRecord(self._taken, partition, offset, timestamp, key, value, headers)
        return None


class InMemoryStream:
    """Reads the topics of one stream in a thread; see ``StreamSource``.

    Args:
        topics: The topics.
        settings: The settings of the stream.
        sink: Gets the records.
    """

    def __init__(self, topics: StreamTopics, settings: StreamSettings, sink: StreamSink) -> None:
        self.key: Callable[[Any], bytes | None] = itemgetter(1)
        self.value: Callable[[Any], bytes | None] = itemgetter(2)
        self._topics = topics
        self._settings = settings
        self._sink = sink
        self._thread: threading.Thread | None = None
        self._commands: deque[tuple[Callable[[], None], Ticket[None]]] = deque()
        self._news = new_event()
        self._interrupted = new_event()
        self._stopped = False
        self._reads = True
        self._caught_up = False
        self._offsets: dict[_Partition, int] = {}
        # Gets the offsets where they do not follow from what was read.
        self._listener: OnStreamPositions | None = None
        self._tells = False

    def record(self, message: Record) -> Record:
        """Return the message, which any program may have written, as one of the stream."""
        topic: Any = StreamTopic(self._settings.name, message[0].value)
        return (topic, *message[1:])

    def where(self, message: Record) -> tuple[StreamTopic, int]:
        """Return the partition of a message."""
        return StreamTopic(self._settings.name, message[0].value), message[5]

    def offset(self, message: Record) -> int:
        """Return the offset of a message."""
        return message[6]

    def facts_of(self, messages: Sequence[Record]) -> BatchFacts:
        """Return what is known of messages at once."""
        size = sum(len(each[2] or b"") + size_of_headers(each[3]) for each in messages)
        return BatchFacts({self.where(each): each[6] + 1 for each in messages}, size)

    def begin(self, start: StreamStart) -> Ticket[None]:
        """Begin to read, in the thread."""
        self._topics.attach(self)
        begun = self._command(lambda: self._go_to(start))
        self._thread = new_thread(self._run, f"kafka-layer-stream-{self._settings.name}")
        self._thread.start()
        return begun

    def read(self, on: bool) -> Ticket[None]:
        """Read, or stop reading."""

        def carry_out() -> None:
            self._reads = on

        return self._command(carry_out)

    def seek(self, start: StreamStart) -> Ticket[None]:
        """Begin again elsewhere."""

        def carry_out() -> None:
            self._go_to(start)
            self._sink.sought()

        return self._command(carry_out)

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        """Tell the offsets; there are no leaders here, and so no epochs."""
        self._listener, self._tells = listener, True
        self._news.set()

    def leave(self, messages: Sequence[Record]) -> None:
        """Take back the rest of a batch."""
        for record in reversed(messages):
            self._offsets[record[0].value, record[5]] = record[6]

    def wait(self, seconds: float) -> bool:
        """Wait within ``deliver``; False if something else is to be done."""
        return not self._interrupted.wait(seconds)

    def look(self) -> None:
        """Take note that there are new records."""
        self._news.set()

    def facts(self) -> StreamFacts:
        """Return what is known of the topics."""
        found = self._topics.partitions(self._settings.takes)
        names = tuple(sorted({name for name, _ in found}))
        lag = sum(self._topics.unread(each, self._offsets.get(each, 0)) for each in found)
        return StreamFacts(names, len(found), lag, "" if found else "its topic does not exist yet")

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped = True
        self._topics.detach(self)
        self._interrupted.set()
        self._news.set()
        for _, ticket in tuple(self._commands):
            ticket.fail(LayerClosed("The channel layer was closed."))

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        self.stop()
        if self._thread is not None and not is_current(self._thread):
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Read no more, in a forked child."""
        self._stopped = True

    def _go_to(self, start: StreamStart) -> None:
        self._offsets = {
            where: self._topics.place(where, start)
            for where in self._topics.partitions(self._settings.takes)
        }

    def _command(self, carry_out: Callable[[], None]) -> Ticket[None]:
        ticket: Ticket[None] = Ticket()
        self._commands.append((carry_out, ticket))
        self._interrupted.set()
        self._news.set()
        return ticket

    def _run(self) -> None:
        while not self._stopped:
            self._news.clear()
            self._interrupted.clear()
            while self._commands:
                carry_out, ticket = self._commands.popleft()
                carry_out()
                self._caught_up, self._tells = False, True
                ticket.resolve(None)
            self._tell()
            if not (self._reads and self._deliver()):
                if self._reads and not self._caught_up:
                    self._caught_up = True
                    self._sink.caught_up()
                self._sink.turn()
                self._news.wait(_PAUSE)
            else:
                self._sink.turn()

    def _tell(self) -> None:
        """Tell the offsets, if something but reading has changed them."""
        partitions = self._topics.partitions(self._settings.takes)
        new = [where for where in partitions if where not in self._offsets]
        self._offsets.update(dict.fromkeys(new, 0))
        for where in partitions:
            start = self._topics.extent(where).start
            if self._offsets[where] < start:
                self._sink.missed(*where)
                self._offsets[where], self._tells = start, True
        if self._listener is not None and (self._tells or new):
            self._tells = False
            name = self._settings.name
            told: dict[Any, ReadFrom] = {
                (StreamTopic(name, topic), number): ReadFrom(offset, None)
                for (topic, number), offset in self._offsets.items()
            }
            self._listener(told, True)

    def _deliver(self) -> bool:
        """Deliver a batch of each partition; return whether there was any."""
        found = False
        for where in self._offsets:
            records = self._topics.read(where, self._offsets[where])
            if records and not self._interrupted.is_set():
                found = True
                self._offsets[where] = records[-1][6] + 1
                self._sink.deliver(records)
        return found


class InMemoryStreamPast(LogPast):
    """``Past`` for one question about the topics of a stream.

    Args:
        topics: The topics.
        settings: The settings of the stream.
        deadline: As of ``Past``.
    """

    def __init__(self, topics: StreamTopics, settings: StreamSettings, deadline: float) -> None:
        super().__init__(deadline)
        self._topics = topics
        self._settings = settings

    def topics(self) -> list[StreamTopic]:
        """See ``Past``."""
        found = {name: None for name, _ in self._topics.partitions(self._settings.takes)}
        return [StreamTopic(self._settings.name, name) for name in found]

    def extents(self, topics: Sequence[Any]) -> dict[tuple[Any, int], Extent]:
        """See ``Past``."""
        wanted = {topic.name: topic for topic in topics}
        partitions = self._topics.partitions(wanted.__contains__)
        return {(wanted[each[0]], each[1]): self._topics.extent(each) for each in partitions}

    def first_since(self, where: tuple[Any, int], extent: Extent, timestamp: float) -> int:
        """See ``Past``."""
        since = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
        return self._topics.place((where[0].name, where[1]), since)

    def read(self, where: tuple[Any, int], first: int, end: int) -> tuple[int, list[Record]]:
        """See ``Past``."""
        partition = where[0].name, where[1]
        start = max(first, min(end, self._topics.extent(partition).start))
        found: list[Any] = [
            (where[0], *record[1:])
            for record in self._topics.read(partition, start, max(0, end - start))
            if record[6] < end
        ]
        return start, found
