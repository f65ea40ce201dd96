"""Starts ``runworker`` processes: forks of itself, which need not import Django and the package.

Reads requests from standard input, a JSON array a line, and writes what it answers to standard
output:

- ``["start", environment, arguments, log]``: the id of the new process.
- ``["signal", id, number]``: null. A process that has ended gets none.
- ``["status", id]``: the status that it ended with, as ``subprocess`` tells it; null while it runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

_MODULES = (
    "channels.apps",
    "channels.consumer",
    "channels.management.commands.runworker",
    "channels.routing",
    "django.core.management",
    "django.views.generic",
    "kafka_layer.apps",
    "kafka_layer.checks",
    "kafka_layer.kafka.backplane",
    "kafka_layer.management.commands.runworker",
)

_statuses: dict[int, int | None] = {}


def start(environment: dict[str, str], arguments: list[str], log: str) -> int:
    """Return the id of a new process, in which this function does not return."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    child = os.fork()
    if child:
        os.close(written)
        _statuses[child] = None
        return child
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.clear()
    os.environ.update(environment)
    from django.core.management import execute_from_command_line

    execute_from_command_line(["django", *arguments])
    sys.exit()


def send_signal(child: int, number: int) -> None:
    """Send a signal; the id is nobody else's, because it is not waited for elsewhere."""
    if status(child) is None:
        os.kill(child, number)


def status(child: int) -> int | None:
    """Return the status that a process ended with, None while it runs."""
    if _statuses[child] is None:
        ended, told = os.waitpid(child, os.WNOHANG)
        if ended:
            _statuses[child] = os.waitstatus_to_exitcode(told)
    return _statuses[child]


_REQUESTS: dict[str, Callable[..., Any]] = {
    "start": start,
    "signal": send_signal,
    "status": status,
}


def main() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(_REQUESTS[request](*arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
