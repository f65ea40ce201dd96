"""KafkaChannelLayer: the API of Channels' channel layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from .calls.sync import SyncTwins
from .delivery.registry import ChannelForgotten
from .delivery.tickets import run_blocking, run_in_loop
from .messages import History, Position, Recovery, Since
from .wire.names import UserId, user_key
from .wire.topics import WorkTopic

if TYPE_CHECKING:
    from .config.streams import Start
    from .jobs.ack import JobInHand
    from .stats import LayerStats
    from .streams.producing import StreamHeaders

__all__ = ["KafkaChannelLayer"]


class KafkaChannelLayer(SyncTwins):
    """A channel layer whose messages travel through Kafka topics.

    The constructor does no I/O and starts nothing; the first call starts what it needs. Every
    method may be called from any thread and any event loop. ``send``, ``group_send`` and their
    siblings pass the message to the producer and return; with ``await_produce`` they wait for the
    broker's acknowledgement, and return the record's position or raise.

    Args:
        config: The CONFIG keywords, as docs/settings.md lists them.

    Raises:
        ImproperlyConfigured: For a keyword or value that cannot work.
    """

    # Sending

    async def send(  # type: ignore[override, unused-ignore]
        self, channel: str, message: dict[str, Any]
    ) -> Position | None:
        """Send a message to one channel.

        A channel of this process gets it at once, without Kafka. A message to a channel that is
        gone, or whose name another layer made, is dropped and counted.

        Args:
            channel: A name that ``new_channel()`` gave, in any process, or the name of a worker
                channel, whose messages wait until a worker receives them.
            message: A dict of what the specification allows: str, bytes, int of 64 bits, float,
                bool, None, lists and dicts with str keys.

        Returns:
            The record's position with ``await_produce``, unless the channel is of this process.

        Raises:
            TypeError: If the name or the message is not legal.
            ChannelFull: If a channel of this process holds ``capacity`` messages, or if the
                producer's queue is full and ``overflow`` is ``raise``.
            MessageTooLarge: If the message is larger than the topic allows.
        """
        record = self._record_to(channel, message)
        if record is None or self._try_publish(record):
            return None
        return await run_in_loop(self._publish(record))

    async def group_send(  # type: ignore[override, unused-ignore]
        self,
        group: str,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to every channel of a group, on all servers.

        Args:
            group: The group's name.
            message: As for ``send``.
            exclude: Names of channels that do not get it.
            idempotency_key: A text of 1 to 200 characters: the same for every attempt to send this
                message, and different for every other message to the group. If messages with the
                same key are sent within 300 seconds, receivers get only the first one.

        Returns:
            The record's position with ``await_produce``.

        Raises:
            TypeError: If a name, the message or the key is not legal.
            ValueError: If the key is empty or too long.
            ChannelFull: If the producer's queue is full and ``overflow`` is ``raise``.
            MessageTooLarge: If the message is larger than the topic allows.
        """
        record = self._group_record(group, message, exclude, idempotency_key)
        return None if self._try_publish(record) else await run_in_loop(self._publish(record))

    async def user_send(
        self,
        user_id: UserId,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to every channel of a user, on all servers.

        Args:
            user_id: As given to ``user_add``; 7 and "7" are the same user.
            message: As for ``send``.
            exclude: Names of channels that do not get it.
            idempotency_key: As for ``group_send``.

        Returns and errors as for ``group_send``.
        """
        record = self._user_record(user_id, message, exclude, idempotency_key)
        return None if self._try_publish(record) else await run_in_loop(self._publish(record))

    async def all_send(
        self,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to every open channel of every server.

        Args:
            message: As for ``send``.
            exclude: Names of channels that do not get it.
            idempotency_key: As for ``group_send``.

        Returns and errors as for ``group_send``.
        """
        record = self._all_record(message, exclude, idempotency_key)
        return None if self._try_publish(record) else await run_in_loop(self._publish(record))

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
            TypeError, MessageTooLarge: As for ``send``; no channel got the message.
        """
        return await run_in_loop(self._send_to_many(channels, message))

    async def group_send_many(
        self,
        groups: Iterable[str],
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> list[Position | None]:
        """Send one message to several groups; a member of two of them gets it twice.

        Args and errors as for ``group_send``; returns a position for each group. Each group checks
        the idempotency key for itself.
        """
        records = self._group_records(groups, message, exclude, idempotency_key)
        return await run_in_loop(self._publish_each(records))

    async def user_send_many(
        self,
        user_ids: Iterable[UserId],
        message: dict[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> list[Position | None]:
        """Send one message to several users.

        Args and errors as for ``user_send``; returns a position for each user. Each user's messages
        are checked for the idempotency key separately.
        """
        records = self._user_records(user_ids, message, idempotency_key)
        return await run_in_loop(self._publish_each(records))

    async def produce(
        self,
        stream: str,
        value: Any,
        *,
        key: Any = None,
        headers: StreamHeaders | None = None,
        partition: int | None = None,
    ) -> Position | None:
        """Write a record to the topic of a stream.

        The stream's codecs encode it before it is sent; with a schema registry they also validate
        it. While the registry does not answer, this call waits.

        Args:
            stream: The stream's name in the setting ``streams``.
            value: What the stream's codec for values takes; None writes a tombstone.
            key: What its codec for keys takes. Equal keys go to one partition, which Kafka's
                default partitioner chooses (murmur2). None: no key.
            headers: A mapping of names to str or bytes, or pairs, if a name comes more than once.
            partition: Number of the partition; None: the key decides.

        Returns:
            The record's position with ``await_produce``.

        Raises:
            TopicError: If the settings have no such stream, if it is a pattern of topics, or if its
                topic does not exist.
            TypeError: If a codec cannot carry the value or the key, or a header has a wrong type.
            ValueError: If the partition is negative, or a header's name has a NUL.
            RegistryAway: If a schema registry does not answer within ``expiry`` seconds.
            ChannelFull: If the producer's queue is full and ``overflow`` is ``raise``.
            MessageTooLarge: If the record is larger than the producer or the topic allows.
            ProduceFailed: With ``await_produce``, if the broker does not take it.
        """
        return await run_in_loop(self._produce(stream, value, key, headers, partition))

    # Receiving

    async def new_channel(self, prefix: str = "specific") -> str:
        """Open a channel of this process and return its name.

        Keep the name object: the layer forgets the channel soon after Python has collected it.

        Args:
            prefix: First part of the name.

        Raises:
            TypeError: If the prefix makes no legal name.
            BrokerUnavailable: If the first use of the layer finds no broker.
        """
        self.require_valid_channel_name(prefix)
        # Without an await if the server receives already.
        name = await run_in_loop(self._open_channel(prefix))
        self.require_valid_channel_name(name)
        return name

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel of this process, or of a worker channel.

        Each receiver of a message gets its own copy. It never raises because of a bad record or an
        outage, and loses no message when it is cancelled.

        Args:
            channel: A name that ``new_channel()`` gave in this process, or the name of a worker
                channel: each of its messages has one receiver among all processes.

        Returns:
            The message.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If the channel is of another process.
            TopicError: If a worker channel's topic or consumer group is refused.
            LayerClosed: If the layer is closed meanwhile.
        """
        server = self._server
        mailbox = server.registry.mailbox(channel)
        if mailbox is None:
            worker_channel = server.worker_channel(channel)
            if worker_channel is not None:
                message, _ = await worker_channel.receive(server.decode_for_receive)
                return message
            if isinstance(self._require_address(channel), WorkTopic):
                message, _ = await self.receive_job(channel)
                return message
            opened = await run_in_loop(self._mailbox_to_receive(channel))
            server, mailbox = opened
        if mailbox.received_by is not channel.__class__ and mailbox.received_by is not str:
            mailbox.received_by = channel.__class__
        while True:
            # No await between taking a message and returning it.
            envelope = mailbox.take()
            if envelope is None:
                try:
                    await mailbox.wait()
                except ChannelForgotten:
                    mailbox = server.reopen(mailbox)
                continue
            open_tracked = mailbox.open_tracked
            if open_tracked is None:
                decoded = server.decode_for_receive(mailbox, envelope)
            else:
                decoded = open_tracked(mailbox, envelope)
            if decoded is not None:
                return decoded

    async def receive_job(self, channel: str) -> tuple[dict[str, Any], JobInHand]:
        """Receive a job of a worker channel, for a worker that reports how jobs end.

        Args:
            channel: The name of a worker channel.

        Returns:
            The message, and its job, on which the worker calls ``done()`` or ``failed(error)``.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If the channel is no worker channel.
            TopicError: If its topic or consumer group is refused.
            LayerClosed: If the layer is closed meanwhile.
        """
        server = self._server
        opened = server.worker_channel(channel)
        if opened is not None:
            return await opened.receive(server.decode_for_receive)
        self.require_worker_channel_name(channel)
        server, _ = await run_in_loop(self._mailbox_to_receive(channel))
        return await server.jobs.receive(channel)

    def leave_audience(self) -> None:
        """Keep messages of ``all_send`` from the channels of this process; ``runworker`` does that.

        Consumers of jobs have channels as well, but mostly no handler for messages to everybody.
        """
        self._hears_all.clear()

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group.

        When it has returned, every ``group_send`` that starts later, in any process, reaches the
        channel. For a channel that the layer has forgotten it changes nothing.

        Args:
            group: The group's name.
            channel: A name that ``new_channel()`` gave, in any process.

        Raises:
            TypeError: If a name is not legal.
            ValueError: If the channel is a worker channel, or this layer cannot have made its name.
            GroupAckTimeout: If the channel's server does not answer within ``ack_timeout``.
            CommandFailed: If the channel's server cannot carry the command out.
        """
        self.require_valid_group_name(group)
        if not self._try_change("group_add", group, channel):
            await run_in_loop(self._change("group_add", group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; nothing changes if it is not in it.

        A membership ends with the server of its channel: if the server is gone, this succeeds.

        Args and errors as for ``group_add``; ``GroupAckTimeout`` only if the command cannot be
        written in time.
        """
        self.require_valid_group_name(group)
        if not self._try_change("group_discard", group, channel):
            await run_in_loop(self._change("group_discard", group, channel))

    # Users

    async def user_add(self, user_id: UserId, channel: str) -> None:
        """Let a channel serve a user; ``user_send`` reaches it from then on.

        A user may have many channels on many servers.

        Args:
            user_id: A non-empty str, an int or a UUID; 7 and "7" are the same user.
            channel: A name that ``new_channel()`` gave, in any process.

        Errors as for ``group_add``.
        """
        user = user_key(user_id)
        if not self._try_change("user_add", user, channel):
            await run_in_loop(self._change("user_add", user, channel))

    async def user_discard(self, user_id: UserId, channel: str) -> None:
        """Stop a channel from serving a user; nothing changes if it does not serve the user.

        Args and errors as for ``user_add``; a server that is gone as for ``group_discard``.
        """
        user = user_key(user_id)
        if not self._try_change("user_discard", user, channel):
            await run_in_loop(self._change("user_discard", user, channel))

    # History

    async def group_history(
        self,
        group: str,
        *,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Return messages of a group that the log still holds.

        A process that only sends may call it. Messages that exclude channels, and expired ones, are
        included: history goes to the application, which decides who may see it.

        Args:
            group: The group's name.
            limit: Most messages to return, 0 to 1,000; 0 for the position alone.
            since: Where they begin: a position, an aware datetime, or a timedelta (how long ago).
                With it the first ``limit`` messages from there on are returned, and
                ``history.position`` is the ``since`` of the next ones. Without it the last
                ``limit`` messages are returned.
            newest_first: Whether to return the newest message first, and with ``since`` the last
                ``limit`` messages instead of the first ones.

        Returns:
            The messages, oldest first unless ``newest_first``, and whether they are complete.

        Raises:
            TypeError: If a name or an argument has a wrong type.
            ValueError: If ``limit`` is out of range, if ``since`` is a naive datetime or a negative
                timedelta, or the position of another group.
            InvalidPosition: If ``since`` is a str, but no position of this layer; a ValueError.
            HistoryUnavailable: If Kafka cannot be asked within 5 seconds, or refuses.
            LayerClosed: If the layer is closed meanwhile.
        """
        return await run_in_loop(self._group_history(group, limit, since, newest_first))

    async def user_history(
        self,
        user_id: UserId,
        *,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Return messages of a user that the log still holds.

        Args:
            user_id: As given to ``user_send``.
            limit: As for ``group_history``.
            since: As for ``group_history``.
            newest_first: As for ``group_history``.

        Returns and errors as for ``group_history``.
        """
        return await run_in_loop(self._user_history(user_id, limit, since, newest_first))

    async def all_history(
        self, *, limit: int = 100, since: Since | None = None, newest_first: bool = False
    ) -> History:
        """Return messages to everybody that the log still holds.

        Args:
            limit: As for ``group_history``.
            since: As for ``group_history``.
            newest_first: As for ``group_history``.

        Returns and errors as for ``group_history``.
        """
        return await run_in_loop(self._all_history(limit, since, newest_first))

    async def stream_history(
        self,
        stream: str,
        *,
        group: str | None = None,
        user_id: UserId | None = None,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Return records of a stream that its topic still holds, as the messages that they become.

        Records that the settings skip are left out. The layer reads and decodes the records one
        after another, at most 10,000, including those of other groups and users.

        Args:
            stream: The stream's name in the setting ``streams``.
            group: Return only records for this group.
            user_id: Return only records for this user; not together with ``group``.
            limit: As for ``group_history``.
            since: As for ``group_history``. Times are compared with the records' timestamps. A
                position is one of this method, of the group or of the user.
            newest_first: As for ``group_history``.

        Returns:
            As ``group_history``. Records of several partitions are ordered by their timestamps.

        Raises:
            TopicError: If no stream of this name is read.
            ValueError: As for ``group_history``, or if both a group and a user are given.
            TypeError, InvalidPosition, HistoryUnavailable, LayerClosed: As for ``group_history``.
        """
        return await run_in_loop(
            self._stream_history(stream, group, user_id, limit, since, newest_first)
        )

    async def group_position(self, group: str) -> str:
        """Return the present position of a group, for a page that is rendered before its socket.

        As ``since`` of ``group_history`` it gives the messages that were sent after this call. It
        also covers the streams that may reach the group.

        Args:
            group: The group's name.

        Errors as for ``group_history``.
        """
        return await run_in_loop(self._group_position(group))

    # Positions and recovery

    def track(self, channel: str, on_change: Callable[[], object] | None = None) -> None:
        """Keep positions for a channel from now on; no I/O.

        Call it before the channel's first membership and first ``receive``. Its messages then are
        ``kafka_layer.messages.Message``. If the channel takes them too slowly, none is dropped: it
        reads them later from the server's recent records. If these do not go back far enough, it
        gets a message ``{"type": "kafka.gap", "reason": ...}``.

        Args:
            channel: A name that ``new_channel()`` gave in this process.
            on_change: Called when a membership of the channel changed; in any thread; must not
                block.

        Raises:
            TypeError: If the name is not legal, or ``on_change`` cannot be called.
            ValueError: If no such channel is open in this process.
        """
        if on_change is not None and not callable(on_change):
            raise TypeError(f"on_change must be a function without arguments, not {on_change!r}.")
        server, mailbox = self._mailbox_to_track(channel)
        server.recoveries.track(mailbox, on_change)

    def position(self, channel: str) -> str:
        """Return the position of a tracked channel, as an opaque text; no I/O.

        All messages to the channel before the position are handled. Messages that wait, or are
        being handled, are after it. (A message is handled when the next ``receive`` begins.)
        Messages that ``recover`` returned are before it.

        Args:
            channel: A channel of this process that ``track`` was called for.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If no such channel is open in this process, or it is not tracked.
        """
        server, mailbox = self._mailbox_to_track(channel)
        if mailbox.tracked is None:
            raise ValueError(f"Channel {channel!r} is not tracked; call track() before.")
        return server.recoveries.position(mailbox)

    async def recover(
        self, channel: str, position: str, *, window: float | None = None, limit: int = 300
    ) -> Recovery:
        """Return the messages that were missed since a position: all of them, or a reason.

        Call it once, after the channel's memberships and before its first ``receive``: the received
        messages follow without a gap and without a repetition. (Another call replays the messages
        after its position again.) It returns messages to everybody, to the user of the position if
        that is the channel's user, and to those groups of the position that the channel is in,
        except messages that exclude the channel.

        Args:
            channel: A channel of this process.
            position: A position from ``position``, ``group_position`` or a message, in any process
                with this prefix. The places of further messages may be appended to it.
            window: Its greatest age in seconds; None: ``recovery_window`` of the settings.
            limit: Most messages to replay, 0 to 1,000.

        Returns:
            The messages, or the reason why there are none, within 5 seconds.

        Raises:
            TypeError: If the name is not legal, or an argument has a wrong type.
            ValueError: If no such channel is open in this process, or ``window`` or ``limit`` is
                out of range.
            LayerClosed: If the layer is closed meanwhile.
        """
        return await run_in_loop(self._recover(channel, position, window, limit))

    # Streams

    async def pause_stream(self, stream: str, *, everywhere: bool = False) -> None:
        """Stop reading a stream; once this has returned, none of its records is delivered.

        It stays paused until ``resume_stream``, or until the server ends.

        Args:
            stream: The stream's name in the settings.
            everywhere: Whether all running servers do it, or this one alone. All of them have then
                done it when the call returns.

        Raises:
            TopicError: If no stream of this name is read.
            GroupAckTimeout: If it does not take effect within ``ack_timeout``; the text says where.
            CommandFailed: If another server cannot do it.
            BrokerUnavailable: With ``everywhere``, if the first use of the layer finds no broker.
        """
        await run_in_loop(self._steer_stream("pause", stream, everywhere))

    async def resume_stream(self, stream: str, *, everywhere: bool = False) -> None:
        """Continue to read a stream: where it was paused, or with the record that stopped it.

        Args and errors as for ``pause_stream``.
        """
        await run_in_loop(self._steer_stream("resume", stream, everywhere))

    async def seek_stream(self, stream: str, start: Start, *, everywhere: bool = False) -> None:
        """Read a stream from another place on; it stays paused if it is.

        Args:
            stream: The stream's name in the settings.
            start: ``latest``, ``earliest``, how long ago, or an aware datetime.
            everywhere: As for ``pause_stream``.

        Raises:
            ValueError: If ``start`` is none of these.

        Further errors as for ``pause_stream``.
        """
        await run_in_loop(self._steer_stream("seek", stream, everywhere, start))

    # Lifecycle

    async def flush(self) -> None:
        """Drop all messages, groups and users, here and on every other server of the prefix.

        Jobs in worker channels are dropped, too. Other servers do it when they read a record of
        this call.

        Raises:
            BrokerUnavailable: If no broker answers within ``expiry`` seconds.
            ProduceFailed: If the broker does not take the record for the other servers.
            ChannelFull: If the producer's queue stays full.
            TopicError: If the broker refuses to clear the worker channels.
        """
        await run_in_loop(self._flush())

    async def close(self) -> None:
        """Write queued records and stop, within 5 seconds; the next use starts again. Idempotent.

        Each ``receive`` that waits ends with ``LayerClosed``.
        """
        await run_in_loop(self._close())

    def stats(self) -> LayerStats:
        """Return the layer's counters and its present state; no I/O, any thread.

        The counters begin with the first use, and again after ``close()`` or a fork.
        """
        return self._server.describe()

    def measure(self) -> None:
        """Measure ``ages`` and ``backlog`` of ``stats()`` from now on, until a close; no I/O.

        It costs 0.4 µs for each message that a receive takes, and two requests to Kafka every 3
        seconds for each worker channel. Idempotent; any thread. A scrape of the metrics calls it.
        """
        self._server.measure()

    def servers_sync(self, seconds: float = 1.0) -> list[dict[str, Any]]:
        """Ask the running servers of this prefix for their figures; blocks.

        Args:
            seconds: How long to wait for answers.

        Returns:
            Their answers: the name (``server``), the numbers of ``channels``, ``groups`` and
            ``users``, and the ``replaced`` clients. Servers with tracked channels also send
            ``recovered``, ``not_recovered``, ``behind`` and ``recent_bytes``.
        """
        return run_blocking(self._receiving_server()).commands.roll_call(seconds)

    def round_trip_sync(self, timeout: float = 5.0) -> float:
        """Write a record and wait until this server reads it; blocks.

        Args:
            timeout: Seconds to wait.

        Returns:
            The duration in seconds.

        Raises:
            BrokerUnavailable: If the first use of the layer finds no broker.
            TimeoutError: If the record did not come back in time.
        """
        return run_blocking(run_blocking(self._receiving_server()).commands.self_test(timeout))
