"""The partitions of a reader, their starts and their positions. Pure.

Callers state the whole wish, each partition with its start. ``Positions`` works out the difference
to the present assignment, and the reader applies it to its client.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Changes", "From", "Partition", "PartitionState", "Positions", "Since", "Start"]

Partition = tuple[str, int]
"""Kafka's name of the topic, and the number of the partition."""


class From(enum.Enum):
    """The place in the log where a partition starts, if not at an offset."""

    BEGINNING = "beginning"
    """At offset 0: the partition is new, so this reader has to read all of it."""

    OLDEST = "oldest"
    """At the oldest record that the log holds when the partition starts."""

    END = "end"
    """At the end that the broker reports when the partition starts."""


class Since(NamedTuple):
    """The place of the first record that is not older than a time.

    Attributes:
        timestamp: Seconds since the epoch, by the timestamps of the records.
    """

    timestamp: float


class Start(NamedTuple):
    """The start of a partition that is not read yet.

    Attributes:
        at: The offset of the first record, or how to find it.
        topic_id: Kafka's id of the topic; None if it is unknown. A topic that was deleted and
            created again has another id, and starts again at offset 0, whatever ``at`` says.
        turn: A partition that is read already starts again if this number is another one.
    """

    at: From | Since | int
    topic_id: str | None = None
    turn: int = 0


class PartitionState(enum.Enum):
    """The states of a wanted partition; ``Positions`` has the transitions."""

    STARTING = "starting"
    """The offset at which it starts is not known yet. Not assigned."""

    ANEW = "anew"
    """Its topic was created again; its end is unknown, and so is how much of the new log the old
    client has read already. Not assigned."""

    READING = "reading"
    """Assigned to the client at an offset."""

    LOST = "lost"
    """Assigned to the client, which has stopped: the log does not hold its position."""


class Changes(NamedTuple):
    """Changes to the client's assignment.

    Attributes:
        removed: Partitions to unassign first.
        added: Partitions to assign then, each with the offset of the first record to read. A
            partition in both goes on at another offset.
    """

    removed: frozenset[Partition]
    added: Mapping[Partition, int]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


@dataclass
class _Entry:
    """One wanted partition."""

    state: PartitionState
    topic_id: str | None
    at: From | Since | int = From.END
    turn: int = 0
    # The next offset to read, as far as is known; None before the start is settled.
    position: int | None = None
    # The position at the last confirmation of the topic's id: all records before it are of that
    # topic.
    confirmed: int | None = None
    # Its end at the last request; None if it is unknown.
    end: int | None = None
    # Its end when its start was settled; None if nobody asked for it.
    end_at_start: int | None = None
    # The offset behind which the client found nothing more, since it was put on; None before. Where
    # a transaction ends, it is greater than the position.
    emptied_at: int | None = None


class Positions:
    """The partitions of one reader; for the reader's thread alone.

    ========= =========================================================== =========
    state     event                                                       state
    ========= =========================================================== =========
    (none)    ``want``, from a place of which the offset is not known     STARTING
    (none)    ``want``, from the beginning or an offset                   READING
    STARTING  ``settle``, with the offset                                 READING
    STARTING  ``want``, with another topic id                             READING
    READING   ``lose``: the broker says that its offset is out of range   LOST
    READING   ``want``, with another topic id                             ANEW
    LOST      ``resume``, with the ends of what the log holds             READING
    LOST      ``want``, with another topic id                             ANEW
    ANEW      ``settle``, with the end                                    READING
    ANEW      ``want``, with yet another topic id                         ANEW
    (any)     ``want``, without it                                        (none)
    (any)     ``want``, with another turn                                 as (none)
    ========= =========================================================== =========

    READING and LOST partitions are the client's assignment once ``take_changes`` is applied.

    Attributes:
        unsettled: Whether a partition is STARTING, ANEW or LOST, so that the reader asks a broker.
        skipped: For partitions whose topic was created again: the offsets, from the first to before
            the second, whose records may have been delivered already.
    """

    def __init__(self) -> None:
        self._entries: dict[Partition, _Entry] = {}
        self._removed: set[Partition] = set()
        self._added: dict[Partition, int] = {}
        self.unsettled = False
        self.skipped: dict[Partition, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def changed(self) -> bool:
        """Whether ``take_changes`` would return any."""
        return bool(self._removed or self._added)

    def state(self, partition: Partition) -> PartitionState | None:
        """Return the state of a partition; None if it is not wanted."""
        entry = self._entries.get(partition)
        return None if entry is None else entry.state

    def position(self, partition: Partition) -> int:
        """Return the next offset of a wanted partition; 0 if its start is not known."""
        return self._entries[partition].position or 0

    def read_from(self) -> dict[Partition, tuple[int, str | None]]:
        """Return the position and the topic's id of each partition that is READING."""
        return {
            where: (entry.position or 0, entry.topic_id)
            for where, entry in self._entries.items()
            if entry.state is PartitionState.READING
        }

    @property
    def caught_up(self) -> bool:
        """Whether all that the partitions held when they started is read, as far as was noted."""
        return not self.unsettled and all(
            entry.emptied_at is not None
            or (entry.end_at_start is not None and (entry.position or 0) >= entry.end_at_start)
            for entry in self._entries.values()
        )

    def searches(self) -> dict[Partition, From | Since]:
        """Return the STARTING partitions whose start is neither their end nor an offset."""
        return {
            where: entry.at
            for where, entry in self._entries.items()
            if entry.state is PartitionState.STARTING
            and entry.at is not From.END
            and not isinstance(entry.at, int)
        }

    def partitions_in(self, *states: PartitionState) -> list[Partition]:
        """Return the partitions in any of these states."""
        return [where for where, entry in self._entries.items() if entry.state in states]

    def want(self, wish: Mapping[Partition, Start]) -> dict[str, int]:
        """Take a whole wish: partitions that it does not name are not wanted any more.

        Call ``note`` just before: positions in topics whose id the wish confirms count as
        confirmed.

        Args:
            wish: Partitions and their starts. It ignores the start of a partition that is read
                already, unless its topic has another id, or the start another turn.

        Returns:
            Kafka's names of topics that were created again while they were read, each with the
            number of records in the old topic that were not read, as far as is known.
        """
        for where in self._entries.keys() - wish.keys():
            self._drop(where)
        anew: dict[str, int] = {}
        for where, start in wish.items():
            entry = self._entries.get(where)
            if entry is not None and entry.turn != start.turn:
                self._drop(where)
                entry = None
            if entry is None:
                self._begin(where, start)
            elif start.topic_id is None or entry.topic_id in (None, start.topic_id):
                entry.topic_id = start.topic_id or entry.topic_id
                if entry.state is PartitionState.READING:
                    entry.confirmed = entry.position
            else:
                anew[where[0]] = anew.get(where[0], 0) + self._unread(entry)
                self._begin_anew(where, entry, start.topic_id)
        self._look_for_unsettled()
        return anew

    def settle(
        self, ends: Mapping[Partition, int], found: Mapping[Partition, int | None] | None = None
    ) -> dict[Partition, int]:
        """Start partitions whose end is known now.

        Args:
            ends: The offset of the next record, of any partitions.
            found: Of those that ``searches`` named: the offset that was found, after their ends
                were asked for; None where there is no such record.

        Returns:
            The partitions of topics that were created again in which records are skipped, because
            they may have been delivered already, and how many.
        """
        doubtful = {}
        for where in self.partitions_in(PartitionState.STARTING, PartitionState.ANEW):
            if where not in ends:
                continue
            entry, end = self._entries[where], ends[where]
            if entry.state is PartitionState.STARTING:
                start: int | None = end
                if entry.at is not From.END:
                    if found is None or where not in found:
                        continue
                    start = found[where]
                self._put_on(where, end if start is None else start)
                entry.end = entry.end_at_start = end
                continue
            first, last = entry.confirmed or 0, entry.position or 0
            # If the old client read on in the new topic, its position is not beyond the end.
            if first < last <= end:
                self.skipped[where] = first, last
                doubtful[where] = last - first
            self._put_on(where, 0)
        self._look_for_unsettled()
        return doubtful

    def lose(self, partition: Partition, position: int) -> None:
        """Note that the log does not hold a position any more.

        Args:
            partition: The partition, which may not be wanted any more.
            position: The offset that the broker refused; -1 if the client does not know.
        """
        entry = self._entries.get(partition)
        if entry is not None and entry.state is PartitionState.READING:
            entry.state = PartitionState.LOST
            entry.position = position if position >= 0 else entry.position
            self.unsettled = True

    def resume(self, partition: Partition, low: int, high: int) -> int:
        """Go on with a LOST partition at the oldest record.

        Args:
            partition: The partition.
            low: The offset of the oldest record in the log.
            high: The offset of the next record.

        Returns:
            How many records the log lost before this reader read them.
        """
        entry = self._entries[partition]
        position = entry.position or 0
        if position > high:
            # A position in another log: the topic was created again, and its next id is no news.
            missed, entry.topic_id = self._unread(entry), None
        else:
            missed = max(0, low - position)
        self._take_off(partition)
        self._put_on(partition, low)
        self._look_for_unsettled()
        return missed

    def note(self, positions: Mapping[Partition, int]) -> None:
        """Note the client's positions: the next offset of each partition that it has read."""
        for where, position in positions.items():
            entry = self._entries.get(where)
            if entry is not None and entry.state is PartitionState.READING:
                entry.position = max(position, entry.emptied_at or 0)

    def empty(self, partition: Partition, offset: int) -> None:
        """Note that the client has read a partition up to its end.

        Args:
            partition: The partition, which may not be wanted any more.
            offset: The offset of the next record.
        """
        entry = self._entries.get(partition)
        if entry is not None and entry.state is PartitionState.READING:
            entry.position = entry.emptied_at = offset

    def behind(self, ends: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the partitions in which the client does not read records that are there.

        A partition is among them, with its position, if:

        - it has not reached the end of the last call of ``note_ends``,
        - its position is beyond its end now,
        - it has no end now, though others have one.

        Args:
            ends: The ends now, asked for after the positions were noted.
        """
        found = {}
        for where in self.partitions_in(PartitionState.READING):
            entry = self._entries[where]
            position, end = entry.position or 0, ends.get(where)
            if end is None or position > end or (entry.end is not None and position < entry.end):
                found[where] = position
        return found

    def note_ends(self, ends: Mapping[Partition, int]) -> int:
        """Note the ends of partitions; return how many records are there and not read."""
        for where, end in ends.items():
            if where in self._entries:
                self._entries[where].end = end
        return sum(self.lags().values())

    def lags(self) -> dict[str, int]:
        """Return by topic how many records were there at the last ``note_ends`` and not read."""
        lags: dict[str, int] = {}
        for (topic, _), entry in self._entries.items():
            if entry.end is None:
                continue
            # Nothing was read of a log that ends before the position: it was replaced or cut.
            lag = entry.end if (entry.position or 0) > entry.end else self._unread(entry)
            lags[topic] = lags.get(topic, 0) + lag
        return lags

    def take_changes(self) -> Changes:
        """Return the changes to the client's assignment; the caller applies them."""
        changes = Changes(frozenset(self._removed), self._added)
        self._removed, self._added = set(), {}
        return changes

    def take_everything(self) -> dict[Partition, int]:
        """Return the whole assignment, for a new client."""
        self.take_changes()
        assigned = self.partitions_in(PartitionState.READING, PartitionState.LOST)
        return {where: self._entries[where].position or 0 for where in assigned}

    def _begin(self, where: Partition, start: Start) -> None:
        entry = self._entries[where] = _Entry(
            PartitionState.STARTING, start.topic_id, start.at, start.turn
        )
        if start.at is From.BEGINNING:
            self._put_on(where, 0)
        elif isinstance(start.at, int):
            self._put_on(where, start.at)
        else:
            entry.position = None

    def _begin_anew(self, where: Partition, entry: _Entry, topic_id: str) -> None:
        entry.topic_id, entry.end = topic_id, None
        if entry.state is PartitionState.STARTING:
            # Nothing of the old topic was read, and every record in the new one is newer.
            self._put_on(where, 0)
            return
        self._take_off(where)
        self.skipped.pop(where, None)
        entry.state = PartitionState.ANEW

    def _put_on(self, where: Partition, offset: int) -> None:
        entry = self._entries[where]
        entry.state = PartitionState.READING
        entry.position = entry.confirmed = offset
        entry.end = entry.end_at_start = entry.emptied_at = None
        self._added[where] = offset

    def _drop(self, where: Partition) -> None:
        self._take_off(where)
        del self._entries[where]
        self.skipped.pop(where, None)

    def _take_off(self, where: Partition) -> None:
        assigned = self._entries[where].state in (PartitionState.READING, PartitionState.LOST)
        if self._added.pop(where, None) is None and assigned:
            self._removed.add(where)

    def _look_for_unsettled(self) -> None:
        self.unsettled = any(
            entry.state is not PartitionState.READING for entry in self._entries.values()
        )

    def _unread(self, entry: _Entry) -> int:
        """Return how many records before the last known end are not read."""
        return max(0, (entry.end or 0) - (entry.position or 0))
