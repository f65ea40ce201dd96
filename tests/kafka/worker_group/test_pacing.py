"""When a worker channel is given jobs, takes them back and leaves its group."""

from __future__ import annotations

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.kafka.worker_group.pacing import CommitCost, Pacing

TIMINGS = Timings(job_unclaimed=0.1, job_doubt=1.0, worker_idle=5.0)


@pytest.fixture
def pacing() -> Pacing:
    return Pacing(TIMINGS, 100.0)


def assign_to_nobody(pacing: Pacing, now: float, seen: float = 100.0) -> float:
    """Assign a job that no receive takes, until it is taken back; returns when that is."""
    assert pacing.demand(1, seen, now) == 1
    pacing.assign(now)
    assert not pacing.has_unclaimed(1, seen, now + 0.09)
    assert pacing.has_unclaimed(1, seen, now + 0.11)
    pacing.take_back(now + 0.11)
    return now + 0.11


def test_receives_that_wait_are_demand(pacing: Pacing) -> None:
    assert pacing.demand(0, 100.0, 101.0) == 0
    assert pacing.demand(3, 100.0, 101.0) == 3


def test_nothing_is_taken_back_that_was_taken(pacing: Pacing) -> None:
    assert not pacing.has_unclaimed(0, 100.0, 1000.0)


def test_a_job_counts_as_unclaimed_only_while_no_receive_is_seen(pacing: Pacing) -> None:
    pacing.assign(101.0)
    assert not pacing.has_unclaimed(1, 101.15, 101.2)
    assert pacing.has_unclaimed(1, 101.15, 101.26)


def test_a_receive_that_took_nothing_is_no_demand_until_it_is_seen(pacing: Pacing) -> None:
    taken_back = assign_to_nobody(pacing, 101.0)
    assert pacing.demand(1, 100.0, taken_back + 0.5) == 0
    # Its loop runs again: it finds nothing, and begins to wait.
    assert pacing.demand(1, taken_back + 0.5, taken_back + 0.5) == 1


def test_a_receive_that_is_never_seen_is_tried_again_and_again_ever_later(pacing: Pacing) -> None:
    now, pauses = 101.0, []
    for _ in range(5):
        taken_back = assign_to_nobody(pacing, now)
        now = taken_back
        while not pacing.demand(1, 100.0, now):
            now += 0.25
        pauses.append(now - taken_back)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_once_seen_the_pauses_begin_at_the_first_one_again(pacing: Pacing) -> None:
    assign_to_nobody(pacing, 101.0)
    assign_to_nobody(pacing, 103.0)
    assert pacing.demand(1, 104.0, 104.0) == 1
    taken_back = assign_to_nobody(pacing, 105.0, seen=104.0)
    assert pacing.demand(1, 104.0, taken_back + 1.0) == 1


def test_the_time_without_demand_counts_from_the_first_job_that_nobody_took(
    pacing: Pacing,
) -> None:
    pacing.demand(1, 100.0, 100.9)
    assign_to_nobody(pacing, 101.0)
    assert pacing.idle_for(100.0, 103.0) == 2.0
    # Another try does not make it younger: its share is to go to members that work.
    assign_to_nobody(pacing, 103.0)
    assert pacing.idle_for(100.0, 106.5) == 5.5


def test_the_time_without_demand_ends_with_demand_and_with_a_receive(pacing: Pacing) -> None:
    assert pacing.idle_for(100.0, 104.0) == 4.0
    assert pacing.idle_for(103.0, 104.0) == 1.0
    pacing.demand(1, 100.0, 104.0)
    assert pacing.idle_for(100.0, 104.0) == 0.0


class TestCommitCost:
    def means(self, commit: float, job: float, commits: int = 300) -> list[float]:
        """What is noticed of commits and jobs of these lengths, one after another."""
        cost, now, noticed = CommitCost(), 100.0, []
        for _ in range(commits):
            mean = cost.add(now, now + commit)
            now += commit + job
            noticed += [] if mean is None else [mean]
        return noticed

    def test_slow_commits_that_take_most_of_the_time_are_noticed_once(self) -> None:
        assert self.means(0.006, 0.001) == [pytest.approx(0.006)]

    def test_quick_commits_are_not_noticed(self) -> None:
        assert self.means(0.001, 0.0) == []

    def test_slow_commits_beside_longer_jobs_are_not_noticed(self) -> None:
        assert self.means(0.006, 0.05) == []

    def test_few_commits_tell_nothing(self) -> None:
        assert self.means(0.006, 0.0, commits=99) == []
