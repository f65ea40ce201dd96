"""The calls of a layer that wait, written once as procedures (``delivery/tickets.py``).

``layer.py`` has the coroutines of Channels' API, ``sync.py`` the same calls without an event loop;
both run these.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from channels.exceptions import ChannelFull

from ..config.realtime import monotonic, wall_clock
from ..delivery.mailbox import Mailbox
from ..delivery.tickets import Steps, Ticket, in_thread, wait
from ..exceptions import (
    BrokerUnavailable,
    GroupAckTimeout,
    HistoryUnavailable,
    LayerClosed,
    TopicError,
)
from ..messages import History, Position, Recovery, Since
from ..wire.names import UserId, user_key
from ..wire.records import ProducerRecord
from ..wire.topics import Topic, WorkTopic
from .current_server import LayerServer
from .records import Records

if TYPE_CHECKING:
    from ..config.streams import Start
    from ..streams.producing import Outgoing, StreamHeaders

__all__ = ["Procedures"]

# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_SEND_GROUP, _SEND_USER = Topic.SEND_GROUP, Topic.SEND_USER

# By command: the topic of the messages behind which it takes effect.
_TOPIC_OF = {
    "group_add": _SEND_GROUP,
    "group_discard": _SEND_GROUP,
    "user_add": _SEND_USER,
    "user_discard": _SEND_USER,
}


_ADDS = ("group_add", "user_add")


class Procedures(Records):
    """The procedures of a layer's calls; any thread and any event loop."""

    def _send(self, record: ProducerRecord) -> Steps[Ticket[Position] | None]:
        """Queue a record; return the ticket of its position with ``await_produce``."""
        topic, _, _, _, _ = record
        while True:
            server = yield from self._sending_server(topic)
            try:
                return (yield from server.sender.send(record))
            except LayerClosed:
                # The closed server did not take it: the next server writes it.
                if not server.lifecycle.ended:
                    raise

    def _publish(self, record: ProducerRecord) -> Steps[Position | None]:
        """Send a record; return its position with ``await_produce``."""
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

    def _produce(
        self,
        stream: str,
        value: Any,
        key: Any,
        headers: StreamHeaders | None,
        partition: int | None,
    ) -> Steps[Position | None]:
        """Write a record to the topic of a stream; return its position with ``await_produce``."""
        # Imported by the first call: most processes produce nothing.
        from ..streams.producing import outgoing

        record = outgoing(self.config, stream, value, key, headers, partition)
        return (yield from self._write(record))

    def _write(self, record: Outgoing) -> Steps[Position | None]:
        """Write a record that was checked; as ``_produce``."""
        server = yield from self._present_server()
        encoded = yield from server.producing.encode(record)
        while True:
            server = yield from self._present_server()
            producing = server.producing
            try:
                if not producing.is_open(record.topic):
                    yield from wait(producing.open(record.topic))
                ticket = yield from producing.send(encoded)
            except LayerClosed:
                # The closed server did not take it: the next server writes it.
                if not server.lifecycle.ended:
                    raise
            else:
                return None if ticket is None else (yield from wait(ticket))

    def _try_change(self, command: str, name: str, channel: str) -> bool:
        """Change a membership without waiting; return False, unchanged, if that is not possible.

        It is possible for most channels: they are of this process's server, and no message was sent
        to the name lately.
        """
        server = self._server
        if not server.receiving or not isinstance(channel, str):
            return False
        mailbox = server.registry.mailbox(channel)
        if mailbox is None or not server.ordering.is_settled(_TOPIC_OF[command], name):
            return False
        tracked = mailbox.tracked
        if tracked is not None and command in _ADDS and tracked.prepare(command, name):
            return False
        # Of a subclass of str [:] makes a plain copy.
        server.registry.change(command, name[:], channel)
        return True

    def _change(self, command: str, name: str, channel: str) -> Steps[None]:
        """Change a membership, here or on the server that owns the channel."""
        if command.endswith("_discard") and self._address(channel) is None:
            # No layer of this package made the name, so it is a member of no group.
            return
        owner = self._owner(channel)
        if self._is_past(owner):
            # The channels of a closed server and their memberships ended with it.
            return
        server = yield from self._receiving_server()
        if self._is_past(owner):
            # The owner closed meanwhile.
            return
        if server.identity.owns(owner):
            yield from server.ordering.settle(_TOPIC_OF[command], name)
            mailbox = server.registry.mailbox(channel)
            if mailbox is not None and mailbox.tracked is not None and command in _ADDS:
                for ticket in mailbox.tracked.prepare(command, name):
                    with contextlib.suppress(TimeoutError):
                        yield from wait(ticket, self.config.timings.read_back)
            server.registry.change(command, name[:], channel)
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

    def _history(
        self, topic: Topic, key: str, limit: int, since: Since | None, newest_first: bool
    ) -> Steps[History]:
        """Read messages of the log; checks the arguments, with the errors of ``group_history``."""
        # Imported by the first call: most processes make none.
        from ..history.question import Question

        question = Question.of(self.config.prefix, topic, key, limit, since, newest_first)
        deadline = monotonic() + self.config.timings.history
        server = yield from self._server_to_ask(topic, deadline)
        return (yield from server.histories.ask(question, deadline))

    def _server_to_ask(self, topic: Topic, deadline: float) -> Steps[LayerServer]:
        """Return the server, once it can answer history queries."""
        while True:
            server = yield from self._present_server()
            if server.sender.writes_to(topic):
                return server
            try:
                yield from wait(server.start_sending(), max(0.0, deadline - monotonic()))
            except (BrokerUnavailable, TopicError, TimeoutError) as error:
                raise HistoryUnavailable(f"The history cannot be read. {error}") from error
            except LayerClosed:
                if not server.lifecycle.ended:
                    raise

    def _stream_history(
        self,
        stream: str,
        group: str | None,
        user_id: UserId | None,
        limit: int,
        since: Since | None,
        newest_first: bool,
    ) -> Steps[History]:
        """Read records of a stream; checks the arguments, as ``stream_history`` says."""
        # Imported by the first call: most processes make none.
        from ..history.question import Question

        self._require_read_stream(stream)
        if group is not None and user_id is not None:
            raise ValueError("Give a group or a user_id, not both.")
        address: tuple[Topic, str] | None = None
        if group is not None:
            self.require_valid_group_name(group)
            address = _SEND_GROUP, group[:]
        elif user_id is not None:
            address = _SEND_USER, user_key(user_id)
        topic, key = address or (Topic.SEND_ALL, "")
        question = Question.of(self.config.prefix, topic, key, limit, since, newest_first)
        deadline = monotonic() + self.config.timings.history
        server = yield from self._server_to_ask(topic, deadline)
        if server.streams is None:
            raise LayerClosed("The channel layer is closed.")
        of = server.streams.get(stream)
        return (yield from server.histories.ask_stream(of, address, question, deadline))

    def _require_read_stream(self, stream: str) -> None:
        settings = self.config.streams.get(stream)
        if settings is None or not settings.is_read:
            raise TopicError(
                f"There is no stream {stream!r} that servers read; name it in streams, with a "
                "group or a user."
            )

    def _group_history(
        self, group: str, limit: int, since: Since | None = None, newest_first: bool = False
    ) -> Steps[History]:
        self.require_valid_group_name(group)
        # Of a subclass of str [:] makes a plain copy.
        return self._history(_SEND_GROUP, group[:], limit, since, newest_first)

    def _user_history(
        self, user_id: UserId, limit: int, since: Since | None, newest_first: bool
    ) -> Steps[History]:
        return self._history(_SEND_USER, user_key(user_id), limit, since, newest_first)

    def _all_history(self, limit: int, since: Since | None, newest_first: bool) -> Steps[History]:
        return self._history(Topic.SEND_ALL, "", limit, since, newest_first)

    def _group_position(self, group: str) -> Steps[str]:
        return (yield from self._group_history(group, 0)).position

    def _mailbox_to_track(self, channel: str) -> tuple[LayerServer, Mailbox]:
        """Return the mailbox of an open channel of this process, for calls that need one.

        Raises:
            TypeError: If the name is not legal.
            ValueError: If no such channel is open here.
        """
        server = self._server
        mailbox = server.registry.mailbox(channel) if isinstance(channel, str) else None
        if mailbox is None:
            self.require_valid_channel_name(channel)
            raise ValueError(
                f"Channel {channel!r} is not open in this process; take a name from new_channel()."
            )
        return server, mailbox

    def _recover(
        self, channel: str, position: str, window: float | None, limit: int
    ) -> Steps[Recovery]:
        if not isinstance(position, str):
            raise TypeError(
                f"position must be a str, not {type(position).__name__}; without a position there "
                "is nothing to recover."
            )
        if window is not None:
            if isinstance(window, bool) or not isinstance(window, (int, float)):
                raise TypeError(f"window must be a number of seconds, or None, not {window!r}.")
            if not window >= 0:
                raise ValueError(f"window must be 0 seconds or more, not {window!r}.")
        # Imported by the first call: most processes recover no channel.
        from ..history.question import require_limit

        require_limit(limit, "a client that missed more loads its state again")
        server, mailbox = self._mailbox_to_track(channel)
        return server.recoveries.recover(mailbox, position, window, limit)

    def _steer_stream(
        self, action: str, stream: str, everywhere: bool, start: Start = "latest"
    ) -> Steps[None]:
        """Pause, resume or seek a stream; with the errors of ``seek_stream``."""
        self._require_read_stream(stream)
        if isinstance(start, datetime.datetime):
            if start.tzinfo is None:
                raise ValueError(f"start must be an aware datetime, not {start!r}.")
        elif not isinstance(start, datetime.timedelta) and start not in ("latest", "earliest"):
            raise ValueError(
                f"start must be 'latest', 'earliest', a timedelta or a datetime, not {start!r}."
            )
        # Imported late: only settings with streams load this module.
        from ..config.streams import place_at

        place = place_at(start, wall_clock())
        if everywhere:
            receiving = yield from self._receiving_server()
            told = place if isinstance(place, str) else place.timestamp()
            order = {"action": action, "stream": stream, "start": told}
            return (yield from receiving.commands.steer_streams(order))
        server = yield from self._present_server()
        if server.streams is None:
            return None
        try:
            yield from wait(server.streams.steer(action, stream, place), self.config.ack_timeout)
        except TimeoutError:
            raise GroupAckTimeout(
                f"{action} of the stream {stream!r} did not take effect within "
                f"{self.config.ack_timeout} s: {server.streams.describe()[stream]}"
            ) from None
        return None

    def _flush(self) -> Steps[None]:
        server = yield from self._sending_server(Topic.SEND_ALL)
        flush = partial(server.flush, self.config.expiry)
        yield from wait(in_thread("kafka-layer-flush", flush))

    def _close(self) -> Steps[None]:
        server = self._server
        if server.lifecycle.started:
            close = partial(server.close, self.config.timings.close)
            # The context tells the thread whether a receiver of a signal makes this call.
            within = contextvars.copy_context()
            yield from wait(in_thread("kafka-layer-close", partial(within.run, close)))
