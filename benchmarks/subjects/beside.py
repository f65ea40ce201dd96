"""What a worker channel costs the broadcasts that the same process receives."""

from __future__ import annotations

import time

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Skipped, Subject
from ..workers import Worker
from . import jobs

__all__ = ["SUBJECT"]

_GROUP_RATE = 50.0
_OTHER_RATE = 500.0
_BEFORE = 0.1
_PHASES = {
    "alone": "nothing else",
    "channel": "500/s to a channel",
    "waiting": "worker channel, no jobs",
    "working": "worker channel, 500 jobs/s",
}


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    group, queue = bench.unique("group"), bench.unique("jobs")
    seconds = bench.pick(1.5, 3.0)
    with bench.workers(2) as (other, receiver):
        if jobs.early(other, [receiver], bench.unique("jobs")).lost:
            raise Skipped("it has no queue: jobs that were sent while no worker ran are lost")
    with bench.workers(3) as (sender, other, receiver):
        _, ordinary = receiver.call(traffic.open_channels, 2)
        receiver.call(traffic.listen, True)
        receiver.call(traffic.join, group, 1)
        warm = sender.call(traffic.send_paced, "group_send", [group], _GROUP_RATE, 0.6)
        faults += Faults.of(warm.messages, receiver.call(traffic.drain, warm.messages))
        for phase in _PHASES:
            if phase == "waiting":
                jobs.begin(other, [receiver], queue)
            receiver.call(traffic.restart)
            address = {"channel": ordinary, "working": queue}.get(phase)
            broadcasts, others = _send(sender, other, group, address, seconds)
            # Jobs come to no inbox.
            expected = broadcasts + (others if phase == "channel" else 0)
            inboxes = receiver.call(traffic.drain, expected)
            faults += Faults.of(expected, inboxes)
            if phase == "working":
                faults += jobs.judge(jobs.collect([receiver], others), others)
            latencies = [each * 1000 for each in inboxes[0].latencies]
            values[f"{phase}_p50"] = percentile(latencies, 0.50)
            values[f"{phase}_p99"] = percentile(latencies, 0.99)
        receiver.call(jobs.stop)
    return Outcome(values, faults)


def _send(
    sender: Worker, other: Worker, group: str, address: str | None, seconds: float
) -> tuple[int, int]:
    """Send to the group, and meanwhile to another address, if there is one; return how much."""
    beside = None
    if address is not None:
        beside = other.start(traffic.send_paced, "send", [address], _OTHER_RATE, seconds)
        # The first messages of a process have nothing to do with it.
        time.sleep(_BEFORE)
    sent = sender.call(traffic.send_paced, "group_send", [group], _GROUP_RATE, seconds - _BEFORE)
    return sent.messages, beside.result().messages if beside is not None else 0


SUBJECT = Subject(
    "beside",
    "Broadcasts beside a worker channel",
    "50 group messages a second to a member in another process. What else that process receives "
    "meanwhile: nothing; 500 messages a second to a channel; a worker channel on which it waits; "
    "500 jobs a second on it. The difference between the second and the last is what the worker "
    "channel itself disturbs.",
    [
        *(Figure(f"{phase}_p50", f"p50, {label}", "ms") for phase, label in _PHASES.items()),
        *(Figure(f"{phase}_p99", f"p99, {label}", "ms") for phase, label in _PHASES.items()),
    ],
    measure,
    long=True,
)
