"""The last record of each group of a stream, for channels that join.

Who joins a group gets its last record first, and then each one that comes: none of them is missing,
comes twice or in another order. The thread that reads the stream notes each record, and whom it
goes to, in one step; a join adds the member and answers in another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ..config.threads import RLock
from ..delivery.mailbox import Mailbox
from ..delivery.membership import Membership
from ..wire.records import Record

__all__ = ["LatestRecords"]


class LatestRecords:
    """The last record of each group; the reading thread notes them, any thread joins.

    *Loading*: it reads what the topic holds, and records go to nobody. *Loaded*: members got the
    last record of their groups, and get each further one.

    Args:
        groups: The members of the groups.
        answer: Gives a channel the last record of a group that it has joined; must not block.

    Attributes:
        lock: Held while a channel joins. Re-entrant: a signal handler may interrupt its holder and
            use the layer.
        loading: Whether it is loading.
    """

    def __init__(self, groups: Membership, answer: Callable[[Mailbox, Record], object]) -> None:
        self.lock = RLock()
        self.loading = True
        self._groups = groups
        self._answer = answer
        self._records: dict[str, Record] = {}
        # The record that is being delivered goes to these groups, and is not in these mailboxes
        # yet, because they are full.
        self._due_names: Collection[str] = ()
        self._due: set[Mailbox] = set()

    def __len__(self) -> int:
        return len(self._records)

    def note(
        self, names: Sequence[str], record: Record, put: Callable[[Mailbox], bool]
    ) -> list[Mailbox]:
        """Note a record of some groups, and put it into the mailboxes that have room.

        Args:
            names: The groups.
            record: The record; without a value the groups have no last record any more.
            put: Puts the record into the mailbox of a member; must not block.

        Returns:
            The mailboxes without room. Call ``delivered`` once they have it or lost it.
        """
        with self.lock:
            for name in names:
                if record[2] is None:
                    self._records.pop(name, None)
                else:
                    self._records[name] = record
            if self.loading:
                return []
            members = {mailbox: None for name in names for mailbox in self._groups.members(name)}
            full = [mailbox for mailbox in members if not put(mailbox)]
            if full:
                self._due_names, self._due = names, set(full)
        return full

    def delivered(self) -> None:
        """Take note that the last record is in all mailboxes that it goes to."""
        with self.lock:
            self._due_names, self._due = (), set()

    def joined(self, name: str, mailbox: Mailbox) -> None:
        """Answer a channel that has just become a member of a group; ``lock`` is held since."""
        record = self._records.get(name)
        if self.loading or record is None:
            return
        if mailbox in self._due and name in self._due_names:
            # It left the group while it was full, and still gets this record.
            return
        self._answer(mailbox, record)

    def load(self) -> None:
        """Begin to load: reading goes on after a while in which records were missed."""
        with self.lock:
            self.loading = True

    def loaded(self) -> None:
        """Give the members of each group its last record; no effect if nothing is loaded."""
        with self.lock:
            if not self.loading:
                return
            self.loading = False
            for name, record in self._records.items():
                for mailbox in self._groups.members(name):
                    self._answer(mailbox, record)

    def forget(self, topic: str, partition: int) -> None:
        """Forget the records of a partition, whose topic was created again."""
        with self.lock:
            self._records = {
                name: record
                for name, record in self._records.items()
                if (record[0].value, record[5]) != (topic, partition)
            }

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self._records = {}
