"""Worker processes that run coroutines when told to, and the handles that tell them.

The parent sends a module-level coroutine function and its arguments; the worker calls it with its
:class:`Context` first and sends the result back. Several may run in one worker at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import time
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

from .inbox import Inbox
from .ports import Port, PortSpec

__all__ = ["Context", "Pending", "Worker", "WorkerError", "preload"]

Job = Callable[..., Awaitable[Any]]

CALL_TIMEOUT = 120.0
"""Seconds after which a call to a worker counts as hung."""

_CLOSE_TIMEOUT = 10.0

_forked = multiprocessing.get_context("forkserver")
_fresh = multiprocessing.get_context("spawn")


def preload(modules: list[str]) -> None:
    """Let workers find ``modules`` imported; call it before the first worker is made."""
    _forked.set_forkserver_preload([__name__, *modules])


class WorkerError(Exception):
    """Something was raised in a worker.

    Attributes:
        kind: Name of the exception's class.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Context:
    """What a coroutine finds inside its worker process.

    Attributes:
        spec: The port that the worker is told to use.
        inboxes: The channels that are listened to.
    """

    def __init__(self, spec: PortSpec) -> None:
        self.spec = spec
        self.inboxes: dict[str, Inbox] = {}
        self._port: Port | None = None

    @property
    def port(self) -> Port:
        """The worker's port; made at first use."""
        if self._port is None:
            self._port = self.spec.open()
        return self._port

    async def close(self) -> None:
        """Free what was opened."""
        if self._port is not None:
            await self._port.close()


class Worker:
    """A worker process, seen from the parent.

    Args:
        spec: The port it uses.
        fresh: Whether it starts as a new interpreter. Otherwise it is forked from a process that
            has imported everything: faster, and it shares that memory.

    Attributes:
        log: What it logged, the first line of each kind; complete after :meth:`close`.
    """

    def __init__(self, spec: PortSpec, *, fresh: bool = False) -> None:
        context = _fresh if fresh else _forked
        self.log: list[str] = []
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._answers: dict[int, tuple[Any, WorkerError | None]] = {}
        self._closing: Pending | None = None

    def start(self, job: Job, *args: Any) -> Pending:
        """Begin to run ``job(context, *args)`` in the worker."""
        number = next(self._numbers)
        self._connection.send((number, job, args))
        return Pending(self, number)

    def call(self, job: Job, *args: Any, timeout: float = CALL_TIMEOUT) -> Any:
        """Run ``job(context, *args)`` in the worker and return its result."""
        return self.start(job, *args).result(timeout)

    def begin_close(self) -> None:
        """Ask the process to free what it opened; several may do so at the same time."""
        with contextlib.suppress(OSError):
            self._closing = self.start(_close)

    def close(self) -> None:
        """End the process."""
        try:
            closing = self._closing or self.start(_close)
            self.log = closing.result(_CLOSE_TIMEOUT)
            self._connection.send(None)
            self._process.join(_CLOSE_TIMEOUT)
        except (TimeoutError, OSError, EOFError, WorkerError) as error:
            self.log = [f"it did not close: {error}"]
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()

    def _wait_for(self, number: int, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"a worker gave no answer within {timeout} s")
            answered, result, error = self._connection.recv()
            self._answers[answered] = result, error and WorkerError(*error)
        result, error = self._answers.pop(number)
        if error is not None:
            raise error
        return result


class Pending:
    """A coroutine that runs in a worker."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    def result(self, timeout: float = CALL_TIMEOUT) -> Any:
        """Wait for its result.

        Raises:
            WorkerError: If it raised.
            TimeoutError: If it takes longer than ``timeout`` seconds.
        """
        return self._worker._wait_for(self._number, timeout)


def _main(connection: Connection, spec: PortSpec) -> None:
    logging.getLogger().addHandler(_log)
    asyncio.run(_serve(connection, Context(spec)))


async def _serve(connection: Connection, context: Context) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    tasks = set()

    def read() -> None:
        try:
            request = connection.recv()
        except EOFError:
            request = None
        if request is None:
            loop.remove_reader(connection.fileno())
            ended.set()
            return
        task = loop.create_task(_run(connection, context, *request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(connection.fileno(), read)
    await ended.wait()


async def _run(
    connection: Connection, context: Context, number: int, job: Job, args: tuple[Any, ...]
) -> None:
    try:
        result = await job(context, *args)
    except Exception as error:
        connection.send((number, None, (type(error).__name__, traceback.format_exc())))
    else:
        connection.send((number, result, None))


async def _close(context: Context) -> list[str]:
    await context.close()
    return list(_log.first.values())


class _LogOnce(logging.Handler):
    """Keeps the first line of each kind that is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: dict[tuple[str, str], str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.first.setdefault((record.name, str(record.msg)), record.getMessage())


_log = _LogOnce()
