"""What a reader does with what its client gives it, without a broker."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.kafka import reader as reader_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.read_positions import From, Start
from kafka_layer.kafka.reader import Reader
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic
from tests.support.messages import FakeMessage
from tests.support.waiting import PATIENCE, wait_until

TOPIC = "test-send-group"
WISH = {(TOPIC, 0): Start(From.END)}
NO_BROKER = "127.0.0.1:1"


def messages(offsets: Iterable[int]) -> list[FakeMessage]:
    return [FakeMessage(TOPIC, each) for each in offsets]


class FakeConsumer:
    """A client that gives one batch, and answers what it is asked.

    Attributes:
        batch: What it gives; the first message alone, as poll() does, and then the others.
        closing: Set when it is closed; then close() waits for ``may_close``.
    """

    batch: ClassVar[list[FakeMessage]]
    closing: threading.Event
    may_close: threading.Event

    def __init__(self, properties: dict[str, Any]) -> None:
        self._assigned: dict[tuple[str, int], int] = {}

    def poll(self, timeout: float) -> FakeMessage | None:
        return self.batch.pop(0) if self.batch else None

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        messages, self.batch[:] = list(self.batch), []
        return messages

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        return [TopicPartition(each.topic, each.partition, 0) for each in partitions]

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._assigned = {(each.topic, each.partition): each.offset for each in partitions}

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*where) for where in self._assigned]

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(each.topic, each.partition, -1001) for each in partitions]

    def close(self) -> None:
        self.closing.set()
        self.may_close.wait(60)


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def deliver(self, records: Sequence[Record]) -> None:
        self.offsets += [offset for *_, offset in records]


class OnePartitionSilent(FakeConsumer):
    """A client that gives the messages of partition 1 and none of partition 0, which holds some.

    Attributes:
        waits: Whether each message comes alone, after a while.
        waiting: How many more there are at once; as many as are asked for if that is fewer.
        given: How many messages it gave.
        looks: How often the ends were asked for.
    """

    waits = False
    waiting = 0
    given = looks = 0

    def poll(self, timeout: float) -> FakeMessage | None:
        if self.waits:
            time.sleep(0.002)
        return self._give(1)[0]

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        return self._give(min(count, self.waiting))

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(TOPIC, 0, 0), TopicPartition(TOPIC, 1, self.given)]

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        type(self).looks += 1
        ends = {0: 5, 1: self.given + 1}
        return [TopicPartition(TOPIC, each.partition, ends[each.partition]) for each in partitions]

    def _give(self, count: int) -> list[FakeMessage]:
        first = self.given
        type(self).given += count
        return messages(range(first, first + count))


def raises() -> None:
    raise RuntimeError("can't start new thread")  # as Thread.start says


@pytest.fixture
def stats() -> Stats:
    return Stats("test")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeConsumer]:
    class Client(FakeConsumer):
        batch: ClassVar[list[FakeMessage]] = []
        closing, may_close = threading.Event(), threading.Event()

    Client.may_close.set()
    monkeypatch.setattr(reader_module, "Consumer", Client)
    return Client


@pytest.fixture
def sink() -> Sink:
    return Sink()


def make_reader(sink: Sink, stats: Stats, look: float) -> Reader:
    connection = Connection(NO_BROKER, stats)
    topics = {TOPIC: Topic.SEND_GROUP}
    return Reader("data", {}, topics, sink, stats, connection, raises, Timings(look=look))


@pytest.fixture
def reader(client: type[FakeConsumer], sink: Sink, stats: Stats) -> Iterator[Reader]:
    made = make_reader(sink, stats, look=3600)
    yield made
    made.join(5)


class TestOnePartitionIsSilent:
    """The others keep the client busy, so that no poll comes back empty."""

    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> type[OnePartitionSilent]:
        class Client(OnePartitionSilent):
            closing, may_close = threading.Event(), threading.Event()

        Client.may_close.set()
        monkeypatch.setattr(reader_module, "Consumer", Client)
        return Client

    @pytest.fixture
    def reader(
        self, client: type[OnePartitionSilent], sink: Sink, stats: Stats
    ) -> Iterator[Reader]:
        made = make_reader(sink, stats, look=0.0)
        yield made
        made.join(5)

    wish: ClassVar = {(TOPIC, partition): Start(0) for partition in range(2)}

    @pytest.mark.parametrize(("waits", "waiting"), [(True, 0), (False, 0), (False, 99)])
    def test_a_client_that_has_nothing_more_to_give_is_replaced(
        self,
        reader: Reader,
        client: type[OnePartitionSilent],
        stats: Stats,
        waits: bool,
        waiting: int,
    ) -> None:
        client.waits, client.waiting = waits, waiting
        reader.start(self.wish, PATIENCE).result(PATIENCE)
        wait_until(lambda: stats.snapshot().get("consumer.replaced"), "a new client")

    def test_records_behind_those_that_the_sink_has_not_taken_are_waited_for(
        self, reader: Reader, client: type[OnePartitionSilent], stats: Stats
    ) -> None:
        client.waiting = 1_000
        reader.start(self.wish, PATIENCE).result(PATIENCE)
        wait_until(lambda: client.looks > 20, "20 looks")
        assert "consumer.replaced" not in stats.snapshot()


def test_the_messages_of_a_batch_are_gone_when_its_records_are_delivered(
    reader: Reader, client: type[FakeConsumer], sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.batch = messages(range(100))
    alive = [weakref.ref(each) for each in client.batch]
    found: list[int] = []
    monkeypatch.setattr(
        sink, "deliver", lambda records: found.append(sum(each() is not None for each in alive))
    )
    reader.start(WISH, PATIENCE).result(PATIENCE)
    wait_until(lambda: found, "the batch")
    # The first one is still in the hand of the method that polled it.
    assert found[0] <= 1


def test_an_error_about_a_partition_costs_none_of_the_records_beside_it(
    reader: Reader, client: type[FakeConsumer], sink: Sink, stats: Stats
) -> None:
    unknown = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    client.batch = [FakeMessage(TOPIC, 0, error=unknown), *messages(range(1, 100))]
    reader.start(WISH, PATIENCE).result(PATIENCE)
    wait_until(lambda: stats.snapshot().get("errors.consumer"), "the error to be counted")
    assert sink.offsets == list(range(1, 100))
    assert stats.snapshot()["errors.UNKNOWN_TOPIC_OR_PART"] == 1


def test_a_record_that_cannot_be_made_costs_itself_alone_and_is_counted(
    reader: Reader, client: type[FakeConsumer], sink: Sink, stats: Stats
) -> None:
    bad = FakeMessage(TOPIC, 50, headers=UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    client.batch = [*messages(range(50)), bad, *messages(range(51, 100))]
    reader.start(WISH, PATIENCE).result(PATIENCE)
    wait_until(lambda: len(sink.offsets) == 99, "the others to come")
    assert 50 not in sink.offsets
    assert stats.snapshot()["dropped.undecodable"] == 1


def test_leader_epochs_are_told_where_they_change(
    reader: Reader, client: type[FakeConsumer], sink: Sink
) -> None:
    told: list[Any] = []
    reader.follow(lambda positions: None, lambda *record: told.append((len(sink.offsets), *record)))
    epochs = [None, 3, 3, 3, 5, 5]
    client.batch = [FakeMessage(TOPIC, offset, epoch=epoch) for offset, epoch in enumerate(epochs)]
    reader.start(WISH, PATIENCE).result(PATIENCE)
    wait_until(lambda: len(sink.offsets) == len(epochs), "the records to come")
    where = Topic.SEND_GROUP, 0
    assert [record for _, *record in told] == [[where, 1, 3], [where, 4, 5]]
    # Before their records came.
    assert all(came <= offset for came, _, offset, _ in told)


def test_a_client_that_never_closes_holds_up_nobody_longer_than_told(
    reader: Reader, client: type[FakeConsumer]
) -> None:
    client.may_close.clear()
    reader.start(WISH, PATIENCE).result(PATIENCE)
    reader.join(0.2)
    assert client.closing.wait(PATIENCE)
    client.may_close.set()


def test_a_broker_that_does_not_know_a_topic_yet_is_asked_again(
    reader: Reader, client: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka answers from the metadata that it read last, whatever brokers know by now."""
    metadata_read = 0

    def list_topics(consumer: FakeConsumer, topic: str, timeout: float) -> None:
        nonlocal metadata_read
        metadata_read += 1

    def offsets_for_times(
        consumer: FakeConsumer, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[Any]:
        if metadata_read < 3:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return FakeConsumer.offsets_for_times(consumer, partitions, timeout)

    monkeypatch.setattr(client, "list_topics", list_topics, raising=False)
    monkeypatch.setattr(client, "offsets_for_times", offsets_for_times)
    reader.start(WISH, PATIENCE).result(PATIENCE)
    assert metadata_read == 3


def test_a_broker_that_answers_slowly_gets_all_the_time_of_a_start(
    reader: Reader, client: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is given up too soon is asked for nothing, however often."""
    latency = Timings().request * 2.5

    def list_topics(consumer: FakeConsumer, topic: str, timeout: float) -> None:
        if timeout < latency:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def offsets_for_times(
        consumer: FakeConsumer, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        if timeout < latency:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return FakeConsumer.offsets_for_times(consumer, partitions, timeout)

    monkeypatch.setattr(client, "list_topics", list_topics, raising=False)
    monkeypatch.setattr(client, "offsets_for_times", offsets_for_times)
    reader.start(WISH, Timings().start).result(PATIENCE)


def test_a_topic_that_stays_unknown_fails_the_start_at_its_deadline(
    reader: Reader, client: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offsets_for_times(*_: Any) -> list[Any]:
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))

    monkeypatch.setattr(client, "list_topics", lambda *_: None, raising=False)
    monkeypatch.setattr(client, "offsets_for_times", offsets_for_times)
    with pytest.raises(BrokerUnavailable, match="Unknown partition"):
        reader.start(WISH, 0.3).result(PATIENCE)


def test_a_start_that_fails_closes_its_client(
    reader: Reader, client: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "assign", lambda *_: raises())
    with pytest.raises(RuntimeError, match="new thread"):
        reader.start(WISH, PATIENCE).result(PATIENCE)
    assert client.closing.wait(PATIENCE)


def test_a_start_that_fails_says_so_though_its_client_never_closes(
    reader: Reader, client: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "assign", lambda *_: raises())
    client.may_close.clear()
    ticket = reader.start(WISH, PATIENCE)
    try:
        with pytest.raises(RuntimeError, match="new thread"):
            ticket.result(PATIENCE)
    finally:
        client.may_close.set()


@pytest.mark.parametrize(
    ("on_turn", "polls"), [(None, [0.02, 0.04, 0.08, 0.1, 0.1]), (int, [0.02, 0.03, 0.03])]
)
def test_polls_without_a_record_take_longer_up_to_the_rest(
    client: type[FakeConsumer],
    sink: Sink,
    stats: Stats,
    on_turn: Callable[[], object] | None,
    polls: list[float],
) -> None:
    """A start takes effect soon, and an idle reader seldom wakes; a turn is waited for."""
    asked: list[float] = []

    def poll(self: FakeConsumer, timeout: float) -> None:
        asked.append(timeout)

    client.poll = poll  # type: ignore[method-assign,assignment]
    timings = Timings(look=3600, reader_rest=0.1, stream_rest=0.03)
    connection = Connection(NO_BROKER, stats)
    reader = Reader(
        "data", {}, {TOPIC: Topic.SEND_GROUP}, sink, stats, connection, raises, timings, on_turn
    )
    reader.start({(TOPIC, 0): Start(0)}, 5).result(5)
    wait_until(lambda: len(asked) >= len(polls), "the polls")
    reader.join(5)
    assert asked[: len(polls)] == polls


@pytest.mark.parametrize("is_read", [False, True])
def test_the_first_fetch_begins_with_the_opening_partition(
    monkeypatch: pytest.MonkeyPatch, client: type[FakeConsumer], reader: Reader, is_read: bool
) -> None:
    """The record that is written there ends it, and the next one asks for all partitions."""
    opening = TOPIC, 3
    done: list[tuple[str, list[tuple[int, int]]]] = []

    def note(name: str) -> Callable[[FakeConsumer, Sequence[TopicPartition]], None]:
        def call(self: FakeConsumer, partitions: Sequence[TopicPartition]) -> None:
            done.append((name, [(each.partition, each.offset) for each in partitions]))

        return call

    def poll(self: FakeConsumer, timeout: float) -> None:
        done.append(("poll", []))

    monkeypatch.setattr(client, "poll", poll)
    for name in ("assign", "incremental_assign", "incremental_unassign"):
        monkeypatch.setattr(client, name, note(name), raising=False)
    wish = {(TOPIC, 0): Start(From.END), **({opening: Start(From.END)} if is_read else {})}
    reader.start(wish, 5, opening).result(5)
    wait_until(lambda: ("poll", []) in done, "the first poll")
    assert done[: done.index(("poll", []))] == [
        ("assign", [(3, 0)]),
        ("incremental_assign", [(0, 0)]),
        *([] if is_read else [("incremental_unassign", [(3, 0)])]),
    ]
