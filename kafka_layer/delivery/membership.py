"""The members of groups, and the channels of users."""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Protocol

from ..config.threads import RLock
from .mailbox import Mailbox

__all__ = ["Membership", "MembershipListener"]

logger = logging.getLogger("kafka_layer")

_Change = Callable[[str, Any], None]


class MembershipListener(Protocol):
    """Gets to know which names have members on this server, in the order of the changes.

    The thread that makes a change calls it, with the membership locked: it must not block.
    """

    def first_in(self, name: str) -> None:
        """Take note that a name has its first member."""

    def last_out(self, name: str) -> None:
        """Take note that a name has no member any more."""


class Membership:
    """Names (of groups, of users) and the mailboxes that belong to each.

    Any thread may call any method, also a signal handler or a finalizer that interrupts another
    call in its thread: the interrupted call then also makes its change.

    Attributes:
        present: The names that have a member.
    """

    def __init__(self) -> None:
        # Re-entrant: a signal handler may interrupt its holder.
        self._lock = RLock()
        self._changes: deque[tuple[_Change, str, Any]] = deque()
        self._changing = False
        self._members: dict[str, dict[Mailbox, None]] = {}
        self.present = self._members.keys()
        self._names: dict[Mailbox, set[str]] = {}
        # The router iterates over these without the lock, so they are replaced, never changed.
        self._snapshots: dict[str, tuple[Mailbox, ...]] = {}
        self._listeners: list[MembershipListener] = []

    def listen(self, listener: MembershipListener) -> None:
        """Tell a listener of every first and last member, and at once of the present names."""
        self._carry_out(self._listen, "", listener)

    def add(self, name: str, mailbox: Mailbox) -> None:
        """Make ``mailbox`` a member of ``name``; nothing changes if it is one."""
        self._carry_out(self._add, name, mailbox)

    def discard(self, name: str, mailbox: Mailbox) -> None:
        """Take ``mailbox`` out of ``name``; nothing changes if it is not in it."""
        self._carry_out(self._discard, name, mailbox)

    def drop(self, mailbox: Mailbox) -> None:
        """Take ``mailbox`` out of everything."""
        self._carry_out(self._drop, "", mailbox)

    def clear(self) -> None:
        """Take every mailbox out of everything."""
        self._carry_out(self._clear, "", None)

    def members(self, name: str) -> tuple[Mailbox, ...]:
        """Return the members of ``name`` at this moment, in the order in which they were added."""
        members = self._snapshots.get(name)
        if members is None:
            if name not in self._members:
                return ()
            self._carry_out(self._take_snapshot, name, None)
            members = self._snapshots.get(name)
            if members is None:  # just changed, or the interrupted call takes it later
                members = tuple(self._members.get(name, ()))
        return members

    def names(self, mailbox: Mailbox) -> tuple[str, ...]:
        """Return the names that ``mailbox`` belongs to at this moment."""
        with self._lock:
            return tuple(self._names.get(mailbox, ()))

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return the names with the most members, the largest first.

        Args:
            count: How many at most.
        """
        sizes = [(name, len(members)) for name, members in list(self._members.items())]
        return heapq.nlargest(count, sizes, key=itemgetter(1))

    def __len__(self) -> int:
        return len(self._members)

    # Changes of one signature, because a call with *args costs twice as much.

    def _carry_out(self, change: _Change, name: str, whom: Any) -> None:
        with self._lock:
            if not self._changing and not self._changes:
                # In most calls nothing is interrupted.
                self._changing = True
                try:
                    change(name, whom)
                finally:
                    self._changing = False
            else:
                self._changes.append((change, name, whom))
            # If this call interrupts another one, that one makes the change.
            while self._changes and not self._changing:
                self._changing = True
                try:
                    while self._changes:
                        change, name, whom = self._changes.popleft()
                        change(name, whom)
                finally:
                    self._changing = False

    def _listen(self, _: str, listener: MembershipListener) -> None:
        self._listeners.append(listener)
        for name in self._members:
            self._tell(listener, name, is_in=True)

    def _add(self, name: str, mailbox: Mailbox) -> None:
        members = self._members.get(name)
        if members is None:
            self._members[name] = {mailbox: None}
            if self._listeners:
                self._tell_all(name, is_in=True)
        else:
            members[mailbox] = None
        names = self._names.get(mailbox)
        if names is None:
            self._names[mailbox] = {name}
        else:
            names.add(name)
        if name in self._snapshots:
            del self._snapshots[name]

    def _discard(self, name: str, mailbox: Mailbox) -> None:
        names = self._names.get(mailbox)
        if names and name in names:
            names.discard(name)
            if not names:
                del self._names[mailbox]
            self._remove(name, mailbox)

    def _drop(self, _: str, mailbox: Mailbox) -> None:
        for name in self._names.pop(mailbox, ()):
            self._remove(name, mailbox)

    def _clear(self, _: str, __: None) -> None:
        for mailbox in list(self._names):
            self._drop("", mailbox)

    def _take_snapshot(self, name: str, _: None) -> None:
        if name in self._members:
            self._snapshots[name] = tuple(self._members[name])

    def _remove(self, name: str, mailbox: Mailbox) -> None:
        members = self._members[name]
        del members[mailbox]
        if not members:
            del self._members[name]
            if self._listeners:
                self._tell_all(name, is_in=False)
        if name in self._snapshots:
            del self._snapshots[name]

    def _tell_all(self, name: str, *, is_in: bool) -> None:
        for listener in self._listeners:
            self._tell(listener, name, is_in=is_in)

    def _tell(self, listener: MembershipListener, name: str, *, is_in: bool) -> None:
        try:
            if is_in:
                listener.first_in(name)
            else:
                listener.last_out(name)
        except Exception:
            logger.exception("A listener of memberships failed")
