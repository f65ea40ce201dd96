"""What a server process costs while nothing happens: memory and processor time."""

from __future__ import annotations

import time
from pathlib import Path

from .. import traffic
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context

__all__ = ["SUBJECT"]

_CHANNELS = 100


async def memory(context: Context) -> float:
    """Return this process's own memory in MiB."""
    return _resident("self")


def measure(bench: Bench) -> Outcome:
    group = bench.unique("group")
    with bench.workers(1, fresh=True) as [worker]:
        worker.call(traffic.open_channels, _CHANNELS)
        worker.call(traffic.listen)
        worker.call(traffic.join, group)
        time.sleep(bench.pick(0.5, 1.5))
        before, began = worker.call(traffic.cpu_seconds), time.monotonic()
        time.sleep(bench.pick(2.0, 6.0))
        used = worker.call(traffic.cpu_seconds) - before
        share = used / (time.monotonic() - began)
        values = {"memory": worker.call(memory), "idle_cpu": share * 100}
    server = bench.running.server
    if server is not None and server.pid is not None:
        values["server_memory"] = _resident(str(server.pid))
    return Outcome(values)


def _resident(pid: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


SUBJECT = Subject(
    "footprint",
    "Memory and idle processor time",
    "A process with 100 channels in a group, each with a receive that waits, while nothing is "
    "sent. The memory of a whole Python process; that of the floor is the part that the Kafka "
    "client takes.",
    [
        Figure("memory", "process", "MiB"),
        Figure("idle_cpu", "idle", "% of a core"),
        Figure("server_memory", "its server", "MiB"),
    ],
    measure,
    with_floor=True,
    long=True,
)
