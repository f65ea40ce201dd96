"""The server of a layer: made with the layer, started by its first call, replaced after a close."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer, channel_layers

from ..config.settings import LayerConfig
from ..config.threads import new_event
from ..delivery.mailbox import Mailbox, Read
from ..delivery.tickets import Steps, wait
from ..exceptions import LayerClosed
from ..observe.counters import Stats
from ..server.server import Server
from ..wire.codec import Codec
from ..wire.encryption import Encryption
from ..wire.names import CHANNEL_NAME, GROUP_NAME, ServerName
from ..wire.records import Record
from ..wire.topics import Topic, WorkTopic

if TYPE_CHECKING:
    from ..dashboard.report import Reporter
    from ..dashboard.watch import Watch
    from ..history.feature import Histories
    from ..jobs.channel import WorkChannel
    from ..jobs.feature import Jobs
    from ..recovery.feature import Recoveries
    from ..stats import LayerStats
    from ..streams.feature import Streams
    from ..streams.producing import Producing
    from ..transport import Backplane

__all__ = ["LayerServer", "ServerHolder"]


class LayerServer(Server):
    """A server with the features that the layer's API needs.

    Attributes:
        streams: The streams that it reads; None where the settings name none.
    """

    def _attach_features(self) -> None:
        self._jobs: Jobs | None = None
        self.commands.report = self._report
        self._reporter: Reporter | None = None
        self._watch: Watch | None = None
        self._histories: Histories | None = None
        self.router.look_back = self._look_back
        self._recoveries: Recoveries | None = None
        self.streams: Streams | None = None
        if any(each.is_read for each in self.config.streams.values()):
            # Imported by the first server that reads one.
            from ..streams.feature import Streams

            self.streams = self.attach(Streams)
        self._producing: Producing | None = None

    @property
    def jobs(self) -> Jobs:
        """Its worker channels; the first access makes them."""
        if self._jobs is None:
            with self.lifecycle.lock:
                if self._jobs is None:
                    self._jobs = self.attach(self._jobs_class())
                    if self.stats.ages is not None:
                        self._jobs.measure()
        return self._jobs

    def worker_channel(self, channel: str) -> WorkChannel | None:
        """Return an open worker channel; None if it is not open here."""
        return None if self._jobs is None else self._jobs.channel(channel)

    def _jobs_class(self) -> Callable[[Server], Jobs]:
        # Imported by the first use of a worker channel: most processes use none.
        from ..jobs.feature import Jobs

        return Jobs

    @property
    def producing(self) -> Producing:
        """Writes to the topics of streams; the first access makes it."""
        with self.lifecycle.lock:
            if self._producing is None:
                self._producing = self._new_producing()
        return self._producing

    def _new_producing(self) -> Producing:
        # Imported by the first call: most processes produce nothing.
        from ..streams.producing import Producing

        return Producing(self)

    @property
    def histories(self) -> Histories:
        """Its answers from the log; the first access makes them."""
        # Imported by the first call: most processes make none.
        from ..history.feature import Histories

        with self.lifecycle.lock:
            if self._histories is None:
                self._histories = Histories(self, self.codec)
        return self._histories

    @property
    def reporter(self) -> Reporter:
        """Makes its reports for the page for staff; the first access makes it."""
        # Imported by the first request of a page.
        from ..dashboard.report import Reporter

        with self.lifecycle.lock:
            if self._reporter is None:
                self._reporter = Reporter(self)
        return self._reporter

    @property
    def watch(self) -> Watch:
        """The reports of all servers for the page for staff; the first access makes it."""
        from ..dashboard.watch import Watch

        with self.lifecycle.lock:
            if self._watch is None:
                self._watch = Watch(self, self.reporter)
        return self._watch

    def _report(self) -> Mapping[str, Any]:
        return self.reporter()

    def _look_back(self, record: Record) -> Callable[[], None] | None:
        """Do what ``LookBack.before`` does; from now on the router calls that."""
        self.router.look_back = self.histories.look_back.before
        return self.router.look_back(record)

    def _learn_keys(self, topic: Topic, since: float) -> Steps[None]:
        """Do what ``LookBack.learn`` does."""
        return self.histories.look_back.learn(topic, since)

    @property
    def recoveries(self) -> Recoveries:
        """Its tracked channels; the first access makes them."""
        # Imported by the first call: most processes track none.
        from ..recovery.feature import Recoveries

        with self.lifecycle.lock:
            if self._recoveries is None:
                streams = () if self.streams is None else self.streams.followed
                self._recoveries = self.attach(
                    lambda server: Recoveries(server, self.codec, self._learn_keys, streams)
                )
                self._recoveries.open = self._opened_by(self._recoveries.open)
        return self._recoveries

    def _opened_by(self, read: Read) -> Read:
        """Return a function that opens messages of tracked channels, given the plain one."""
        return read if self.stats.ages is None else self.noting_age(read)

    def measure(self) -> None:
        """Measure ages of messages and backlogs for ``describe`` from now on. Idempotent."""
        with self.lifecycle.lock:
            measured = self.stats.ages is not None
            super().measure()
            if measured:
                return
            if self._jobs is not None:
                self._jobs.measure()
            if self._recoveries is not None:
                self._recoveries.open = self.noting_age(self._recoveries.open)
                for mailbox in self.registry.open_channels():
                    if mailbox.open_tracked is not None:
                        mailbox.open_tracked = self._recoveries.open

    def describe(self) -> LayerStats:
        """Return the counters and the state; no I/O. Empty after a close."""
        backlog = {} if self._jobs is None else self._jobs.backlogs()
        return replace(super().describe(), backlog=backlog) if backlog else super().describe()

    def reopen(self, mailbox: Mailbox) -> Mailbox:
        """Open a forgotten channel again, on which a receive waits; return its new mailbox."""
        opened = self.registry.open_mailbox(mailbox.channel)
        if mailbox.tracked is not None:
            self.recoveries.track(opened, mailbox.tracked.on_change)
        return opened


class ServerHolder(BaseChannelLayer):  # type: ignore[misc, unused-ignore]
    """The settings of a layer, and its server until a close or a fork ends it; any thread.

    Args:
        config: The CONFIG keywords, as docs/settings.md lists them.

    Attributes:
        timings: Times that are no settings; for tests.
        config: The settings.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge
    channel_name_regex = CHANNEL_NAME
    group_name_regex = GROUP_NAME
    timings = LayerConfig.timings

    def __init__(self, **config: Any) -> None:
        self.config = self.read_config(**config)
        super().__init__(
            expiry=self.config.expiry,  # type: ignore[arg-type, unused-ignore]
            capacity=self.config.capacity,
            channel_capacity=self.config.channel_capacity,  # type: ignore[arg-type, unused-ignore]
        )
        self.group_expiry = self.config.group_expiry
        if self.config.metrics:
            # Imported by the first layer that has them.
            from ..metrics import register

            register()
        if self.config.tracing:
            from ..tracing import trace_consumers

            trace_consumers()
        self._codec = Codec(self.config.serializer_format, self.config.serializer)
        self._encryption = Encryption(self.config.symmetric_encryption_keys)
        # The names of closed servers of this layer: their channels are gone for good.
        self._past_names: set[ServerName] = set()
        self._finalizer: weakref.finalize[..., Any] | None = None
        # Set while all_send reaches the channels of this process, whichever server has them.
        self._hears_all = new_event()
        self._hears_all.set()
        self._begin()

    @classmethod
    def read_config(cls, **config: Any) -> LayerConfig:
        """Return the settings of a layer with these CONFIG keywords, without making one.

        Raises:
            ImproperlyConfigured: For a keyword or value that cannot work.
        """
        return LayerConfig.from_keywords(**config).timed(cls.timings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.config.prefix!r}>"

    def _sending_server(self, topic: Topic | WorkTopic) -> Steps[LayerServer]:
        """Wait until the server writes to a topic; return it."""
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
                # close() overtook the start: start the next server.
                if not server.lifecycle.ended:
                    raise

    def _receiving_server(self) -> Steps[LayerServer]:
        """Wait until the server receives; return it."""
        while True:
            server = yield from self._present_server()
            # Check after each wait: close() may come before the waiting coroutine goes on.
            if server.receiving:
                return server
            try:
                yield from wait(server.start_receiving())
            except LayerClosed:
                # close() overtook the start: start the next server.
                if not server.lifecycle.ended:
                    raise

    def _open_channel(self, prefix: str) -> Steps[str]:
        """Open a channel on the server that receives."""
        while True:
            server = yield from self._receiving_server()
            try:
                channel = server.registry.new_channel(prefix, server.identity.require())
                if server.streams is not None and not server.streams.awake:
                    yield from server.streams.wake()
                return channel
            except LayerClosed:
                # Another thread closed the server meanwhile.
                if not server.lifecycle.ended:
                    raise

    def _present_server(self) -> Steps[LayerServer]:
        """Return a server that is not closed.

        It makes the next one only when the one before has closed, so that messages keep their
        order. While it closes, a receiver of a signal and an interrupting signal handler get
        ``LayerClosed``: the close waits for them.
        """
        while (server := self._server).lifecycle.ended:
            server.require_no_close_behind_caller()
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
        make = self._server_class()
        server = make(self.config, self._codec, self._encryption, self._make_backplane)
        server.registry.hears_all = self._hears_all.is_set
        # The server of a collected layer closes in the background; at exit it closes itself.
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, server.close_soon)
        self._finalizer.atexit = False
        self._server = server
        self._try_publish = server.sender.try_publish

    def _server_class(self) -> type[LayerServer]:
        """Return the class of its servers."""
        return LayerServer

    def _warn_in_tests(self) -> None:
        """Warn if tests use the brokers of the settings, which they hardly mean to."""
        # Django's test runners and pytest-django set django.core.mail.outbox.
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
        from ..kafka.backplane import KafkaBackplane

        return KafkaBackplane(self.config, stats)

    def _is_past(self, owner: ServerName) -> bool:
        """Tell whether a name belonged to a closed server of this layer."""
        server = self._server
        return owner in self._past_names or (server.lifecycle.ended and server.identity.owns(owner))
