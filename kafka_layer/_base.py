"""What the two faces of the layer share: from arguments to records, and what has to be waited for.

``layer.py`` has the coroutines of Channels' API, ``sync.py`` the same calls without an event loop.
What waits is written once here, as procedures (``delivery/tickets.py``).
"""

from __future__ import annotations

import contextvars
import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, ClassVar, TypeVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer, channel_layers

from .config.settings import LayerConfig
from .config.timings import Timings
from .delivery.mailbox import Mailbox
from .delivery.tickets import Steps, Ticket, in_thread, wait
from .exceptions import LayerClosed
from .jobs.feature import Jobs
from .messages import Position
from .observe.counters import Stats
from .observe.events import Cause
from .server.server import Server
from .transport import Backplane
from .wire.codec import Codec
from .wire.encryption import Encryption
from .wire.headers import exclude_header
from .wire.names import (
    CHANNEL_NAME,
    GROUP_NAME,
    ServerName,
    UserId,
    is_group_name,
    parse_address,
    require_names,
    user_key,
)
from .wire.records import ProducerRecord
from .wire.topics import Topic, WorkTopic

__all__ = ["LayerBase", "LayerServer"]

T = TypeVar("T")

# Each look at a member of an enumeration costs as much as a call, in Python 3.11.
_SEND_CONN, _SEND_GROUP = Topic.SEND_CONN, Topic.SEND_GROUP


class LayerServer(Server):
    """A server with the features that the layer's API needs.

    Attributes:
        jobs: Its worker channels.
    """

    def __init__(
        self,
        config: LayerConfig,
        codec: Codec,
        encryption: Encryption,
        transport: Callable[[Stats], Backplane],
    ) -> None:
        super().__init__(config, codec, encryption, transport)
        self.jobs = self.attach(Jobs)


class LayerBase(BaseChannelLayer):  # type: ignore[misc, unused-ignore]
    """The state of a layer, and what its calls do; any thread and any event loop.

    Args:
        config: The CONFIG keywords, as docs/settings.md lists them.

    Attributes:
        timings: Times that no setting names; for tests.
        config: The settings.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge
    channel_name_regex = CHANNEL_NAME
    group_name_regex = GROUP_NAME
    timings = Timings()

    # Whether all_send reaches the channels of this process.
    _hears_all = True

    def __init__(self, **config: Any) -> None:
        self.config = self.read_config(**config)
        super().__init__(
            expiry=self.config.expiry,  # type: ignore[arg-type, unused-ignore]
            capacity=self.config.capacity,
            channel_capacity=self.config.channel_capacity,  # type: ignore[arg-type, unused-ignore]
        )
        self.group_expiry = self.config.group_expiry
        self._codec = Codec(self.config.serializer_format, self.config.serializer)
        self._encryption = Encryption(self.config.symmetric_encryption_keys)
        # The names of servers of this layer that were closed: their channels are gone for good.
        self._past_names: set[ServerName] = set()
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._begin()

    @classmethod
    def read_config(cls, **config: Any) -> LayerConfig:
        """Return the settings that a layer with these CONFIG keywords has, without making one.

        Raises:
            ImproperlyConfigured: For a keyword or value that cannot work.
        """
        return LayerConfig.from_keywords(**config).timed(cls.timings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.config.prefix!r}>"

    # Channels' own checks, in one step where there is nothing to refuse: every send makes them.

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
            TypeError: If it is not a dict or holds what the specification does not allow.
        """
        self._codec.encode(message)

    # Behind the API: from arguments to records

    def _record_to(self, channel: str, message: dict[str, Any]) -> ProducerRecord | None:
        """Return the record of a message, or None if it is delivered (or dropped) already."""
        payload = self._codec.encode(message)
        destination = self._route(channel, self._address(channel), payload)
        if isinstance(destination, Mailbox):
            self._server.deliver_locally(destination, payload)
            return None
        return destination

    def _records_to(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> tuple[list[ProducerRecord | None], list[str]]:
        """Deliver to the channels of this process; returns the other records, and who was full."""
        addresses = [(each, self._address(each)) for each in _names("channels", channels)]
        payload = self._codec.encode(message)
        routed = [(each, self._route(each, to, payload)) for each, to in addresses]
        # Checked before anybody gets the message.
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
        """Return whom a channel's name means; None if it has a ``!`` and names no server.

        Raises:
            TypeError: If the name is not legal.
        """
        # Of a ChannelName [:] makes a plain copy.
        address = parse_address(channel[:]) if isinstance(channel, str) else None
        if address is None:
            self.require_valid_channel_name(channel)
        return address

    def _require_address(self, channel: str) -> ServerName | WorkTopic:
        """Do what ``_address`` does, for calls that make no sense for a foreign name.

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
        """Return what a message to a channel becomes.

        Returns:
            A record; or the mailbox of a channel of this process; or None, and it is counted, if
            the channel was of this process and is gone, or if no layer like this made its name.
        """
        server = self._server
        mailbox = server.registry.mailbox(channel)
        if mailbox is not None:
            return mailbox
        if to is None:
            # A name of another layer, or of an old page: the specification knows no error for it.
            detail = f"channel {channel!r} names no server of this layer"
            server.stats.dropped(Cause.FOREIGN, detail)
            return None
        if isinstance(to, WorkTopic):
            return to, None, self._encryption.encrypt(to, None, payload), None, ()
        # To look into an empty set takes the hash of a tuple all the same.
        if to == server.identity.name or (self._past_names and to in self._past_names):
            server.stats.count("dropped.closed")
            return None
        encryption = self._encryption
        value = encryption.encrypt(_SEND_CONN, channel, payload) if encryption.active else payload
        return _SEND_CONN, channel, value, to.partition, ()

    def _group_record(
        self, group: str, message: dict[str, Any], exclude: Collection[str]
    ) -> ProducerRecord:
        self.require_valid_group_name(group)
        payload = self._codec.encode(message)
        headers = _exclusion(exclude) if exclude else ()
        encryption = self._encryption
        value = encryption.encrypt(_SEND_GROUP, group, payload) if encryption.active else payload
        return _SEND_GROUP, group, value, None, headers

    def _group_records(
        self, groups: Iterable[str], message: dict[str, Any], exclude: Collection[str]
    ) -> list[ProducerRecord]:
        groups = _names("groups", groups)
        for group in groups:
            self.require_valid_group_name(group)
        payload, headers = self._codec.encode(message), _exclusion(exclude)
        encrypt = self._encryption.encrypt
        return [
            (_SEND_GROUP, each, encrypt(_SEND_GROUP, each, payload), None, headers)
            for each in groups
        ]

    def _user_record(
        self, user_id: UserId, message: dict[str, Any], exclude: Collection[str]
    ) -> ProducerRecord:
        topic, key = Topic.SEND_USER, user_key(user_id)
        value = self._encryption.encrypt(topic, key, self._codec.encode(message))
        return topic, key, value, None, _exclusion(exclude)

    def _user_records(
        self, user_ids: Iterable[UserId], message: dict[str, Any]
    ) -> list[ProducerRecord]:
        keys = [user_key(user_id) for user_id in _names("user_ids", user_ids)]
        topic, payload = Topic.SEND_USER, self._codec.encode(message)
        return [
            (topic, key, self._encryption.encrypt(topic, key, payload), None, ()) for key in keys
        ]

    def _all_record(self, message: dict[str, Any], exclude: Collection[str]) -> ProducerRecord:
        topic = Topic.SEND_ALL
        value = self._encryption.encrypt(topic, None, self._codec.encode(message))
        return topic, None, value, None, _exclusion(exclude)

    # What has to be waited for

    def _send(self, record: ProducerRecord) -> Steps[Ticket[Position] | None]:
        """Hand a record over; returns the ticket of its position with ``await_produce``."""
        topic, _, _, _, _ = record
        while True:
            server = yield from self._sending_server(topic)
            try:
                return (yield from server.sender.send(record))
            except LayerClosed:
                # It was not handed over: the next server writes it.
                if not server.lifecycle.ended:
                    raise

    def _publish(self, record: ProducerRecord) -> Steps[Position | None]:
        """Send a record; returns its position with ``await_produce``."""
        ticket = yield from self._send(record)
        if ticket is None:
            return None
        return (yield from wait(ticket))

    def _publish_each(
        self, records: Iterable[ProducerRecord | None]
    ) -> Steps[list[Position | None]]:
        """Send all records, then wait for their positions together with ``await_produce``."""
        tickets: list[Ticket[Position] | None] = []
        for record in records:
            if record is None or self._try_publish(record):
                tickets.append(None)
            else:
                tickets.append((yield from self._send(record)))
        positions: list[Position | None] = []
        for ticket in tickets:
            positions.append(None if ticket is None else (yield from wait(ticket)))
        return positions

    def _send_to_many(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> Steps[list[Position | None]]:
        records, full = self._records_to(channels, message)
        positions = yield from self._publish_each(records)
        if full:
            raise ChannelFull(", ".join(full))
        return positions

    def _change(self, command: str, name: str, channel: str) -> Steps[None]:
        """Change a membership, here or on the server that owns the channel."""
        if command.endswith("_discard") and self._address(channel) is None:
            # No layer like this made the name, so it is a member of nothing.
            return
        owner = self._owner(channel)
        if self._is_past(owner):
            # Its channels and their memberships ended with it.
            return
        server = yield from self._receiving_server()
        if self._is_past(owner):
            # It closed while this waited.
            return
        if server.identity.owns(owner):
            topic = _SEND_GROUP if command.startswith("group") else Topic.SEND_USER
            yield from server.ordering.settle(topic, name)
            server.registry.change(command, name, channel)
        else:
            yield from server.commands.change(owner, command, name, channel)

    def _mailbox_to_receive(self, channel: str) -> Steps[tuple[LayerServer, Mailbox]]:
        """Open a channel for its first receive."""
        owner = self._require_address(channel)
        if channel.endswith("!"):
            raise ValueError(
                f"{channel!r} is the part that all channels of a server share; receive on a whole "
                "name that new_channel() gave."
            )
        if isinstance(owner, WorkTopic):
            working = yield from self._present_server()
            return working, (yield from wait(working.jobs.start_receiving(owner)))
        if self._is_past(owner):
            raise ValueError(
                f"Channel {channel!r} is of server {owner}, which this layer was before it was "
                "closed. Take a name from new_channel()."
            )
        server = yield from self._receiving_server()
        if not server.identity.owns(owner):
            raise ValueError(
                f"Channel {channel!r} is of server {owner}, and only that one can receive on it; "
                f"this is server {server.identity.name}. Take a name from new_channel() of this "
                "process."
            )
        return server, server.registry.open_mailbox(channel)

    def _is_past(self, owner: ServerName) -> bool:
        """Tell whether a server was this layer, before it was closed."""
        server = self._server
        return owner in self._past_names or (server.lifecycle.ended and server.identity.owns(owner))

    def _flush(self) -> Steps[None]:
        server = yield from self._sending_server(Topic.SEND_ALL)
        flush = partial(server.flush, self.config.expiry)
        yield from wait(in_thread("kafka-layer-flush", flush))

    def _close(self) -> Steps[None]:
        server = self._server
        if server.lifecycle.started:
            close = partial(server.close, self.config.timings.close)
            # The thread has to know whether a receiver of a signal makes this call.
            within = contextvars.copy_context()
            yield from wait(in_thread("kafka-layer-close", partial(within.run, close)))

    # The server

    def _sending_server(self, topic: Topic | WorkTopic) -> Steps[LayerServer]:
        """Return the server once it writes to a topic."""
        while True:
            server = yield from self._present_server()
            if server.sender.writes_to(topic):
                return server
            try:
                if isinstance(topic, WorkTopic):
                    yield from wait(server.jobs.start_sending(topic))
                else:
                    yield from wait(server.start_sending())
            except LayerClosed:
                # close() overtook the start; the next server is started instead.
                if not server.lifecycle.ended:
                    raise

    def _receiving_server(self) -> Steps[LayerServer]:
        """Return the server once it receives."""
        while True:
            server = yield from self._present_server()
            # Looked at after each wait: close() may come before the waiting coroutine goes on.
            if server.receiving:
                return server
            try:
                yield from wait(server.start_receiving())
            except LayerClosed:
                # close() overtook the start; the next server is started instead.
                if not server.lifecycle.ended:
                    raise

    def _open_channel(self, prefix: str) -> Steps[str]:
        """Open a channel on the server that receives."""
        while True:
            server = yield from self._receiving_server()
            try:
                return server.registry.new_channel(prefix, server.identity.require())
            except LayerClosed:
                # Another thread closed it at this moment.
                if not server.lifecycle.ended:
                    raise

    def _present_server(self) -> Steps[LayerServer]:
        """Return the server that is not closed.

        Another one is made once the one before is closed, so what is sent next is written after
        what was sent before.
        """
        while (server := self._server).lifecycle.ended:
            yield from wait(server.lifecycle.closed)
            with server.lifecycle.lock:
                if self._server is server:
                    if server.identity.name is not None:
                        self._past_names.add(server.identity.name)
                    self._begin()
        if not server.lifecycle.started:
            self._warn_in_tests()
        return server

    def _begin(self) -> None:
        """Make a server, which starts nothing yet."""
        server = LayerServer(self.config, self._codec, self._encryption, self._make_backplane)
        server.registry.hears_all = self._hears_all
        # A layer that was dropped closes in the background; at exit the server closes itself.
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, server.close_soon)
        self._finalizer.atexit = False
        self._server = server
        self._try_publish = server.sender.try_publish

    def _warn_in_tests(self) -> None:
        """Warn where tests would use the brokers of the settings, which they hardly mean to."""
        # Django's test runners, and pytest-django, give this module an outbox.
        mail = sys.modules.get("django.core.mail")
        if mail is None or not hasattr(mail, "outbox"):
            return
        if any(each is self for each in list(channel_layers.backends.values())):
            warnings.warn(
                f"The tests use the Kafka of CHANNEL_LAYERS, {self.config.bootstrap_servers}. Let "
                "them have kafka_layer.testing.InMemoryKafkaChannelLayer as BACKEND, or filter "
                "this warning.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _make_backplane(self, stats: Stats) -> Backplane:
        from .kafka.backplane import KafkaBackplane

        return KafkaBackplane(self.config, stats)


def _names(argument: str, names: Iterable[T]) -> list[T]:
    require_names(argument, names)
    return list(names)


def _exclusion(exclude: Collection[str]) -> list[tuple[str, bytes]]:
    require_names("exclude", exclude)
    return exclude_header(exclude)
