"""Commands between servers and their answers.

They travel on ``group-mgmt`` and ``ack``, which a reader of their own reads, and on ``send-all``. A
command carries everything in its value, where encryption covers it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import new_event
from ..delivery.registry import Registry
from ..delivery.tickets import Steps, Ticket, wait
from ..exceptions import CommandFailed, GroupAckTimeout, LayerClosed, UnreadableRecord
from ..messages import Position
from ..observe.counters import Stats
from ..wire.codec import Codec
from ..wire.encryption import Encryption, ReplayGuard
from ..wire.headers import COMMAND
from ..wire.names import ServerName, parse_server_name
from ..wire.records import ProducerRecord, Record
from ..wire.topics import Topic, topic_name
from .clock import BrokerClock, TimedRecord
from .identity import Identity
from .requests import PendingRequest, Requests, RollCall
from .sending import Sender

__all__ = ["Commands"]

logger = logging.getLogger("kafka_layer")

# The names of commands on the wire.
_SELF_TEST = "hello"
_FLUSH = "flush"
_ROLL_CALL = "who"
_STREAM = "stream"

_EVERYBODY = "*"
"""The key of a record on ``group-mgmt`` that asks every server."""

_NOBODY = ServerName(0, "probe")
"""The address of records that no server reads."""


class Commands:
    """Sends one server's commands and carries out those of others; the sink of control records.

    The reading threads call ``deliver`` and ``on_broadcast``; any thread may call the rest.

    Args:
        config: The layer's settings.
        identity: Which server this is.
        registry: The channels that commands of other servers change.
        codec: Encodes and decodes the values.
        encryption: Encrypts and decrypts them.
        sender: Writes the records.
        clock: Tells the age of a command, and is set by commands that come back.
        stats: Counts commands that cannot be read or answered.
        partitions: Returns how many partitions a topic has.
        flush: Carries out a flush of another server; gets its timestamp.

    Attributes:
        tracking: Returns the figures of the tracked channels, for answers to roll calls; none where
            no channel is tracked.
        streams: Returns the figures of the streams, by name; none where no stream is read.
        report: Returns what the staff's page shows of this server, where a question asks for it.
        steer_stream: Carries out a command for a stream: gets its value, and returns the ticket of
            its end. Raises ValueError if it cannot be carried out.
    """

    def __init__(
        self,
        config: LayerConfig,
        identity: Identity,
        registry: Registry,
        codec: Codec,
        encryption: Encryption,
        sender: Sender,
        clock: BrokerClock,
        stats: Stats,
        partitions: Callable[[Topic], int],
        flush: Callable[[float], None],
    ) -> None:
        self._config = config
        self._identity = identity
        self._registry = registry
        self._codec = codec
        self._encryption = encryption
        self._guard = ReplayGuard(encryption, config.expiry)
        self._sender = sender
        self._clock = clock
        self._stats = stats
        self._partitions = partitions
        self._flush = flush
        self.tracking: Callable[[], Mapping[str, int]] = dict
        self.streams: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
        self.report: Callable[[], Mapping[str, Any]] = dict
        self.steer_stream: Callable[[Mapping[str, Any]], Ticket[None]] = _steer_none
        self._requests = Requests()
        self._closing = new_event()

    @property
    def pending(self) -> int:
        """How many requests wait for answers."""
        return len(self._requests)

    @property
    def silent(self) -> int:
        """How many servers are silent: they owe the answer to a request that was given up."""
        return self._requests.silent

    def close(self, error: LayerClosed) -> None:
        """Let open requests fail with ``error``, and end roll calls."""
        self._requests.close(error)
        self._closing.set()

    # Commands of this server

    def change(self, owner: ServerName, command: str, name: str, channel: str) -> Steps[None]:
        """Have the server that owns a channel change a membership. This server must be receiving.

        Args:
            owner: The server that owns the channel.
            command: As in ``Registry.change``, with ``name`` and ``channel``.
            name: The group or user.
            channel: The channel.

        A membership ends with its server. So a discard succeeds once it is written, even without an
        answer: the owner is gone, or carries it out later. Further discards for a silent owner wait
        for no answer, until one comes.

        Raises:
            GroupAckTimeout: If the owner does not answer within ``ack_timeout``; for a discard, if
                no broker took the command in that time.
            CommandFailed: If the owner cannot carry it out.
            ChannelFull: If the transport's queue is full.
            ProduceFailed: If the command cannot be written.
            LayerClosed: If this server closes before there is an answer.
        """
        within = self._config.ack_timeout
        value: dict[str, Any] = {
            "command": command,
            "name": name,
            "channel": channel,
            "reply_to": str(self._identity.require()),
        }
        discards = command.endswith("_discard")
        if not discards:
            # Later the owner drops the command, because the caller got an error.
            value["within"] = within
        request = self._requests.open(within, owner)
        value["id"] = request.number
        record = self._addressed(Topic.GROUP_MGMT, owner, value)
        try:
            written = self._request_timed(record, self._time(record), request)
            if discards:
                yield from self._wait_for_discard(request, written)
            else:
                yield from wait(request.answer, request.left)
        except TimeoutError:
            self._requests.give_up(request)
            raise GroupAckTimeout(
                f"Server {owner} did not acknowledge {command}({name!r}, {channel!r}) within "
                f"{within} s; it is gone, cut off or overloaded."
            ) from None
        finally:
            self._requests.forget(request)

    def _wait_for_discard(self, request: PendingRequest, written: Ticket[Position]) -> Steps[None]:
        """Wait for the answer while one may come, or else until the command is written."""
        if not self._requests.is_silent(request.server):
            # close() ends this wait with LayerClosed, and writes the queued command.
            with contextlib.suppress(TimeoutError, LayerClosed):
                yield from wait(request.answer, min(request.left, self._discard_patience()))
                return
        self._requests.give_up(request)
        yield from wait(written, request.left)

    def _discard_patience(self) -> float:
        """Return how long a discard waits for a server of which nothing is known.

        A crash or a deployment ends many servers at once, and a job that cleans up meets one after
        another. So each that falls silent makes the next one's time shorter, and they share it.
        """
        timings = self._config.timings
        fell_silent = self._requests.fell_silent_within(timings.silence)
        if not fell_silent:
            return self._config.ack_timeout
        return max(timings.discard_least, timings.discard / fell_silent)

    def self_test(self, timeout: float) -> Steps[float]:
        """Write a record to this server's own inbox and wait until it is read; sets the clock.

        Args:
            timeout: Seconds that this may take.

        Returns:
            The duration in seconds.

        Raises:
            TimeoutError: If the record did not come back in time.
            ChannelFull: If the transport's queue is full.
            ProduceFailed: If the broker did not take the record.
        """
        started = monotonic()
        me = self._identity.require()
        try:
            yield from self._ask(Topic.ACK, me, {"command": _SELF_TEST}, timeout)
        except TimeoutError:
            raise TimeoutError(
                f"a record that this server wrote to its own inbox did not come back within "
                f"{timeout:.1f} s"
            ) from None
        return monotonic() - started

    def roll_call(self, seconds: float) -> list[dict[str, Any]]:
        """Ask every server for its name and figures. This server must be receiving.

        Args:
            seconds: How long to wait for answers; this blocks for all of it.

        Returns:
            The answers that came in time: ``server``, ``channels``, ``groups``, ``users``,
            ``replaced``.

        Raises:
            ChannelFull: If the transport's queue is full.
            ProduceFailed: If the record cannot be written at all.
        """
        call = self._requests.open_roll_call()
        try:
            value = self._roll_call(call)
            self._request_of_all(value)
            # For servers of the first commits of 0.1, which do not know the key for everybody.
            self._sender.request(self._to_all(_ROLL_CALL, value))
            self._closing.wait(seconds)
        finally:
            self._requests.forget(call)
        return [told for _, told in sorted(call.servers.items())]

    @contextlib.contextmanager
    def asking_for_reports(self) -> Iterator[tuple[RollCall, Callable[[], None]]]:
        """Ask every server for its report, again and again. This server must be receiving.

        Returns:
            A context with the call that gets the answers, and the function that asks once; that
            does not block, and has the errors of ``roll_call``.
        """
        call = self._requests.open_roll_call()
        try:
            yield call, lambda: self._request_of_all({**self._roll_call(call), "report": True})
        finally:
            self._requests.forget(call)

    def _roll_call(self, call: RollCall) -> dict[str, Any]:
        return {
            "command": _ROLL_CALL,
            "id": call.number,
            "reply_to": str(self._identity.require()),
            "inboxes": self._partitions(Topic.GROUP_MGMT),
        }

    def steer_streams(self, order: Mapping[str, Any]) -> Steps[None]:
        """Have every server carry out a command for a stream, also this one, which must receive.

        Args:
            order: ``action`` and ``stream``, and ``start`` for a ``seek``.

        Raises:
            GroupAckTimeout: If a server that has the command does not carry it out within
                ``ack_timeout``.
            CommandFailed: If a server cannot carry it out.
            ChannelFull: If the transport's queue is full.
            ProduceFailed: If the command cannot be written.
            LayerClosed: If this server closes before there is an answer.
        """
        within = self._config.ack_timeout
        deadline = monotonic() + within
        broadcast = self._requests.open_broadcast()
        name = str(self._identity.require())
        value = {**order, "command": _STREAM, "id": broadcast.number, "reply_to": name}
        try:
            self._request_of_all({**value, "within": within})
            # The number of servers is not known. Those that run answer within this time.
            with contextlib.suppress(TimeoutError):
                yield from wait(broadcast.done, min(within, self._config.timings.roll_call))
            broadcast.expect_no_more()
            yield from wait(broadcast.done, max(0.0, deadline - monotonic()))
        except TimeoutError:
            raise GroupAckTimeout(
                f"Within {within} s these servers did not carry out {order['action']} of the "
                f"stream {order['stream']!r}: {', '.join(broadcast.under_way)}."
            ) from None
        finally:
            self._requests.forget(broadcast)
        errors = [
            f"{server}: {told['error']}"
            for server, told in broadcast.servers.items()
            if "error" in told
        ]
        if errors:
            raise CommandFailed("; ".join(errors))

    def flush_others(self) -> Ticket[Position]:
        """Tell every other server to flush.

        Returns:
            The ticket of the record's position.

        Raises:
            ChannelFull: If the transport's queue is full.
            ProduceFailed: If the record cannot be written at all.
        """
        value = {"command": _FLUSH, "server": str(self._identity.name)}
        return self._sender.request(self._to_all(_FLUSH, value))

    def is_flush(self, payload: bytes) -> bool:
        """Tell whether a command on ``send-all`` is a flush.

        Args:
            payload: The record's value, decrypted.

        Raises:
            UnreadableRecord: If it is no command.
        """
        return self._codec.decode(payload).get("command") == _FLUSH

    def probe_clock(self) -> Ticket[Position]:
        """Write a record that no server reads; its delivery report sets the clock.

        Errors as for ``flush_others``.
        """
        record = self._addressed(Topic.ACK, _NOBODY, {})
        return self._request_timed(record, self._time(record))

    def _ask(
        self, topic: Topic, to: ServerName, value: dict[str, Any], within: float
    ) -> Steps[None]:
        """Write a request and wait for its answer; raise ``TimeoutError`` without one."""
        request = self._requests.open(within, to)
        record = self._addressed(topic, to, {**value, "id": request.number})
        try:
            self._request_timed(record, self._time(record), request)
            yield from wait(request.answer, request.left)
        finally:
            self._requests.forget(request)

    def _time(self, record: ProducerRecord) -> TimedRecord:
        topic, _, _, _, _ = record
        return self._clock.time(topic_name(self._config.prefix, topic))

    def _request_timed(
        self, record: ProducerRecord, timed: TimedRecord, request: PendingRequest | None = None
    ) -> Ticket[Position]:
        def on_written(written: Ticket[Position]) -> None:
            error = written.error
            if error is None:
                timed.reported(written.result())
            elif request is not None:
                request.answer.fail(error)

        def on_answer(answer: Ticket[float]) -> None:
            # Only for a record of its own does this server know the round trip.
            topic, _, _, _, _ = record
            if answer.error is None and topic is Topic.ACK:
                timed.read(answer.result())

        if request is not None:
            request.answer.on_done(on_answer)
        ticket = self._sender.request(record)
        ticket.on_done(on_written)
        return ticket

    def _addressed(self, topic: Topic, to: ServerName, value: dict[str, Any]) -> ProducerRecord:
        return self._keyed(topic, str(to), to.partition, value)

    def _keyed(
        self, topic: Topic, key: str, partition: int, value: dict[str, Any]
    ) -> ProducerRecord:
        payload = self._encryption.encrypt(topic, key, self._codec.encode(value))
        return topic, key, payload, partition, ()

    def _request_of_all(self, value: dict[str, Any]) -> None:
        # To the inboxes, which servers read apart from messages: no answer waits for those.
        for partition in range(self._partitions(Topic.GROUP_MGMT)):
            self._sender.request(self._keyed(Topic.GROUP_MGMT, _EVERYBODY, partition, value))

    def _to_all(self, command: str, value: dict[str, Any]) -> ProducerRecord:
        # The header tells a command from a message; the value repeats it, under encryption.
        headers = [(COMMAND, command.encode())]
        payload = self._encryption.encrypt(Topic.SEND_ALL, None, self._codec.encode(value))
        return Topic.SEND_ALL, None, payload, None, headers

    # Commands of others

    def deliver(self, records: Sequence[Record]) -> None:
        """Carry out control records in order; the control reader's thread. Does not block."""
        for record in records:
            topic, raw_key, value, _, timestamp, _, _ = record
            try:
                key = (raw_key or b"").decode()
                if self._identity.is_key(key):
                    handle = self._on_answer if topic is Topic.ACK else self._on_command
                elif key == _EVERYBODY and topic is Topic.GROUP_MGMT:
                    handle = self._on_question_to_all
                else:
                    continue
                payload = self._guard.decrypt(topic, key, value, timestamp)
                handle(self._codec.decode(payload), timestamp)
            except UnreadableRecord as error:
                self._stats.dropped(error.cause, f"a record of {topic.value}: {error}")
            except UnicodeDecodeError:
                detail = f"a record of {topic.value}: its key {raw_key!r} is not UTF-8"
                self._stats.dropped("undecodable", detail)
            except Exception:
                self._stats.count("errors.routing")
                logger.exception("A record of %s was skipped", topic.value)

    def on_broadcast(self, key: str, payload: bytes, written: float) -> None:
        """Carry out a command on ``send-all``; the data reader's thread.

        Args:
            key: The record's key; commands have none.
            payload: Its value, decrypted.
            written: Its timestamp, in seconds since the epoch.

        Raises:
            UnreadableRecord: If it is no command.
        """
        value = self._codec.decode(payload)
        command = value.get("command")
        if command == _FLUSH and value.get("server") != str(self._identity.name):
            self._flush(written)
        elif command == _ROLL_CALL and not self._is_asked_in_inbox(value):
            self._on_roll_call(value)

    def _on_command(self, value: dict[str, Any], written: float) -> None:
        self._require_young(value, written)
        answer: dict[str, Any] = {"id": value.get("id")}
        try:
            self._registry.change(
                *(str(value.get(each)) for each in ("command", "name", "channel"))
            )
        except ValueError as error:
            answer["error"] = str(error)
        except Exception as error:
            # A bug, which deliver() counts and logs; answer, so that the asker need not wait.
            answer["error"] = repr(error)
            raise
        finally:
            self._reply(value, answer)

    def _require_young(self, value: dict[str, Any], written: float) -> None:
        within, age = value.get("within"), self._clock.now() - written
        if isinstance(within, (int, float)) and age > within:
            # The asker has given up.
            raise UnreadableRecord("expired", f"a command that came {age:.1f} s late: {value!r}")

    def _on_stream(self, value: dict[str, Any]) -> None:
        answer = {"id": value.get("id"), "server": str(self._identity.name)}
        try:
            done = self.steer_stream(value)
        except ValueError as error:
            self._reply(value, {**answer, "error": str(error)})
            return
        self._reply(value, {**answer, "taken": True})

        def on_done(done: Ticket[None]) -> None:
            error = done.error
            self._reply(value, answer if error is None else {**answer, "error": str(error)})

        done.on_done(on_done)

    def _on_answer(self, value: dict[str, Any], written: float) -> None:
        self._requests.answer(value.get("id"), value, written)

    def _on_question_to_all(self, value: dict[str, Any], written: float) -> None:
        if self._identity.name is None:
            return
        if value.get("command") == _ROLL_CALL:
            self._on_roll_call(value)
        elif value.get("command") == _STREAM:
            self._require_young(value, written)
            self._on_stream(value)

    def _is_asked_in_inbox(self, value: dict[str, Any]) -> bool:
        """Tell whether a roll call on ``send-all`` was also written to this server's inbox."""
        inboxes, name = value.get("inboxes"), self._identity.name
        return isinstance(inboxes, int) and name is not None and name.partition < inboxes

    def _on_roll_call(self, value: dict[str, Any]) -> None:
        answer = {
            "id": value.get("id"),
            "server": str(self._identity.name),
            "channels": len(self._registry.open_channels()),
            "groups": len(self._registry.groups),
            "users": len(self._registry.users),
            "replaced": sum(self._stats.replaced().values()),
        }
        tracking = self.tracking()
        if tracking:
            counts = self._stats.snapshot()
            answer["recovered"] = counts.get("recovered", 0)
            answer["not_recovered"] = sum(self._stats.by_name("not_recovered").values())
            answer.update(tracking)
        streams = self.streams()
        if streams:
            answer["streams"] = {name: dict(told) for name, told in streams.items()}
        if value.get("report"):
            answer["report"] = self.report()
        self._reply(value, answer)

    def _reply(self, value: dict[str, Any], answer: dict[str, Any]) -> None:
        asker = parse_server_name(str(value.get("reply_to")))
        if asker is None:
            raise UnreadableRecord("undecodable", f"a command without a reply_to: {value!r}")
        try:
            self._sender.publish(self._addressed(Topic.ACK, asker, answer))
        except Exception as error:
            self._stats.dropped("answer", f"the answer to {asker}: {error}")


def _steer_none(value: Mapping[str, Any]) -> Ticket[None]:
    raise ValueError(f"this server reads no stream {value.get('stream')!r}")
