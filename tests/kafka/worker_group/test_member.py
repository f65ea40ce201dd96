"""What serves a worker channel begins, rests, parks and begins again as receives come and go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import TopicError
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.worker_group import client, member
from kafka_layer.kafka.worker_group.member import GroupMember
from kafka_layer.observe.counters import Stats
from tests.kafka.worker_group.test_membership import (
    PARTITION,
    SOURCE,
    ScriptedConsumer,
    Sink,
    record,
)
from tests.support.waiting import PATIENCE, wait_until


class PatientConsumer(ScriptedConsumer):
    """Is assigned a partition at its first poll, and then has what the test puts into ``records``.

    Attributes:
        made: All that were made.
        records: Messages to come, of whichever consumer.
    """

    made: list[Any]
    records: list[Any]

    def __init__(self, properties: dict[str, Any]) -> None:
        super().__init__(properties)
        self.made.append(self)
        self.is_assigned = False

    def poll(self, timeout: float) -> Any:
        if not self.is_assigned:
            self.is_assigned = True
            self.on_assign(self, [PARTITION])
        time.sleep(0.002)
        return self.records.pop(0) if self.records else None


class Case:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **times: float) -> None:
        self.consumers = type("Consumers", (PatientConsumer,), {"made": [], "records": []})
        monkeypatch.setattr(client, "Consumer", self.consumers)
        config = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092")
        object.__setattr__(config, "timings", Timings(worker_look=1e9, **times))
        self.stats = Stats("channels")
        self.sink = Sink(1)
        connection = Connection("nowhere:9092", self.stats)
        self.member = GroupMember(config, SOURCE, self.sink, self.stats, connection)

    def threads(self) -> int:
        return sum(each.name == "kafka-layer-work-jobs" for each in threading.enumerate())


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Case]]:
    """Makes cases, which are stopped at the end."""
    cases: list[Case] = []

    def make(**times: float) -> Case:
        cases.append(Case(monkeypatch, **times))
        return cases[-1]

    yield make
    for each in cases:
        each.member.join(10)


def test_a_channel_on_which_nobody_receives_any_more_has_no_client_and_no_thread(
    case: Callable[..., Case],
) -> None:
    made = case(worker_park=0.1)
    made.member.start(PATIENCE)
    assert made.member.is_member
    made.sink.demand = 0
    wait_until(lambda: not made.threads(), "the thread to end")
    assert not made.member.is_member
    assert [each.closed for each in made.consumers.made] == [True]


def test_a_receive_on_a_parked_channel_is_served_again(case: Callable[..., Case]) -> None:
    made = case(worker_park=0.1)
    made.member.start(PATIENCE)
    made.sink.demand = 0
    wait_until(lambda: made.sink.on_demand, "it to be parked")
    made.consumers.records.append(record(7))
    made.sink.demand = 1
    made.sink.on_demand()
    wait_until(lambda: made.sink.assigned == [7], "the job to be assigned")
    assert len(made.consumers.made) == 2
    assert made.threads() == 1
    assert made.sink.on_demand is None


def test_receives_that_come_at_the_same_time_begin_one_thread(case: Callable[..., Case]) -> None:
    made = case(worker_park=0.05)
    made.member.start(PATIENCE)
    made.sink.demand = 0
    wake = wait_until(lambda: made.sink.on_demand, "it to be parked")
    made.sink.demand = 1
    threads = [threading.Thread(target=wake) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert made.threads() == 1


def test_a_parked_channel_that_is_stopped_begins_no_more(case: Callable[..., Case]) -> None:
    made = case(worker_park=0.05)
    made.member.start(PATIENCE)
    made.sink.demand = 0
    wake = wait_until(lambda: made.sink.on_demand, "it to be parked")
    made.member.join(PATIENCE)
    made.sink.demand = 1
    wake()
    assert made.threads() == 0


def test_a_client_that_cannot_be_made_is_tried_again(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case(worker_park=0.05, worker_retry=0.01)
    made.member.start(PATIENCE)
    made.sink.demand = 0
    wake = wait_until(lambda: made.sink.on_demand, "it to be parked")
    broken = [True]

    def make(properties: dict[str, Any]) -> Any:
        if broken.pop() if broken else False:
            raise RuntimeError("can't start new thread")
        return made.consumers(properties)

    monkeypatch.setattr(client, "Consumer", make)
    made.consumers.records.append(record(7))
    made.sink.demand = 1
    wake()
    wait_until(lambda: made.sink.assigned == [7], "the job to be assigned")
    assert made.stats.snapshot()["errors.worker"] == 1


class TestNoThread:
    """The process may have no more threads at this moment."""

    @pytest.fixture
    def no_thread(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
        """Returns a context in which no thread of the channel can be started."""

        def refuse(*arguments: Any, **keywords: Any) -> threading.Thread:
            raise RuntimeError("can't start new thread")

        @contextlib.contextmanager
        def refused() -> Iterator[None]:
            with monkeypatch.context() as patch:
                patch.setattr(member, "new_thread", refuse)
                yield

        return refused

    @pytest.mark.parametrize("again", ["receive", "check"])
    def test_a_receive_on_a_parked_channel_is_served_later(
        self, case: Callable[..., Case], no_thread: Callable[[], Any], again: str
    ) -> None:
        made = case(worker_park=0.05)
        made.member.start(PATIENCE)
        made.sink.demand = 0
        wake = wait_until(lambda: made.sink.on_demand, "it to be parked")
        made.consumers.records.append(record(7))
        made.sink.demand = 1
        with no_thread():
            wake()
        assert made.stats.snapshot()["errors.worker"] == 1
        assert made.sink.on_demand is not None
        made.sink.on_demand() if again == "receive" else made.member.check()
        wait_until(lambda: made.sink.assigned == [7], "the job to be assigned")

    def test_a_start_frees_its_client(
        self, case: Callable[..., Case], no_thread: Callable[[], Any]
    ) -> None:
        made = case()
        with no_thread(), pytest.raises(RuntimeError):
            made.member.start(PATIENCE)
        assert [each.closed for each in made.consumers.made] == [True]

    def test_a_client_that_hangs_is_deserted_later(
        self, case: Callable[..., Case], no_thread: Callable[[], Any]
    ) -> None:
        made = case(worker_stuck=0.05)
        go_on = threading.Event()
        made.member.start(PATIENCE)
        made.consumers.records.append(record(7))
        made.consumers.made[0].commit = lambda **keywords: go_on.wait(60) and []

        def has_another(failed: int) -> bool:
            made.member.check()
            return made.stats.snapshot().get("errors.worker") == failed

        with no_thread():
            wait_until(lambda: has_another(1), "no thread to be found", pause=0.06)
        made.consumers.records.append(record(7))
        wait_until(
            lambda: made.member.check() or made.sink.assigned == [7], "another one", pause=0.06
        )
        go_on.set()


def test_a_client_that_hangs_is_deserted_with_its_thread(case: Callable[..., Case]) -> None:
    made = case(worker_stuck=0.05)
    hangs, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        go_on.wait(60)

    made.member.start(PATIENCE)
    made.consumers.records.append(record(7))
    first = made.consumers.made[0]
    first.commit = lambda **keywords: hang() or []
    assert hangs.wait(PATIENCE)
    made.consumers.records.append(record(7))

    def is_deserted() -> bool:
        made.member.check()
        return len(made.consumers.made) > 1

    wait_until(is_deserted, "another one to be made", pause=0.06)
    wait_until(lambda: made.sink.assigned == [7], "the job to be assigned by the other one")
    go_on.set()
    wait_until(lambda: first.closed and made.threads() == 1, "the first one to end")
    assert made.sink.assigned == [7]
    assert made.stats.snapshot()["dropped.doubtful"] == 1


def test_a_member_whose_first_receive_waits_for_its_start_is_not_idle(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It left before it had joined: a group may take seconds to form, and the first receive begins
    # to wait only after that.
    made = case(worker_idle=0.01, worker_park=0.02, worker_pause=0.01)
    made.sink.demand = 0
    first_poll, joined = made.consumers.poll, []

    def poll(consumer: Any, timeout: float) -> Any:
        joined.append(time.monotonic())
        if joined[-1] - joined[0] > 0.3:
            made.sink.demand = 1
            return first_poll(consumer, timeout)
        time.sleep(0.002)
        return None

    monkeypatch.setattr(made.consumers, "poll", poll)
    made.member.start(20)
    assert made.member.is_member
    assert len(made.consumers.made) == 1


class TestProtocol:
    """librdkafka waits without an error where a broker does not know KIP-848."""

    @pytest.fixture
    def silent(self, case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> Case:
        """A member that the broker never assigns anything to."""
        made = case(worker_join=0.05)
        monkeypatch.setattr(made.consumers, "poll", lambda *_: time.sleep(0.002))
        object.__setattr__(made.member._config, "worker_group_protocol", "consumer")
        return made

    @pytest.mark.parametrize("described", [None, SimpleNamespace(members=[])])
    def test_a_broker_that_made_no_group_is_an_error_that_names_the_setting(
        self, silent: Case, monkeypatch: pytest.MonkeyPatch, described: Any
    ) -> None:
        def describe(*_: Any) -> Any:
            time.sleep(0.06)  # longer than worker_join, whenever it is called
            return described

        monkeypatch.setattr(member, "describe_group", describe)
        with pytest.raises(TopicError, match="worker_group_protocol='classic'"):
            silent.member.start(0.05)

    def test_a_member_that_waits_for_its_share_goes_on(
        self, silent: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        described = SimpleNamespace(members=[SimpleNamespace()])
        monkeypatch.setattr(member, "describe_group", lambda *_: described)
        silent.member.start(0.05)
        assert silent.member.is_member

    @pytest.mark.parametrize("unanswered", [1, 2])
    def test_a_coordinator_that_does_not_answer_proves_nothing(
        self, silent: Case, monkeypatch: pytest.MonkeyPatch, unanswered: int
    ) -> None:
        # One that answers only the second time may have become the coordinator just now.
        asked: list[object] = []

        def fail_first(*_: Any) -> None:
            asked.append(1)
            if len(asked) <= unanswered:
                raise KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))

        monkeypatch.setattr(member, "describe_group", fail_first)
        silent.member.start(0.05)
        assert silent.member.is_member
        assert len(asked) == 2


class RefusedConsumer(PatientConsumer):
    """Is refused at its first poll, and fails in whatever it is asked for from then on."""

    def __init__(self, properties: dict[str, Any]) -> None:
        super().__init__(properties)
        self._error_cb = properties["error_cb"]

    def poll(self, timeout: float) -> Any:
        self._error_cb(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    def unsubscribe(self) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL))


def test_a_client_that_is_refused_and_fails_as_it_leaves_ends_the_start_with_its_error(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It was tried again twenty times a second, for good, and start() told nothing.
    made = case()
    consumers = type("Consumers", (RefusedConsumer,), {"made": [], "records": []})
    monkeypatch.setattr(client, "Consumer", consumers)
    with pytest.raises(TopicError, match="no right to use the consumer group"):
        made.member.start(PATIENCE)
    wait_until(lambda: not made.threads(), "the thread to end")
    assert [each.closed for each in consumers.made] == [True]


def test_a_refusal_that_comes_as_the_time_of_a_start_is_up_ends_both_it_and_the_thread_or_neither(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The start raised the refusal, and the thread went on.
    made = case(worker_retry=0.01)
    consumers = type("Consumers", (RefusedConsumer,), {"made": [], "records": []})
    monkeypatch.setattr(client, "Consumer", consumers)
    start_ended = threading.Event()
    monkeypatch.setattr(member.client_logger, "error", lambda *_: start_ended.wait(60))
    refused = False
    try:
        made.member.start(0.05)
    except TopicError:
        refused = True
    start_ended.set()
    wait_until(
        lambda: not made.threads() or len(consumers.made) > 1, "the thread to end or to try again"
    )
    assert refused == (made.threads() == 0)
