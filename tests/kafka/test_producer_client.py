"""The producer's client: its states, and records queued while it is replaced or closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import get_ident
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from django.core.exceptions import ImproperlyConfigured

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import LayerClosed, ProduceFailed
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.pending import NumberedProducer, Pending, UnknownPartition
from kafka_layer.kafka.producer_client import ClientState, ProducerClient
from kafka_layer.messages import Position
from kafka_layer.observe.counters import Stats
from tests.support.waiting import PATIENCE, wait_until

NO_BROKER = "127.0.0.1:1"
FATAL = KafkaError(KafkaError._FATAL, "fenced", fatal=True)
NEW, LIVE, FAILED, CLOSED = ClientState

MakeClient = Callable[..., ProducerClient]


def pending(ticket: Ticket[Position] | None = None, partition: int = -1) -> Pending:
    return "topic", b"value", "room", partition, (), ticket


def fail(client: ProducerClient) -> None:
    """Let the current client report a fatal error, as librdkafka does."""
    client._on_error(client._generation, FATAL)


@pytest.fixture
def stats() -> Stats:
    return Stats("test")


@pytest.fixture
def make_client(stats: Stats) -> Iterator[MakeClient]:
    """Makes clients that reach no broker, open ones; closes them at the end."""
    clients: list[ProducerClient] = []

    def make(interval: float = 0.0) -> ProducerClient:
        config = replace(
            LayerConfig.from_keywords(bootstrap_servers=NO_BROKER),
            timings=Timings(producer_replace=interval),
        )
        connection = Connection(NO_BROKER, stats)
        client = ProducerClient(config, stats, connection, lambda: None, threading.Event())
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()
        wait_until(client.tend, "all records to be reported")


def current(client: ProducerClient) -> NumberedProducer:
    assert client.current is not None
    return client.current


class TestStates:
    def test_opening_makes_a_client_once(self, make_client: MakeClient) -> None:
        client = make_client()
        assert client.state is NEW
        client.open()
        assert client.state is LIVE
        first = client.current
        client.open()
        assert client.current is first

    @pytest.mark.parametrize("mend", ["replace", "tend", "enqueue"])
    def test_a_failed_client_is_replaced(
        self, make_client: MakeClient, stats: Stats, mend: str
    ) -> None:
        client = make_client()
        client.open()
        failed = current(client)
        fail(client)
        assert client.state is FAILED
        if mend == "enqueue":
            client._enqueue_on_replacement(failed, pending(), FATAL)
        else:
            getattr(client, mend)()
        assert client.state is LIVE
        assert client.current is not failed
        assert stats.snapshot()["producer.replaced"] == 1

    def test_a_new_client_that_fails_at_once_stays_for_the_interval(
        self, make_client: MakeClient, stats: Stats
    ) -> None:
        client = make_client(interval=3600.0)
        client.open()
        fail(client)
        client.tend()
        young = client.current
        fail(client)
        client.tend()
        assert (client.state, client.current) == (FAILED, young)
        assert stats.snapshot()["producer.replaced"] == 1

    def test_an_old_client_that_reports_its_error_again_does_not_fail_the_new_one(
        self, make_client: MakeClient
    ) -> None:
        client = make_client()
        client.open()
        generation = client._generation
        fail(client)
        client.tend()
        client._on_error(generation, FATAL)
        assert client.state is LIVE

    def test_a_replacement_just_after_another_one_waits_for_the_interval(
        self, make_client: MakeClient
    ) -> None:
        client = make_client(interval=3600.0)
        client.open()
        client.replace()
        young = client.current
        assert client.state is LIVE
        client.replace()
        assert (client.state, client.current) == (FAILED, young)

    @pytest.mark.parametrize("error", [None, KafkaError(KafkaError._PURGE_QUEUE)])
    @pytest.mark.parametrize("ticket", [None, Ticket[Position]()])
    def test_a_report_to_a_sender_that_held_the_old_client_does_not_fail_the_new_one(
        self,
        make_client: MakeClient,
        monkeypatch: pytest.MonkeyPatch,
        ticket: Ticket[Position] | None,
        error: KafkaError | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        reports: list[Callable[..., None]] = []

        class Noted(NumberedProducer):
            def produce(self, *arguments: Any, **keywords: Any) -> None:
                reports.append(arguments[4])

        def raise_pending() -> None:
            raise SystemError from KafkaException(FATAL)

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Noted)
        client = make_client()
        client.open()
        taken = current(client)
        client.replace()
        client.enqueue(taken, pending(ticket))
        # librdkafka's callbacks run with the fatal error of their client pending.
        for module in ("producer_client", "delivery_reports"):
            monkeypatch.setattr(f"kafka_layer.kafka.{module}.RAISE_PENDING", raise_pending)
        [report] = reports
        report(error, Message("topic"))
        monkeypatch.undo()
        assert client.state is LIVE
        assert "could not be handled" not in caplog.text

    def test_a_client_that_cannot_be_made_leaves_the_failed_one(
        self, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object) -> Producer:
            raise ImproperlyConfigured("no memory")

        client = make_client()
        client.open()
        fail(client)
        with monkeypatch.context() as patch:
            patch.setattr("kafka_layer.kafka.producer_client.new_client", refuse)
            client.tend()
        assert client.state is FAILED
        client.tend()
        assert client.state is LIVE

    def test_closing_is_for_good(self, make_client: MakeClient) -> None:
        client = make_client()
        client.open()
        fail(client)
        client.close()
        client.tend()
        assert client.state is CLOSED
        assert client.current is None
        with pytest.raises(LayerClosed, match="closed"):
            client.open()


class TestUnknownPartitions:
    @pytest.fixture
    def client(self, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> ProducerClient:
        class Refusing(NumberedProducer):
            def produce(self, *arguments: Any, **keywords: Any) -> None:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Refusing)
        client = make_client()
        client.open()
        return client

    def test_a_record_for_one_is_left_to_the_caller(
        self, client: ProducerClient, stats: Stats
    ) -> None:
        with pytest.raises(UnknownPartition):
            client.enqueue(current(client), pending(partition=6))
        assert not stats.snapshot().get("failed")

    def test_a_record_whose_partition_librdkafka_chooses_fails(
        self, client: ProducerClient, stats: Stats
    ) -> None:
        client.enqueue(current(client), pending())
        assert stats.snapshot()["failed"] == 1

    def test_asking_for_them_waits_for_no_broker(self, client: ProducerClient) -> None:
        began = time.monotonic()
        client.ask_for_partitions("topic")
        client.close()
        client.ask_for_partitions("topic")
        assert time.monotonic() - began < 5


class TestRecordsOfOtherThreads:
    """A thread may have taken the client just before another thread replaces or closes it."""

    @pytest.mark.parametrize("end", ["replace", "close"])
    def test_a_record_queued_after_the_end_is_reported_as_failed(
        self, make_client: MakeClient, stats: Stats, end: str
    ) -> None:
        client = make_client()
        client.open()
        taken = current(client)
        if end == "close":
            client.close()
        else:
            client.replace()
        client.tend()
        ticket: Ticket[Position] = Ticket()
        client.enqueue(taken, pending(ticket))
        client.enqueue(taken, pending())
        if end == "replace":
            client.tend()
        with pytest.raises(ProduceFailed):
            ticket.result(PATIENCE)
        wait_until(lambda: stats.snapshot()["failed"] == 2, "both to be counted")

    def test_what_an_old_client_holds_is_reported_in_the_thread_that_tends(
        self, make_client: MakeClient, stats: Stats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported_by: set[int] = set()
        monkeypatch.setattr(stats, "signal", lambda *_, **__: reported_by.add(get_ident()))
        client = make_client()
        client.open()
        taken = current(client)
        client.replace()
        sender = threading.Thread(target=client.enqueue, args=(taken, pending()))
        sender.start()
        sender.join(10)
        assert not reported_by
        client.tend()
        assert reported_by == {get_ident()}

    def test_an_old_client_is_tended_until_it_has_reported_everything(
        self, make_client: MakeClient, stats: Stats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was let go of after fifty rounds, with whatever it held then."""
        rounds = 0

        class Hesitant(NumberedProducer):
            def flush(self, *arguments: float, **keywords: float) -> int:
                nonlocal rounds
                rounds += 1
                return super().flush(*arguments, **keywords) if rounds > 100 else len(self)

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Hesitant)
        client = make_client()
        client.open()
        ticket: Ticket[Position] = Ticket()
        client.enqueue(current(client), pending(ticket))
        client.close()
        wait_until(client.tend, "all records to be reported", pause=0.001)
        assert rounds > 100
        assert isinstance(ticket.error, ProduceFailed)

    def test_a_record_queued_while_it_is_closed_does_not_keep_the_close(
        self, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``Producer.close`` waited for such a record until it expired, as no broker answered."""
        queued: list[Ticket[Position]] = []

        class Late(NumberedProducer):
            def purge(self, *arguments: object, **keywords: object) -> None:
                super().purge(*arguments, **keywords)
                super().flush(0.1)
                if not queued:
                    queued.append(Ticket())
                    client.enqueue(self, pending(queued[0]))

        monkeypatch.setattr("kafka_layer.kafka.producer_client.NumberedProducer", Late)
        client = make_client()
        client.open()
        client.close()
        wait_until(client.tend, "all records to be reported")
        with pytest.raises(ProduceFailed):
            queued[0].result(PATIENCE)

    def test_a_request_of_another_thread_does_not_keep_the_close(
        self, make_client: MakeClient
    ) -> None:
        def ask(kafka: Producer, asking: threading.Event, timeout: float) -> None:
            asking.set()
            with pytest.raises(Exception, match="metadata"):
                kafka.list_topics(timeout=timeout)

        # A close that does not wait ends before the request does: on a slow machine before a long
        # one. One that waits is always later.
        for timeout in (0.5, 3.0, 15.0):
            client = make_client()
            client.open()
            asking = threading.Event()
            thread = threading.Thread(target=ask, args=(current(client), asking, timeout))
            thread.start()
            assert asking.wait(PATIENCE)
            client.close()
            wait_until(client.tend, "all records to be reported")
            request_goes_on = thread.is_alive()
            thread.join(PATIENCE)
            if request_goes_on:
                return
        pytest.fail("the close took as long as the request")
