"""Messages to channels and groups of other processes: how long they take, and how many pass."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tests.support.counting import Tally

from .. import traffic
from ..subject import Bench, Exchange, Outcome, Pair, subject
from ..traffic import flat_out, paced

SERVERS = (2, 4, 8, 16)
_MEMBERS = 10
_CROWD = 50


@subject(
    "One-way latency to another process",
    "One process sends to a channel that another receives on: 20 and 1,000 messages a second.",
    *("idle_p50: p50, 20/s (ms)", "idle_p99: p99, 20/s (ms)"),
    *("busy_p50: p50, 1,000/s (ms)", "busy_p99: p99, 1,000/s (ms)"),
    with_floor=True,
)
def latency(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(2) as (sender, receiver), bench.workers(2) as (fast, busy):
        idle, full = bench.channels([receiver], 1, True), bench.channels([busy], 1, True)
        while True:
            seconds = bench.pick(3.0, 6.0)
            slow = bench.twice(seconds, 1.0, (sender, [receiver]), 1, paced, "send", idle, 20.0)
            seconds = bench.pick(1.0, 3.0)
            quick = bench.twice(seconds, 0.1, (fast, [busy]), 1, paced, "send", full, 1000.0)
            yield Outcome({**slow.ms("idle_"), **quick.ms("busy_")}, slow.tally + quick.tally)


@subject(
    "Group latency",
    "20 group messages a second to 20 members in two processes; the time to each member.",
    *("p50: p50 (ms)", "p99: p99 (ms)"),
    with_floor=True,
)
def groups(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(3) as (sender, *receivers):
        sending = (paced, "group_send", bench.group(receivers, _MEMBERS, True), 20.0)
        while True:
            seconds = bench.pick(2.0, 5.0)
            found = bench.twice(seconds, 1.0, (sender, receivers), _MEMBERS, *sending)
            yield Outcome(found.ms(), found.tally)


@subject(
    "Messages to channels of another process",
    "Ten tasks of one process send as fast as it goes to one channel, and over 200 channels, of "
    "another; from the first send to the last arrival.",
    "one: one channel (messages/s, more)",
    "many: 200 channels (messages/s, more)",
    with_floor=True,
)
def throughput(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(2) as (sender, one), bench.workers(2) as (other, many):
        ways: dict[str, tuple[Pair, list[str]]] = {
            "one": ((sender, [one]), bench.channels([one], 1)),
            "many": ((other, [many]), bench.channels([many], 200)),
        }
        while True:
            found = {
                name: bench.twice(bench.pick(1.0, 2.0), 0.2, pair, 1, flat_out, "send", channels)
                for name, (pair, channels) in ways.items()
            }
            values = {name: each.per_second for name, each in found.items()}
            yield Outcome(values, found["one"].tally + found["many"].tally)


@subject(
    "Group deliveries",
    "Ten tasks of one process send as fast as it goes to one group with 50 members in each of two "
    "other processes; deliveries from the first send to the last arrival.",
    "deliveries: 100 members in 2 processes (deliveries/s, more)",
    with_floor=True,
)
def fanout(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(3) as (sender, *receivers):
        sending = (flat_out, "group_send", bench.group(receivers, _CROWD))
        while True:
            seconds = bench.pick(0.4, 0.8)
            found = bench.twice(seconds, 0.1, (sender, receivers), _CROWD, *sending)
            yield Outcome({"deliveries": found.per_second}, found.tally)


@subject(
    "Settings that trade one thing for another",
    "One process sends to a channel of another: 100 messages a second, and then as fast as it goes "
    "from ten tasks. acks is not for users to set: bare clients show what less than 'all' would "
    "gain.",
    *("p50: p50 (ms)", "p99: p99 (ms)", "call: one send call (µs)"),
    "throughput: flat out (messages/s, more)",
    with_floor=True,
    long=True,
    variants="kafka kafka:linger-5 kafka:linger-25 kafka:in-flight-5 kafka:lz4 kafka:zstd "
    "kafka:await kafka:json kafka:encrypted kafka:capacity-1000 floor floor:acks-1 floor:acks-0",
)
def settings(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(2) as (sender, receiver):
        channels, pair = bench.channels([receiver], 1, True), (sender, [receiver])
        while True:
            slow = bench.twice(bench.pick(1.0, 2.0), 0.4, pair, 1, paced, "send", channels, 100.0)
            receiver.call(traffic.restart)
            calls = sender.call(traffic.time_sends, "send", channels[0], bench.pick(50, 150))
            called = Tally.of(len(calls), receiver.call(traffic.drain, len(calls)))
            full = bench.twice(bench.pick(0.7, 1.2), 0.2, pair, 1, flat_out, "send", channels)
            values = {"call": median(calls) * 1e6, "throughput": full.per_second}
            yield Outcome({**slow.ms(), **values}, slow.tally + called + full.tally)


@subject(
    "More server processes",
    "As many rooms as server processes, each room with 10 members in each of two of them; 200 room "
    "messages a second in all. Processor time of all server processes together.",
    *(f"cpu_{count}: processor, {count} servers (µs/message)" for count in SERVERS),
    *(f"p50_{count}: p50, {count} servers (ms)" for count in SERVERS),
    *(f"p99_{count}: p99, {count} servers (ms)" for count in SERVERS),
    with_floor=True,
    long=True,
)
def scale(bench: Bench) -> Iterator[Outcome]:
    while True:
        values: dict[str, float] = {}
        tally = Tally()
        for count in bench.pick(SERVERS[::2], SERVERS):
            found, used = _rooms(bench, count)
            tally += found.tally
            values |= {f"{name}_{count}": value for name, value in found.ms().items()}
            values[f"cpu_{count}"] = used * 1e6 / found.sent.messages
        yield Outcome(values, tally)


def _rooms(bench: Bench, count: int) -> tuple[Exchange, float]:
    """Send to as many rooms as servers, each with members in two; also returns processor time."""
    rooms = [bench.unique("room") for _ in range(count)]

    def share(messages: int) -> list[int]:
        of_room = [messages // count + (room < messages % count) for room in range(count)]
        return [_MEMBERS * (of_room[each] + of_room[(each + 1) % count]) for each in range(count)]

    with bench.workers(1 + count) as (sender, *servers):
        bench.channels(servers, _MEMBERS, True)
        for number, server in enumerate(servers):
            for room in (rooms[number], rooms[(number + 1) % count]):
                server.call(traffic.join, room)
        for seconds in (0.5, bench.pick(1.0, 3.0)):
            before = sum(server.call(traffic.cpu_seconds) for server in servers)
            sending = (paced, "group_send", rooms, 200.0, seconds)
            found = bench.exchange(sender, servers, share, *sending)
            used = sum(server.call(traffic.cpu_seconds) for server in servers) - before
    return found, used
