"""A server: one running layer, from its first use to its end.

It has a name, an inbox, channels and a transport, and lives once: after ``close()`` or in a forked
child the layer takes a new server. Nothing here blocks an event loop: a call that waits returns a
``Ticket``, or is a procedure that yields tickets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from channels.exceptions import ChannelFull

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..delivery.mailbox import Envelope, Mailbox, Read
from ..delivery.registry import Registry
from ..delivery.tickets import Ticket, in_thread
from ..exceptions import BrokerUnavailable, UnreadableRecord
from ..observe.counters import Stats
from ..wire.codec import Codec
from ..wire.encryption import Encryption
from ..wire.headers import Headers
from ..wire.topics import Topic
from . import process
from .clock import BrokerClock
from .closing import Closing
from .commands import Commands
from .expiry import Expiry
from .identity import Identity
from .lifecycle import Lifecycle, State, closed_meanwhile
from .ordering import Ordering
from .refresh import Refresh
from .round_trips import RoundTrips
from .router import Router, channels_by_name
from .sending import Sender
from .upkeep import Upkeep

if TYPE_CHECKING:
    from ..stats import LayerStats
    from ..transport import Backplane
    from .feature import Feature

__all__ = ["Server"]

T = TypeVar("T")
logger = logging.getLogger("kafka_layer")

F = TypeVar("F", bound="Feature")


class Server:
    """One server; every method may be called from any thread unless it says otherwise.

    Args:
        config: The layer's settings.
        codec: Encodes and decodes its messages.
        encryption: Encrypts and decrypts them.
        transport: Makes the backplane that carries its records; gets the counters.

    Attributes:
        identity: Which server this is.
        lifecycle: Its state.
        receiving: Whether it reads records.
        reads_since: The broker's time, in seconds, since which it has read all records; infinite
            before.
        sender: Passes records to the transport.
        commands: Asks other servers, and answers them.
        registry: The channels; none after a close.
        router: Delivers records to their channels.
        clock: The broker's time.
        expiry: Judges how old a message may be.
        round_trips: Tells when it last wrote a record and read it again.
        decode: Makes a message of an envelope's payload; raises UnreadableRecord.
        ordering: Reads this process's own messages back before a membership changes.
        transport: Carries its records.
        stats: Counts, logs and signals.
        sender_class: The class of ``sender``.
    """

    sender_class: ClassVar[type[Sender]] = Sender

    def __init__(
        self,
        config: LayerConfig,
        codec: Codec,
        encryption: Encryption,
        transport: Callable[[Stats], Backplane],
    ) -> None:
        self.config = config
        self.codec = codec
        self.encryption = encryption
        self.stats = Stats(config.prefix, config.timings)
        self.registry = Registry(config)
        self.clock = BrokerClock()
        self.expiry = Expiry(config.expiry, self.stats, self.clock, self.stats.arrived)
        self.identity = Identity()
        self.transport = transport(self.stats)
        self.sender = self.sender_class(config, self.transport, self.stats)
        self.receiving = False
        self.reads_since = float("inf")
        self.lifecycle = Lifecycle(self._on_state)
        self.commands = Commands(
            config,
            self.identity,
            self.registry,
            # Not the project's own serializer, which other servers may not have.
            Codec(config.serializer_format),
            encryption,
            self.sender,
            self.clock,
            self.stats,
            self.transport.partitions,
            self._drop_until,
        )
        self.round_trips = RoundTrips(self.commands.self_test, config.timings)
        self.decode: Callable[[Any], dict[str, Any]] = codec.decode
        self.router = Router(config, self.registry, encryption, self.stats, self.expiry)
        self._register_topics()
        self.ordering = Ordering(
            self.identity, self.sender, self.transport, self.router, config.timings
        )
        self._features: list[Feature] = []
        self._attach_features()
        self._refresh = Refresh(
            self.transport,
            self.commands,
            self.clock,
            self.lifecycle,
            self._features,
            config.timings,
        )
        tasks = (
            self._sweep,
            self.stats.tick,
            self.ordering.tick,
            self.transport.check,
            self._close_if_unreachable,
            self._refresh.run_if_due,
        )
        self._upkeep = Upkeep(config.timings.upkeep, tasks, self.stats)
        self._closing = Closing(
            self.lifecycle,
            config.timings,
            self._upkeep,
            self.commands,
            self.ordering,
            self.registry,
            self.transport,
            self._features,
            self.stats,
        )
        process.add(self)

    def attach(self, feature: Callable[[Server], F]) -> F:
        """Add a feature; this server flushes and closes it.

        Args:
            feature: Makes the feature; gets the server.
        """
        attached = feature(self)
        self._features.append(attached)
        return attached

    def _attach_features(self) -> None:
        """Attach the features that each server of a kind has; the constructor calls this."""

    # Starts

    def start_sending(self) -> Ticket[None]:
        """Get ready to write, in a thread; callers at the same time share one start."""
        return self.start("sending", "kafka-layer-start-sending", self._open_sender)

    def start_receiving(self) -> Ticket[None]:
        """Get ready to write and to read, in a thread; callers at the same time share one start."""
        return self.start("receiving", "kafka-layer-start-receiving", self._open_receiver)

    def start(self, what: object, thread_name: str, function: Callable[[], T]) -> Ticket[T]:
        """Run a start once, in a thread; ``close`` undoes its work.

        Args:
            what: The key of the start. Callers with one key share one run.
            thread_name: The name of the thread.
            function: Runs the start; blocks.

        Returns:
            The ticket of its result.
        """
        process.close_when_child_ends(self.config.timings.close)
        process.close_at_sigterm(self.config.timings.close)
        return self.lifecycle.once(what, thread_name, self._closing.guard(function))

    # Messages within the process

    def deliver_locally(
        self, mailbox: Mailbox, payload: bytes, headers: Headers | tuple[()] = ()
    ) -> None:
        """Deliver a message to a channel of this server, without Kafka.

        Args:
            mailbox: The channel's.
            payload: The message.
            headers: As a record of it would have.

        Raises:
            ChannelFull: If the channel holds ``capacity`` messages.
            MessageTooLarge: If it is larger than a message to another server may be.
        """
        # In place: a call of require_size() took a fifth of the time of such a send.
        if len(payload) > self.sender.channel_limit:
            self.sender.require_size(Topic.SEND_CONN, payload)
        envelope = Envelope(payload, monotonic() + self.expiry.seconds)
        if headers:
            envelope.trace = headers
        if not mailbox.put(envelope) and not self._put_into_full(mailbox, envelope):
            if mailbox.closed:
                # The channel was forgotten after its look-up: nobody can receive on it.
                self.stats.count("dropped.closed")
                return
            self.stats.count("refused.full")
            raise ChannelFull(mailbox.channel)
        self.registry.wakeups.flush()
        self.stats.count("delivered.channel")

    def _put_into_full(self, mailbox: Mailbox, envelope: Envelope) -> bool:
        if mailbox.tracked is not None:
            return mailbox.tracked.pass_by(envelope)
        return self.expiry.make_room(mailbox) and mailbox.put(envelope)

    def decode_for_receive(self, mailbox: Mailbox, envelope: Envelope) -> dict[str, Any] | None:
        """Decode a message for one receiver, which gets its own copy.

        Returns:
            The message; None, counted, if it expired or cannot be decoded.
        """
        mailbox.last_seen = now = monotonic()
        if envelope.deadline < now:
            self.expiry.count_late(mailbox)
            return None
        try:
            return self.decode(envelope.payload)
        except UnreadableRecord as error:
            self.count_unreadable(envelope, error)
            return None

    def count_unreadable(self, envelope: Envelope, error: UnreadableRecord) -> None:
        """Count a message that cannot be decoded: once, however many channels receive it."""
        if not envelope.unreadable:
            envelope.unreadable = True
            self.stats.dropped(error.cause, str(error))

    # Facts and flush

    def describe(self) -> LayerStats:
        """Return the counters and the state; no I/O. Empty after a close."""
        # Imported by the first call: most processes make none.
        from ..stats import LayerStats

        if self.lifecycle.ended:
            return LayerStats()
        health = self.transport.health()
        counts = self.stats.snapshot()
        state: Literal["connected", "disconnected"] = (
            "connected" if health.connected else "disconnected"
        )
        mailboxes = self.registry.open_channels()
        name = self.identity.name
        ages = self.stats.ages
        tracking = self.commands.tracking()
        return LayerStats(
            server=None if name is None else str(name),
            state=state if self.lifecycle.started else "idle",
            sent=counts.get("sent", 0),
            delivered=counts.get("delivered", 0),
            failed=counts.get("failed", 0),
            dropped=self.stats.by_name("dropped"),
            refused=self.stats.by_name("refused"),
            errors=self.stats.by_name("errors"),
            replaced=self.stats.replaced(),
            recovered=counts.get("recovered", 0),
            not_recovered=self.stats.by_name("not_recovered"),
            behind=tracking.get("behind", 0),
            recent_bytes=tracking.get("recent_bytes", 0),
            reconnects=counts.get("reconnects", 0),
            channels=len(mailboxes),
            groups=len(self.registry.groups),
            users=len(self.registry.users),
            waiting=sum(map(len, mailboxes)),
            streams=self.commands.streams(),
            queued=health.queued,
            lag=health.lag,
            latency_p50=self.stats.percentile(0.5),
            latency_p99=self.stats.percentile(0.99),
            sent_by_kind=self.stats.sent_by_kind(),
            delivered_by_kind=self.stats.by_name("delivered"),
            lag_by_topic=health.lags,
            recovered_messages=counts.get("recovered_messages", 0),
            jobs=self._ended_jobs(),
            ages=None if ages is None else ages.ages(),
            since=self.stats.since,
        )

    @property
    def dead_threads(self) -> list[str]:
        """The names of its threads that have ended although they should run."""
        if self.lifecycle.ended:
            return []
        upkeep = ["kafka-layer-upkeep"] if self._upkeep.died else []
        return [*upkeep, *self.transport.health().dead]

    def measure(self) -> None:
        """Have ``describe`` tell the ages of messages, too, from now on. Idempotent."""
        with self.lifecycle.lock:
            if self.stats.ages is None:
                self.stats.measure_ages(self.expiry.seconds)
                self.decode_for_receive = self.noting_age(  # type: ignore[assignment,method-assign]
                    self.decode_for_receive
                )

    def noting_age(self, read: Read) -> Read:
        """Return a function that does what ``read`` does, and notes how old the message is.

        Not of jobs, which may well wait, nor of records of streams, which are as old as their
        producers say.
        """
        note = self.stats.measure_ages(self.expiry.seconds).note

        def read_and_note(mailbox: Mailbox, envelope: Envelope) -> dict[str, Any] | None:
            message = read(mailbox, envelope)
            if message is not None and type(envelope.topic) is Topic:
                # It expires ``expiry`` seconds after the broker took it.
                note(mailbox.last_seen - envelope.deadline)
            return message

        return read_and_note

    def flush(self, timeout: float) -> None:
        """Drop everything, here, on the other servers and in the worker channels; blocks.

        Args:
            timeout: Seconds that this may take.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            ProduceFailed: If the broker does not take the record for the other servers.
            TopicError: If the broker refuses to clear the worker channels.
        """
        deadline = monotonic() + timeout
        # Every message so far must be in the log first: receivers drop records older than the
        # flush.
        if not self.transport.settle(timeout):
            raise BrokerUnavailable(
                f"flush() came to an end after {timeout} s and nothing was dropped: records that "
                "were sent before it are still on their way to the broker."
            )
        self.transport.clear_work(max(0.1, deadline - monotonic()))
        flushed = self.commands.flush_others()
        try:
            until = flushed.result(max(0.1, deadline - monotonic())).timestamp
        except TimeoutError:
            raise BrokerUnavailable(
                f"The broker did not acknowledge the record of flush() within {timeout} s; it "
                "cleared the worker channels, and other servers flush if the record arrives."
            ) from None
        self._drop_until(until)
        # The broker's clock counts milliseconds, and the next message must be younger.
        self._closing.wait(0.002)

    # The end

    def close(self, timeout: float) -> None:
        """Write queued records and stop; see ``Closing.close``."""
        self._closing.close(timeout)

    def require_no_close_behind_caller(self) -> None:
        """Raise ``LayerClosed`` where waiting for the end of a close would never end."""
        if not self.lifecycle.closed.done and self._closing.waits_for_caller:
            raise closed_meanwhile()

    def close_soon(self) -> None:
        """Close in a thread, for a layer that was garbage-collected."""
        if not self.lifecycle.started or self.lifecycle.state is State.CLOSED:
            process.discard(self)
        elif not self.lifecycle.ended:
            timeout = self.config.timings.close
            in_thread("kafka-layer-close", lambda: self.close(timeout))

    def abandon(self) -> None:
        """Drop the parent's name, channels and clients, in a forked child."""
        # New objects, because a thread of the parent may have held any lock.
        self.stats = Stats(self.config.prefix, self.config.timings)
        self.identity = Identity()
        self.registry = Registry(self.config)
        self.registry.close(closed_meanwhile())
        for feature in self._features:
            feature.abandon()
        self.lifecycle.abandon()
        self.transport.abandon()

    def _on_state(self, state: State) -> None:
        self.sender.is_open = state is State.SENDING or state is State.RECEIVING
        self.receiving = state is State.RECEIVING
        if state is State.CLOSED:
            process.discard(self)

    def _register_topics(self) -> None:
        registry = self.registry
        by_name = channels_by_name(registry, self.stats, self.identity.owns_channel)
        self.router.register(Topic.SEND_CONN, by_name)
        self.router.register(Topic.SEND_GROUP, registry.groups.members)
        self.router.register(Topic.SEND_USER, registry.users.members)
        self.router.register(
            Topic.SEND_ALL, lambda _: registry.audience(), self.commands.on_broadcast
        )

    def _open_sender(self) -> None:
        self.transport.open_sender(self.config.timings.start)
        self._refresh.plan()
        # Before the state changes, which happens once: a start that gets no thread is tried again.
        self._upkeep.start()
        if not self.lifecycle.advance(State.SENDING):
            raise closed_meanwhile()

    def _open_receiver(self) -> None:
        deadline = monotonic() + self.config.timings.start
        self.start_sending().result()
        self.ordering.begin()
        left = deadline - monotonic()
        self.identity.take(self.transport.open_receiver(self.ordering, self.commands, left))
        try:
            # Proves that writing and reading work, warms both clients up and sets the clock.
            self.round_trips.make(max(0.0, deadline - monotonic()))
        except TimeoutError:
            raise BrokerUnavailable(
                f"{self.config.bootstrap_servers} did not hand a record back within "
                f"{self.config.timings.start} s that this server wrote to its own inbox; the "
                "broker is overloaded, or cut off."
            ) from None
        self.reads_since = self.clock.now()
        if not self.lifecycle.advance(State.RECEIVING):
            raise closed_meanwhile()

    def _drop_until(self, timestamp: float) -> None:
        until = self.expiry.forget_until(timestamp)
        dropped = self.registry.clear()
        dropped += sum(feature.flush(until) for feature in self._features)
        if dropped:
            self.stats.count("dropped.flushed", dropped)

    def _ended_jobs(self) -> dict[str, dict[str, int]]:
        ended: dict[str, dict[str, int]] = {}
        for outcome in ("done", "failed"):
            for channel, number in self.stats.by_name(f"jobs.{outcome}").items():
                ended.setdefault(channel, {"done": 0, "failed": 0})[outcome] = number
        return ended

    # Upkeep

    def _sweep(self) -> None:
        swept = self.registry.sweep()
        if swept:
            self.stats.count("dropped.closed", swept)

    def _close_if_unreachable(self) -> None:
        """Close the server if its inbox partition is gone, whose number is in all its names.

        Websockets then connect again, to a server with another inbox.
        """
        if self.receiving and not self.transport.health().addressable:
            self.stats.count("errors.unreachable")
            logger.error(
                "Server %s can be reached no more and closes: an inbox topic was created again "
                "with fewer partitions, without its own. The next use of the layer starts another "
                "server, to which websockets reconnect.",
                self.identity.name,
            )
            self.close_soon()
