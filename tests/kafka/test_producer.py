"""The producer without a broker: outcomes of records, room in its queue, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from django.dispatch import Signal

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import Cause, LayerClosed, ProduceFailed
from kafka_layer.kafka import producer as producer_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.liveness import ANSWERED, UNANSWERED
from kafka_layer.kafka.pending import NumberedProducer
from kafka_layer.kafka.producer import RecordProducer
from kafka_layer.messages import Position
from kafka_layer.observe.counters import Stats
from kafka_layer.signals import produce_failed
from kafka_layer.testing import EmbeddedBroker
from kafka_layer.transport import QueueFull
from kafka_layer.wire.records import ProducerRecord
from kafka_layer.wire.topics import Topic, topic_name
from tests.support.waiting import PATIENCE, wait_until

NO_BROKER = "127.0.0.1:1"
# No broker comes in any time: what a close reports of the records is asked afterwards.
CLOSE_TIMEOUT = 0.05

MakeProducer = Callable[..., RecordProducer]


def record(value: bytes = b"x", key: str | None = "room") -> ProducerRecord:
    return Topic.SEND_GROUP, key, value, None, ()


class Signalled(Stats):
    """Counters that note the topics of ``produce_failed`` instead of sending it."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.topics: list[str] = []

    def signal(self, signal: Signal, sender: object, **arguments: Any) -> None:
        if signal is produce_failed:
            self.topics.append(arguments["topic"])


@pytest.fixture
def make_producer() -> Iterator[MakeProducer]:
    """Makes producers that reach no broker; closes them at the end."""
    producers: list[RecordProducer] = []

    def make(
        queue: int = 100_000,
        stats: Stats | None = None,
        start: bool = True,
        unknown_partition: float = 60.0,
        servers: str = NO_BROKER,
        **config: Any,
    ) -> RecordProducer:
        settings = LayerConfig.from_keywords(
            bootstrap_servers=servers,
            producer_config={"queue.buffering.max.messages": queue},
            **config,
        )
        settings = replace(settings, timings=Timings(unknown_partition=unknown_partition))
        stats = stats or Stats("test")
        topics = {topic: topic_name("test", topic) for topic in Topic}
        connection = Connection(servers, stats)
        producer = RecordProducer(settings, topics, stats, connection, lambda: None)
        producers.append(producer)
        if start:
            producer.start()
        return producer

    yield make
    for producer in producers:
        producer.close(CLOSE_TIMEOUT)


class TestTickets:
    def test_closing_fails_the_records_that_were_not_written(
        self, make_producer: MakeProducer
    ) -> None:
        producer = make_producer()
        tickets: list[Ticket[Position]] = [Ticket() for _ in range(1_000)]
        for ticket in tickets:
            producer.produce(record(), ticket)
        producer.close(CLOSE_TIMEOUT)
        wait_until(lambda: all(each.done for each in tickets), "every record's outcome")
        assert all(isinstance(each.error, ProduceFailed) for each in tickets)

    def test_replacing_the_client_fails_the_records_that_were_not_written(
        self, make_producer: MakeProducer
    ) -> None:
        producer = make_producer()
        tickets: list[Ticket[Position]] = [Ticket() for _ in range(1_000)]
        for ticket in tickets:
            producer.produce(record(), ticket)
        # What is held back until then goes to the new client, and expires there.
        wait_until(lambda: len(producer.client) == len(tickets), "all to be handed over")
        producer.replace()
        wait_until(lambda: all(each.done for each in tickets), "every record's outcome")

    def test_a_ticket_is_decided_though_the_failure_cannot_be_counted(
        self, make_producer: MakeProducer
    ) -> None:
        class Uncountable(Stats):
            def dropped(self, cause: Cause, detail: str, number: int = 1) -> None:
                raise RuntimeError("a receiver of a signal is a coroutine")

        producer = make_producer(stats=Uncountable("test"))
        ticket: Ticket[Position] = Ticket()
        producer.produce(record(), ticket)
        producer.close(CLOSE_TIMEOUT)
        wait_until(lambda: ticket.done, "the record's outcome")
        assert isinstance(ticket.error, ProduceFailed)


class TestStart:
    def test_one_that_got_no_thread_may_be_tried_again(
        self, make_producer: MakeProducer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def new_thread(**_: Any) -> threading.Thread:
            raise RuntimeError("can't start new thread")  # as Thread.start says

        producer = make_producer(start=False)
        with monkeypatch.context() as patch:
            patch.setattr(producer_module, "new_thread", new_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                producer.start()
        producer.start()
        ticket: Ticket[Position] = Ticket()
        producer.produce(record(), ticket)
        producer.replace()
        wait_until(lambda: ticket.done, "the thread to report the record")


class TestLiveness:
    @pytest.mark.parametrize("elsewhere", [True, False])
    def test_one_that_six_requests_find_silent_is_replaced_if_another_client_is_not(
        self, make_producer: MakeProducer, elsewhere: bool
    ) -> None:
        producer = make_producer()
        before = producer.client
        for _ in range(6):
            assert producer.client is before
            producer.judge(UNANSWERED, lambda: elsewhere)
        assert (producer.client is not before) == elsewhere

    def test_an_answer_begins_the_count_anew(self, make_producer: MakeProducer) -> None:
        producer = make_producer()
        before = producer.client
        for evidence in (*[UNANSWERED] * 5, ANSWERED, *[UNANSWERED] * 5):
            producer.judge(evidence, lambda: True)
        assert producer.client is before


class TestClosing:
    def test_reports_on_records_that_were_not_written_take_no_longer_than_the_close_may(
        self, make_producer: MakeProducer
    ) -> None:
        go_on = threading.Event()

        class Slow(Stats):
            def dropped(self, cause: Cause, detail: str, number: int = 1) -> None:
                go_on.wait(PATIENCE)

        producer = make_producer(stats=Slow("test"))
        tickets: list[Ticket[Position]] = [Ticket() for _ in range(150)]
        for ticket in tickets:
            producer.produce(record(), ticket)
        began = time.monotonic()
        producer.close(CLOSE_TIMEOUT)
        assert time.monotonic() - began < PATIENCE / 2
        go_on.set()
        wait_until(lambda: all(each.done for each in tickets), "every record's outcome")


class TestRecordsOfTheLayersOwn:
    """Measurements, commands and answers: no messages, so none is lost with them."""

    @pytest.mark.parametrize(
        "internal",
        [
            (Topic.ACK, "0-probe", b"{}", 0, ()),
            (Topic.GROUP_MGMT, "7-8dba7a13", b"{}", 7, ()),
            (Topic.SEND_ALL, None, b"{}", None, [("command", b"who")]),
        ],
    )
    def test_one_that_no_broker_takes_is_no_lost_message(
        self, make_producer: MakeProducer, internal: ProducerRecord
    ) -> None:
        stats = Signalled("test")
        producer = make_producer(stats=stats, prefix="test")
        tickets: list[Ticket[Position]] = [Ticket(), Ticket()]
        producer.produce(internal, tickets[0])
        producer.produce(record(), tickets[1])
        producer.close(CLOSE_TIMEOUT)
        wait_until(lambda: all(each.done for each in tickets), "both outcomes")
        assert isinstance(tickets[0].error, ProduceFailed)
        assert stats.snapshot()["errors.command"] == 1
        assert stats.snapshot()["failed"] == 1
        assert stats.snapshot()["dropped.produce"] == 1
        assert stats.topics == ["test-send-group"]


class TestUnknownPartitions:
    """A server's inbox may be in a partition that is newer than what the client knows."""

    RECORD = Topic.SEND_CONN, "6-deadbeef!one", b"x", 6, ()

    @pytest.fixture
    def taken(self) -> list[bytes]:
        """What the client took."""
        return []

    @pytest.fixture
    def learns(self, monkeypatch: pytest.MonkeyPatch, taken: list[bytes]) -> threading.Event:
        """Whether the client learns of the partition when it asks."""
        learns = threading.Event()

        class Learning(NumberedProducer):
            asked = False

            def produce(self, *arguments: Any, **keywords: Any) -> None:
                if not self.asked:
                    raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
                super().produce(*arguments, **keywords)
                taken.append(arguments[1])

            def list_topics(self, *arguments: Any, **keywords: Any) -> Any:
                self.asked = learns.is_set()

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Learning)
        return learns

    def test_a_record_for_one_is_handed_over_once_the_client_knows_it(
        self, make_producer: MakeProducer, learns: threading.Event, taken: list[bytes]
    ) -> None:
        stats = Stats("test")
        producer = make_producer(stats=stats)
        producer.produce(self.RECORD)
        assert not producer.flush(0.1)
        assert not taken
        learns.set()
        wait_until(lambda: taken == [b"x"], "it to be handed over")
        assert not stats.snapshot().get("failed")

    @pytest.mark.usefixtures("learns")
    def test_a_record_for_one_that_never_comes_fails_in_time(
        self, make_producer: MakeProducer
    ) -> None:
        stats = Stats("test")
        producer = make_producer(stats=stats, unknown_partition=0.2)
        ticket: Ticket[Position] = Ticket()
        producer.produce(self.RECORD, ticket)
        assert not ticket.done
        assert producer.flush(PATIENCE)
        with pytest.raises(ProduceFailed, match="no such partition"):
            ticket.result(0)
        assert stats.snapshot()["dropped.produce"] == 1

    def test_a_record_for_one_that_the_client_took_and_reported_waits_as_well(
        self, make_producer: MakeProducer, embedded: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Ignorant(NumberedProducer):
            """Knows nothing of the topic at first; then the partition is there.

            On a slow machine it may know the topic by then, and refuses the record at once.
            """

            def produce(self, *arguments: Any, **keywords: Any) -> None:
                name, value, key, partition, *others = arguments
                Ignorant.produce = produce_elsewhere  # type: ignore[assignment, method-assign]
                super().produce(name, value, key, partition, *others, **keywords)

        def produce_elsewhere(client: Any, *arguments: Any, **keywords: Any) -> None:
            name, value, key, _, *others = arguments
            NumberedProducer.produce(client, name, value, key, 0, *others, **keywords)

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Ignorant)
        embedded.create_topic("test-send-conn", partitions=1)
        stats = Stats("test")
        producer = make_producer(stats=stats, servers=embedded.bootstrap_servers)
        ticket: Ticket[Position] = Ticket()
        producer.produce(self.RECORD, ticket)
        assert ticket.result(PATIENCE).offset == 0
        assert not stats.snapshot().get("failed")

    @pytest.mark.usefixtures("learns")
    def test_closing_fails_it(self, make_producer: MakeProducer) -> None:
        producer = make_producer()
        ticket: Ticket[Position] = Ticket()
        producer.produce(self.RECORD, ticket)
        producer.close(CLOSE_TIMEOUT)
        assert isinstance(ticket.error, ProduceFailed)


class TestRoom:
    def test_who_waits_is_told_in_order_once_there_is_room(
        self, make_producer: MakeProducer
    ) -> None:
        producer = make_producer(queue=2)
        for _ in range(2):
            producer.produce(record())
        with pytest.raises(QueueFull):
            producer.produce(record())
        told: list[int] = []
        tickets = [producer.when_room() for _ in range(4)]
        for number, ticket in enumerate(tickets):
            ticket.on_done(lambda _, number=number: told.append(number))  # type: ignore[misc]
        assert not told
        producer.replace()
        wait_until(lambda: told == [0, 1, 2, 3], "the four to be told of the new client's room")

    def test_others_are_refused_while_one_waits(self, make_producer: MakeProducer) -> None:
        producer = make_producer(queue=2)
        for _ in range(2):
            producer.produce(record())
        waiting = producer.when_room()
        before: list[bool] = []

        def send_another(_: Ticket[None]) -> None:
            producer.produce(record(), waited=True)
            before.append(not second.done)

        second: Ticket[None] = Ticket()
        waiting.on_done(send_another)
        second = producer.when_room()
        with pytest.raises(QueueFull):
            producer.produce(record())
        producer.replace()
        wait_until(lambda: second.done, "the second to be told")
        assert before == [True]

    def test_who_found_it_full_again_is_the_first(self, make_producer: MakeProducer) -> None:
        producer = make_producer(queue=1)
        producer.produce(record())
        told: list[str] = []
        producer.when_room().on_done(lambda _: told.append("new"))
        producer.when_room(waited=True).on_done(lambda _: told.append("again"))
        producer.replace()
        wait_until(lambda: told == ["again", "new"], "both to be told")

    def test_closing_tells_those_that_wait(self, make_producer: MakeProducer) -> None:
        producer = make_producer(queue=1)
        producer.produce(record())
        waiting = producer.when_room()
        producer.close(CLOSE_TIMEOUT)
        assert isinstance(waiting.error, LayerClosed)
        assert isinstance(producer.when_room().error, LayerClosed)
