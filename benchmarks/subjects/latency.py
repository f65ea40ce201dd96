"""How long one message takes to a channel of another process."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["SUBJECT"]

_RATES = {"idle": 20.0, "busy": 1000.0}


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    for name, rate in _RATES.items():
        seconds = bench.pick(2.0, 6.0 if rate < 100 else 3.0)
        with bench.workers(2) as (sender, receiver):
            channels = receiver.call(traffic.open_channels, 1)
            receiver.call(traffic.listen, True)
            warm = sender.call(traffic.send_paced, "send", channels, 50.0, 0.6)
            inboxes = receiver.call(traffic.drain, warm.messages)
            faults += Faults.of(warm.messages, inboxes)
            receiver.call(traffic.restart)
            sent = sender.call(traffic.send_paced, "send", channels, rate, seconds)
            inboxes = receiver.call(traffic.drain, sent.messages)
        faults += Faults.of(sent.messages, inboxes)
        latencies = [each * 1000 for inbox in inboxes for each in inbox.latencies]
        values[f"{name}_p50"] = percentile(latencies, 0.50)
        values[f"{name}_p99"] = percentile(latencies, 0.99)
    return Outcome(values, faults)


SUBJECT = Subject(
    "latency",
    "One-way latency to another process",
    "One process sends to a channel that another receives on: 20 and 1,000 messages a second.",
    [
        Figure("idle_p50", "p50, 20/s", "ms"),
        Figure("idle_p99", "p99, 20/s", "ms"),
        Figure("busy_p50", "p50, 1,000/s", "ms"),
        Figure("busy_p99", "p99, 1,000/s", "ms"),
    ],
    measure,
    with_floor=True,
)
