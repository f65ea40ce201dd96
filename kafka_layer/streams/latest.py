"""The last record of each group of a stream, for channels that join.

A channel that joins a group gets the group's last record first, and then each later one: none is
missing, comes twice or comes out of order. To that end one lock makes two steps atomic. The thread
that reads the stream notes a record and puts it into the mailboxes of the members; a join adds the
member and gives it the last record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from ..config.threads import RLock
from ..delivery.mailbox import Mailbox
from ..delivery.membership import Membership

__all__ = ["LatestRecords"]

R = TypeVar("R")
"""A kept record."""


class LatestRecords(Generic[R]):
    """The last record of each group; the reading thread notes them, any thread joins.

    *Loading*: the stream reads the whole topic, and no record is delivered. Then *loaded*: the last
    record goes to the members of each group that got records meanwhile, and to the channels that
    joined meanwhile. From then on members get each record.

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
        # While loading: the groups that got records, and the joins.
        self._changed: set[str] = set()
        self._joined: dict[tuple[str, Mailbox], None] = {}
        # The groups of the record that is being delivered, and the full mailboxes that do not have
        # it yet.
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
                # The last one of each group counts.
                if record is None and known.get(name) is None:
                    known.pop(name, None)

    def delivered(self) -> None:
        """Note that the last record is in the mailboxes that were full, or was dropped there."""
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
        """Begin to load, because the stream is read again after a time without channels."""
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
            # Only the groups with members, which are few compared with the groups of the topic.
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
