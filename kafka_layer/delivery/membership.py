"""Which mailboxes belong to which group or user."""

from __future__ import annotations

import threading

from .mailbox import Mailbox

__all__ = ["Membership"]


class Membership:
    """Names (of groups, of users) and the mailboxes that belong to each.

    Args:
        lock: Guards the dictionaries; the methods without a word on it take it themselves.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._members: dict[str, dict[Mailbox, None]] = {}
        self._names: dict[Mailbox, set[str]] = {}
        # What the router iterates: replaced, never changed, so it reads without the lock.
        self._snapshots: dict[str, tuple[Mailbox, ...]] = {}

    def add(self, name: str, mailbox: Mailbox) -> None:
        """Make ``mailbox`` a member of ``name``; nothing changes if it is one."""
        with self._lock:
            self._members.setdefault(name, {})[mailbox] = None
            self._names.setdefault(mailbox, set()).add(name)
            self._snapshots.pop(name, None)

    def discard(self, name: str, mailbox: Mailbox) -> None:
        """Take ``mailbox`` out of ``name``; nothing changes if it is not in it."""
        with self._lock:
            names = self._names.get(mailbox)
            if names and name in names:
                names.discard(name)
                if not names:
                    del self._names[mailbox]
                self._remove(name, mailbox)

    def members(self, name: str) -> tuple[Mailbox, ...]:
        """Return the members of ``name`` at this moment."""
        members = self._snapshots.get(name)
        if members is None:
            if name not in self._members:
                return ()
            with self._lock:
                members = tuple(self._members.get(name, ()))
                if members:
                    self._snapshots[name] = members
        return members

    def drop(self, mailbox: Mailbox) -> None:
        """Take ``mailbox`` out of everything; the caller holds the lock."""
        for name in self._names.pop(mailbox, ()):
            self._remove(name, mailbox)

    def clear(self) -> None:
        """Take everybody out of everything; the caller holds the lock."""
        self._members.clear()
        self._names.clear()
        self._snapshots.clear()

    def __len__(self) -> int:
        return len(self._members)

    def _remove(self, name: str, mailbox: Mailbox) -> None:
        members = self._members[name]
        del members[mailbox]
        if not members:
            del self._members[name]
        self._snapshots.pop(name, None)
