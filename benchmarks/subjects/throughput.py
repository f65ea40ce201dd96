"""How many messages a second one process gets to another, over one channel and over many."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["SUBJECT"]


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    for name, count in (("one", 1), ("many", 200)):
        with bench.workers(2) as (sender, receiver):
            channels = receiver.call(traffic.open_channels, count)
            receiver.call(traffic.listen)
            warm = sender.call(traffic.send_flat_out, "send", channels, 0.2)
            faults += Faults.of(warm.messages, receiver.call(traffic.drain, warm.messages))
            receiver.call(traffic.restart)
            sent = sender.call(traffic.send_flat_out, "send", channels, bench.pick(1.0, 2.0))
            inboxes = receiver.call(traffic.drain, sent.messages)
        faults += Faults.of(sent.messages, inboxes)
        received = sum(each.unique for each in inboxes)
        values[name] = received / (traffic.last_at(inboxes) - sent.began)
    return Outcome(values, faults)


SUBJECT = Subject(
    "throughput",
    "Messages to channels of another process",
    "Ten tasks of one process send as fast as it goes to one channel, and over 200 channels, of "
    "another; from the first send to the last arrival.",
    [
        Figure("one", "one channel", "messages/s", "more"),
        Figure("many", "200 channels", "messages/s", "more"),
    ],
    measure,
    with_floor=True,
)
