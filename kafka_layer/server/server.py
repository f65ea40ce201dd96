"""A server: one running layer, from its first use to its end.

It has a name, an inbox, channels and a backplane, and lives once: after ``close()`` or in a forked
child the layer takes a new one. Nothing here blocks an event loop: what has to wait gives a
``concurrent.futures.Future``.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from channels.exceptions import ChannelFull, MessageTooLarge

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..delivery.mailbox import Envelope, Mailbox
from ..delivery.registry import Registry
from ..delivery.tickets import Ticket
from ..exceptions import BrokerUnavailable, KafkaLayerError, ProduceFailed, UnreadableRecord
from ..jobs.ack import AtMostOnce, JobInHand
from ..jobs.channel import WorkChannel
from ..messages import Position
from ..observe.counters import Stats
from ..stats import LayerStats
from ..transport import Backplane, QueueFull
from ..wire.codec import Codec
from ..wire.encryption import Encryption, ReplayGuard
from ..wire.names import ServerName, owner_of
from ..wire.records import ProducerRecord
from ..wire.topics import Topic, WorkTopic, topic_name
from .clock import BrokerClock, TimedRecord
from .commands import Commands, Question
from .router import Router, channels_by_name, make_room

__all__ = ["Server", "abandon_all", "close_all"]

logger = logging.getLogger("kafka_layer")

T = TypeVar("T")

_UNDO_TIMEOUT = 1.0
_CLOCK_TIMEOUT = 1.0

# Room for the key, the headers and what Kafka adds to a record and its batch.
_RECORD_OVERHEAD = 1024

_running: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """One server; every method may be called from any thread unless it says otherwise.

    Args:
        config: The layer's settings.
        codec: Encodes and decodes its messages.
        encryption: Encrypts and decrypts them.
        backplane: Makes the backplane; gets the counters to use.
    """

    def __init__(
        self,
        config: LayerConfig,
        codec: Codec,
        encryption: Encryption,
        backplane: Callable[[Stats], Backplane],
    ) -> None:
        self.config = config
        self.codec = codec
        self._encryption = encryption
        self.stats = Stats(config.prefix, config.timings)
        self.registry = Registry(config)
        self._clock = BrokerClock()
        self.commands = Commands(
            # Servers of a project understand each other whatever serializer each of them has.
            Codec(config.serializer_format),
            encryption,
            self.registry,
            self._clock,
            self._answer,
            self._flush,
        )
        self.sending = False
        self.receiving = False
        self._router = Router(config, self.registry, encryption, self.stats, self._clock)
        # Commands and acknowledgements are read by a thread of their own.
        self._control = Router(config, self.registry, encryption, self.stats, self._clock)
        self._register_topics()
        self._backplane = backplane(self.stats)
        # The largest value of each topic that can be written to.
        self._limits: dict[Topic | WorkTopic, int] = {t: self._limit_of(t) for t in Topic}
        self._lock = threading.Lock()
        self._starts: dict[object, Future[Any]] = {}
        self._work_channels: dict[str, WorkChannel] = {}
        self._stopped = threading.Event()
        self._closed = threading.Event()

    @property
    def started(self) -> bool:
        """Whether anything was started that has to be closed."""
        return bool(self._starts)

    @property
    def name(self) -> ServerName:
        """The server's name; there is one once it receives."""
        return self.commands.name

    def owns(self, owner: ServerName) -> bool:
        """Tell whether ``owner``, the server in a channel's name, is this one."""
        return owner == self.commands.server

    def sends_to(self, topic: Topic | WorkTopic) -> bool:
        """Tell whether records for ``topic`` can be published already."""
        return self.sending and topic in self._limits

    def start_sending(self) -> Future[None]:
        """Get ready to write, in a thread; callers at the same time share one start."""
        return self._start("sending", self._open_sender)

    def start_receiving(self) -> Future[None]:
        """Get ready to write and to read, in a thread; callers at the same time share one start."""
        return self._start("receiving", self._open_receiver)

    def start_sending_to(self, topic: Topic | WorkTopic) -> Future[None]:
        """Get ready to write to a topic, in a thread; callers at the same time share one start."""
        if isinstance(topic, WorkTopic):
            return self._start(("sending", topic), lambda: self._open_work_sender(topic))
        return self.start_sending()

    def start_working(self, topic: WorkTopic) -> Future[Mailbox]:
        """Start to serve the receives of a worker channel, in a thread; callers share one start.

        Returns:
            What the receives wait on, to come.
        """
        return self._start(("working", topic), lambda: self._open_worker(topic))

    def mailbox(self, channel: str) -> Mailbox | None:
        """Return what the receives of a channel wait on, or None if it is not open here."""
        mailbox = self.registry.mailbox(channel)
        if mailbox is None and channel in self._work_channels:
            return self._work_channels[channel].mailbox
        return mailbox

    async def receive_job(self, channel: str) -> tuple[dict[str, Any], JobInHand]:
        """Wait for a job of a worker channel that is open here; see ``WorkChannel.receive``."""
        return await self._work_channels[channel].receive(self.read)

    def publish(self, record: ProducerRecord, ticket: Ticket[Position] | None = None) -> None:
        """Hand a record to the backplane; never blocks. The server must be sending.

        Args:
            record: What to write.
            ticket: Gets the outcome.

        Raises:
            MessageTooLarge: If the record is larger than its topic allows.
            QueueFull: If the backplane's queue is full.
            ProduceFailed: If the record cannot be written at all.
        """
        topic, _, value, _, _ = record
        if len(value) > self._limits[topic]:
            raise self._too_large(topic, value)
        self._backplane.produce(record, ticket)

    def try_publish(self, record: ProducerRecord) -> bool:
        """Do what ``publish`` does, where nothing has to be waited for.

        Returns:
            Whether that is so: the server sends to the topic already, the queue is not full, and
            nobody wants the position (``await_produce``).

        Raises:
            MessageTooLarge, ProduceFailed: As for ``publish``.
        """
        # Each call that a lone send makes costs it 2 us, so publish() stands here once more.
        topic, _, value, _, _ = record
        limit = self._limits.get(topic)
        if limit is None or not self.sending or self.config.await_produce:
            return False
        if len(value) > limit:
            raise self._too_large(topic, value)
        try:
            self._backplane.produce(record)
        except QueueFull:
            return False
        return True

    def publish_wanted(self, record: ProducerRecord) -> Ticket[Position]:
        """Do what ``publish`` does, and return the record's position to come."""
        ticket: Ticket[Position] = Ticket()
        self.publish(record, ticket)
        return ticket

    def ask(self, owner: ServerName, command: str, name: str, channel: str) -> Question:
        """Send a command to the server that owns a channel. This server must be receiving.

        Args:
            owner: The server that is asked.
            command: As in ``Registry.change``, with ``name`` and ``channel``.
            name: The group or user.
            channel: The channel.

        Returns:
            The question; its answer is an exception if the command could not be written.

        Raises:
            QueueFull: If the backplane's queue is full.
            ProduceFailed: If the record cannot be written at all.
        """
        return self._send_question(
            self.commands.ask(owner, command, name, channel, self.config.ack_timeout)
        )

    def roll_call(self, seconds: float) -> list[dict[str, Any]]:
        """Ask every server to tell its name and what is on it. This server must be receiving.

        Args:
            seconds: How long to wait for answers; blocks all of it.

        Returns:
            What each told that answered in time: ``server``, ``channels``, ``groups``, ``users``.

        Raises:
            QueueFull: If the backplane's queue is full.
            ProduceFailed: If the record cannot be written at all.
        """
        call = self.commands.roll_call()
        try:
            self.publish(call.record)
            self._stopped.wait(seconds)
        finally:
            call.forget()
        return sorted(call.servers, key=lambda told: str(told["server"]))

    def round_trip(self, timeout: float) -> float:
        """Write a record to this server's own inbox and wait until it is read.

        Args:
            timeout: Seconds that this may block.

        Returns:
            The seconds that it took.

        Raises:
            TimeoutError: If it did not come back in time.
            ProduceFailed: If it could not be written.
        """
        started = monotonic()
        self._send_question(self.commands.hello()).result_before(started + timeout)
        return monotonic() - started

    def put(self, mailbox: Mailbox, payload: bytes) -> None:
        """Deliver a message to a channel of this server without a detour.

        Raises:
            ChannelFull: If the channel holds as many messages as it may.
            MessageTooLarge: If it is larger than it might be for a channel of another server.
        """
        if len(payload) > self._limits[Topic.SEND_CONN]:
            raise self._too_large(Topic.SEND_CONN, payload)
        envelope = Envelope(payload, monotonic() + self.config.expiry)
        if not mailbox.put(envelope) and not (
            make_room(mailbox, self.stats) and mailbox.put(envelope)
        ):
            if mailbox.closed:
                # Forgotten after it was looked up: nobody could receive the message.
                self.stats.count("dropped.closed")
                return
            self.stats.count("refused.full")
            raise ChannelFull(mailbox.channel)
        self.registry.wakeups.flush()
        self.stats.count("delivered")

    def read(self, mailbox: Mailbox, envelope: Envelope) -> dict[str, Any] | None:
        """Decode a message for one receiver, which gets its own copy.

        Returns:
            The message, or None if it expired or cannot be decoded; that is counted.
        """
        mailbox.last_seen = now = monotonic()
        if envelope.deadline < now:
            self.stats.dropped("expired", f"it waited too long in channel {mailbox.channel}")
            return None
        try:
            return self.codec.decode(envelope.payload)
        except UnreadableRecord as error:
            if not envelope.unreadable:
                envelope.unreadable = True
                self.stats.dropped(error.cause, str(error))
            return None

    def describe(self) -> LayerStats:
        """Return what the server did and how it is; no I/O."""
        health = self._backplane.health()
        counts = self.stats.snapshot()
        state: Literal["connected", "disconnected"] = (
            "connected" if health.connected else "disconnected"
        )
        mailboxes = self.registry.open_channels()
        return LayerStats(
            server=None if self.commands.server is None else str(self.commands.server),
            state=state if self.started else "idle",
            sent=counts.get("sent", 0),
            delivered=counts.get("delivered", 0),
            failed=counts.get("failed", 0),
            dropped=self.stats.by_name("dropped"),
            refused=self.stats.by_name("refused"),
            errors=self.stats.by_name("errors"),
            replaced=self.stats.replaced(),
            reconnects=counts.get("reconnects", 0),
            channels=len(mailboxes),
            groups=len(self.registry.groups),
            users=len(self.registry.users),
            waiting=sum(map(len, mailboxes)),
            queued=health.queued,
            lag=health.lag,
            latency_p50=self.stats.percentile(0.5),
            latency_p99=self.stats.percentile(0.99),
        )

    def flush(self, timeout: float) -> None:
        """Drop everything, here, on the other servers and in the worker channels; blocks.

        Args:
            timeout: Seconds that this may take.

        Raises:
            ProduceFailed: If the broker does not take the record that tells the others.
            TopicError: If it refuses to clear the worker channels.
        """
        deadline = monotonic() + timeout
        # What was sent before must be written before: the flush's timestamp is the border.
        self._backplane.settle(timeout)
        self._backplane.clear_work(max(0.1, deadline - monotonic()))
        flushed = self.publish_wanted(self.commands.flush()).result()
        self._flush(flushed.timestamp)
        # The broker's clock counts milliseconds: what is sent next must not count as older.
        self._stopped.wait(0.002)

    def close(self, timeout: float) -> None:
        """Write what is queued and stop; blocks for at most ``timeout`` seconds. Idempotent."""
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
        deadline = monotonic() + timeout
        self.sending = self.receiving = False
        try:
            self._backplane.close(timeout)
            # Before a thread that waits for the close ends the process.
            least = min(timeout, self.config.timings.close_signals)
            self.stats.close(max(least, deadline - monotonic()))
        finally:
            self._closed.set()
            _running.discard(self)

    def join(self, timeout: float) -> None:
        """Wait until it is closed, by whichever thread; at most ``timeout`` seconds."""
        self._closed.wait(timeout)

    def abandon(self) -> None:
        """Let go of everything without touching it, in a forked child."""
        # A new one: a thread of the parent may have held the lock of the old one at the fork.
        self._stopped = threading.Event()
        self._stopped.set()
        _running.discard(self)
        self._backplane.abandon()

    def _register_topics(self) -> None:
        registry, handlers = self.registry, self.commands.handlers
        by_name = channels_by_name(registry, self.stats, self._is_mine)
        self._router.register(Topic.SEND_CONN, by_name)
        self._router.register(Topic.SEND_GROUP, registry.groups.members)
        self._router.register(Topic.SEND_USER, registry.users.members)
        self._router.register(
            Topic.SEND_ALL, lambda _: registry.audience(), handlers[Topic.SEND_ALL]
        )
        for topic in (Topic.GROUP_MGMT, Topic.ACK):
            self._control.register(topic, None, handlers[topic])

    def _open_sender(self) -> None:
        self._backplane.open_sender(self.config.timings.start)
        _running.add(self)
        self._once("upkeep", self._upkeep)
        self.sending = True

    def _open_receiver(self) -> None:
        deadline = monotonic() + self.config.timings.start
        self.start_sending().result()
        partition = self._backplane.open_receiver(
            self._router, self._control, deadline - monotonic()
        )
        if self.commands.server is None:
            self.commands.server = ServerName.new(partition)
        try:
            # It proves that writing and reading work, and warms both clients up.
            self.round_trip(deadline - monotonic())
        except TimeoutError:
            raise BrokerUnavailable(
                f"{self.config.bootstrap_servers} did not hand a record back within "
                f"{self.config.timings.start} s that this server wrote to its own inbox; the "
                "broker is overloaded, or cut off."
            ) from None
        self.receiving = True

    def _open_work_sender(self, topic: WorkTopic) -> None:
        deadline = monotonic() + self.config.timings.start
        self.start_sending().result()
        self._backplane.open_work_topic(
            topic, max(self.config.timings.start_step, deadline - monotonic())
        )
        self._limits[topic] = self._limit_of(topic)

    def _open_worker(self, topic: WorkTopic) -> Mailbox:
        deadline = monotonic() + self.config.timings.start
        self.start_sending().result()
        # Before the first message's age is judged: this machine's clock may be wrong.
        with contextlib.suppress(TimeoutError, ProduceFailed):
            self._probe_clock().result(_CLOCK_TIMEOUT)
        channel = WorkChannel(
            topic,
            self.config.worker_settings(topic.channel),
            ReplayGuard(self._encryption, self.config.expiry),
            self.stats,
            self._clock,
            self.registry.wakeups,
            AtMostOnce(self.stats),
        )
        self._backplane.open_work_channel(channel, deadline - monotonic())
        self._work_channels[topic.channel] = channel
        return channel.mailbox

    def _send_question(self, question: Question) -> Question:
        timed = self._timed(question.record)
        question.answer.add_done_callback(
            lambda answer: None if answer.exception() else timed.read(answer.result())
        )

        def fail(written: Ticket[Position]) -> None:
            if isinstance(written.error, Exception):
                question.fail(written.error)

        try:
            self._publish_timed(question.record, timed).on_done(fail)
        except BaseException:
            question.forget()
            raise
        return question

    def _probe_clock(self) -> Ticket[Position]:
        """Write a record that nobody reads; its delivery report sets the clock."""
        record = self.commands.probe()
        return self._publish_timed(record, self._timed(record))

    def _publish_timed(self, record: ProducerRecord, timed: TimedRecord) -> Ticket[Position]:
        ticket: Ticket[Position] = Ticket()
        ticket.on_done(
            lambda written: timed.reported(written.result()) if written.error is None else None
        )
        self.publish(record, ticket)
        return ticket

    def _timed(self, record: ProducerRecord) -> TimedRecord:
        return self._clock.time(topic_name(self.config.prefix, record[0]))

    def _start(self, what: object, function: Callable[[], T]) -> Future[T]:
        """Open something once, in a thread, so that none of it outlives a close meanwhile."""

        def open_or_undo() -> T:
            try:
                opened = function()
            except BaseException:
                if not self._stopped.is_set():
                    raise
            else:
                if not self._stopped.is_set():
                    return opened
            # close() did not see what was opened beside it. It goes first: it also writes what
            # is queued.
            self._closed.wait()
            self.sending = self.receiving = False
            _running.discard(self)
            self._backplane.close(_UNDO_TIMEOUT)
            raise _closed_meanwhile()

        return self._once(what, open_or_undo)

    def _once(self, what: object, function: Callable[[], T]) -> Future[T]:
        """Run something once, in a thread; again only if it failed."""
        with self._lock:
            if self._stopped.is_set():
                return _failed(_closed_meanwhile())
            start = self._starts.get(what)
            if start is None or (start.done() and start.exception() is not None):
                start = self._starts[what] = _in_thread(_plain_name(what), function)
            return start

    def _limit_of(self, topic: Topic | WorkTopic) -> int:
        return self.config.max_message_bytes(topic) - _RECORD_OVERHEAD

    def _is_mine(self, channel: str) -> bool:
        owner = owner_of(channel)
        return owner is not None and self.owns(owner)

    def _answer(self, record: ProducerRecord) -> None:
        try:
            self.publish(record)
        except Exception as error:
            _, asker, _, _, _ = record
            self.stats.dropped("answer", f"the answer to {asker}: {error}")

    def _flush(self, timestamp: float) -> None:
        until = self._router.forget_until(timestamp)
        dropped = self.registry.clear()
        dropped += sum(each.forget_until(until) for each in list(self._work_channels.values()))
        if dropped:
            self.stats.count("dropped.flushed", dropped)

    def _too_large(self, topic: Topic | WorkTopic, value: bytes) -> Exception:
        return MessageTooLarge(  # type: ignore[no-any-return, unused-ignore]
            f"A message of {len(value)} bytes is larger than {topic.value} allows "
            f"({self._limits[topic]} bytes); raise its max.message.bytes, or send a reference."
        )

    def _upkeep(self) -> None:
        next_refresh = monotonic() + self.config.timings.refresh
        while not self._stopped.wait(self.config.timings.upkeep):
            try:
                left = self.registry.sweep()
                if left:
                    self.stats.count("dropped.closed", left)
                self.stats.tick()
                self._backplane.check()
                health = self._backplane.health()
                if monotonic() >= next_refresh or health.doubtful:
                    next_refresh = monotonic() + self.config.timings.refresh
                    if not self._refresh():
                        next_refresh = monotonic()
            except Exception:
                if not self._stopped.is_set():
                    self.stats.count("errors.upkeep")
                    logger.exception("The upkeep of the channel layer failed; it goes on")

    def _refresh(self) -> bool:
        """Look for changes that nobody announces; False where no broker answers."""
        try:
            self._backplane.refresh()
        except BrokerUnavailable:
            return False
        # Who only sends judges no message's age, and may have no right to write this one.
        if self.receiving and not self._clock.append_times_reported:
            self._send_question(self.commands.hello())
        elif self.receiving or self._work_channels:
            self._probe_clock()
        return True


def close_all(timeout: float) -> None:
    """Close every server of this process within ``timeout`` seconds; registered with ``atexit``."""
    deadline = monotonic() + timeout
    for server in list(_running):
        server.close(max(0.1, deadline - monotonic()))
        # A thread that closes one already would end with the process, and so what it writes.
        server.join(max(0.1, deadline - monotonic()))


def abandon_all() -> None:
    """Let go of every server, in a forked child: also those that a thread of the parent closes."""
    for server in list(_running):
        server.abandon()


# Without it a process that sends and ends would lose what it sent. No thread can be started here.
atexit.register(close_all, 5.0)


def _closed_meanwhile() -> KafkaLayerError:
    return KafkaLayerError("The channel layer was closed meanwhile.")


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _plain_name(what: object) -> str:
    kind = what[0] if isinstance(what, tuple) else what
    return {"upkeep": "upkeep", "working": "start-jobs"}.get(str(kind), f"start-{kind}")


def _in_thread(name: str, function: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    # Now nobody can cancel it: the other callers that wait for it would be cancelled, too.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f"kafka-layer-{name}", daemon=True).start()
    return future
