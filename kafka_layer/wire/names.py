"""Names of servers, channels, groups and users, and how each is written as a record's key.

Pure functions and values; nothing here does I/O.

A channel name carries its whole address: ``specific.3-k2f9q0v1!hJ7x…`` is the channel ``hJ7x…`` of
the server ``3-k2f9q0v1``, whose inbox is partition 3 of the inbox topics. So any sender knows the
partition from the name alone, and raising a partition count never strands a running server.
"""

from __future__ import annotations

import functools
import re
import secrets
import uuid
from collections.abc import Collection
from typing import NamedTuple

from .topics import WorkTopic

__all__ = [
    "CHANNEL_NAME",
    "GROUP_NAME",
    "LONGEST_NAME",
    "ChannelName",
    "ServerName",
    "UserId",
    "is_group_name",
    "new_channel_name",
    "owner_of",
    "parse_address",
    "parse_server_name",
    "require_names",
    "user_key",
]


# Stricter than Channels' patterns, which also match a newline at the end and letters of every
# script: a topic's name can hold neither.
CHANNEL_NAME = re.compile(r"[a-zA-Z\d\-_.]+(![\w\-.]*)?\Z", re.ASCII)
"""The pattern of a channel's name, for ``match``."""

GROUP_NAME = re.compile(r"[a-zA-Z\d\-_.]+\Z", re.ASCII)
"""The pattern of a group's name, for ``match``."""


LONGEST_NAME = 99
"""The most characters that Channels lets the name of a channel or a group have."""

# Bytes. The sender keeps 1,024 for a record's key and Kafka's overhead.
_LONGEST_USER = 900


class ServerName(NamedTuple):
    """The name of a running layer instance: its inbox partition and a token of its own."""

    partition: int
    token: str

    def __str__(self) -> str:
        return f"{self.partition}-{self.token}"

    @classmethod
    def new(cls, partition: int) -> ServerName:
        """Name a new server that reads ``partition`` of the inbox topics."""
        return cls(partition, secrets.token_hex(4))


class ChannelName(str):
    """A channel name that can be weakly referenced.

    The layer forgets a channel when Python has collected the object that ``new_channel()`` returned
    and no receive uses a copy of its text. A consumer keeps its channel by holding that object.
    """

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A copy is text: it keeps no channel alive.
        return str, (str(self),)


_SERVER_NAME = re.compile(r"([0-9]{1,6})-([0-9a-zA-Z]{1,32})")


def new_channel_name(prefix: str, server: ServerName) -> ChannelName:
    """Return a fresh name for a channel of ``server`` (96 random bits)."""
    return ChannelName(f"{prefix.rstrip('.')}.{server}!{secrets.token_urlsafe(12)}")


@functools.lru_cache(maxsize=1000)
def is_group_name(name: str) -> bool:
    """Tell whether ``name`` can be a group's name.

    Results are cached, so ``name`` must be a plain str: the cache would keep a ``ChannelName``
    alive, and with it the channel.
    """
    return len(name) <= LONGEST_NAME and GROUP_NAME.match(name) is not None


@functools.lru_cache(maxsize=1000)
def parse_server_name(name: str) -> ServerName | None:
    """Return the server that ``name`` (``3-k2f9q0v1``) names; None if it names none."""
    match = _SERVER_NAME.fullmatch(name)
    return ServerName(int(match[1]), match[2]) if match else None


def owner_of(channel: str) -> ServerName | None:
    """Return the server that owns ``channel``, or None if the name does not carry one.

    Args:
        channel: A channel name with a ``!`` in it.
    """
    return _owner_of_address(channel.partition("!")[0])


@functools.lru_cache(maxsize=1000)
def _owner_of_address(address: str) -> ServerName | None:
    return parse_server_name(address.rpartition(".")[2])


@functools.lru_cache(maxsize=10_000)
def parse_address(channel: str) -> ServerName | WorkTopic | None:
    """Return the address that a channel's name stands for.

    Results are cached, so ``channel`` must be a plain str; as for ``is_group_name``.

    Returns:
        The server that owns the channel, or the topic of a worker channel; None if the name is not
        legal, or has a ``!`` and no server before it.
    """
    if len(channel) > LONGEST_NAME or CHANNEL_NAME.match(channel) is None:
        return None
    return owner_of(channel) if "!" in channel else WorkTopic(channel)


UserId = str | int | uuid.UUID
"""The id of a user: mostly the primary key."""


def user_key(user_id: UserId) -> str:
    """Return a user id as it is written in a record's key: its text.

    Args:
        user_id: A str, an int or a UUID. The id of another class, such as an ObjectId, is taken too
            if the class defines its own text.

    Raises:
        TypeError: If the id can be no primary key, is empty or longer than 900 bytes, or has a NUL
            character or a lone surrogate in it.
    """
    # Not str() of a subclass: an Enum's text is the name of its member.
    if isinstance(user_id, str):
        key = str.__str__(user_id)
    elif isinstance(user_id, int):
        key = int.__repr__(user_id)
    else:
        _require_id(user_id)
        key = str(user_id)
    if isinstance(user_id, bool) or not key:
        raise _no_user_id(user_id)
    if "\0" in key:
        # In a token NUL ends the address.
        raise TypeError(f"A user id must not have a NUL character in it, as {user_id!r} has.")
    size = len(key)
    if not key.isascii():
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise TypeError(
                f"A user id must be text that UTF-8 can carry, unlike {user_id!r}."
            ) from None
    if size > _LONGEST_USER:
        raise TypeError(f"A user id may have {_LONGEST_USER} bytes, and {key[:40]!r}… has {size}.")
    return key


def _require_id(value: object) -> None:
    if isinstance(value, uuid.UUID):
        return
    # str() of a user object is its name, not its id.
    if (
        value is None
        or isinstance(value, (float, complex, bytes, bytearray, memoryview, Collection))
        or callable(value)
        or hasattr(value, "pk")
        or (type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__)
    ):
        raise _no_user_id(value)


def _no_user_id(value: object) -> TypeError:
    return TypeError(f"A user id must be a non-empty str, an int or a UUID, not {value!r}.")


def require_names(argument: str, names: object) -> None:
    """Check that an argument holds several names, and is not one name.

    Args:
        argument: The argument's name, for the error.
        names: Its value.

    Raises:
        TypeError: If it is a single text, whose letters would count as names.
    """
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{argument} must be a collection of names, not {names!r}.")
