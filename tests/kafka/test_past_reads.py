"""What is read of the past, with a client that behaves as brokers make librdkafka behave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from kafka_layer.config.realtime import monotonic
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, TopicError
from kafka_layer.kafka import past as past_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.past import PastReader
from kafka_layer.observe.counters import Stats
from kafka_layer.transport import Extent, Past
from kafka_layer.wire.topics import Topic
from tests.support.messages import FakeMessage

DEADLINE = 30.0
WHERE = (Topic.SEND_GROUP, 0)
NAME = "channels-send-group"


def message(offset: int, code: int | None = None, topic: str | None = NAME) -> FakeMessage:
    return FakeMessage(
        topic,
        offset,
        error=None if code is None else KafkaError(code),
        timestamp=offset * 1000,
        headers=UnicodeDecodeError("utf-8", b"\xff", 0, 1, "for a test") if offset == 13 else None,
        epoch=offset // 10 or None,
    )


class FakeBroker:
    """One partition, and what clients are told of it.

    Attributes:
        start: The offset of the first record.
        end: The offset behind the last one.
        control: Offsets that clients skip.
        topic_id: The topic's id.
        unknown: Whether a client has to read the metadata before it knows the partition.
        indexed: Whether the broker finds offsets by time.
        errors: What a poll gives first.
        consumers: How many clients were made.
    """

    def __init__(self) -> None:
        self.start, self.end = 0, 20
        self.control: set[int] = set()
        self.topic_id: str | None = "one"
        self.unknown = False
        self.indexed = True
        self.errors: list[FakeMessage] = []
        self.consumers = 0
        self.describes = 0

    def watch(self, config: LayerConfig) -> FakeBroker:
        return self

    def ask(self, names: Sequence[str], timeout: float) -> Mapping[str, Future[Any]]:
        self.describes += 1
        answers: dict[str, Future[Any]] = {}
        for name in names:
            answers[name] = Future()
            if self.topic_id is None:
                error = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
                answers[name].set_exception(error)
            else:
                partition = SimpleNamespace(leader=SimpleNamespace(id=1))
                described = SimpleNamespace(partitions=[partition], topic_id=self.topic_id)
                answers[name].set_result(described)
        return answers

    def close(self) -> None:
        pass


class FakeConsumer:
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._next: int | None = None
        self.closed = False
        broker.consumers += 1

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._next = partitions[0].offset

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.assign(partitions)

    def unassign(self, partitions: Sequence[TopicPartition] = ()) -> None:
        self._next = None

    incremental_unassign = unassign

    def close(self) -> None:
        self.closed = True

    def list_topics(self, topic: str, timeout: float) -> None:
        self._broker.unknown = False

    def poll(self, timeout: float) -> FakeMessage | None:
        broker = self._broker
        if broker.errors:
            return broker.errors.pop(0)
        if self._next is None:
            return None
        if self._next < broker.start:
            self._next = None
            return message(0, KafkaError._AUTO_OFFSET_RESET)
        while self._next in broker.control:
            self._next += 1
        if self._next >= broker.end:
            self._next = None
            return message(broker.end, KafkaError._PARTITION_EOF)
        self._next += 1
        return message(self._next - 1)

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        polled = (self.poll(timeout) for _ in range(min(count, 3)))
        return [each for each in polled if each is not None]

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        broker = self._broker
        if broker.unknown:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        found = []
        for each in partitions:
            offset = {OFFSET_BEGINNING: broker.start, OFFSET_END: broker.end}.get(each.offset)
            if offset is None:
                offset = max(broker.start, -(-each.offset // 1000))
                if not broker.indexed or offset >= broker.end:
                    offset = -1
            found.append(TopicPartition(each.topic, each.partition, offset))
        return found


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker()
    monkeypatch.setattr(past_module, "TopicWatch", broker.watch)
    monkeypatch.setattr(
        past_module, "new_client", lambda kind, properties, setting: FakeConsumer(broker)
    )
    return broker


@pytest.fixture
def ask(broker: FakeBroker) -> Iterator[Callable[..., Any]]:
    """Carries out a question, in the reader's thread, and returns what it returns."""
    timings = Timings(history_answer=0.3)
    config = LayerConfig.from_keywords(bootstrap_servers="127.0.0.1:1").timed(timings)
    reader = PastReader(config, Connection("127.0.0.1:1", Stats()))

    def ask(question: Callable[[Past], Any], deadline: float = DEADLINE) -> Any:
        def carry_out(past: Past) -> Callable[[], Any]:
            answer = question(past)
            return lambda: answer

        return reader.ask(object(), carry_out, monotonic() + deadline).result(DEADLINE)

    yield ask
    reader.stop()
    reader.join(DEADLINE)


def read(first: int, end: int) -> Callable[[Past], tuple[int, list[int]]]:
    def question(past: Past) -> tuple[int, list[int]]:
        past.extents([Topic.SEND_GROUP])
        start, records = past.read(WHERE, first, end)
        return start, [record[6] for record in records]

    return question


def since(timestamp: float) -> Callable[[Past], int]:
    def question(past: Past) -> int:
        return past.first_since(WHERE, past.extents([Topic.SEND_GROUP])[WHERE], timestamp)

    return question


def test_the_part_that_is_asked_for_is_read(ask: Callable[..., Any]) -> None:
    assert ask(read(5, 9)) == (5, [5, 6, 7, 8])
    assert ask(read(17, 20)) == (17, [17, 18, 19])


@pytest.mark.parametrize("control", [{19}, {17, 18, 19}, {7, 8, 9}])
def test_a_part_that_ends_with_records_of_a_transaction_ends(
    broker: FakeBroker, ask: Callable[..., Any], control: set[int]
) -> None:
    broker.control = control
    for first, end in ((15, 20), (5, 9), (5, 10)):
        expected = [offset for offset in range(first, end) if offset not in control]
        assert ask(read(first, end)) == (first, expected)


@pytest.mark.parametrize(("offset", "epoch"), [(9, None), (10, 1), (19, 1), (17, None)])
def test_the_leader_epoch_of_a_record(
    broker: FakeBroker, ask: Callable[..., Any], offset: int, epoch: int | None
) -> None:
    broker.control = {17}
    found = ask(lambda past: past.epochs({WHERE: offset}))
    assert found == ({} if epoch is None else {WHERE: epoch})


def test_what_was_deleted_meanwhile_is_told(broker: FakeBroker, ask: Callable[..., Any]) -> None:
    broker.start = 8
    assert ask(read(5, 10)) == (8, [8, 9])
    assert ask(read(0, 4)) == (4, [])


def test_very_many_records_come_in_blocks_that_know_their_leader_epochs(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    broker.start = 4

    def question(past: Past) -> Any:
        past.extents([Topic.SEND_GROUP])
        start, blocks = past.read_blocks(WHERE, 2, 19)
        records = [record for block in blocks for record in block.find(None, 0, 99)]
        assert (start, records) == past.read(WHERE, 2, 19)
        # Behind a record whose headers cannot be read.
        _, [block] = past.read_blocks(WHERE, 14, 19)
        return start, [record[6] for record in records], block.epochs[0], block.epochs[-1]

    assert ask(question) == (4, list(range(4, 19)), (14, 1), (18, 1))


def test_a_record_whose_headers_cannot_be_read_has_no_value(ask: Callable[..., Any]) -> None:
    def question(past: Past) -> list[Any]:
        return [(record[6], record[2]) for record in past.read(WHERE, 12, 15)[1]]

    assert ask(question) == [(12, b"{}"), (13, None), (14, b"{}")]


def test_a_client_learns_of_a_partition_that_it_does_not_know(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    broker.unknown = True
    extents = ask(lambda past: past.extents([Topic.SEND_GROUP]))
    assert extents == {WHERE: Extent("one", 0, 20)}


def test_where_a_topic_was_made_anew_another_client_reads_it(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    assert ask(read(0, 20))[1] == list(range(20))
    assert broker.consumers == 1
    broker.topic_id, broker.end = "another", 25
    broker.control = {1}  # it is no longer what was read before
    assert ask(read(0, 20))[1] == [0, *range(2, 20)]
    assert broker.consumers == 2


def test_a_log_whose_end_was_cut_off_is_read_anew(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    assert ask(read(0, 20))[1] == list(range(20))
    broker.end, broker.control = 10, {1}
    assert ask(read(0, 10))[1] == [0, *range(2, 10)]


@pytest.mark.parametrize("indexed", [True, False])
def test_the_first_record_since_a_time(
    broker: FakeBroker, ask: Callable[..., Any], indexed: bool
) -> None:
    broker.indexed, broker.start = indexed, 3
    assert [ask(since(time)) for time in (0.0, 3.0, 3.5, 12.0, 19.0, 19.5, 99.0)] == [
        *(3, 3, 4, 12, 19, 20, 20)
    ]
    broker.start = broker.end
    assert ask(since(5.0)) == 20


def test_an_error_of_the_group_is_not_about_the_records(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    broker.errors = [message(0, KafkaError.GROUP_AUTHORIZATION_FAILED, None)]
    assert ask(read(0, 2)) == (0, [0, 1])


def test_a_missing_right_is_named(broker: FakeBroker, ask: Callable[..., Any]) -> None:
    broker.errors = [message(0, KafkaError.TOPIC_AUTHORIZATION_FAILED)]
    with pytest.raises(TopicError, match=r"Cannot read channels-send-group\[0\].* ACL for READ"):
        ask(read(0, 2))
    assert ask(read(0, 2)) == (0, [0, 1])


def test_a_missing_topic_is_named(broker: FakeBroker, ask: Callable[..., Any]) -> None:
    broker.topic_id = None
    with pytest.raises(TopicError, match=f"Topics are missing .*{NAME}"):
        ask(read(0, 2))


def test_a_client_that_stays_silent_is_given_up_at_the_deadline(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    broker.errors = [None] * 100_000  # type: ignore[list-item]
    with pytest.raises(TimeoutError):
        ask(read(0, 2), deadline=0.2)
    broker.errors = []
    assert ask(read(0, 2)) == (0, [0, 1])
    assert broker.consumers == 2


def test_a_broker_that_answers_nothing_is_unavailable(
    broker: FakeBroker, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "ask", lambda names, timeout: {each: Future() for each in names})
    with pytest.raises(BrokerUnavailable):
        ask(read(0, 2))


def test_questions_that_wait_together_learn_the_ends_once(
    broker: FakeBroker, ask: Callable[..., Any]
) -> None:
    ask(read(0, 2))
    before = broker.describes

    def twice(past: Past) -> None:
        past.extents([Topic.SEND_GROUP])
        past.extents([Topic.SEND_GROUP])

    ask(twice)
    assert broker.describes == before + 1
