"""KafkaChannelLayer: the API of Channels' channel layers, and its synchronous twins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from .config.realtime import monotonic
from .config.settings import LayerConfig
from .config.timings import Timings
from .delivery.mailbox import Mailbox
from .delivery.registry import ChannelForgotten
from .exceptions import GroupAckTimeout
from .jobs.ack import JobInHand
from .messages import Position
from .observe.counters import Stats
from .server.commands import Question
from .server.server import Server, abandon_all
from .stats import LayerStats
from .transport import Backplane, QueueFull
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
    user_key,
)
from .wire.records import ProducerRecord
from .wire.topics import Topic, WorkTopic

__all__ = ["KafkaChannelLayer"]

T = TypeVar("T")

_RETRY_INTERVAL = 0.005

# Each look at a member of an enumeration costs as much as a call, in Python 3.11.
_SEND_CONN, _SEND_GROUP = Topic.SEND_CONN, Topic.SEND_GROUP

_layers: weakref.WeakSet[KafkaChannelLayer] = weakref.WeakSet()


class KafkaChannelLayer(BaseChannelLayer):  # type: ignore[misc, unused-ignore]
    """A channel layer whose messages travel through Kafka topics.

    The constructor does no I/O and starts nothing; the first call starts what it needs. Every
    method may be called from any thread and any event loop. ``send``, ``group_send`` and their
    siblings hand the message to the producer and return; with ``await_produce`` they wait for the
    broker's acknowledgement, return the record's position and raise what went wrong.

    Args:
        config: The CONFIG keywords, as docs/settings.md lists them.

    Raises:
        ImproperlyConfigured: For a keyword or value that cannot work.
    """

    extensions = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge
    channel_name_regex = CHANNEL_NAME
    group_name_regex = GROUP_NAME
    timings = Timings()

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
        self._server = self._new_server()
        _layers.add(self)

    @classmethod
    def read_config(cls, **config: Any) -> LayerConfig:
        """Return the settings that a layer with these CONFIG keywords has, without making one.

        Raises:
            ImproperlyConfigured: For a keyword or value that cannot work.
        """
        return replace(LayerConfig.from_keywords(**config), timings=cls.timings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.config.prefix!r}>"

    # Sending

    async def send(  # type: ignore[override, unused-ignore]
        self, channel: str, message: dict[str, Any]
    ) -> Position | None:
        """Send a message to one channel.

        A channel of this process is served at once, without a way through Kafka.

        Args:
            channel: A name that ``new_channel()`` gave, in any process, or the name of a worker
                channel, whose messages wait until a worker receives them.
            message: A dict of what the specification allows: str, bytes, int of 64 bits, float,
                bool, None, lists and dicts with str keys.

        Returns:
            The record's position with ``await_produce``, unless the channel is of this process.

        Raises:
            TypeError: If the name or the message is not legal.
            ValueError: If the name is none that ``new_channel()`` gave, and no worker channel's.
            ChannelFull: If a channel of this process holds ``capacity`` messages, or if the
                producer's queue is full and ``overflow`` is ``raise``.
            MessageTooLarge: If the message is larger than the topic allows.
        """
        record = self._record_to(channel, message)
        if record is None or self._server.try_publish(record):
            return None
        return await self._publish(record)

    async def group_send(  # type: ignore[override, unused-ignore]
        self, group: str, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Send a message to every channel of a group, on all servers.

        Args:
            group: The group's name.
            message: As for ``send``.
            exclude: Names of channels that do not get it.

        Returns:
            The record's position with ``await_produce``.

        Raises:
            TypeError: If a name or the message is not legal.
            ChannelFull: If the producer's queue is full and ``overflow`` is ``raise``.
            MessageTooLarge: If the message is larger than the topic allows.
        """
        record = self._group_record(group, message, exclude)
        return None if self._server.try_publish(record) else await self._publish(record)

    async def user_send(
        self, user_id: UserId, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Send a message to every channel of a user, on all servers.

        Args:
            user_id: As given to ``user_add``; 7 and "7" are the same user.
            message: As for ``send``.
            exclude: Names of channels that do not get it.

        Returns and errors as for ``group_send``.
        """
        record = self._user_record(user_id, message, exclude)
        return None if self._server.try_publish(record) else await self._publish(record)

    async def all_send(
        self, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Send a message to every open channel of every server.

        Args:
            message: As for ``send``.
            exclude: Names of channels that do not get it.

        Returns and errors as for ``group_send``.
        """
        record = self._all_record(message, exclude)
        return None if self._server.try_publish(record) else await self._publish(record)

    async def send_many(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> list[Position | None]:
        """Send one message to several channels; it is serialized once.

        Args:
            channels: Names that ``new_channel()`` gave, in any process.
            message: As for ``send``.

        Returns:
            What ``send`` returns, for each channel.

        Raises:
            ChannelFull: If channels of this process are full; the others got the message.
            TypeError, ValueError, MessageTooLarge: As for ``send``; nobody got the message then.
        """
        records, full = self._records_to(channels, message)
        positions = [None if each is None else await self._publish(each) for each in records]
        _require_none_full(full)
        return positions

    async def group_send_many(
        self, groups: Iterable[str], message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> list[Position | None]:
        """Send one message to several groups; who is in two of them gets it twice.

        Args and errors as for ``group_send``; returns a position for each group.
        """
        records = self._group_records(groups, message, exclude)
        return [await self._publish(record) for record in records]

    async def user_send_many(
        self, user_ids: Iterable[UserId], message: dict[str, Any]
    ) -> list[Position | None]:
        """Send one message to several users.

        Args and errors as for ``user_send``; returns a position for each user.
        """
        return [await self._publish(record) for record in self._user_records(user_ids, message)]

    # Receiving

    async def new_channel(self, prefix: str = "specific") -> str:
        """Open a channel of this process and return its name.

        Keep the name object: the channel is forgotten some time after it was collected.

        Args:
            prefix: First part of the name.

        Raises:
            TypeError: If the prefix makes no legal name.
            BrokerUnavailable: If the first use of the layer finds no broker.
        """
        self.require_valid_channel_name(prefix)
        server = await self._receiving_server()
        name = server.registry.new_channel(prefix, server.name)
        self.require_valid_channel_name(name)
        return name

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel of this process, or of a worker channel.

        Each receiver of a message gets its own copy. Never raises for a bad record or a broker
        that is down; cancelling it loses nothing.

        Args:
            channel: A name that ``new_channel()`` gave in this process, or the name of a worker
                channel: each of its messages has one receiver among all processes.

        Returns:
            The message.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If the channel is of another process.
            TopicError: If a worker channel's topic or consumer group is refused.
        """
        server = self._server
        mailbox = server.mailbox(channel)
        if mailbox is None:
            server, mailbox = await self._open(channel)
        if mailbox.received_by is not str:
            mailbox.received_by = channel.__class__
        while True:
            # From here to the return there is no await once a message was taken.
            envelope = mailbox.take()
            if envelope is None:
                try:
                    await mailbox.wait()
                except ChannelForgotten:
                    mailbox = server.registry.open_mailbox(str(channel))
                continue
            message = server.read(mailbox, envelope)
            if message is not None:
                return message

    async def receive_job(self, channel: str) -> tuple[dict[str, Any], JobInHand]:
        """Do what ``receive`` does on a worker channel, for a worker that reports how jobs end.

        Args:
            channel: The name of a worker channel.

        Returns:
            The message; and its job, on which the worker calls ``done()`` or ``failed(error)``.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If the channel is no worker channel.
            TopicError: If its topic or consumer group is refused.
        """
        if not isinstance(self._address(channel), WorkTopic):
            raise ValueError(f"{channel!r} is no worker channel, so it has no jobs; use receive().")
        server = self._server
        if server.mailbox(channel) is None:
            server, _ = await self._open(channel)
        return await server.receive_job(channel)

    def leave_audience(self) -> None:
        """Have ``all_send`` reach no channel of this process any more; ``runworker`` does that.

        A consumer of jobs has a channel, too, and most have no handler for messages to all.
        """
        self._hears_all = self._server.registry.hears_all = False

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group.

        Once it has returned, every ``group_send`` that starts anywhere reaches the channel. A
        channel that was forgotten stays so.

        Args:
            group: The group's name.
            channel: A name that ``new_channel()`` gave, in any process.

        Raises:
            TypeError: If a name is not legal.
            ValueError: If the channel is a worker channel, which cannot be a member.
            GroupAckTimeout: If the channel's server does not answer within ``ack_timeout``.
            CommandFailed: If the channel's server cannot carry the command out.
        """
        self.require_valid_group_name(group)
        await self._change("group_add", group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; nothing changes if it is not in it.

        Args and errors as for ``group_add``.
        """
        self.require_valid_group_name(group)
        await self._change("group_discard", group, channel)

    # Users

    async def user_add(self, user_id: UserId, channel: str) -> None:
        """Let a channel serve a user; ``user_send`` reaches it from then on.

        A user may have many channels on many servers.

        Args:
            user_id: A non-empty str, an int or a UUID; 7 and "7" are the same user.
            channel: A name that ``new_channel()`` gave, in any process.

        Errors as for ``group_add``.
        """
        await self._change("user_add", user_key(user_id), channel)

    async def user_discard(self, user_id: UserId, channel: str) -> None:
        """Stop a channel from serving a user; nothing changes if it does not.

        Args and errors as for ``user_add``.
        """
        await self._change("user_discard", user_key(user_id), channel)

    # Synchronous twins: no event loop, no other thread; they block the calling thread alone, for
    # the first start, for an acknowledgement or with overflow="block". Arguments, results and
    # errors are those of the methods without ``_sync``.

    def send_sync(self, channel: str, message: dict[str, Any]) -> Position | None:
        """Do what ``send`` does, without an event loop."""
        record = self._record_to(channel, message)
        if record is None or self._server.try_publish(record):
            return None
        return self._publish_sync(record)

    def group_send_sync(
        self, group: str, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Do what ``group_send`` does, without an event loop."""
        record = self._group_record(group, message, exclude)
        return None if self._server.try_publish(record) else self._publish_sync(record)

    def user_send_sync(
        self, user_id: UserId, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Do what ``user_send`` does, without an event loop."""
        record = self._user_record(user_id, message, exclude)
        return None if self._server.try_publish(record) else self._publish_sync(record)

    def all_send_sync(
        self, message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> Position | None:
        """Do what ``all_send`` does, without an event loop."""
        record = self._all_record(message, exclude)
        return None if self._server.try_publish(record) else self._publish_sync(record)

    def send_many_sync(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> list[Position | None]:
        """Do what ``send_many`` does, without an event loop."""
        records, full = self._records_to(channels, message)
        positions = [None if each is None else self._publish_sync(each) for each in records]
        _require_none_full(full)
        return positions

    def group_send_many_sync(
        self, groups: Iterable[str], message: dict[str, Any], *, exclude: Collection[str] = ()
    ) -> list[Position | None]:
        """Do what ``group_send_many`` does, without an event loop."""
        return [self._publish_sync(each) for each in self._group_records(groups, message, exclude)]

    def user_send_many_sync(
        self, user_ids: Iterable[UserId], message: dict[str, Any]
    ) -> list[Position | None]:
        """Do what ``user_send_many`` does, without an event loop."""
        return [self._publish_sync(record) for record in self._user_records(user_ids, message)]

    def group_add_sync(self, group: str, channel: str) -> None:
        """Do what ``group_add`` does, without an event loop."""
        self.require_valid_group_name(group)
        self._change_sync("group_add", group, channel)

    def group_discard_sync(self, group: str, channel: str) -> None:
        """Do what ``group_discard`` does, without an event loop."""
        self.require_valid_group_name(group)
        self._change_sync("group_discard", group, channel)

    def user_add_sync(self, user_id: UserId, channel: str) -> None:
        """Do what ``user_add`` does, without an event loop."""
        self._change_sync("user_add", user_key(user_id), channel)

    def user_discard_sync(self, user_id: UserId, channel: str) -> None:
        """Do what ``user_discard`` does, without an event loop."""
        self._change_sync("user_discard", user_key(user_id), channel)

    # Lifecycle

    async def flush(self) -> None:
        """Drop all messages, groups and users, here and on every other server of the prefix.

        What waits in worker channels goes, too. The other servers clear when they read of it.

        Raises:
            ProduceFailed: If the broker does not take the record that tells the others.
            ChannelFull: If the producer's queue stays full.
            TopicError: If it refuses to clear the worker channels.
        """
        server = await self._server_for(Topic.SEND_ALL)
        loop = asyncio.get_running_loop()
        with _full_raises():
            await loop.run_in_executor(None, server.flush, self.config.expiry)

    async def close(self) -> None:
        """Write what is queued and stop, within 5 seconds; the next use starts anew. Idempotent."""
        await asyncio.get_running_loop().run_in_executor(None, self.close_sync)

    def close_sync(self) -> None:
        """Do what ``close`` does, without an event loop; blocks."""
        server = self._server
        self._renew()
        server.close(self.timings.close)

    def stats(self) -> LayerStats:
        """Return what the layer did in this process and how it is now.

        No I/O; any thread. Since the first use, or the last ``close()`` or fork.
        """
        return self._server.describe()

    def servers_sync(self, seconds: float = 1.0) -> list[dict[str, Any]]:
        """Ask which servers of this prefix are running, as far as they answer; blocks.

        Args:
            seconds: How long to wait for answers.

        Returns:
            What each told: its name (``server``) and how many ``channels``, ``groups`` and
            ``users`` it has.
        """
        server = self._receiving_server_sync()
        with _full_raises():
            return server.roll_call(seconds)

    def round_trip_sync(self, timeout: float = 5.0) -> float:
        """Write a record and wait until this server reads it; blocks.

        Args:
            timeout: Seconds to wait.

        Returns:
            The seconds that it took.

        Raises:
            BrokerUnavailable: If the first use of the layer finds no broker.
            TimeoutError: If the record did not come back in time.
        """
        server = self._receiving_server_sync()
        with _full_raises():
            return server.round_trip(timeout)

    # Channels' own checks, in one step where there is nothing to refuse: every send makes them.

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Check a channel's name; see ``BaseChannelLayer``."""
        # Of a ChannelName [:] makes a plain copy.
        if isinstance(name, str) and parse_address(name[:]) is not None and not receive:
            return True
        return bool(super().require_valid_channel_name(name, receive))

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
        to = self._address(channel)
        return self._route(channel, to, self._codec.encode(message))

    def _records_to(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> tuple[list[ProducerRecord | None], list[str]]:
        addresses = [(each, self._address(each)) for each in _names("channels", channels)]
        payload = self._codec.encode(message)
        records: list[ProducerRecord | None] = []
        full = []
        for channel, to in addresses:
            try:
                records.append(self._route(channel, to, payload))
            except ChannelFull:
                records.append(None)
                full.append(channel)
        return records, full

    def _address(self, channel: str) -> ServerName | WorkTopic:
        # Of a ChannelName [:] makes a plain copy.
        address = parse_address(channel[:]) if isinstance(channel, str) else None
        if address is None:
            self.require_valid_channel_name(channel)
            raise ValueError(
                f"Channel {channel!r} names no server of this layer; "
                "channel names come from new_channel()."
            )
        return address

    def _owner(self, channel: str) -> ServerName:
        owner = self._address(channel)
        if isinstance(owner, WorkTopic):
            raise ValueError(
                f"{channel!r} is a worker channel, and those belong to no process: they cannot be "
                "in a group or serve a user. Send to it directly."
            )
        return owner

    def _route(
        self, channel: str, to: ServerName | WorkTopic, payload: bytes
    ) -> ProducerRecord | None:
        server = self._server
        mailbox = server.registry.mailbox(channel)
        if mailbox is not None:
            server.put(mailbox, payload)
            return None
        if isinstance(to, WorkTopic):
            return to, None, self._encryption.encrypt(to, None, payload), None, ()
        if server.owns(to):
            server.stats.count("dropped.closed")
            return None
        value = self._encryption.encrypt(_SEND_CONN, channel, payload)
        return _SEND_CONN, channel, value, to.partition, ()

    def _group_record(
        self, group: str, message: dict[str, Any], exclude: Collection[str]
    ) -> ProducerRecord:
        self.require_valid_group_name(group)
        payload = self._codec.encode(message)
        headers = _exclusion(exclude) if exclude else ()
        return (
            _SEND_GROUP,
            group,
            self._encryption.encrypt(_SEND_GROUP, group, payload),
            None,
            headers,
        )

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

    # Behind the API: what waits, once for coroutines and once for threads

    async def _server_for(self, topic: Topic | WorkTopic) -> Server:
        server = self._server
        if not server.sends_to(topic):
            await asyncio.wrap_future(server.start_sending_to(topic))
        return server

    def _server_for_sync(self, topic: Topic | WorkTopic) -> Server:
        server = self._server
        if not server.sends_to(topic):
            server.start_sending_to(topic).result()
        return server

    async def _receiving_server(self) -> Server:
        server = self._server
        if not server.receiving:
            await asyncio.wrap_future(server.start_receiving())
        return server

    def _receiving_server_sync(self) -> Server:
        server = self._server
        if not server.receiving:
            server.start_receiving().result()
        return server

    async def _publish(self, record: ProducerRecord) -> Position | None:
        topic, _, _, _, _ = record
        server = await self._server_for(topic)
        full = None
        while True:
            try:
                if self.config.await_produce:
                    return await server.publish_wanted(record)
                server.publish(record)
                return None
            except QueueFull:
                full = full or _Overflow(self.config, server.stats, record)
                if full.give_up():
                    return None
                await asyncio.sleep(_RETRY_INTERVAL)

    def _publish_sync(self, record: ProducerRecord) -> Position | None:
        topic, _, _, _, _ = record
        server = self._server_for_sync(topic)
        full = None
        while True:
            try:
                if self.config.await_produce:
                    return server.publish_wanted(record).result()
                server.publish(record)
                return None
            except QueueFull:
                full = full or _Overflow(self.config, server.stats, record)
                if full.give_up():
                    return None
                time.sleep(_RETRY_INTERVAL)

    async def _change(self, command: str, name: str, channel: str) -> None:
        owner = self._owner(channel)
        server = await self._receiving_server()
        if server.owns(owner):
            server.registry.change(command, name, channel)
            return
        question = _ask(server, owner, command, name, channel)
        try:
            await asyncio.wait_for(asyncio.wrap_future(question.answer), self.config.ack_timeout)
        except asyncio.TimeoutError:
            raise self._ack_timeout(owner, command, name, channel) from None
        finally:
            question.forget()

    def _change_sync(self, command: str, name: str, channel: str) -> None:
        owner = self._owner(channel)
        server = self._receiving_server_sync()
        if server.owns(owner):
            server.registry.change(command, name, channel)
            return
        question = _ask(server, owner, command, name, channel)
        try:
            question.result_before(monotonic() + self.config.ack_timeout)
        except TimeoutError:
            raise self._ack_timeout(owner, command, name, channel) from None

    def _ack_timeout(
        self, owner: ServerName, command: str, name: str, channel: str
    ) -> GroupAckTimeout:
        return GroupAckTimeout(
            f"Server {owner} did not acknowledge {command}({name!r}, {channel!r}) within "
            f"{self.config.ack_timeout} s; it is gone, cut off or overloaded."
        )

    # Behind the API: lifecycle

    async def _open(self, channel: str) -> tuple[Server, Mailbox]:
        owner = self._address(channel)
        if channel.endswith("!"):
            raise ValueError(
                f"{channel!r} is the part that all channels of a server share; receive on a whole "
                "name that new_channel() gave."
            )
        if isinstance(owner, WorkTopic):
            server = self._server
            return server, await asyncio.wrap_future(server.start_working(owner))
        server = await self._receiving_server()
        if not server.owns(owner):
            raise ValueError(
                f"Channel {channel!r} is of server {owner}, and only that one can receive on it; "
                f"this is server {server.name}. Take a name from new_channel() of this process."
            )
        return server, server.registry.open_mailbox(channel)

    def _make_backplane(self, stats: Stats) -> Backplane:
        from .kafka.backplane import KafkaBackplane

        return KafkaBackplane(self.config, stats)

    def _new_server(self) -> Server:
        server = Server(self.config, self._codec, self._encryption, self._make_backplane)
        server.registry.hears_all = self._hears_all
        # A layer that was dropped closes in the background; at exit the server closes itself.
        self._finalizer = weakref.finalize(self, _close_in_background, server)
        self._finalizer.atexit = False
        return server

    def _renew(self) -> None:
        self._finalizer.detach()
        self._server = self._new_server()


class _Overflow:
    """What one send does while the producer's queue is full."""

    def __init__(self, config: LayerConfig, stats: Stats, record: ProducerRecord) -> None:
        self._policy = config.overflow
        self._stats = stats
        topic, key, _, _, _ = record
        self._where = f"the producer's queue is full, {topic.value} {key!r}"
        self._deadline = monotonic() + config.expiry

    def give_up(self) -> bool:
        """Return False to try again and True to discard; raises ChannelFull otherwise."""
        if self._policy == "discard":
            self._stats.dropped("overflow", self._where)
            return True
        if self._policy == "block" and monotonic() < self._deadline:
            return False
        self._stats.count("refused.overflow")
        raise ChannelFull(self._where)


def _ask(server: Server, owner: ServerName, command: str, name: str, channel: str) -> Question:
    with _full_raises():
        return server.ask(owner, command, name, channel)


@contextlib.contextmanager
def _full_raises() -> Iterator[None]:
    """For what is not a message, and so is neither discarded nor worth blocking for."""
    try:
        yield
    except QueueFull:
        raise ChannelFull("the producer's queue is full") from None


def _names(argument: str, names: Iterable[T]) -> list[T]:
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{argument} must be a collection of names, not {names!r}.")
    return list(names)


def _exclusion(exclude: Collection[str]) -> list[tuple[str, bytes]]:
    return exclude_header(_names("exclude", exclude))


def _require_none_full(full: list[str]) -> None:
    if full:
        raise ChannelFull(", ".join(full))


def _close_in_background(server: Server) -> None:
    if server.started:
        threading.Thread(
            target=server.close,
            args=(server.config.timings.close,),
            name="kafka-layer-close",
            daemon=True,
        ).start()


def _after_fork_in_child() -> None:
    # The parent's clients have no threads here, and freeing them aborts the process.
    for layer in list(_layers):
        layer._server.abandon()
        layer._renew()
    abandon_all()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
