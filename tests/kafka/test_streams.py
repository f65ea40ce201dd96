"""The reader of a stream, on a client whose log is in memory: what it reads, once and in order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.kafka import reader as reader_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.streams import StreamReader
from kafka_layer.observe.counters import Stats
from tests.support.messages import FakeMessage
from tests.support.waiting import PATIENCE, wait_until

TOPIC = "shop.orders"
REFUSED = KafkaError.TOPIC_AUTHORIZATION_FAILED

Where = tuple[str, int]


class Log:
    """Topics with their records, and what brokers tell of them.

    Attributes:
        ends: The offset of the next record, by topic and partition.
        errors: Topics of which brokers tell an error instead.
        ids: The ids of topics, if they are not those of the first ones of their names.
    """

    def __init__(self) -> None:
        self.ends: dict[Where, int] = {}
        self.errors: dict[str, int] = {}
        self.ids: dict[str, str] = {}

    def names(self, timeout: float) -> list[str]:
        return sorted({name for name, _ in tuple(self.ends)})

    def ask(self, names: Iterable[str], timeout: float) -> Mapping[str, Future[Any]]:
        return {name: self._answer(name) for name in names}

    def _answer(self, name: str) -> Future[Any]:
        answer: Future[Any] = Future()
        partitions = [where for where in tuple(self.ends) if where[0] == name]
        error = self.errors.get(name) or (not partitions and KafkaError.UNKNOWN_TOPIC_OR_PART)
        if error:
            answer.set_exception(KafkaException(KafkaError(error)))
        else:
            leader = SimpleNamespace(leader=SimpleNamespace(id=1))
            topic_id = self.ids.get(name, "first")
            answer.set_result(
                SimpleNamespace(topic_id=topic_id, partitions=[leader] * len(partitions))
            )
        return answer


class Client:
    """Reads a log as a consumer does, with an event at the end of each partition.

    Args:
        log: The log.
        properties: Those of the client.

    Attributes:
        polls: How often it was polled.
        cut_off: Whether the next poll tells that there is no broker.
    """

    def __init__(self, log: Log, properties: dict[str, Any]) -> None:
        self.polls = 0
        self.cut_off = False
        self._log = log
        self._on_error = properties["error_cb"]
        self._next: dict[Where, int] = {}
        self._consumed: dict[Where, int] = {}
        self._told_end: dict[Where, int] = {}

    def poll(self, timeout: float) -> FakeMessage | None:
        self.polls += 1
        if self.cut_off:
            self.cut_off = False
            self._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        messages = self.consume(1, 0)
        if not messages:
            time.sleep(0.001)  # what a poll waits for records, cut short
        return messages[0] if messages else None

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        found: list[FakeMessage] = []
        for where in self._next:
            while len(found) < count and (message := self._message(*where)) is not None:
                found.append(message)
        return found

    def _message(self, topic: str, partition: int) -> FakeMessage | None:
        where = topic, partition
        offset = self._next[where]
        if offset < self._log.ends[where]:
            self._next[where] = self._consumed[where] = offset + 1
            return FakeMessage(topic, offset, partition=partition)
        if self._told_end.get(where) == offset:
            return None
        self._told_end[where] = offset
        end = KafkaError(KafkaError._PARTITION_EOF)
        return FakeMessage(topic, offset, partition=partition, error=end)

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._next.clear()
        self.incremental_assign(partitions)

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            where = each.topic, each.partition
            self._next[where] = each.offset
            self._consumed.pop(where, None)
            self._told_end.pop(where, None)

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            del self._next[each.topic, each.partition]

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*where) for where in self._next]

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(
                each.topic, each.partition, self._consumed.get((each.topic, each.partition), -1001)
            )
            for each in partitions
        ]

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        ends = self._log.ends
        return [
            TopicPartition(
                each.topic,
                each.partition,
                0 if each.offset == OFFSET_BEGINNING else ends[each.topic, each.partition],
            )
            for each in partitions
        ]

    def list_topics(self, topic: str, timeout: float) -> None: ...

    def close(self) -> None: ...


class Sink:
    """Keeps the offsets that it gets.

    Attributes:
        offsets: By topic and partition.
        on_batch: Gets each batch; returns how many of its messages to take. The rest it leaves.
        on_turn: Called in each turn.
    """

    source: StreamReader

    def __init__(self) -> None:
        self.offsets: dict[Where, list[int]] = {}
        self.on_batch: Callable[[Sequence[Any]], int] = len
        self.on_turn: Callable[[], object] = lambda: None

    def deliver(self, messages: Sequence[Any]) -> None:
        taken = self.on_batch(messages)
        for each in messages[:taken]:
            self.offsets.setdefault((each.topic(), each.partition()), []).append(each.offset())
        if taken < len(messages):
            self.source.leave(messages[taken:])

    def turn(self) -> None:
        self.on_turn()

    def caught_up(self) -> None: ...

    def sought(self) -> None: ...

    def made_anew(self, topic: str, partition: int) -> None: ...

    def missed(self, topic: str, partition: int) -> None: ...

    def failed(self, error: BaseException) -> None: ...


class Case:
    """A log, and what reads it.

    Attributes:
        clients: Those that were made.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.sink = Sink()
        self.clients: list[Client] = []
        self.stats = Stats("test")
        self.connection = Connection("nowhere:1", self.stats)

    def client(self, properties: dict[str, Any]) -> Client:
        self.clients.append(Client(self.log, properties))
        return self.clients[-1]

    def begin(self, topic: str = TOPIC, **times: float) -> Ticket[None]:
        settings = {"topic": topic, "group": "all", "type": "order.changed"}
        config = LayerConfig.from_keywords(
            bootstrap_servers="nowhere:1", streams={"orders": settings}
        )
        watch: Any = self.log
        self.sink.source = self.source = StreamReader(
            replace(config, timings=replace(Timings(), **times)),
            config.streams["orders"],
            self.sink,
            self.stats,
            self.connection,
            lambda: watch,
        )
        return self.source.begin("earliest")


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    made = Case()
    monkeypatch.setattr(reader_module, "Consumer", made.client)
    yield made
    made.source.join(5)


@pytest.mark.parametrize("pauses", [False, True], ids=["left", "paused"])
def test_what_is_left_comes_again_once_and_in_order_whatever_a_look_finds(
    case: Case, pauses: bool
) -> None:
    """A look in the same turn states the wish again, of a client that is past what was left."""
    case.log.ends = {(TOPIC, 0): 100}
    # So that looks and refusals meet in any way.
    turns_of_pauses = itertools.cycle([1, 2])
    turns_left = 0

    def take_some(messages: Sequence[Any]) -> int:
        nonlocal turns_left
        if pauses:
            case.source.read(False)
            turns_left = next(turns_of_pauses)
        if len(case.sink.offsets.get((TOPIC, 0), ())) > 50:
            case.log.ends[TOPIC, 1] = 100
        return min(7, len(messages))

    def resume() -> None:
        nonlocal turns_left
        turns_left -= 1
        if not turns_left:
            case.source.read(True)

    case.sink.on_batch, case.sink.on_turn = take_some, resume
    # A look begins or ends in each turn.
    case.begin(topics=0.0)
    all_once = {(TOPIC, partition): list(range(100)) for partition in range(2)}
    wait_until(
        lambda: sum(map(len, case.sink.offsets.values())) >= 200,
        f"all records, not {case.sink.offsets}",
    )
    assert case.sink.offsets == all_once


def test_a_topic_that_may_not_be_looked_at_is_named_and_holds_up_the_others_at_first_alone(
    case: Case,
) -> None:
    """Where to begin has to be known of all of them at the same time."""
    case.log.ends = {("shop.a", 0): 3, ("shop.b", 0): 5}
    case.log.errors = {"shop.b": REFUSED}
    begun = case.begin(r"^shop\.", topics=0.01)
    # Nobody waits for it.
    begun.result(PATIENCE)
    assert case.source.facts().trouble.startswith("shop.b: ")
    assert case.sink.offsets == {}
    case.log.errors = {}
    wait_until(lambda: case.source.facts().partitions == 2, "both topics")
    case.log.errors = {"shop.a": REFUSED}
    case.log.ends["shop.c", 0] = 2
    wait_until(lambda: case.source.facts().partitions == 3, "the third topic")
    wait_until(lambda: len(case.sink.offsets) == 3, "records of all three")
    wait_until(lambda: sum(map(len, case.sink.offsets.values())) == 10, "all records")


@pytest.mark.parametrize("meanwhile", ["gone", "paused", "read"])
def test_a_topic_that_was_made_anew_has_another_client(case: Case, meanwhile: str) -> None:
    """One that knew the old topic may take the new one's leader epoch for an outdated one."""
    case.log.ends = {(TOPIC, 0): 3}
    case.begin(topics=0.01).result(PATIENCE)
    wait_until(lambda: case.sink.offsets == {(TOPIC, 0): [0, 1, 2]}, "the records of the old one")
    if meanwhile == "gone":
        case.log.errors = {TOPIC: KafkaError.UNKNOWN_TOPIC_OR_PART}
        wait_until(lambda: not case.source.facts().partitions, "it to be gone")
    if meanwhile == "paused":
        case.source.read(False).result(PATIENCE)
    assert len(case.clients) == 1
    case.log.ends, case.log.ids = {(TOPIC, 0): 2, (TOPIC, 1): 0}, {TOPIC: "second"}
    case.log.errors = {}
    wait_until(lambda: case.source.facts().partitions == 2, "a look that finds it")
    if meanwhile == "paused":
        case.source.read(True).result(PATIENCE)
    wait_until(lambda: case.sink.offsets[TOPIC, 0][3:] == [0, 1], "the records of the new one")
    assert len(case.clients) == 2


def test_a_stream_without_a_topic_takes_no_silence_for_an_answer(case: Case) -> None:
    """It has nothing to ask a broker; whether the brokers are back others find out."""
    case.begin().result(PATIENCE)
    (client,) = case.clients
    client.cut_off = True
    wait_until(lambda: case.connection.doubtful, "the client to tell that there is no broker")
    polls = client.polls
    wait_until(lambda: client.polls > polls + 5, "more polls")
    assert case.connection.doubtful
