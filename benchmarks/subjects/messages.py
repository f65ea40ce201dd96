"""Messages to channels and groups of other processes: how long they take, and how many pass."""

from __future__ import annotations

from statistics import median

from .. import traffic
from ..subject import Bench, Line, Rounds, subject
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
def latency(bench: Bench) -> Rounds:
    with bench.to_channels(1, True) as idle, bench.to_channels(1, True) as busy:
        while True:
            slow = bench.twice(idle, bench.pick(3.0, 6.0), 1.0, paced, 20.0)
            quick = bench.twice(busy, bench.pick(1.0, 3.0), 0.1, paced, 1000.0)
            yield {**slow.ms("idle_"), **quick.ms("busy_")}


@subject(
    "Group latency",
    "20 group messages a second to 20 members in two processes; the time to each member.",
    *("p50: p50 (ms)", "p99: p99 (ms)"),
    with_floor=True,
)
def groups(bench: Bench) -> Rounds:
    with bench.to_group(_MEMBERS, True) as line:
        while True:
            yield bench.twice(line, bench.pick(2.0, 5.0), 1.0, paced, 20.0).ms()


@subject(
    "Messages to channels of another process",
    "Ten tasks of one process send as fast as it goes to one channel, and over 200 channels, of "
    "another; from the first send to the last arrival.",
    "one: one channel (messages/s, more)",
    "many: 200 channels (messages/s, more)",
    with_floor=True,
)
def throughput(bench: Bench) -> Rounds:
    with bench.to_channels(1) as one, bench.to_channels(200) as many:
        while True:
            seconds = bench.pick(1.0, 2.0)
            found = [bench.twice(line, seconds, 0.2, flat_out) for line in (one, many)]
            yield {"one": found[0].per_second, "many": found[1].per_second}


@subject(
    "Group deliveries",
    "Ten tasks of one process send as fast as it goes to one group with 50 members in each of two "
    "other processes; deliveries from the first send to the last arrival.",
    "deliveries: 100 members in 2 processes (deliveries/s, more)",
    with_floor=True,
)
def fanout(bench: Bench) -> Rounds:
    with bench.to_group(_CROWD) as line:
        while True:
            found = bench.twice(line, bench.pick(0.4, 0.8), 0.1, flat_out)
            yield {"deliveries": found.per_second}


@subject(
    "Settings that trade one thing for another",
    "One process sends to a channel of another: 100 messages a second, and then as fast as it goes "
    "from ten tasks. acks is not for users to set: bare clients show what less than 'all' would "
    "gain.",
    *("p50: p50 (ms)", "p99: p99 (ms)", "call: one send call (µs)"),
    "throughput: flat out (messages/s, more)",
    with_floor=True,
    long=True,
    variants=(
        *("kafka", "kafka:linger-5", "kafka:linger-25", "kafka:in-flight-5", "kafka:lz4"),
        *("kafka:zstd", "kafka:await", "kafka:json", "kafka:encrypted", "kafka:capacity-1000"),
        *("floor", "floor:acks-1", "floor:acks-0"),
    ),
)
def settings(bench: Bench) -> Rounds:
    with bench.to_channels(1, True) as line:
        while True:
            slow = bench.twice(line, bench.pick(1.0, 2.0), 0.4, paced, 100.0)
            single = bench.exchange(line, traffic.time_sends, bench.pick(50, 150))
            full = bench.twice(line, bench.pick(0.7, 1.2), 0.2, flat_out)
            call = median(single.sent.calls) * 1e6
            yield {**slow.ms(), "call": call, "throughput": full.per_second}


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
def scale(bench: Bench) -> Rounds:
    while True:
        values: dict[str, float] = {}
        for count in bench.pick(SERVERS[::2], SERVERS):
            with bench.workers(1 + count) as (sender, *servers):
                bench.channels(servers, _MEMBERS, True)
                pairs = zip(servers, [*servers[1:], servers[0]], strict=True)
                rooms = [bench.group(pair) for pair in pairs]
                line = Line(sender, servers, "group_send", rooms, 2 * _MEMBERS)
                found = bench.twice(line, bench.pick(1.0, 3.0), 0.5, paced, 200.0)
            values |= {f"{name}_{count}": value for name, value in found.ms().items()}
            values[f"cpu_{count}"] = found.cpu * 1e6 / found.sent.messages
        yield values
