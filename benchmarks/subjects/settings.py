"""What settings of kafka_layer trade: latency against throughput, and both against safety."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["SUBJECT"]

_RATE = 100.0


def measure(bench: Bench) -> Outcome:
    with bench.workers(2) as (sender, receiver):
        channels = receiver.call(traffic.open_channels, 1)
        receiver.call(traffic.listen, True)
        faults = Faults()
        for seconds in (0.4, bench.pick(1.0, 2.0)):
            receiver.call(traffic.restart)
            sent = sender.call(traffic.send_paced, "send", channels, _RATE, seconds)
            inboxes = receiver.call(traffic.drain, sent.messages)
            faults += Faults.of(sent.messages, inboxes)
        latencies = [each * 1000 for inbox in inboxes for each in inbox.latencies]
        receiver.call(traffic.restart)
        calls = bench.pick(50, 150)
        call = sender.call(traffic.time_sends, channels[0], calls)
        faults += Faults.of(calls, receiver.call(traffic.drain, calls))
        for seconds in (0.2, bench.pick(0.7, 1.2)):
            receiver.call(traffic.restart)
            sent = sender.call(traffic.send_flat_out, "send", channels, seconds)
            inboxes = receiver.call(traffic.drain, sent.messages)
            faults += Faults.of(sent.messages, inboxes)
    received = sum(each.unique for each in inboxes)
    return Outcome(
        {
            "p50": percentile(latencies, 0.50),
            "p99": percentile(latencies, 0.99),
            "call": call * 1e6,
            "throughput": received / (traffic.last_at(inboxes) - sent.began),
        },
        faults,
    )


SUBJECT = Subject(
    "settings",
    "Settings that trade one thing for another",
    "One process sends to a channel of another: 100 messages a second, and then as fast as it goes "
    "from ten tasks. acks is not for users to set: bare clients show what less than 'all' would "
    "gain.",
    [
        Figure("p50", "p50", "ms"),
        Figure("p99", "p99", "ms"),
        Figure("call", "one send call", "µs"),
        Figure("throughput", "flat out", "messages/s", "more"),
    ],
    measure,
    with_floor=True,
    long=True,
    variants=(
        "kafka",
        "kafka:linger-5",
        "kafka:linger-25",
        "kafka:in-flight-5",
        "kafka:lz4",
        "kafka:zstd",
        "kafka:await",
        "kafka:json",
        "kafka:encrypted",
        "kafka:capacity-1000",
        "floor",
        "floor:acks-1",
        "floor:acks-0",
    ),
)
