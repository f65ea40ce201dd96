"""From the arguments of a call to the records that it writes. Hot path: every send passes here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from channels.exceptions import ChannelFull

from ..delivery.mailbox import Mailbox
from ..wire.headers import Headers, exclude_header
from ..wire.idempotency import idempotency_header
from ..wire.names import (
    ServerName,
    UserId,
    is_group_name,
    parse_address,
    require_names,
    user_key,
)
from ..wire.records import ProducerRecord
from ..wire.topics import Topic, WorkTopic
from .current_server import LayerServer, ServerHolder

__all__ = ["Records"]

T = TypeVar("T")

# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_SEND_CONN, _SEND_GROUP, _SEND_USER = Topic.SEND_CONN, Topic.SEND_GROUP, Topic.SEND_USER


class Records(ServerHolder):
    """Checks the arguments of calls, and makes records of them; any thread and event loop."""

    # Channels' own checks, made quick for legal names, because every send makes them.

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Check a channel's name; see ``BaseChannelLayer``."""
        # Of a ChannelName [:] makes a plain copy.
        if isinstance(name, str) and parse_address(name[:]) is not None and not receive:
            return True
        return bool(super().require_valid_channel_name(name, receive))

    def require_worker_channel_name(self, name: str) -> None:
        """Raise unless ``name`` is the name of a worker channel.

        Raises:
            TypeError: If it is not legal.
            ValueError: If it is the name of another channel.
        """
        self.require_valid_channel_name(name)
        if not isinstance(self._address(name), WorkTopic):
            raise ValueError(
                f"{name!r} is no worker channel: the '!' says that it is a channel of one process. "
                "Give a name without '!', such as 'thumbnails'."
            )

    def require_valid_group_name(self, name: object) -> bool:
        """Check a group's name; see ``BaseChannelLayer``."""
        if isinstance(name, str) and is_group_name(name[:]):
            return True
        return bool(super().require_valid_group_name(name))

    def require_valid_message(self, message: dict[str, Any]) -> None:
        """Check that a message can be sent.

        Raises:
            TypeError: If it is not a dict or holds a type that the specification does not allow.
        """
        self._codec.encode(message)

    def _server_class(self) -> type[LayerServer]:
        if not self.config.tracing:
            return LayerServer
        # Imported by the first layer that traces.
        from .traced import TracedServer

        return TracedServer

    # From arguments to records

    def _record_to(self, channel: str, message: dict[str, Any]) -> ProducerRecord | None:
        """Return the record of a message; None if it was delivered here, or dropped."""
        payload = self._codec.encode(message)
        destination = self._route(channel, self._address(channel), payload)
        if isinstance(destination, Mailbox):
            self._server.deliver_locally(destination, payload)
            return None
        return destination

    def _records_to(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> tuple[list[ProducerRecord | None], list[str]]:
        """Deliver to the channels of this process; return the other records, and full channels."""
        addresses = [(each, self._address(each)) for each in _names("channels", channels)]
        payload = self._codec.encode(message)
        routed = [(each, self._route(each, to, payload)) for each, to in addresses]
        # Before any channel gets the message.
        for _, destination in routed:
            if isinstance(destination, tuple):
                self._server.sender.require_size(destination[0], destination[2])
            elif destination is not None:
                self._server.sender.require_size(_SEND_CONN, payload)
        records: list[ProducerRecord | None] = []
        full = []
        for channel, destination in routed:
            if isinstance(destination, Mailbox):
                records.append(None)
                try:
                    self._server.deliver_locally(destination, payload)
                except ChannelFull:
                    full.append(channel)
            else:
                records.append(destination)
        return records, full

    def _address(self, channel: str) -> ServerName | WorkTopic | None:
        """Return the address in a channel's name; None if it has a ``!`` and names no server.

        Raises:
            TypeError: If the name is not legal.
        """
        # Of a ChannelName [:] makes a plain copy.
        address = parse_address(channel[:]) if isinstance(channel, str) else None
        if address is None:
            self.require_valid_channel_name(channel)
        return address

    def _require_address(self, channel: str) -> ServerName | WorkTopic:
        """Return the address in a channel's name, for calls that refuse a foreign name.

        Raises:
            ValueError: If the name has a ``!`` and names no server.
        """
        address = self._address(channel)
        if address is None:
            raise ValueError(
                f"Channel {channel!r} names no server of this layer; "
                "channel names come from new_channel()."
            )
        return address

    def _owner(self, channel: str) -> ServerName:
        owner = self._require_address(channel)
        if isinstance(owner, WorkTopic):
            raise ValueError(
                f"{channel!r} is a worker channel, and those belong to no process: they cannot be "
                "in a group or serve a user. Send to it directly."
            )
        return owner

    def _route(
        self, channel: str, to: ServerName | WorkTopic | None, payload: bytes
    ) -> ProducerRecord | Mailbox | None:
        """Return where a message to a channel goes.

        Returns:
            A record; or the mailbox of a channel of this process; or None, counted, if the channel
            was of this process and is gone, or if no layer of this package made its name.
        """
        server = self._server
        mailbox = server.registry.mailbox(channel)
        if mailbox is not None:
            return mailbox
        if to is None:
            # A name of another layer, or of an old page: the specification has no error for it.
            detail = f"channel {channel!r} names no server of this layer"
            server.stats.dropped("foreign", detail)
            return None
        if isinstance(to, WorkTopic):
            return to, None, self._encryption.encrypt(to, None, payload), None, ()
        # The test for emptiness saves the hash of the tuple.
        if to == server.identity.name or (self._past_names and to in self._past_names):
            server.stats.count("dropped.closed")
            return None
        encryption, key = self._encryption, channel[:]
        value = encryption.encrypt(_SEND_CONN, key, payload) if encryption.active else payload
        return _SEND_CONN, key, value, to.partition, ()

    def _group_record(
        self,
        group: str,
        message: dict[str, Any],
        exclude: Collection[str],
        idempotency_key: str | None = None,
    ) -> ProducerRecord:
        self.require_valid_group_name(group)
        payload = self._codec.encode(message)
        # Of a subclass of str [:] makes a plain copy, whose text is the same in every format.
        key, encryption = group[:], self._encryption
        headers: Headers | tuple[()] = _exclusion(exclude) if exclude else ()
        if idempotency_key is not None:
            headers = self._keyed(headers, _SEND_GROUP, key, idempotency_key)
        value = encryption.encrypt(_SEND_GROUP, key, payload) if encryption.active else payload
        return _SEND_GROUP, key, value, None, headers

    def _group_records(
        self,
        groups: Iterable[str],
        message: dict[str, Any],
        exclude: Collection[str],
        idempotency_key: str | None = None,
    ) -> list[ProducerRecord]:
        groups = _names("groups", groups)
        for group in groups:
            self.require_valid_group_name(group)
        keys = [group[:] for group in groups]
        return self._records_of(_SEND_GROUP, keys, message, _exclusion(exclude), idempotency_key)

    def _user_record(
        self,
        user_id: UserId,
        message: dict[str, Any],
        exclude: Collection[str],
        idempotency_key: str | None = None,
    ) -> ProducerRecord:
        key = user_key(user_id)
        payload = self._codec.encode(message)
        headers: Headers | tuple[()] = _exclusion(exclude) if exclude else ()
        if idempotency_key is not None:
            headers = self._keyed(headers, _SEND_USER, key, idempotency_key)
        encryption = self._encryption
        value = encryption.encrypt(_SEND_USER, key, payload) if encryption.active else payload
        return _SEND_USER, key, value, None, headers

    def _user_records(
        self,
        user_ids: Iterable[UserId],
        message: dict[str, Any],
        idempotency_key: str | None = None,
    ) -> list[ProducerRecord]:
        keys = [user_key(user_id) for user_id in _names("user_ids", user_ids)]
        return self._records_of(_SEND_USER, keys, message, [], idempotency_key)

    def _records_of(
        self,
        topic: Topic,
        addresses: Iterable[str],
        message: dict[str, Any],
        headers: Headers,
        idempotency_key: str | None,
    ) -> list[ProducerRecord]:
        payload, encrypt = self._codec.encode(message), self._encryption.encrypt
        return [
            (
                topic,
                each,
                encrypt(topic, each, payload),
                None,
                headers
                if idempotency_key is None
                else self._keyed(headers, topic, each, idempotency_key),
            )
            for each in addresses
        ]

    def _all_record(
        self,
        message: dict[str, Any],
        exclude: Collection[str],
        idempotency_key: str | None = None,
    ) -> ProducerRecord:
        topic, headers = Topic.SEND_ALL, _exclusion(exclude)
        if idempotency_key is not None:
            headers = self._keyed(headers, topic, None, idempotency_key)
        value = self._encryption.encrypt(topic, None, self._codec.encode(message))
        return topic, None, value, None, headers

    def _keyed(
        self, headers: Iterable[tuple[str, bytes]], topic: Topic, address: str | None, key: str
    ) -> Headers:
        """Return headers with an idempotency key."""
        return [*headers, idempotency_header(self._encryption, topic, address, key)]


def _names(argument: str, names: Iterable[T]) -> list[T]:
    require_names(argument, names)
    return list(names)


def _exclusion(exclude: Collection[str]) -> Headers:
    require_names("exclude", exclude)
    return exclude_header(exclude)
