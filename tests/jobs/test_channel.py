"""The receives of a worker channel: what they want, take and leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.wakeups import Wakeups
from kafka_layer.exceptions import LayerClosed
from kafka_layer.jobs.channel import WorkChannel
from kafka_layer.jobs.job import Job
from kafka_layer.observe.counters import Stats
from kafka_layer.server.clock import BrokerClock
from kafka_layer.wire.encryption import Encryption, ReplayGuard
from kafka_layer.wire.topics import WorkTopic
from tests.jobs.test_ack import NotedPolicy
from tests.support.messages import FakeMessage
from tests.support.waiting import PATIENCE

TOPIC = WorkTopic("jobs")


class Receives:
    """A channel, and what its policy was told."""

    def __init__(self, **settings: Any) -> None:
        self.policy = NotedPolicy()
        self.stats = Stats("channels")
        self.clock = BrokerClock()
        config = LayerConfig.from_keywords(
            bootstrap_servers="nowhere:9092", worker_channels={"jobs": settings}
        )
        self.channel = WorkChannel(
            TOPIC,
            config.worker_settings("jobs"),
            ReplayGuard(Encryption(), 60),
            self.stats,
            self.clock,
            # The loop counts as one that runs for as long as a test may take.
            Wakeups(Timings(echo=PATIENCE)),
            self.policy,
        )

    def accept(self, offset: int, age: float = 0.0) -> Job | None:
        place = (TOPIC, 0, offset, self.clock.now() - age)
        record = FakeMessage(TOPIC.value, offset, value=str(offset).encode())
        return self.channel.accept(record, place, self)

    def assign(self, *offsets: int) -> list[Job]:
        jobs = [job for offset in offsets if (job := self.accept(offset)) is not None]
        self.channel.assign(jobs)
        return jobs


def read(mailbox: object, job: Any) -> dict[str, Any] | None:
    """Decode a job; one that says 13 cannot be decoded."""
    return None if job.payload == b"13" else {"n": int(job.payload)}


@pytest.fixture
def receives() -> Receives:
    return Receives()


async def test_there_is_demand_for_each_receive_that_waits(receives: Receives) -> None:
    assert receives.channel.demand == 0
    tasks = [asyncio.create_task(receives.channel.receive(read)) for _ in range(3)]
    await asyncio.sleep(0)
    assert receives.channel.demand == 3
    assert receives.channel.changed.wait(0)
    receives.assign(1, 2, 3)
    assert sorted(message["n"] for message, _ in await asyncio.gather(*tasks)) == [1, 2, 3]


async def test_one_receive_that_waits_wants_as_many_jobs_as_are_prefetched() -> None:
    receives = Receives(prefetch_count=10)
    task = asyncio.create_task(receives.channel.receive(read))
    await asyncio.sleep(0)
    assert receives.channel.demand == 10
    task.cancel()
    await asyncio.wait([task])
    assert receives.channel.demand == 0


async def test_a_receive_that_begins_to_wait_is_seen(receives: Receives) -> None:
    seen = receives.channel.last_seen
    task = asyncio.create_task(receives.channel.receive(read))
    await asyncio.sleep(0)
    assert receives.channel.last_seen > seen
    task.cancel()


async def test_the_end_of_a_job_that_was_received_goes_to_the_policy(receives: Receives) -> None:
    [job] = receives.assign(1)
    _, in_hand = await receives.channel.receive(read)
    assert receives.policy.told == [("taken", job)]
    in_hand.done()
    assert receives.policy.told[1:] == [("done", job)]


async def test_a_job_that_cannot_be_read_is_done(receives: Receives) -> None:
    receives.assign(13, 14)
    message, _ = await receives.channel.receive(read)
    assert message == {"n": 14}
    assert [what for what, *_ in receives.policy.told] == ["taken", "done", "taken"]


def test_jobs_that_no_receive_took_are_returned_in_order_and_not_taken(receives: Receives) -> None:
    jobs = receives.assign(1, 2, 3)
    assert receives.channel.unclaimed == 3
    returned = receives.channel.return_unclaimed(lambda job: job.offset != 2)
    assert returned == [jobs[0], jobs[2]]
    assert receives.channel.unclaimed == 1
    assert receives.stats.snapshot()["delivered"] == 1
    assert receives.policy.told == []


def test_a_job_that_expired_is_dropped_and_counted() -> None:
    receives = Receives(expiry=5)
    assert receives.accept(1, age=6.0) is None
    assert receives.stats.snapshot() == {"dropped.expired": 1}


def test_jobs_for_a_channel_that_is_closed_are_dropped_and_not_delivered(
    receives: Receives,
) -> None:
    receives.assign(0)
    assert receives.channel.mailbox.close(LayerClosed("closed")) == 1
    receives.assign(1, 2)
    counts = receives.stats.snapshot()
    assert counts["delivered"] == 1
    assert counts["dropped.closed"] == 2
    assert not receives.channel.unclaimed


def test_a_flush_drops_what_was_accepted_assigned_and_is_read_later(receives: Receives) -> None:
    receives.assign(1, 2)
    late = receives.accept(3)
    assert late is not None
    assert receives.channel.forget_until(receives.clock.now()) == 2
    receives.channel.assign([late])
    assert receives.accept(4, age=1.0) is None
    assert receives.channel.unclaimed == 0
    assert receives.stats.snapshot()["dropped.flushed"] == 2
