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
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from asgiref.sync import async_to_sync

from tests.support.counting import Inbox

Job = Callable[..., Awaitable[Any]]

_CALL_TIMEOUT = 120.0
_CLOSE_TIMEOUT = 10.0

_forked = multiprocessing.get_context("forkserver")
_fresh = multiprocessing.get_context("spawn")


def preload(modules: list[str]) -> None:
    """Let workers find ``modules`` imported; call it before the first worker is made."""
    _forked.set_forkserver_preload([__name__, *modules])


class WorkerError(Exception):
    """Something was raised in a worker; ``kind`` is the name of the exception's class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


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
        self._listeners: list[asyncio.Task[None]] = []

    async def new_channels(self, count: int) -> list[str]:
        return [await self.layer.new_channel() for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        self._listeners += [asyncio.create_task(self._fill(*each)) for each in inboxes.items()]
        await asyncio.sleep(0)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        for channel in channels:
            await self.layer.group_add(group, channel)

    def sync_group_sends(self) -> dict[str, Any]:
        """Return the ways to send to a group from synchronous code."""
        ways = {"bridged": async_to_sync(self.layer.group_send)}
        if hasattr(type(self.layer), "group_send_sync"):
            ways["native"] = self.layer.group_send_sync
        return ways

    async def close(self) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        for name in ("close_pools", "close"):
            if hasattr(type(self.layer), name):
                await getattr(self.layer, name)()
                return

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
        context = _fresh if fresh else _forked
        self._name = spec.name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()

    def start(self, job: Job, *args: Any) -> Callable[..., Any]:
        """Begin to run ``job(context, *args)``; what is returned waits for its result."""
        self._connection.send((job, args))
        return self._result

    def call(self, job: Job, *args: Any) -> Any:
        """Run ``job(context, *args)`` and return its result, or raise WorkerError."""
        return self.start(job, *args)()

    def end(self) -> None:
        """End the process, once it has closed what it opened."""
        try:
            self.start(_close)(_CLOSE_TIMEOUT)
            self._connection.send(None)
            self._process.join(_CLOSE_TIMEOUT)
        except (TimeoutError, OSError, EOFError, WorkerError) as error:
            print(f"    {self._name}: a worker did not close: {error}", file=sys.stderr)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()

    def _result(self, timeout: float = _CALL_TIMEOUT) -> Any:
        if not self._connection.poll(timeout):
            raise TimeoutError(f"a worker gave no answer within {timeout} s")
        result, error = self._connection.recv()
        if error is not None:
            raise WorkerError(*error)
        return result


async def _close(context: Context) -> None:
    """Free what was opened."""
    if context._port is not None:
        await context._port.close()


def _main(connection: Connection, spec: PortSpec) -> None:
    seen: set[object] = set()
    logging.basicConfig(format=f"    {spec.name} logged: %(message).200s")
    # The first line of each kind.
    logging.root.handlers[0].addFilter(lambda line: line.msg not in seen and not seen.add(line.msg))  # type: ignore[func-returns-value]
    spec.find()
    asyncio.run(_serve(connection, Context(spec)))


async def _serve(connection: Connection, context: Context) -> None:
    # The parent may have ended without a word.
    with contextlib.suppress(EOFError):
        while request := await asyncio.to_thread(connection.recv):
            job, args = request
            try:
                answer = await job(context, *args), None
            except Exception as error:
                answer = None, (type(error).__name__, traceback.format_exc())
            connection.send(answer)
