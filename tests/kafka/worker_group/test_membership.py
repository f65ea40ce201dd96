"""One membership in a worker group, on a client that only notes what it is told."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.threads import Nudge
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import RegistryAway, UnreadableRecord
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.liveness import Liveness
from kafka_layer.kafka.replacement import Replacement
from kafka_layer.kafka.worker_group import client as group_client
from kafka_layer.kafka.worker_group.client import GroupClient, GroupSource
from kafka_layer.kafka.worker_group.membership import Ending, Membership
from kafka_layer.kafka.worker_group.pacing import CommitCost
from kafka_layer.kafka.worker_group.recent import Handover
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import WorkTopic
from tests.support.messages import FakeMessage

TOPIC = "channels-work.jobs"
SOURCE = GroupSource(TOPIC, TOPIC)
PARTITION = TopicPartition(TOPIC, 0)
BOTH = [PARTITION, TopicPartition(TOPIC, 1)]


def record(offset: int, partition: int = 0) -> FakeMessage:
    now = int(time.time() * 1000)
    return FakeMessage(TOPIC, offset, partition=partition, value=b"job", timestamp=now)


class ScriptedConsumer:
    """Stands in for a Consumer: each poll takes a step of the script, and the last step stops it.

    Attributes:
        script: Messages that poll returns, or functions that it calls.
        committed_positions: What was to be committed, in order.
        answers: Of the next commits: an error, None for success, or a function of the offsets.
        looks: The partitions whose committed positions were asked for.
        end: Where the log of each partition ends.
    """

    def __init__(self, properties: dict[str, Any]) -> None:
        self.script: list[Any] = []
        self.stop = threading.Event()
        self.committed_positions: list[dict[int, int]] = []
        self.looks: list[list[int]] = []
        self.answers: list[Any] = []
        self.end = 0
        self.position = 0
        self.answered = True
        self.closed = False
        self.sought: list[int] = []

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.on_assign, self.on_revoke, self.on_lost = on_assign, on_revoke, on_lost

    def poll(self, timeout: float) -> Any:
        if not self.script:
            self.stop.set()
            return None
        step = self.script.pop(0)
        return step() if callable(step) else step

    def consume(self, count: int, timeout: float) -> list[Any]:
        return []

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.committed_positions.append({each.partition: each.offset for each in offsets})
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, KafkaError):
            raise KafkaException(answer)
        return offsets if answer is None else answer(offsets)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.looks.append([each.partition for each in partitions])
        return [TopicPartition(TOPIC, each.partition, self.position) for each in partitions]

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> Any:
        return [TopicPartition(TOPIC, each.partition, self.end) for each in partitions]

    def get_watermark_offsets(self, *arguments: Any, **keywords: Any) -> tuple[int, int]:
        return 0, self.end

    def list_topics(self, topic: str, *arguments: Any, **keywords: Any) -> Any:
        if not self.answered:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        told = SimpleNamespace(partitions={0: None, 1: None}, error=None)
        return SimpleNamespace(topics={topic: told})

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        pass

    def seek(self, partition: TopicPartition) -> None:
        self.sought.append(partition.offset)

    incremental_unassign = incremental_assign
    pause = resume = incremental_assign

    def assignment(self) -> list[TopicPartition]:
        return []

    def unsubscribe(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakeJob:
    def __init__(self, partition: int, offset: int, assignment: object) -> None:
        self.partition, self.offset, self.assignment = partition, offset, assignment


class Sink:
    """Stands in for the receives of a channel, of which none takes a job, unless ``takes``."""

    def __init__(self, demand: int) -> None:
        self.topic = WorkTopic("jobs")
        self.changed = Nudge()
        self.on_demand: Any = None
        self.measured = False
        self.backlog: int | None = None
        self.demand = demand
        self.last_seen = time.monotonic()
        self.jobs: list[FakeJob] = []
        self.assigned: list[int] = []
        self.errors: list[Exception] = []
        self.takes = False
        self.accepted = 0

    @property
    def unclaimed(self) -> int:
        return len(self.jobs)

    def accept(self, record: Any, place: Any, assignment: object) -> FakeJob:
        if self.errors:
            raise self.errors.pop()
        self.accepted += 1
        return FakeJob(*place[1:3], assignment)

    def assign(self, jobs: list[FakeJob]) -> None:
        self.assigned += [job.offset for job in jobs]
        # The demand stays: another receive waits.
        self.changed.set()
        if not self.takes:
            self.jobs += jobs

    def return_unclaimed(self, which: Any) -> list[FakeJob]:
        returned = [job for job in self.jobs if which(job)]
        self.jobs = [job for job in self.jobs if job not in returned]
        return returned


class Case:
    """One membership, its client and its receives."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        demand: int,
        source: GroupSource = SOURCE,
        handover: dict[int, Handover] | None = None,
        **times: float,
    ) -> None:
        monkeypatch.setattr(group_client, "Consumer", ScriptedConsumer)
        config = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092")
        object.__setattr__(config, "timings", Timings(**{"worker_look": 1e9, **times}))
        self.stats = Stats("channels")
        client = GroupClient(config, source, self.stats)
        self.consumer: Any = client.consumer
        self.sink = Sink(demand)
        self.membership = Membership(
            config,
            source,
            client,
            self.sink,
            self.stats,
            Replacement(
                Liveness(2, config.timings.worker_look),
                Connection("nowhere:9092", self.stats),
                lambda: GroupClient(config, source, self.stats),
                lambda client, _: client.is_answered(),
                GroupClient.close,
            ),
            Ticket(),
            self.consumer.stop,
            CommitCost(),
            {} if handover is None else handover,
        )

    def assigns(self) -> None:
        self.consumer.on_assign(self.consumer, [TopicPartition(TOPIC, 0)])
        # Those of the assignment itself.
        self.consumer.looks.clear()

    def revokes(self) -> None:
        self.consumer.on_revoke(self.consumer, [PARTITION])

    def loses(self) -> None:
        self.consumer.on_lost(self.consumer, [PARTITION])

    def no_receive_waits(self) -> None:
        self.sink.demand = 0

    def run(self, *script: Any) -> Ending:
        self.consumer.script = list(script)
        return self.membership.run()


def test_a_job_is_committed_before_it_is_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, demand=1)
    assert case.run(case.assigns, record(7)) is Ending.STOPPED
    assert case.consumer.committed_positions == [{0: 8}]
    assert case.sink.assigned == [7]
    assert case.consumer.closed


def test_no_job_is_assigned_whose_commit_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, demand=1)
    case.consumer.answers = [KafkaError(KafkaError._TIMED_OUT)] * 9
    case.run(case.assigns, record(7))
    assert case.sink.assigned == []


def test_a_message_of_a_partition_that_was_lost_meanwhile_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, demand=1)
    case.run(case.assigns, case.loses, record(7))
    assert case.consumer.committed_positions == []


def test_what_no_receive_takes_is_uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, demand=1, job_unclaimed=0.0, job_doubt=1e9)
    case.run(case.assigns, record(7), *[None] * 3)
    assert case.consumer.committed_positions == [{0: 8}, {0: 7}]
    assert case.sink.jobs == []


def test_a_revoked_partition_goes_back_to_what_no_receive_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, demand=1, job_unclaimed=1e9)
    case.run(case.assigns, record(7), case.revokes)
    assert case.consumer.committed_positions == [{0: 8}, {0: 7}]
    assert case.sink.jobs == []


def test_a_job_from_before_the_partition_was_lost_stays_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another worker may have gone on to any offset: committing 7 would repeat all those.
    case = Case(monkeypatch, demand=1, job_unclaimed=1e9)
    case.run(case.assigns, record(7), case.loses, case.assigns, case.revokes)
    assert case.consumer.committed_positions == [{0: 8}]
    assert [job.offset for job in case.sink.jobs] == [7]


def test_a_partition_that_is_lost_in_doubt_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, demand=1)
    case.consumer.answers = [KafkaError(KafkaError._TIMED_OUT)] * 9
    case.run(case.assigns, record(7), case.loses)
    assert case.stats.snapshot()["dropped.doubtful"] == 1


def test_each_job_of_a_batch_that_is_lost_in_doubt_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, demand=3)
    further = [[record(8), record(9)]]
    monkeypatch.setattr(case.consumer, "consume", lambda *_: further.pop() if further else [])
    case.consumer.answers = [KafkaError(KafkaError._TIMED_OUT)] * 9
    case.run(case.assigns, record(7), case.loses)
    assert case.consumer.committed_positions[0] == {0: 10}
    assert case.stats.snapshot()["dropped.doubtful"] == 3


class TestFetchingAhead:
    """While a receive has a job, the next one is fetched."""

    def case(self, monkeypatch: pytest.MonkeyPatch, source: GroupSource = SOURCE) -> Case:
        """Return the case of a receive that gets one job, and waits again where the test says."""
        case = Case(monkeypatch, demand=1, source=source, job_unclaimed=1e9)
        ahead = [[record(8)]]

        def consume(*_: object) -> list[FakeMessage]:
            return ahead.pop() if ahead and case.sink.assigned else []

        def assign(jobs: list[FakeJob]) -> None:
            case.sink.assigned += [job.offset for job in jobs]
            case.sink.demand = 0

        monkeypatch.setattr(case.consumer, "consume", consume)
        monkeypatch.setattr(case.sink, "assign", assign)
        return case

    def test_it_is_not_committed_before_a_receive_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = self.case(monkeypatch)
        case.run(case.assigns, record(7))
        assert case.sink.accepted == 2
        assert case.consumer.committed_positions == [{0: 8}]

    def test_the_receive_that_waits_next_gets_it_without_another_poll(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = self.case(monkeypatch)
        assigned: list[list[int]] = []

        def a_receive_waits() -> None:
            case.sink.demand = 1

        def poll() -> None:
            assigned.append(case.sink.assigned.copy())

        case.run(case.assigns, record(7), a_receive_waits, poll)
        assert assigned == [[7, 8]]
        assert case.consumer.committed_positions == [{0: 8}, {0: 9}]

    def test_no_record_of_a_stream_is_because_it_may_wait_for_a_registry(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = self.case(monkeypatch, stream_source())
        case.run(case.assigns, record(7))
        assert case.sink.accepted == 1


class TestGivingBack:
    """Before a partition is revoked, the jobs that no receive took are given back."""

    def test_jobs_are_counted_and_not_assigned_again_where_the_answer_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The commit may have taken effect: then the next member gets them.
        case = Case(monkeypatch, demand=1, job_unclaimed=1e9)
        case.consumer.answers = [None, KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)]
        case.run(case.assigns, record(7), case.revokes)
        assert case.consumer.committed_positions == [{0: 8}, {0: 7}]
        assert case.sink.assigned == [7]
        assert case.sink.jobs == []
        assert case.stats.snapshot()["dropped.doubtful"] == 1

    def test_what_succeeds_for_one_partition_is_in_doubt_for_the_other_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail_in_the_second(offsets: list[TopicPartition]) -> list[Any]:
            error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
            return [
                SimpleNamespace(partition=each.partition, error=error if each.partition else None)
                for each in offsets
            ]

        case = Case(monkeypatch, demand=1, job_unclaimed=1e9)
        case.consumer.answers = [None, None, fail_in_the_second]
        case.run(
            lambda: case.consumer.on_assign(case.consumer, BOTH),
            record(7),
            record(3, partition=1),
            lambda: case.consumer.on_revoke(case.consumer, BOTH),
        )
        assert case.consumer.committed_positions == [{0: 8}, {1: 4}, {0: 7, 1: 3}]
        assert case.sink.jobs == []
        assert case.stats.snapshot()["dropped.doubtful"] == 1

    def test_only_the_partitions_that_failed_are_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail_in_the_second(offsets: list[TopicPartition]) -> list[Any]:
            error = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
            return [
                SimpleNamespace(partition=0, error=None),
                SimpleNamespace(partition=1, error=error),
            ]

        case = Case(monkeypatch, demand=1, job_unclaimed=1e9)
        case.consumer.answers = [None, None, fail_in_the_second]
        case.run(
            lambda: case.consumer.on_assign(case.consumer, BOTH),
            record(7),
            record(3, partition=1),
            lambda: case.consumer.on_revoke(case.consumer, BOTH),
        )
        assert case.consumer.committed_positions[2:] == [{0: 7, 1: 3}, {1: 3}]
        assert "dropped.doubtful" not in case.stats.snapshot()


class TestDesertion:
    """Another membership takes the place of one that hangs in a call of its client."""

    def test_a_commit_that_succeeds_after_all_assigns_nothing_that_was_counted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=1)

        def is_deserted(offsets: list[TopicPartition]) -> list[TopicPartition]:
            case.membership.desert()
            return offsets

        case.consumer.answers = [is_deserted]
        case.run(case.assigns, record(7), case.loses)
        assert case.sink.assigned == []
        assert case.stats.snapshot()["dropped.doubtful"] == 1

    @pytest.mark.parametrize("demand", [0, 1])
    def test_the_nudges_are_left_to_the_next_membership(
        self, monkeypatch: pytest.MonkeyPatch, demand: int
    ) -> None:
        case = Case(monkeypatch, demand=demand)

        def is_deserted() -> None:
            case.membership.desert()
            case.sink.changed.set()

        assert case.run(case.assigns, is_deserted) is Ending.STOPPED
        assert case.sink.changed.wait(0)

    @pytest.mark.parametrize("revoked", [False, True])
    def test_jobs_whose_giving_back_hangs_are_counted_once(
        self, monkeypatch: pytest.MonkeyPatch, revoked: bool
    ) -> None:
        case = Case(monkeypatch, demand=1, job_unclaimed=1e9 if revoked else 0.0, job_doubt=1e9)
        counted: list[int] = []

        def is_deserted(offsets: list[TopicPartition]) -> Any:
            case.membership.desert()
            counted.append(case.stats.snapshot().get("dropped.doubtful", 0))
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

        case.consumer.answers = [None, is_deserted]
        case.run(case.assigns, record(7), case.revokes if revoked else None, case.loses)
        assert counted == [1]
        assert case.sink.jobs == []
        assert case.stats.snapshot()["dropped.doubtful"] == 1


def test_a_member_that_was_not_told_how_many_partitions_there_are_leaves_for_want_of_receives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, demand=0, worker_idle=0.0)
    case.consumer.answered = False
    assert case.run(lambda: case.consumer.on_assign(case.consumer, BOTH), None) is Ending.LEFT


class TestLiveness:
    def test_a_partition_that_was_assigned_since_the_last_look_is_not_judged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=1, worker_look=0.0)
        case.consumer.end = 9
        assert case.run(case.assigns) is Ending.STOPPED
        assert case.consumer.looks == []

    def test_a_client_that_gets_nothing_of_what_the_log_holds_is_dead_at_the_second_look(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=1, worker_look=0.0)
        case.consumer.end = 9
        assert case.run(case.assigns, *[None] * 9) is Ending.DEAD
        assert case.consumer.looks == [[0], [0]]
        assert "nothing that the log holds" in case.membership.death

    def test_one_that_has_read_everything_lives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = Case(monkeypatch, demand=1, worker_look=0.0)
        assert case.run(case.assigns, *[None] * 9) is Ending.STOPPED
        assert len(case.consumer.looks) > 3

    def test_one_that_is_not_answered_is_dead_at_the_second_look(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=0, worker_look=0.0)
        case.consumer.answered = False
        assert case.run(*[None] * 9) is Ending.DEAD
        assert "reaches no broker" in case.membership.death

    @pytest.mark.parametrize(
        ("state", "shares", "ending"),
        [
            (ConsumerGroupState.STABLE, [0, 0], Ending.DEAD),
            (ConsumerGroupState.STABLE, [0, 1], Ending.STOPPED),
            (ConsumerGroupState.PREPARING_REBALANCING, [0, 0], Ending.STOPPED),
            (ConsumerGroupState.EMPTY, [], Ending.DEAD),
            (None, [], Ending.DEAD),
        ],
    )
    def test_a_member_without_partitions_rejoins_where_no_member_has_any(
        self, monkeypatch: pytest.MonkeyPatch, state: Any, shares: list[int], ending: Ending
    ) -> None:
        case = Case(monkeypatch, demand=1, worker_look=0.0)
        members = [
            SimpleNamespace(assignment=SimpleNamespace(topic_partitions=[PARTITION] * share))
            for share in shares
        ]
        described = SimpleNamespace(state=state, members=members)
        monkeypatch.setattr(group_client, "describe_group", lambda *_: described if state else None)
        assert case.run(*[None] * 9) is ending

    def test_a_member_without_partitions_and_without_demand_asks_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=0, worker_look=0.0)
        asked: list[object] = []
        monkeypatch.setattr(group_client, "describe_group", lambda *_: asked.append(1))
        assert case.run(*[None] * 3) is Ending.STOPPED
        assert asked == []


def test_nothing_is_committed_in_a_topic_that_was_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(monkeypatch, demand=1)

    def outdate() -> FakeMessage:
        case.membership.outdate()
        return record(8)

    assert case.run(case.assigns, record(7), outdate, case.revokes) is Ending.OUTDATED
    assert case.consumer.committed_positions == [{0: 8}]
    assert case.sink.assigned == [7]


NOT_TAKEN = record(1)
"""Fetched of the new topic, where its log did not hold the old position, and given to nobody."""


class TestATopicThatIsReadBeforeItIsKnownToBeAnother:
    """It was created again, and the client goes on in it, at its position in the old one."""

    def handover(self, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, Handover], FakeMessage]:
        """Return what a membership leaves that took 6 of the old topic and 7 of the new one."""
        case = Case(monkeypatch, demand=1)
        taken = record(7)

        def outdate() -> FakeMessage:
            case.membership.outdate()
            return NOT_TAKEN

        assert case.run(case.assigns, record(6), taken, outdate) is Ending.OUTDATED
        assert case.sink.assigned == [6, 7]
        return case.membership.handover, taken

    def case(self, monkeypatch: pytest.MonkeyPatch, handover: dict[int, Handover]) -> Case:
        """Return the next membership, which finds the last commit of the one before."""
        case = Case(monkeypatch, demand=1, handover=handover)
        mark = handover[0].mark
        assert mark is not None
        position, metadata = mark
        case.consumer.committed = lambda partitions, timeout: [
            TopicPartition(TOPIC, 0, position, metadata)
        ]
        case.consumer.end = position
        return case

    def starts(self, case: Case) -> list[int]:
        assigned: list[int] = []
        case.consumer.incremental_assign = lambda partitions: assigned.extend(
            each.offset for each in partitions
        )
        return assigned

    def test_the_next_client_gets_all_of_it_and_passes_over_what_was_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handover, taken = self.handover(monkeypatch)
        case = self.case(monkeypatch, handover)
        starts = self.starts(case)
        # The old topic had another message at offset 6.
        other = FakeMessage(TOPIC, 6, value=b"job", timestamp=1)
        case.run(case.assigns, record(0), NOT_TAKEN, other, taken, record(8))
        assert starts == [OFFSET_BEGINNING]
        assert case.sink.assigned == [0, 1, 6, 8]
        assert case.consumer.committed_positions[-1] == {0: 9}

    def test_it_begins_there_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handover, _ = self.handover(monkeypatch)
        case = self.case(monkeypatch, handover)
        starts = self.starts(case)
        case.run(case.assigns, record(0), case.assigns)
        assert starts == [OFFSET_BEGINNING, OFFSET_INVALID]

    def test_not_where_another_member_has_got_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handover, _ = self.handover(monkeypatch)
        case = self.case(monkeypatch, handover)
        case.consumer.committed = lambda partitions, timeout: [
            TopicPartition(TOPIC, 0, 8, "read-until=99999999999999")
        ]
        starts = self.starts(case)
        case.run(case.assigns)
        assert starts == [OFFSET_INVALID]


def stream_source() -> GroupSource:
    streams = {"orders": {"topic": TOPIC, "type": "order", "worker_channel": "jobs"}}
    config = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092", streams=streams)
    return GroupSource(TOPIC, "jobs", config.streams["orders"])


def end(offset: int) -> FakeMessage:
    return FakeMessage(TOPIC, offset, error=KafkaError(KafkaError._PARTITION_EOF))


AWAY = RegistryAway("it does not answer")


class TestStreams:
    """A group that shares the topic of a stream, where other programs write."""

    def test_what_a_client_skips_before_the_end_is_committed_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Markers of transactions, which no client returns: else they would seem to wait."""
        case = Case(monkeypatch, demand=1, source=stream_source())
        case.run(case.assigns, record(7), end(8), record(8), end(11))
        assert case.consumer.committed_positions == [{0: 8}, {0: 9}, {0: 11}]
        assert case.sink.assigned == [7, 8]

    def test_a_client_that_reached_the_end_is_not_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=1, source=stream_source())
        case.consumer.end = 11
        client = case.membership.client
        assert client.behind([0]) == {(TOPIC, 0): 0}
        case.run(case.assigns, end(11))
        assert client.behind([0]) == {}
        case.consumer.end = 12
        assert client.behind([0]) == {(TOPIC, 0): 0}

    def fail_once(
        self,
        case: Case,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        *batches: list[FakeMessage],
    ) -> None:
        """Have the first record of the first batch fail; batches follow what a poll returned."""
        left = list(batches)

        def consume(*_: object) -> list[FakeMessage]:
            if not left or case.sink.accepted == 0:
                return []
            if len(left) == len(batches):
                case.sink.errors = [error]
            return left.pop(0)

        monkeypatch.setattr(case.consumer, "consume", consume)

    def test_a_record_whose_registry_is_away_comes_again_before_those_behind_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=4, source=stream_source(), registry_retry=0.0)
        self.fail_once(case, monkeypatch, AWAY, [record(7), record(8)], [record(8), record(9)])
        case.run(case.assigns, record(6), record(7))
        assert case.consumer.sought == [7]
        assert case.sink.assigned == [6, 7, 8, 9]
        assert case.consumer.committed_positions == [{0: 7}, {0: 10}]

    def test_the_registry_is_asked_once_for_all_that_came_together(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=4, source=stream_source(), registry_retry=0.0)
        others = [record(3, 1), record(4, 1)]
        self.fail_once(case, monkeypatch, AWAY, [record(7), *others], others)
        case.run(lambda: case.consumer.on_assign(case.consumer, BOTH), record(6), record(7))
        assert case.consumer.sought == [7, 3]
        assert case.sink.assigned == [6, 7, 3, 4]

    def test_the_end_behind_such_a_record_is_not_committed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=3, source=stream_source(), registry_retry=0.0)
        self.fail_once(case, monkeypatch, AWAY, [record(8), end(9)])
        case.run(case.assigns, record(7), record(8))
        assert case.consumer.sought == [8]
        assert case.consumer.committed_positions == [{0: 8}, {0: 9}]

    def test_it_stops_before_a_record_that_cannot_be_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(monkeypatch, demand=3, source=stream_source())
        poison = UnreadableRecord("undecodable", "no JSON")
        case.sink.takes = True
        self.fail_once(case, monkeypatch, poison, [record(8)])
        assert case.run(case.assigns, record(7), record(9)) is Ending.HALTED
        assert case.membership.halted_by is not None
        error, place = case.membership.halted_by
        assert (error, place[:3]) == (poison, (case.sink.topic, 0, 8))
        # What was read before it is done; its own position, and those behind it, stay.
        assert case.sink.assigned == [7]
        assert case.consumer.committed_positions == [{0: 8}]
