"""What the thread that reads the past does with its questions, without a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kafka_layer.config.realtime import monotonic
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, LayerClosed
from kafka_layer.kafka import past as past_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.past import PastReader
from kafka_layer.observe.counters import Stats
from kafka_layer.transport import Past
from kafka_layer.wire.topics import Topic
from tests.support.waiting import wait_until

NO_BROKER = "127.0.0.1:1"
DEADLINE = 30.0
QUIET = {"log_level": 0}


@pytest.fixture
def make_reader() -> Iterator[Callable[..., PastReader]]:
    made: list[PastReader] = []

    def make(**timings: float) -> PastReader:
        config = LayerConfig.from_keywords(bootstrap_servers=NO_BROKER, client_config=QUIET)
        config = config.timed(Timings(**timings))
        made.append(PastReader(config, Connection(NO_BROKER, Stats())))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        each.join(DEADLINE)


class Busy:
    """A question that holds the thread until it is released."""

    def __init__(self, reader: PastReader) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.ticket = reader.ask("busy", self, monotonic() + DEADLINE)
        assert self.begun.wait(DEADLINE)

    def __call__(self, past: Past) -> Callable[[], None]:
        self.begun.set()
        assert self.released.wait(DEADLINE)
        return lambda: None


def later() -> float:
    return monotonic() + DEADLINE


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "kafka-layer-past"]


def test_askers_share_a_question_that_has_not_begun(
    make_reader: Callable[..., PastReader],
) -> None:
    reader, asked = make_reader(), []
    busy = Busy(reader)

    def question(past: Past) -> Callable[[], list[Any]]:
        asked.append(past)
        return list

    tickets = [reader.ask("same", question, later()) for _ in range(50)]
    other = reader.ask("other", question, later())
    busy.released.set()
    answers = [ticket.result(DEADLINE) for ticket in tickets]
    other.result(DEADLINE)
    assert len(asked) == 2
    answers[0].append("mine")
    assert answers[1] == []


def test_a_question_that_was_carried_out_is_asked_anew(
    make_reader: Callable[..., PastReader],
) -> None:
    reader, asked = make_reader(), []

    def question(past: Past) -> Callable[[], int]:
        asked.append(past)
        return lambda: len(asked)

    for number in (1, 2):
        assert reader.ask("same", question, later()).result(DEADLINE) == number


def test_the_thread_and_the_clients_are_freed_when_nobody_asks(
    make_reader: Callable[..., PastReader],
) -> None:
    reader = make_reader(history_idle=0.05)
    for _ in range(2):
        reader.ask("any", lambda past: lambda: None, later()).result(DEADLINE)
        wait_until(lambda: not threads(), "the thread to end")
        assert reader._clients is None


def test_a_question_that_comes_while_the_clients_are_freed_is_answered(
    make_reader: Callable[..., PastReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    freeing, may_free = threading.Event(), threading.Event()
    close = past_module._Clients.close

    def close_slowly(clients: Any) -> None:
        freeing.set()
        assert may_free.wait(DEADLINE)
        close(clients)

    monkeypatch.setattr(past_module._Clients, "close", close_slowly)
    reader = make_reader(history_idle=0.05)
    used: list[object] = []

    def question(past: Past) -> Callable[[], None]:
        used.append(reader._clients)
        return lambda: None

    reader.ask("first", question, later()).result(DEADLINE)
    assert freeing.wait(DEADLINE)
    ticket = reader.ask("second", question, later())
    assert not ticket.done
    may_free.set()
    ticket.result(DEADLINE)
    assert used[0] is not used[1]
    assert len(threads()) <= 1


def test_the_clients_are_kept_for_the_next_question(
    make_reader: Callable[..., PastReader],
) -> None:
    reader = make_reader()
    seen = [
        reader.ask("any", lambda past: lambda: reader._clients, later()).result(DEADLINE)
        for _ in range(2)
    ]
    assert seen[0] is seen[1] is not None


def test_an_error_is_every_askers_and_the_next_question_has_new_clients(
    make_reader: Callable[..., PastReader],
) -> None:
    reader = make_reader()
    busy = Busy(reader)
    before: list[object] = []

    def fail(past: Past) -> Callable[[], None]:
        before.append(reader._clients)
        raise BrokerUnavailable("for a test")

    tickets = [reader.ask("same", fail, later()) for _ in range(2)]
    busy.released.set()
    for ticket in tickets:
        with pytest.raises(BrokerUnavailable, match="for a test"):
            ticket.result(DEADLINE)
    after = reader.ask("any", lambda past: lambda: reader._clients, later()).result(DEADLINE)
    assert after is not before[0]


def test_where_no_broker_answers_one_all_that_wait_are_told_at_once(
    make_reader: Callable[..., PastReader],
) -> None:
    reader, asked = make_reader(), []
    busy = Busy(reader)

    def fail(past: Past) -> Callable[[], None]:
        asked.append(past)
        raise BrokerUnavailable("for a test")

    tickets = [reader.ask(number, fail, later()) for number in range(10)]
    busy.released.set()
    for ticket in tickets:
        with pytest.raises(BrokerUnavailable, match="for a test"):
            ticket.result(DEADLINE)
    assert len(asked) == 1


def test_a_question_that_comes_too_late_is_not_begun(
    make_reader: Callable[..., PastReader],
) -> None:
    reader, asked = make_reader(), []
    busy = Busy(reader)
    ticket = reader.ask("late", asked.append, monotonic())  # type: ignore[arg-type]
    busy.released.set()
    with pytest.raises(BrokerUnavailable, match="ask again"):
        ticket.result(DEADLINE)
    assert not asked


def test_without_a_broker_it_says_so_in_time(make_reader: Callable[..., PastReader]) -> None:
    reader = make_reader(history_answer=0.3)
    began = monotonic()

    def question(past: Past) -> Callable[[], object]:
        past.extents([Topic.SEND_GROUP])
        return lambda: None

    with pytest.raises(BrokerUnavailable, match=NO_BROKER):
        reader.ask("any", question, later()).result(DEADLINE)
    assert monotonic() - began < DEADLINE / 2


def test_a_stop_fails_what_waits_and_all_that_comes_later(
    make_reader: Callable[..., PastReader],
) -> None:
    reader = make_reader()
    busy = Busy(reader)
    waiting = reader.ask("waiting", lambda past: lambda: None, later())
    reader.stop()
    busy.released.set()
    for ticket in (waiting, reader.ask("later", lambda past: lambda: None, later())):
        with pytest.raises(LayerClosed):
            ticket.result(DEADLINE)
    reader.join(DEADLINE)
    assert not threads()


def test_a_forked_child_leaves_the_parents_clients_alone(
    make_reader: Callable[..., PastReader],
) -> None:
    """Here in one process: the inherited clients are kept for ever, and nothing waits for them."""
    reader = make_reader()
    reader.ask("any", lambda past: lambda: None, later()).result(DEADLINE)
    thread = threads()[0]
    stop = reader._stop
    reader.abandon()
    with pytest.raises(LayerClosed):
        reader.ask("any", lambda past: lambda: None, later()).result(DEADLINE)
    stop.set()
    assert thread.daemon
