"""Leaves out records of a stream that have no receiver on this server, judged by their keys alone.

Hot path: it looks at the key of each record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..config.streams import StreamSettings
from ..delivery.membership import Membership
from ..delivery.registry import Registry
from .addresses import GroupNames, UserKeys
from .codecs import CODECS

__all__ = ["ByKey", "Interest", "by_key", "interest"]


class Interest(Protocol):
    """Selects the records that may have a receiver on this server."""

    def concerned(
        self, messages: Sequence[Any], key: Callable[[Any], bytes | None]
    ) -> Sequence[Any]:
        """Return the messages without those that have no receiver. Unreadable keys stay in.

        Args:
            messages: The messages, as the source of the stream has them.
            key: Returns the raw key of a message.
        """


class ByKey(NamedTuple):
    """How the keys alone decide who receives the records of a stream.

    Attributes:
        names: The names by raw keys, as ``by_key`` of the only addresser.
        membership: The members of these names.
        key_of: As ``GroupNames.key_of``; None also if the codec of the keys does not return text.
        of_key: As ``GroupNames.of_key``; None where ``key_of`` is.
    """

    names: Mapping[bytes | None, Sequence[str]]
    membership: Membership
    key_of: Callable[[str], str | None] | None
    of_key: Callable[[str], str] | None


def by_key(settings: StreamSettings, registry: Registry) -> ByKey | None:
    """Return how the keys decide who receives a stream's records; None if they do not suffice."""
    names: GroupNames | UserKeys
    match settings.groups, settings.users:
        case (GroupNames() as names,), ():
            membership = registry.groups
        case (), (UserKeys() as names,):
            membership = registry.users
        case _:
            return None
    if names.by_key is None or settings.where is not None:
        return None
    if isinstance(names, GroupNames) and settings.key in (CODECS["str"], CODECS["bytes"]):
        return ByKey(names.by_key, membership, names.key_of, names.of_key)
    return ByKey(names.by_key, membership, None, None)


def interest(settings: StreamSettings, registry: Registry) -> Interest | None:
    """Return what selects records by their keys; None if the keys alone do not decide."""
    found = by_key(settings, registry)
    if found is None or settings.last_value:
        return None
    if found.key_of is not None:
        return _TextKeys(found.key_of, found.membership)
    return _KnownKeys(found.names, found.membership.present)


class _TextKeys:
    """Selects by the keys of the groups that have a member; it remembers no keys of records.

    Args:
        key_of: As ``GroupNames.key_of``.
        groups: The members of groups.
    """

    def __init__(self, key_of: Callable[[str], str | None], groups: Membership) -> None:
        self._key_of = key_of
        # With an empty key, whose records stay in: it may be an error of the template.
        self._keys = {""}
        # The groups with a member whose name ends in a hash, so that their key is not known.
        self._hashed: set[str] = set()
        groups.listen(self)

    def first_in(self, name: str) -> None:
        """See ``MembershipListener``."""
        self._note(name, set.add)

    def last_out(self, name: str) -> None:
        """See ``MembershipListener``."""
        self._note(name, set.discard)

    def _note(self, name: str, change: Callable[[set[str], str], None]) -> None:
        try:
            key = self._key_of(name)
        except ValueError:
            change(self._hashed, name)
        else:
            if key:
                change(self._keys, key)

    def concerned(
        self, messages: Sequence[Any], key: Callable[[Any], bytes | None]
    ) -> Sequence[Any]:
        """See ``Interest``."""
        if self._hashed:
            return messages
        keys = self._keys
        try:
            return [message for message in messages if key(message).decode() in keys]  # type: ignore[union-attr]
        except (AttributeError, UnicodeDecodeError):
            # A record has no key, or one that is not UTF-8.
            return messages


class _KnownKeys:
    """Selects by the names that the last keys gave.

    Args:
        by_key: The names by raw keys, of an addresser that remembers them.
        present: The names that have a member.
    """

    def __init__(
        self, by_key: Mapping[bytes | None, Sequence[str]], present: Collection[str]
    ) -> None:
        self._names_of = by_key.get
        self._present = present

    def concerned(
        self, messages: Sequence[Any], key: Callable[[Any], bytes | None]
    ) -> Sequence[Any]:
        """See ``Interest``."""
        names_of, present = self._names_of, self._present
        return [
            message
            for message in messages
            if (names := names_of(key(message))) is None or names[0] in present
        ]
