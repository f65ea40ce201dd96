"""The last record of each group of a stream, for channels that join.

Who joins a group gets its last record first, and then each one that comes: none of them is missing,
comes twice or in another order. The thread that reads the stream notes each record, and whom it
goes to, in one step; a join adds the member and answers in another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from ..config.threads import RLock
from ..delivery.mailbox import Mailbox
from ..delivery.membership import Membership

__all__ = ["LatestRecords"]

R = TypeVar("R")
"""What is kept of a record."""


class LatestRecords(Generic[R]):
    """The last record of each group; the reading thread notes them, any thread joins.

    *Loading*: it reads what the topic holds, and records go to nobody. Then *loaded*: the members
    of groups of which records came meanwhile, and who joined meanwhile, get the last record; from
    then on members get each record.

    Args:
        groups: The members of the groups.
        answer: Gives a channel the last record of a group that it has joined; gets its mailbox, the
            record and the group. Must not block.

    Attributes:
        lock: Held while a channel joins. Re-entrant: a signal handler may interrupt its holder and
            use the layer.
        loading: Whether it is loading.
    """

    def __init__(self, groups: Membership, answer: Callable[[Mailbox, R, str], object]) -> None:
        self.lock = RLock()
        self.loading = True
        self._groups = groups
        self._answer = answer
        self._records: dict[str, R] = {}
        # While it is loading: the groups of which records came, and who joined which group.
        self._changed: set[str] = set()
        self._joined: dict[tuple[str, Mailbox], None] = {}
        # The record that is being delivered goes to these groups, and is not in these mailboxes
        # yet, because they are full.
        self._due_names: Collection[str] = ()
        self._due: set[Mailbox] = set()

    def __len__(self) -> int:
        return len(self._records)

    def note(
        self,
        names: Sequence[str],
        record: R | None,
        put: Callable[[Mailbox], bool] = lambda mailbox: True,
    ) -> list[Mailbox]:
        """Note a record of some groups, and put it into the mailboxes that have room.

        Args:
            names: The groups.
            record: The record; None: the groups have no last record any more.
            put: Puts the record into the mailbox of a member; must not block. Not used while it is
                loading.

        Returns:
            The mailboxes without room. Call ``delivered`` once they have it or lost it.
        """
        with self.lock:
            for name in names:
                if record is None:
                    self._records.pop(name, None)
                else:
                    self._records[name] = record
            if self.loading:
                self._changed.update(names)
                return []
            members = {mailbox: None for name in names for mailbox in self._groups.members(name)}
            full = [mailbox for mailbox in members if not put(mailbox)]
            if full:
                self._due_names, self._due = names, set(full)
        return full

    def fill(self, names: Sequence[str], records: Sequence[R | None]) -> None:
        """Do what ``note`` does, for many records of one group each, while it is loading.

        Args:
            names: The groups.
            records: The records.
        """
        with self.lock:
            self._changed.update(names)
            known = self._records
            known.update(zip(names, records, strict=True))  # type: ignore[arg-type]
            for name, record in zip(names, records, strict=True):
                # Of several of a group the last one counts.
                if record is None and known.get(name) is None:
                    known.pop(name, None)

    def delivered(self) -> None:
        """Take note that the last record is in all mailboxes that it goes to."""
        with self.lock:
            self._due_names, self._due = (), set()

    def joined(self, name: str, mailbox: Mailbox) -> None:
        """Answer a channel that has just become a member of a group; ``lock`` is held since."""
        if self.loading:
            self._joined[name, mailbox] = None
            return
        record = self._records.get(name)
        if record is None:
            return
        if mailbox in self._due and name in self._due_names:
            # It left the group while it was full, and still gets this record.
            return
        self._answer(mailbox, record, name)

    def load(self) -> None:
        """Begin to load: reading goes on after a while in which nobody was there."""
        with self.lock:
            self.loading = True

    def loaded(self) -> None:
        """End loading; no effect if it has ended."""
        with self.lock:
            if not self.loading:
                return
            self.loading = False
            changed, self._changed = self._changed, set()
            joined, self._joined = self._joined, {}
            # Of the names with members, which are few beside all that a topic may hold.
            for name in changed.intersection(tuple(self._groups.present)):
                record = self._records.get(name)
                if record is not None:
                    for mailbox in self._groups.members(name):
                        self._answer(mailbox, record, name)
            for name, mailbox in joined:
                if name in changed or name not in self._groups.names(mailbox):
                    continue
                record = self._records.get(name)
                if record is not None:
                    self._answer(mailbox, record, name)

    def forget(self, is_gone: Callable[[R], bool]) -> None:
        """Forget records, because their topic was created again.

        Args:
            is_gone: Tells whether to forget a record.
        """
        with self.lock:
            self._records = {
                name: record for name, record in self._records.items() if not is_gone(record)
            }

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self._records = {}
