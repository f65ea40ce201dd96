"""How many deliveries a second a group of 100 members in two processes gets."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["SUBJECT"]

_MEMBERS = 50


def measure(bench: Bench) -> Outcome:
    group = bench.unique("group")
    with bench.workers(3) as (sender, *receivers):
        for receiver in receivers:
            receiver.call(traffic.open_channels, _MEMBERS)
            receiver.call(traffic.listen)
            receiver.call(traffic.join, group)
        faults = Faults()
        for seconds in (0.1, bench.pick(0.4, 0.8)):
            for receiver in receivers:
                receiver.call(traffic.restart)
            sent = sender.call(traffic.send_flat_out, "group_send", [group], seconds)
            expected = sent.messages * _MEMBERS
            draining = [receiver.start(traffic.drain, expected) for receiver in receivers]
            inboxes = [inbox for each in draining for inbox in each.result()]
            faults += Faults.of(expected * len(receivers), inboxes)
    received = sum(each.unique for each in inboxes)
    return Outcome({"deliveries": received / (traffic.last_at(inboxes) - sent.began)}, faults)


SUBJECT = Subject(
    "fanout",
    "Group deliveries",
    "Ten tasks of one process send as fast as it goes to one group with 50 members in each of two "
    "other processes; deliveries from the first send to the last arrival.",
    [Figure("deliveries", "100 members in 2 processes", "deliveries/s", "more")],
    measure,
    with_floor=True,
)
