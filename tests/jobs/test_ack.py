"""How the end of a job is told, and what becomes of it."""

from __future__ import annotations

from kafka_layer.jobs.ack import AtMostOnce, JobInHand
from kafka_layer.jobs.job import Job
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import WorkTopic


class NotedPolicy:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def taken(self, job: Job) -> None:
        self.told.append(("taken", job))

    def done(self, job: Job) -> None:
        self.told.append(("done", job))

    def failed(self, job: Job, error: BaseException) -> None:
        self.told.append(("failed", job, error))


def a_job() -> Job:
    return Job(b"", 0.0, (WorkTopic("jobs"), 0, 7, 0.0), object())


def test_the_first_end_of_a_job_counts() -> None:
    policy, job = NotedPolicy(), a_job()
    in_hand = JobInHand(job, policy)
    in_hand.done()
    in_hand.failed(ValueError())
    in_hand.done()
    assert policy.told == [("done", job)]


def test_a_failure_is_told_with_its_error() -> None:
    policy, job, error = NotedPolicy(), a_job(), ValueError()
    in_hand = JobInHand(job, policy)
    in_hand.failed(error)
    in_hand.done()
    assert policy.told == [("failed", job, error)]


def test_at_most_once_counts_how_jobs_ended() -> None:
    stats = Stats("channels")
    policy = AtMostOnce(stats, "a.channel")
    policy.taken(a_job())
    policy.done(a_job())
    policy.done(a_job())
    policy.failed(a_job(), ValueError())
    assert stats.snapshot() == {"jobs.done": 2, "jobs.failed": 1}
    assert stats.by_name("jobs.done") == {"a.channel": 2}
