"""Layers for tests: made on any backplane, closed at the end, received from with deadlines."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kafka_layer.config.realtime import monotonic
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.registry import Registry
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.server.clock import BrokerClock
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.testing.embedded import EmbeddedBroker
from kafka_layer.wire.codec import Codec
from tests.support.inspect import server_of
from tests.support.patience import patient
from tests.support.waiting import PATIENCE, wait_until_async

__all__ = [
    "PARTITIONS",
    "WORKER_CHANNEL",
    "Backend",
    "Layers",
    "backend_named",
    "backends",
    "begin_receive",
    "decoded",
    "embedded_backend",
    "is_empty_after_sweep",
    "kafka_backend",
    "layer_threads",
    "left_out",
    "let_pass",
    "memory_backend",
    "next_message",
    "next_messages",
    "stats_of",
    "unhurried",
]

PARTITIONS = 3
"""Of each topic: enough for a key to have a choice, and soon created."""

_LIMITS = (
    *("read_back", "read_back_window", "stream_start", "look_back"),
    *("history", "history_answer", "recovery", "job_unclaimed", "held_frame"),
)

WORKER_CHANNEL = "shared-jobs"
"""A worker channel that works on every backend: the embedded broker creates no topic on request."""

Message = dict[str, Any]

Servers = list[KafkaChannelLayer]
"""Layers that run on from test to test: the fixture ``servers``."""


@dataclass(frozen=True)
class Backend:
    """What layers run on.

    Attributes:
        name: For the ids of tests.
        layer_class: The class of the layers.
        config: CONFIG keywords that every layer needs there.
        create_topics: Makes the topics of a prefix, where layers cannot do it themselves.
        limits: What layers take there in place of the usual values of these timings.
    """

    name: str
    layer_class: type[KafkaChannelLayer]
    config: Mapping[str, Any] = field(default_factory=dict)
    create_topics: Callable[[str], None] = lambda prefix: None
    limits: Mapping[str, float] = field(default_factory=dict)

    @functools.cached_property
    def shared_prefix(self) -> str:
        """A prefix for tests that need no topics of their own: creating some takes 0.3 s."""
        prefix = f"test-shared-{secrets.token_hex(4)}"
        self.create_topics(prefix)
        return prefix


left_out: set[str] = set()
"""The backends on which this run of pytest has no tests."""


def memory_backend() -> Backend:
    """Layers inside this process."""
    return Backend("memory", InMemoryKafkaChannelLayer)


def embedded_backend(broker: EmbeddedBroker) -> Backend:
    """Layers on librdkafka's own broker."""

    def create_topics(prefix: str) -> None:
        broker.config(
            prefix=prefix, default_partitions=PARTITIONS, worker_channels={WORKER_CHANNEL: {}}
        )

    config = {"bootstrap_servers": broker.bootstrap_servers, **broker.client_settings}
    return Backend("embedded", KafkaChannelLayer, config, create_topics)


def kafka_backend(servers: str) -> Backend:
    """Layers on a real broker."""
    return Backend("kafka", KafkaChannelLayer, {"bootstrap_servers": servers})


def backends(*names: str) -> list[str]:
    """Return those of some backends on which this run has tests, for the parameters of a fixture.

    What a run leaves out is then not even collected.
    """
    return [name for name in names if name not in left_out]


def backend_named(name: str, request: pytest.FixtureRequest) -> Backend:
    """Return the backend "memory", "embedded" or "kafka" of the test's file; starts its broker.

    Args:
        name: Which one.
        request: That of the fixture which asks.
    """
    backend: Backend = request.getfixturevalue(f"in_{name}")
    return backend


def unhurried(backend: Backend) -> Backend:
    """Return a backend whose layers wait for a slow machine, where they usually go on without.

    For tests that are about no such limit.
    """
    return replace(backend, limits=dict.fromkeys(_LIMITS, PATIENCE))


class Layers:
    """Makes layers, each of which acts as a server of its own.

    Args:
        backend: What they run on.

    Attributes:
        prefix: The prefix they share, unless told otherwise.
        timings: What the layers made from now on take for their time-outs and intervals, with those
            of ``patient`` and of the backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.prefix = backend.shared_prefix
        self.timings = KafkaChannelLayer.timings
        self._prefixes = {self.prefix}
        self._layers: list[KafkaChannelLayer] = []

    def __call__(
        self, prefix: str | None = None, *, timings: Timings | None = None, **config: Any
    ) -> KafkaChannelLayer:
        """Make a layer with these CONFIG keywords, and with other timings if some are given."""
        if prefix is not None and prefix not in self._prefixes:
            self._prefixes.add(prefix)
            self.backend.create_topics(prefix)
        base = self.backend.layer_class
        timings = patient(timings or self.timings, **self.backend.limits)
        layer = type(base.__name__, (base,), {"timings": timings})(
            **{
                **self.backend.config,
                "prefix": prefix or self.prefix,
                "default_partitions": PARTITIONS,
                **config,
            }
        )
        self._layers.append(layer)
        return layer

    def close(self) -> None:
        """Close them all at once; from any thread, with or without a running loop."""

        async def close_all() -> None:
            await asyncio.gather(*(layer.close() for layer in self._layers))

        # In a thread: asyncio.run would leave this one without the loop that pytest gave it.
        with ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, close_all()).result()
        self._layers.clear()


async def next_message(
    layer: KafkaChannelLayer, channel: str, timeout: float = PATIENCE
) -> Message:
    """Receive one message, or fail in ``timeout`` seconds."""
    try:
        message: Message = await asyncio.wait_for(layer.receive(channel), timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(
            f"Waited {timeout:g} s for a message on {channel}; counted: {stats_of(layer)}"
        ) from None
    return message


async def next_messages(
    layer: KafkaChannelLayer, channel: str, count: int, timeout: float = PATIENCE
) -> list[Message]:
    """Receive ``count`` messages, or fail in ``timeout`` seconds and say how many there were."""
    messages: list[Message] = []

    async def receive() -> None:
        while len(messages) < count:
            messages.append(await layer.receive(channel))

    try:
        await asyncio.wait_for(receive(), timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(
            f"Waited {timeout:g} s for {count} messages on {channel} and got {len(messages)}; "
            f"counted: {stats_of(layer)}"
        ) from None
    return messages


async def begin_receive(layer: KafkaChannelLayer, channel: str) -> asyncio.Task[Message]:
    """Start a receive of one message; returns once it waits."""
    task = asyncio.create_task(next_message(layer, channel))

    def waits() -> bool:
        mailbox = server_of(layer).registry.mailbox(channel)
        return task.done() or (mailbox is not None and mailbox.receiving)

    await wait_until_async(waits, f"a receive to wait on {channel}", pause=0.0)
    return task


def stats_of(layer: KafkaChannelLayer) -> Counter[str]:
    """Return the counters of a layer's server; what was never counted is 0."""
    return Counter(server_of(layer).stats.snapshot())


def let_pass(layer: KafkaChannelLayer, seconds: float) -> None:
    """Have a server believe, from now on, that so much time has passed at the broker.

    What it measures says so, too: the delivery report of its self-test may come after its start.
    """
    clock = server_of(layer).clock
    measure = clock.observe

    def observe(timestamp: float, sent: float, received: float) -> None:
        measure(timestamp + seconds, sent, received)

    clock.observe = observe  # type: ignore[method-assign]
    now = monotonic()
    BrokerClock.observe(clock, clock.now() + seconds, now, now)


def decoded(layer: KafkaChannelLayer, value: bytes) -> Any:
    """Return the message that a record of a layer without encryption carries."""
    return Codec(layer.config.serializer_format, layer.config.serializer).decode(value)


def is_empty_after_sweep(registry: Registry) -> bool:
    """Let a server look for channels to forget; tells whether none is left."""
    registry.sweep()
    return not len(registry)


def layer_threads() -> list[str]:
    """Return the names of the threads of all layers of this process."""
    return [each.name for each in threading.enumerate() if each.name.startswith("kafka-layer")]
