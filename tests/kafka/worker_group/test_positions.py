"""What a member of a worker group commits and gives back, whatever the group and the broker do."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.kafka.worker_group.positions import JobPositions

PARTITIONS = [0, 1]
MEMBERS = [0, 1]
MESSAGES = 8


class FakeJob(NamedTuple):
    partition: int
    offset: int
    assignment: object


@pytest.fixture
def book() -> JobPositions[FakeJob]:
    return JobPositions()


def fetch(book: JobPositions[FakeJob], partition: int, *offsets: int) -> list[FakeJob]:
    """Let messages arrive; returns their jobs."""
    jobs = [FakeJob(partition, each, book.assigned[partition]) for each in offsets]
    for job in jobs:
        book.fetch(partition, job.offset, job)
    return jobs


class TestBatches:
    def test_a_batch_has_as_many_jobs_as_receives_wait_for_in_order(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0, 1])
        jobs = fetch(book, 0, 5, 6) + fetch(book, 1, 2)
        batch = book.next_batch(2)
        assert batch.jobs == jobs[:2]
        assert batch.positions == {0: 7}
        assert book.next_batch(9).positions == {1: 3}

    def test_messages_without_a_job_are_committed_with_the_job_behind_them(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0])
        book.fetch(0, 4, None)
        fetch(book, 0, 5, 6)
        batch = book.next_batch(1)
        assert [job.offset for job in batch.jobs] == [5]
        assert batch.positions == {0: 6}
        assert (book.messages, book.jobs) == (1, 1)

    def test_without_demand_there_is_nothing_to_commit(self, book: JobPositions[FakeJob]) -> None:
        book.assign([0])
        fetch(book, 0, 1)
        assert not book.next_batch(0).messages

    def test_a_batch_whose_commit_failed_comes_again_and_leaves_its_partition_in_doubt(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0])
        jobs = fetch(book, 0, 5, 6, 7)
        book.commit_failed(book.next_batch(2))
        assert book.in_doubt([0]) == {0: {5, 6}}
        batch = book.next_batch(3)
        assert batch.jobs == jobs
        assert book.commit_succeeded(batch) == jobs
        assert book.in_doubt([0]) == {}


class TestGivingBack:
    def test_jobs_that_no_receive_took_are_uncommitted_from_the_first_one(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0])
        fetch(book, 0, 7, 8, 9)
        jobs = book.commit_succeeded(book.next_batch(2))
        book.take_back(jobs)
        assert book.to_give_back([0]) == {0: 7}
        assert [job.offset for job in book.next_batch(3).jobs] == [7, 8, 9]

    def test_a_job_of_an_earlier_assignment_is_not_this_members_to_give_back(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0])
        [job] = fetch(book, 0, 7)
        assert book.is_current(job)
        book.revoke([0])
        assert not book.is_current(job)
        # Another member may have gone on to any offset: committing 7 would repeat all those.
        book.assign([0])
        assert not book.is_current(job)

    def test_a_revoked_partition_goes_back_to_its_first_unclaimed_job_or_first_doubt(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0, 1])
        fetch(book, 1, 4)
        book.commit_failed(book.next_batch(1))
        assert book.to_give_back([0, 1]) == {1: 4}
        unclaimed = fetch(book, 0, 7, 8)
        book.commit_succeeded(book.next_batch(3))
        book.take_back(unclaimed)
        assert book.to_give_back([0, 1]) == {0: 7}
        assert book.in_doubt([0, 1]) == {0: {7, 8}}

    def test_a_position_that_was_given_back_is_in_doubt_no_more(
        self, book: JobPositions[FakeJob]
    ) -> None:
        # Else a doubt about a later message would be given back, past the jobs before it.
        book.assign([0])
        fetch(book, 0, 7, 8)
        jobs = book.commit_succeeded(book.next_batch(1))
        book.commit_failed(book.next_batch(1))
        book.take_back(jobs)
        assert book.to_give_back([0]) == {0: 7}
        book.settle([0])
        assert book.to_give_back([0]) == {}

    def test_what_was_fetched_of_a_revoked_partition_is_forgotten(
        self, book: JobPositions[FakeJob]
    ) -> None:
        book.assign([0, 1])
        fetch(book, 0, 7)
        fetch(book, 1, 3)
        book.commit_failed(book.next_batch(1))
        assert book.revoke([0]) == {0: {7}}
        assert [job.partition for job in book.next_batch(5).jobs] == [1]
        assert book.in_doubt([0]) == {}


class Member:
    """One member of the group, as ``worker_group/membership.py`` drives it."""

    def __init__(self) -> None:
        self.book: JobPositions[FakeJob] = JobPositions()
        # Where the client goes on in each partition that is assigned to it.
        self.positions: dict[int, int] = {}
        self.fetched: set[tuple[int, int]] = set()
        self.unclaimed: list[FakeJob] = []

    def forget(self, partition: int) -> None:
        self.fetched = {each for each in self.fetched if each[0] != partition}


OUTCOMES = st.sampled_from(["answered", "lost", "refused"])


class GroupMachine(RuleBasedStateMachine):
    """Two members share two partitions while commits fail and partitions come and go.

    A commit is answered, or its answer is lost after it took effect, or it did not take effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.owner: dict[int, int] = {}
        self.members = [Member() for _ in MEMBERS]
        self.taken: list[tuple[int, int]] = []
        # Jobs that may be lost, because a commit was in doubt when their partition was lost.
        self.counted: set[tuple[int, int]] = set()

    def commit(self, positions: dict[int, int], outcome: str) -> bool:
        if outcome != "refused":
            self.committed.update(positions)
        return outcome == "answered"

    def held(self, index: int) -> list[int]:
        return [partition for partition, owner in self.owner.items() if owner == index]

    @precondition(lambda self: len(self.owner) < len(PARTITIONS))
    @rule(index=st.sampled_from(MEMBERS), count=st.integers(1, len(PARTITIONS)))
    def assign(self, index: int, count: int) -> None:
        free = [partition for partition in PARTITIONS if partition not in self.owner]
        for partition in free[:count]:
            self.owner[partition] = index
            self.members[index].book.assign([partition])
            self.members[index].positions[partition] = self.committed[partition]

    @precondition(lambda self: self.owner)
    @rule(index=st.sampled_from(MEMBERS), demand=st.integers(1, 3), outcome=OUTCOMES)
    def fetch_and_assign(self, index: int, demand: int, outcome: str) -> None:
        member = self.members[index]
        for partition in self.held(index):
            offset = member.positions[partition]
            if offset < MESSAGES:
                member.positions[partition] = offset + 1
                fetch(member.book, partition, offset)
                member.fetched.add((partition, offset))
        batch = member.book.next_batch(demand)
        if self.commit(batch.positions, outcome):
            jobs = member.book.commit_succeeded(batch)
            member.unclaimed += jobs
            member.fetched -= {(job.partition, job.offset) for job in jobs}
        else:
            member.book.commit_failed(batch)

    @precondition(lambda self: any(member.unclaimed for member in self.members))
    @rule(index=st.sampled_from(MEMBERS))
    def take(self, index: int) -> None:
        member = self.members[index]
        if member.unclaimed:
            job = member.unclaimed.pop(0)
            self.taken.append((job.partition, job.offset))

    def return_unclaimed(self, member: Member, partitions: list[int]) -> list[FakeJob]:
        mine = [
            job
            for job in member.unclaimed
            if job.partition in partitions and member.book.is_current(job)
        ]
        member.unclaimed = [job for job in member.unclaimed if job not in mine]
        return mine

    @precondition(lambda self: any(member.unclaimed for member in self.members))
    @rule(index=st.sampled_from(MEMBERS), outcome=OUTCOMES)
    def take_back(self, index: int, outcome: str) -> None:
        member = self.members[index]
        jobs = self.return_unclaimed(member, PARTITIONS)
        member.book.take_back(jobs)
        member.fetched |= {(job.partition, job.offset) for job in jobs}
        positions = member.book.to_give_back({job.partition for job in jobs})
        if self.commit(positions, outcome):
            member.book.settle(positions)

    @precondition(lambda self: self.owner)
    @rule(nth=st.sampled_from(PARTITIONS), outcome=OUTCOMES)
    def revoke(self, nth: int, outcome: str) -> None:
        partition = sorted(self.owner)[nth % len(self.owner)]
        member = self.members[self.owner[partition]]
        member.book.take_back(self.return_unclaimed(member, [partition]))
        positions = member.book.to_give_back([partition])
        if self.commit(positions, outcome):
            member.book.settle(positions)
        self.count(member.book.revoke([partition]))
        member.forget(partition)
        del self.owner[partition]

    @precondition(lambda self: self.owner)
    @rule(nth=st.sampled_from(PARTITIONS))
    def lose(self, nth: int) -> None:
        partition = sorted(self.owner)[nth % len(self.owner)]
        member = self.members[self.owner.pop(partition)]
        self.count(member.book.revoke([partition]))
        member.forget(partition)

    def count(self, in_doubt: dict[int, set[int]]) -> None:
        self.counted |= {
            (partition, offset) for partition, jobs in in_doubt.items() for offset in jobs
        }

    @invariant()
    def all_fetched_messages_count_as_jobs(self) -> None:
        for member in self.members:
            assert member.book.jobs == member.book.messages

    @invariant()
    def no_job_is_taken_twice(self) -> None:
        assert len(self.taken) == len(set(self.taken))

    @invariant()
    def no_job_is_lost_that_is_not_counted(self) -> None:
        here = set(self.taken)
        for member in self.members:
            # A member commits what it has fetched again, or gives it back.
            here |= member.fetched | {(job.partition, job.offset) for job in member.unclaimed}
        for partition, end in self.committed.items():
            missing = {(partition, offset) for offset in range(end)} - here
            assert missing <= self.counted


TestGroup = GroupMachine.TestCase
TestGroup.settings = settings(
    # What goes wrong takes several steps in their order.
    max_examples=2 * settings().max_examples,
)
