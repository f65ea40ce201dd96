"""How long a group message takes to each member, in two other processes."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["SUBJECT"]

_MEMBERS = 10
_RATE = 20.0


def measure(bench: Bench) -> Outcome:
    group = bench.unique("group")
    with bench.workers(3) as (sender, *receivers):
        for receiver in receivers:
            receiver.call(traffic.open_channels, _MEMBERS)
            receiver.call(traffic.listen, True)
            receiver.call(traffic.join, group)
        warm = sender.call(traffic.send_paced, "group_send", [group], 50.0, 0.6)
        faults = Faults()
        for receiver in receivers:
            expected = warm.messages * _MEMBERS
            faults += Faults.of(expected, receiver.call(traffic.drain, expected))
            receiver.call(traffic.restart)
        sent = sender.call(traffic.send_paced, "group_send", [group], _RATE, bench.pick(2.0, 5.0))
        expected = sent.messages * _MEMBERS
        inboxes = [
            inbox for receiver in receivers for inbox in receiver.call(traffic.drain, expected)
        ]
    latencies = [each * 1000 for inbox in inboxes for each in inbox.latencies]
    return Outcome(
        {"p50": percentile(latencies, 0.50), "p99": percentile(latencies, 0.99)},
        faults + Faults.of(expected * len(receivers), inboxes),
    )


SUBJECT = Subject(
    "groups",
    "Group latency",
    "20 group messages a second to 20 members in two processes; the time to each member.",
    [Figure("p50", "p50", "ms"), Figure("p99", "p99", "ms")],
    measure,
    with_floor=True,
)
