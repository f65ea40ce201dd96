"""Daphne processes that serve :mod:`benchmarks.site`, as a deployment runs them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .ports import PortSpec
from .servers import free_port, listens

__all__ = ["ENVIRONMENT", "WebServer", "running"]

ENVIRONMENT = "BENCHMARK_LAYERS"
"""The variable from which the served project takes its channel layers, as JSON."""

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class WebServer:
    """A running daphne.

    Attributes:
        port: On 127.0.0.1.
        process: The process.
    """

    port: int
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(spec: PortSpec, count: int) -> Iterator[list[WebServer]]:
    """Run daphne processes with a channel layer; what they print is shown if one does not start.

    Raises:
        RuntimeError: If one does not begin to listen.
    """
    layers = {"default": {"BACKEND": spec.backend, "CONFIG": dict(spec.config)}}
    with tempfile.TemporaryFile() as printed:
        servers = []
        try:
            for _ in range(count):
                servers.append(_start(json.dumps(layers), printed))
            for server in servers:
                _wait_for(server, printed)
            yield servers
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                _end(server.process)


def _start(layers: str, printed: IO[bytes]) -> WebServer:
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port)),
            *("--websocket_connect_timeout", "60", "benchmarks.site:application"),
        ],
        cwd=_ROOT,
        env={**os.environ, ENVIRONMENT: layers},
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=printed,
    )
    return WebServer(port, process)


def _wait_for(server: WebServer, printed: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and server.process.poll() is None:
        if listens(server.port):
            return
        time.sleep(0.05)
    printed.seek(0)
    said = printed.read().decode(errors="replace")
    raise RuntimeError(f"daphne does not listen on port {server.port}; it printed: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
