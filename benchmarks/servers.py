"""The servers behind the layers: Kafka, Redis and NATS, started on free ports for one run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any


class Skipped(Exception):
    """A contender cannot take part; the text says why."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, what it is, and its process (None: not started here)."""

    address: str
    version: str
    pid: int | None = None


@contextlib.contextmanager
def kafka() -> Iterator[Server]:
    """Use the brokers in ``KAFKA_BOOTSTRAP_SERVERS``, or start one."""
    if given := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Server(given, "Kafka (KAFKA_BOOTSTRAP_SERVERS)")
        return
    from tests.support.kafka import KAFKA_VERSION, RealBroker, missing_tools

    if tools := missing_tools():
        raise Skipped(f"It needs {' and '.join(tools)}: install it or set KAFKA_BOOTSTRAP_SERVERS")
    properties = {"log.retention.check.interval.ms": 60_000}
    with RealBroker(properties, jvm_fast_start=False, heap_mb=1024) as broker:
        yield Server(broker.bootstrap_servers, f"Kafka {KAFKA_VERSION}", broker.pid)


@contextlib.contextmanager
def program(
    command: Sequence[str], timeout: float = 10.0, **options: Any
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a program, from when it listens on a port of 127.0.0.1 until the context ends.

    Its last argument takes the port, which is free and yielded with the process. Raises
    ChildProcessError, with what it printed, if it ends before it listens, or takes longer.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [*command, str(port)]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdin=out, stdout=out, stderr=out, **options)
        deadline = time.monotonic() + timeout
        try:
            while True:
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    out.seek(0)
                    raise ChildProcessError(f"{command} does not listen: {out.read().decode()}")
                time.sleep(0.02)
            yield port, process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _running(name: str, label: str, *options: str) -> Iterator[Server]:
    """Start a server, the last of whose options takes the port."""
    if shutil.which(name) is None:
        raise Skipped(f"{name} not found; install it")
    said = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    with program([name, *options], cwd=tempfile.gettempdir()) as (port, process):
        found = version[0] if version else "of unknown version"
        yield Server(f"127.0.0.1:{port}", f"{label} {found}", process.pid)


# It keeps nothing on disk.
redis = partial(_running, "redis-server", "Redis", *("--bind", "127.0.0.1", "--save", ""), "--port")
nats = partial(_running, "nats-server", "NATS", *("-a", "127.0.0.1"), "-p")
