"""Worker processes that run coroutines when told to, and what those find there.

The parent sends a module-level coroutine function and its arguments; the worker calls it with its
:class:`Context` first and sends the result back, one after another. A worker uses a *port*: a
channel layer, through its public API alone, or bare Kafka clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync

from tests.support.counting import Inbox

Job = Callable[..., Coroutine[Any, Any, Any]]

_CALL_TIMEOUT = 120.0
_CLOSE_TIMEOUT = 10.0

forkserver = multiprocessing.get_context("forkserver")
_fresh = multiprocessing.get_context("spawn")
_context: Context


@dataclass(frozen=True)
class PortSpec:
    """Says which port to open; it is what a worker process is told.

    Attributes:
        name: The contender's.
        backend: Dotted path of the layer's class; empty for bare Kafka clients.
        config: Its keywords.
        source: The folder that the layer's package is imported from; empty for the usual one.
    """

    name: str
    backend: str
    config: Mapping[str, Any]
    source: str = ""

    def find(self) -> Any:
        """Import what the port needs and return its class."""
        if self.source and self.source not in sys.path:
            sys.path.insert(0, self.source)
        # Only here: the processes of other contenders are not to carry the Kafka client.
        module, _, name = (self.backend or "benchmarks.floor.BarePort").rpartition(".")
        found = importlib.import_module(module)
        if not str(found.__file__).startswith(self.source):
            raise ImportError(f"{found.__file__} is not the version in {self.source}")
        return getattr(found, name)


class LayerPort:
    """A channel layer, just constructed; the floor's port has the same methods."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.send = layer.send
        self.group_send = layer.group_send
        # From synchronous code.
        self.bridged = async_to_sync(layer.group_send)
        if hasattr(type(layer), "group_send_sync"):
            self.native = layer.group_send_sync
        self._listeners: list[asyncio.Task[None]] = []

    async def new_channels(self, count: int) -> list[str]:
        return [await self.layer.new_channel() for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        self._listeners += [asyncio.create_task(self._fill(*each)) for each in inboxes.items()]
        await asyncio.sleep(0)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        for channel in channels:
            await self.layer.group_add(group, channel)

    async def close(self) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        ways = [way for way in ("close_pools", "close") if hasattr(type(self.layer), way)]
        if ways:
            await getattr(self.layer, ways[0])()

    async def _fill(self, channel: str, inbox: Inbox) -> None:
        receive, take = self.layer.receive, inbox.take
        while True:
            take(await receive(channel))


class Context:
    """What a coroutine finds inside its worker process: its port, the channels that are listened
    to, and what subjects note from one job to the next.
    """

    def __init__(self, spec: PortSpec) -> None:
        self.spec = spec
        self.loop = asyncio.new_event_loop()
        self.inboxes: dict[str, Inbox] = {}
        self.notes: dict[str, Any] = {}
        self._port: Any = None

    @property
    def port(self) -> Any:
        """The worker's port; made at first use."""
        if self._port is None:
            made = self.spec.find()(**self.spec.config)
            # What is no channel layer is a port itself.
            self._port = LayerPort(made) if hasattr(made, "receive") else made
        return self._port


class Worker:
    """A worker process, seen from the parent.

    With ``fresh`` it starts as a new interpreter. Otherwise it is forked from a process that has
    imported everything: faster, and it shares that memory.
    """

    def __init__(self, spec: PortSpec, *, fresh: bool = False) -> None:
        self._name = spec.name
        self._pool = ProcessPoolExecutor(1, _fresh if fresh else forkserver, _begin, (spec,))
        self.pid = self._pool.submit(os.getpid)

    def start(self, job: Job, *args: Any) -> Callable[[], Any]:
        """Begin to run ``job(context, *args)``; what is returned waits for its result."""
        return partial(self._pool.submit(_run, job, args).result, _CALL_TIMEOUT)

    def call(self, job: Job, *args: Any) -> Any:
        """Run ``job(context, *args)`` and return its result, or raise what it raised."""
        return self.start(job, *args)()

    def end(self) -> None:
        """End the process, once it has closed what it opened."""
        try:
            self._pool.submit(_run, _close, ()).result(_CLOSE_TIMEOUT)
        except Exception as error:
            print(f"    {self._name}: a worker did not close: {error!r}", file=sys.stderr)
            with contextlib.suppress(Exception):  # it may have ended, or never have begun
                os.kill(self.pid.result(0), signal.SIGKILL)
        self._pool.shutdown()


def call_all(workers: Iterable[Worker], job: Job, *args: Any) -> list[Any]:
    """Run ``job(context, *args)`` in several workers at the same time; return their results."""
    return [result() for result in [each.start(job, *args) for each in workers]]


def _begin(spec: PortSpec) -> None:
    """Prepare a worker process, whose event loop goes on between the jobs."""
    global _context
    seen: set[object] = set()
    logging.basicConfig(format=f"    {spec.name} logged: %(message).200s")
    # The first line of each kind.
    logging.root.handlers[0].addFilter(lambda line: line.msg not in seen and not seen.add(line.msg))  # type: ignore[func-returns-value]
    spec.find()
    _context = Context(spec)
    threading.Thread(target=_context.loop.run_forever, daemon=True).start()


def _run(job: Job, args: Sequence[Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(job(_context, *args), _context.loop).result()


async def _close(context: Context) -> None:
    """Free what was opened."""
    if context._port is not None:
        await context._port.close()
