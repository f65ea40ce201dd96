"""What more server processes cost: rooms with members in two of them, all others bystanders."""

from __future__ import annotations

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject

__all__ = ["COUNTS", "SUBJECT"]

COUNTS = (2, 4, 8, 16)
_MEMBERS = 10
_RATE = 200.0


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    for count in bench.pick(COUNTS[::2], COUNTS):
        rooms = [bench.unique("room") for _ in range(count)]
        with bench.workers(1 + count) as (sender, *servers):
            opening = [server.start(traffic.open_channels, _MEMBERS) for server in servers]
            for each in opening:
                each.result()
            for number, server in enumerate(servers):
                server.call(traffic.listen, True)
                server.call(traffic.join, rooms[number])
                server.call(traffic.join, rooms[(number + 1) % count])
            warm = sender.call(traffic.send_paced, "group_send", rooms, _RATE, 0.5)
            for server, share in zip(servers, _shares(warm.messages, count), strict=True):
                server.call(traffic.drain, share)
                server.call(traffic.restart)
            before = [server.call(traffic.cpu_seconds) for server in servers]
            sent = sender.call(traffic.send_paced, "group_send", rooms, _RATE, bench.pick(1.0, 3.0))
            shares = _shares(sent.messages, count)
            inboxes = [
                inbox
                for server, share in zip(servers, shares, strict=True)
                for inbox in server.call(traffic.drain, share)
            ]
            used = sum(server.call(traffic.cpu_seconds) for server in servers) - sum(before)
        faults += Faults.of(sum(shares), inboxes)
        latencies = [each * 1000 for inbox in inboxes for each in inbox.latencies]
        values[f"p50_{count}"] = percentile(latencies, 0.50)
        values[f"p99_{count}"] = percentile(latencies, 0.99)
        values[f"cpu_{count}"] = used * 1e6 / sent.messages
    return Outcome(values, faults)


def _shares(messages: int, count: int) -> list[int]:
    """Return how many deliveries each server gets of messages that went to the rooms in turn."""
    rooms = [messages // count + (room < messages % count) for room in range(count)]
    return [_MEMBERS * (rooms[each] + rooms[(each + 1) % count]) for each in range(count)]


SUBJECT = Subject(
    "scale",
    "More server processes",
    "As many rooms as server processes, each room with 10 members in each of two of them; 200 room "
    "messages a second in all. Processor time of all server processes together.",
    [
        *(Figure(f"cpu_{count}", f"processor, {count} servers", "µs/message") for count in COUNTS),
        *(Figure(f"p50_{count}", f"p50, {count} servers", "ms") for count in COUNTS),
        *(Figure(f"p99_{count}", f"p99, {count} servers", "ms") for count in COUNTS),
    ],
    measure,
    with_floor=True,
    long=True,
)
