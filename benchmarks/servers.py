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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

__all__ = ["Missing", "Server", "await_port", "free_port", "kafka", "nats", "redis"]


class Missing(Exception):
    """Something that a contender needs is not installed; the text says what."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, what it is, and its process (None: not started here)."""

    address: str
    version: str
    pid: int | None = None


@contextlib.contextmanager
def kafka() -> Iterator[Server]:
    """Use the brokers in ``KAFKA_BOOTSTRAP_SERVERS``, or start one."""
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


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def await_port(process: subprocess.Popen[bytes], port: int, timeout: float = 10.0) -> None:
    """Return when a process listens on a port of 127.0.0.1; Missing if it ends, or takes longer."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Missing(f"{process.args!r} did not start to listen on port {port}")


@contextlib.contextmanager
def _running(program: str, name: str, *options: str) -> Iterator[Server]:
    """Start a server program; the last of its options is the one that takes the port."""
    if shutil.which(program) is None:
        raise Missing(f"{program} not found; install it")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    port = free_port()
    command, quiet = [program, *options, str(port)], subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)
        try:
            await_port(process, port)
            found = version[0] if version else "of unknown version"
            yield Server(f"127.0.0.1:{port}", f"{name} {found}", process.pid)
        finally:
            process.terminate()
            process.wait()


# It keeps nothing on disk.
redis = partial(_running, "redis-server", "Redis", *("--bind", "127.0.0.1", "--save", ""), "--port")
nats = partial(_running, "nats-server", "NATS", *("-a", "127.0.0.1"), "-p")
