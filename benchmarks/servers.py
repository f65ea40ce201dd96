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

__all__ = ["Missing", "Server", "free_port", "kafka", "listens", "nats", "redis"]

_START_TIMEOUT = 10.0


class Missing(Exception):
    """Something that a contender needs is not installed; the text says what."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        address: ``host:port``; several separated by commas.
        version: What it is, for the report.
        pid: Its process, or None if it was not started here.
    """

    address: str
    version: str
    pid: int | None = None


@contextlib.contextmanager
def kafka() -> Iterator[Server]:
    """Use the brokers in ``KAFKA_BOOTSTRAP_SERVERS``, or start one.

    Raises:
        Missing: If there is none and the programs to start one are not installed.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Server(given, "Kafka (KAFKA_BOOTSTRAP_SERVERS)")
        return
    from tests.support.kafka import KAFKA_VERSION, RealBroker, missing_tools

    tools = missing_tools()
    if tools:
        raise Missing(f"{' and '.join(tools)} not found; install it or set KAFKA_BOOTSTRAP_SERVERS")
    properties = {"log.retention.check.interval.ms": 60_000}
    with RealBroker(properties, jvm_fast_start=False, heap_mb=1024) as broker:
        yield Server(broker.bootstrap_servers, f"Kafka {KAFKA_VERSION}", broker.pid)


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """Start a Redis that keeps nothing on disk.

    Raises:
        Missing: If redis-server is not installed.
    """
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    version = _version("redis-server", "--version")
    with _running(["redis-server", *options], port) as pid:
        yield Server(f"127.0.0.1:{port}", f"Redis {version}", pid)


@contextlib.contextmanager
def nats() -> Iterator[Server]:
    """Start a NATS server.

    Raises:
        Missing: If nats-server is not installed.
    """
    port = free_port()
    version = _version("nats-server", "--version")
    with _running(["nats-server", "-a", "127.0.0.1", "-p", str(port)], port) as pid:
        yield Server(f"127.0.0.1:{port}", f"NATS {version}", pid)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether something listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _version(program: str, option: str) -> str:
    if shutil.which(program) is None:
        raise Missing(f"{program} not found; install it")
    said = subprocess.run([program, option], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    return found[0] if found else "of unknown version"


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(process, port)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if listens(port):
            return
        time.sleep(0.02)
    raise Missing(f"{process.args!r} did not start to listen on port {port}")
