"""Streams: a topic of other programs, to channels and websockets; against bare consumers."""

from __future__ import annotations

from dataclasses import replace

from .. import reading, web
from ..contenders import Contender
from ..servers import Skipped
from ..subject import Bench, Line, Rounds, subject
from ..traffic import paced
from ..workers import PortSpec

MEMBERS = 1_000
KEYS = 100_000
PARTITIONS = 3
_RATE = 100.0
_TURNS = 3


@subject(
    "Streams",
    f"Records of a plain producer, {_RATE:.0f} a second, to a websocket on a daphne process, and "
    "in turns with these as many group messages of another process to the same websocket. Then, "
    f"without websockets, what a server reads: {MEMBERS:,} channels in {MEMBERS:,} groups, whose "
    "keys come in turn; the same records for nobody; and records for nobody of which each has a "
    "key of its own, also while they are kept for a tracked channel. A bare consumer reads the "
    "same, and decodes it or not; the smallest that can be done puts what it reads into a queue "
    "for each key, on each of which a task receives. Last, the first answer of a compacted topic "
    f"of {KEYS:,} keys to a server that has just started.",
    "record_p50: record to socket, p50 (ms)",
    "send_p50: group_send to socket, p50 (ms)",
    "latency: a record's p50 (times group_send's)",
    *("record_p99: record to socket, p99 (ms)", "send_p99: group_send to socket, p99 (ms)"),
    f"members: into {MEMBERS:,} channels (records/s, more)",
    "smallest: the smallest that does so (records/s, more)",
    "decoded: bare consumer, decoding (records/s, more)",
    "share: into channels, of the bare consumer (%, more)",
    "least: the smallest, of the bare consumer (%, more)",
    "nobody: records for nobody (records/s, more)",
    "bare: bare consumer, not decoding (records/s, more)",
    "idle: for nobody (times the bare consumer's time)",
    "other_keys: for nobody, a key for each (records/s, more)",
    "idle_keys: these (times the bare consumer's time)",
    "cpu_look: processor: reading, and looking for members (µs/record)",
    "cpu_kept: the same, kept for a tracked channel (µs/record)",
    "cpu_decode: processor: decoding (µs/record)",
    "cpu_put: processor: message, mailbox and note (µs/record)",
    "cpu_receive: processor: waking and receiving (µs/record)",
    "cpu_smallest: processor: all of this, the smallest (µs/record)",
    "cpu_decoded: processor: bare consumer, decoding (µs/record)",
    "cpu_bare: processor: bare consumer, not decoding (µs/record)",
    f"answer: last value of {KEYS:,} keys, from the first channel on (s)",
    "memory: more memory for these keys (MB)",
)
def streams(bench: Bench) -> Rounds:
    if not bench.contender.backend.startswith("kafka_layer."):
        raise Skipped("it reads no topics of others")
    count = bench.pick(30_000, 200_000)
    topics = {name: bench.unique(f"bench-{name}") for name in ("full", "keys")}
    settings = {name: _stream(topic, "order-{key}") for name, topic in topics.items()}
    latest = {"keys": {**settings["keys"], "last_value": True}}
    with bench.workers(1) as [writer]:
        for name, topic in topics.items():
            writer.call(reading.create, topic, PARTITIONS, name == "keys")
        writer.call(reading.fill, topics["full"], count, MEMBERS)
        writer.call(reading.fill, topics["keys"], KEYS, KEYS)
    while True:
        values = _to_a_socket(bench)
        with bench.workers(2, _reading(bench, settings)) as (bare, reader):
            # The first channel; no key gives its group.
            reader.call(reading.open_members, ["nobody"])
            for stream in topics:
                reader.call(reading.pause, stream)
            looked = reader.call(reading.read_stream, "full", count, False)
            counted = bare.call(reading.read_bare, topics["full"], count, False)
            other = reader.call(reading.read_stream, "keys", KEYS, False)
            other_bare = bare.call(reading.read_bare, topics["keys"], KEYS, False)
            reader.call(reading.open_members, [f"order-{key}" for key in range(MEMBERS)])
            read = reader.call(reading.read_stream, "full", count, True)
            decoded = bare.call(reading.read_bare, topics["full"], count, True)
            smallest = bare.call(reading.read_smallest, topics["full"], count, MEMBERS)
            decoding = bare.call(reading.decode, count)
            # Of a group that no key gives; the stream may reach it, so its records are kept.
            reader.call(reading.open_members, ["order-nobody"], True)
            kept = reader.call(reading.read_stream, "keys", KEYS, False)
        values |= {
            "members": read.per_second,
            "smallest": smallest.per_second,
            "decoded": decoded.per_second,
            "share": 100 * read.per_second / decoded.per_second,
            "least": 100 * smallest.per_second / decoded.per_second,
            "nobody": looked.per_second,
            "bare": counted.per_second,
            "idle": counted.per_second / looked.per_second,
            "other_keys": other.per_second,
            "idle_keys": other_bare.per_second / other.per_second,
            "cpu_look": looked.each("stream"),
            "cpu_kept": kept.each("stream"),
            "cpu_decode": decoding,
            "cpu_put": read.each("stream") - looked.each("stream") - decoding,
            "cpu_receive": read.each("loop"),
            "cpu_smallest": smallest.each(),
            "cpu_decoded": decoded.each(),
            "cpu_bare": counted.each(),
        }
        with bench.workers(1, _reading(bench, latest), fresh=True) as [reader]:
            answer = reader.call(reading.first_answer, f"order-{KEYS // 2}")
        yield {**values, "answer": answer.seconds, "memory": answer.megabytes}


def _to_a_socket(bench: Bench) -> dict[str, float]:
    room, topic = "0", bench.unique("bench-paced")
    with bench.workers(1) as [sender]:
        sender.call(reading.create, topic, PARTITIONS)
        served = _reading(bench, {"paced": _stream(topic, "{key}")})
        with web.serving(served, 1) as servers:
            config = {"ports": list(servers), "members": 1}
            port = PortSpec("websockets", "benchmarks.web.Websockets", config)
            with bench.workers(1, port) as [crowd]:
                bench.channels([crowd], 1, True)
                lines = {
                    "record": (Line(sender, [crowd], topic, [room]), reading.write_paced),
                    "send": (Line(sender, [crowd], "group_send", [room]), paced),
                }
                found: dict[str, list[dict[str, float]]] = {name: [] for name in lines}
                for line, job in lines.values():
                    bench.exchange(line, job, _RATE, 0.5)
                for _ in range(_TURNS):
                    for name, (line, job) in lines.items():
                        exchange = bench.exchange(line, job, _RATE, bench.pick(1.0, 3.0))
                        found[name].append(exchange.ms(f"{name}_"))
    values = {
        figure: sorted(each[figure] for each in turns)[_TURNS // 2]
        for turns in found.values()
        for figure in turns[0]
    }
    return {**values, "latency": values["record_p50"] / values["send_p50"]}


def _reading(bench: Bench, streams: dict[str, dict[str, object]]) -> Contender:
    config = {**bench.contender.config, "streams": streams}
    return replace(bench.contender, config=config)


def _stream(topic: str, group: str) -> dict[str, object]:
    return {"topic": topic, "group": group, "type": "chat.message"}
