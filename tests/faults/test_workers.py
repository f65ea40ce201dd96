"""Worker channels while their broker dies: what docs/worker-channels.md says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.cluster.workers.clients import use_commits
from tests.faults.traffic import Inbox, Stream, figure
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, next_message, next_messages, stats_of
from tests.support.waiting import wait_until_async

JOBS = "jobs"


PROTOCOLS: list[dict[str, Any]] = [
    {"worker_group_protocol": "classic", "consumer_config": {"session.timeout.ms": 3_000}},
    {"worker_group_protocol": "consumer"},
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["classic", "consumer"])
async def test_the_broker_is_killed_while_two_work(
    broker: RealBroker, make_layer: Layers, protocol: dict[str, Any]
) -> None:
    layers = [make_layer(**protocol) for _ in range(2)]
    workers = [Inbox(layer, JOBS) for layer in layers]
    for worker in workers:
        worker.begin()
    stream = Stream(make_layer(), "nobody", workers[:1])
    stream.start()
    await wait_until_async(
        lambda: all(len(worker.arrived) >= 50 for worker in workers),
        "both to have a share of the work",
        30,
    )
    broker.kill()
    await stream.goes_on(100)
    await asyncio.to_thread(broker.start)
    before = [len(worker.arrived) for worker in workers]
    await stream.goes_on(100)
    await wait_until_async(
        lambda: all(
            len(worker.arrived) > number for worker, number in zip(workers, before, strict=True)
        ),
        "both to work again",
        30,
    )
    await stream.stop()

    def doubtful() -> int:
        return sum(stats_of(layer)["dropped.doubtful"] for layer in layers)

    def done() -> list[int]:
        return [number for worker in workers for number in worker.numbers("direct")]

    await wait_until_async(
        lambda: len(done()) + doubtful() >= len(stream.accepted),
        f"{len(stream.accepted)} jobs to be done",
        60,
    )
    for worker in workers:
        await worker.close()
    figure(f"{len(stream.accepted)} jobs, {len(done())} done, {doubtful()} in doubt")
    assert len(done()) == len(set(done()))
    assert set(done()) <= set(stream.accepted)
    # Each worker has one receive, so each commit without an answer puts one job in doubt.
    assert len(stream.accepted) - len(done()) <= doubtful() <= len(workers)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ],
)
async def test_a_commit_that_took_effect_and_was_answered_with_an_error(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # As when the connection broke after the commit, and the client repeated it.
    channel = f"{JOBS}.{code}".replace("-", "minus")
    consumers = use_commits(monkeypatch, None)
    layer = make_layer()
    for number in range(5):
        await layer.send(channel, {"n": number})
    first = await next_message(layer, channel)
    committed = len(consumers.committed_positions)

    def commit_and_fail(positions: object, commit: Any) -> KafkaError:
        commit()
        return KafkaError(code)

    consumers.outcome = staticmethod(commit_and_fail)
    worker = Inbox(layer, channel)
    worker.begin()
    await wait_until_async(lambda: len(consumers.committed_positions) > committed, "a commit")
    await worker.close()
    consumers.outcome = None
    await layer.close()
    others = await next_messages(make_layer(), channel, 4)
    assert sorted(each["n"] for each in (first, *others)) == list(range(5))
