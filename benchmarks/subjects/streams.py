"""Streams: a topic that other programs write, to channels; against bare consumers."""

from __future__ import annotations

from dataclasses import replace

from .. import reading
from ..servers import Skipped
from ..subject import Bench, Rounds, percentiles, subject

MEMBERS = 1_000
KEYS = 100_000
PARTITIONS = 3


@subject(
    "Streams",
    "Records of a plain producer in one process to channels in another. The latency at 100 a "
    "second, beside group messages of the same layer. "
    f"Then {MEMBERS:,} members in {MEMBERS:,} groups, whose keys come in turn, and records that "
    "concern nobody, against a bare consumer that decodes the same, or nothing. Last, the first "
    f"answer of a compacted topic of {KEYS:,} keys to a server that has just started.",
    *("record_p50: record to receive, p50 (ms)", "record_p99: record to receive, p99 (ms)"),
    *("send_p50: group_send to receive, p50 (ms)", "send_p99: group_send to receive, p99 (ms)"),
    f"members: into {MEMBERS:,} channels (records/s, more)",
    "decoded: bare consumer, decoding (records/s, more)",
    "nobody: records for nobody (records/s, more)",
    "bare: bare consumer, not decoding (records/s, more)",
    f"answer: last value of {KEYS:,} keys, from the first channel on (s)",
    "memory: more memory for these keys (MB)",
)
def streams(bench: Bench) -> Rounds:
    if not bench.contender.backend.startswith("kafka_layer."):
        raise Skipped("it reads no topics of others")
    count = bench.pick(30_000, 200_000)
    seconds = bench.pick(2.0, 5.0)
    topics = {name: bench.unique(f"bench-{name}") for name in ("paced", "full", "keys")}
    streams = {name: {**reading.STREAM, "topic": topic} for name, topic in topics.items()}
    port = replace(bench.contender, config={**bench.contender.config, "streams": streams})
    last = {"keys": {**streams["keys"], "last_value": True}}
    latest = replace(port, config={**bench.contender.config, "streams": last})
    with bench.workers(1) as [writer]:
        for name, topic in topics.items():
            writer.call(reading.create, topic, PARTITIONS, name == "keys")
        writer.call(reading.fill, topics["full"], count, MEMBERS)
        writer.call(reading.fill, topics["keys"], KEYS, KEYS)
    while True:
        values: dict[str, float] = {}
        with bench.workers(2, port) as (writer, reader):
            reader.call(reading.open_members, ["order-paced"])
            reader.call(reading.pause, "full")
            for name, job, to in (
                ("record_", reading.write_paced, topics["paced"]),
                ("send_", reading.send_paced, "order-paced"),
            ):
                # The first half second warms both up.
                writer.call(job, to, 100.0, 0.5)
                reader.call(reading.ages, 50)
                writer.call(job, to, 100.0, seconds)
                ages = reader.call(reading.ages, int(100 * seconds))
                values |= percentiles([each * 1000 for each in ages], name)
            read = reader.call(reading.read_stream, "full", count, False)
            values["nobody"] = read.records / read.seconds
            reader.call(reading.pause, "full")
            bare = writer.call(reading.read_bare, topics["full"], count, False)
            values["bare"] = bare.records / bare.seconds
            reader.call(reading.open_members, [f"order-{key}" for key in range(MEMBERS)])
            read = reader.call(reading.read_stream, "full", count, True)
            values["members"] = read.records / read.seconds
            bare = writer.call(reading.read_bare, topics["full"], count, True)
            values["decoded"] = bare.records / bare.seconds
        with bench.workers(1, latest, fresh=True) as [reader]:
            answer = reader.call(reading.first_answer, f"order-{KEYS // 2}")
            values |= {"answer": answer.seconds, "memory": answer.megabytes}
        yield values
