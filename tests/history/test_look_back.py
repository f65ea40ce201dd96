"""What a server that has just started learns of the idempotency keys before its start, and when."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket, run_blocking
from kafka_layer.exceptions import BrokerUnavailable, LayerClosed
from kafka_layer.history.flushes import Flushes
from kafka_layer.history.look_back import LookBack
from kafka_layer.observe.counters import Stats
from kafka_layer.server.server import Server
from kafka_layer.transport import Past
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.idempotency import WINDOW, Duplicates, idempotency_header
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic
from tests.history.test_scan import FakePast

STARTED = 10_000.0
GROUP, ALL = Topic.SEND_GROUP, Topic.SEND_ALL


def record(key: str, written: float, topic: Topic = ALL, offset: int = 0) -> Record:
    header = idempotency_header(Encryption(), topic, None, key)
    return topic, None, b"x", [header], written, 0, offset


class Late:
    """A look back, and what a server that started late gives it.

    Attributes:
        asked: The keys of the questions that the log was asked.
        answer: Makes the ticket of a question.
    """

    def __init__(self, past: Past) -> None:
        self.past = past
        self.asked: list[Hashable] = []
        self.answer: Callable[[Callable[[Past], Any]], Ticket[Any]] = self.carry_out
        self.stats = Stats()
        self.duplicates = Duplicates(encrypted=False)
        server = SimpleNamespace(
            reads_since=STARTED,
            config=SimpleNamespace(timings=Timings(look_back=0.01, hand_over=0.05)),
            transport=self,
            stats=self.stats,
            router=SimpleNamespace(duplicates=self.duplicates),
        )
        flushes = Flushes(lambda record: False)
        self.look_back = LookBack(cast(Server, server), flushes, lambda: flushes.latest)

    def ask_past(self, key: Hashable, question: Callable[..., Any], until: float) -> Ticket[Any]:
        self.asked.append(key)
        return self.answer(question)

    def carry_out(self, question: Callable[[Past], Any]) -> Ticket[Any]:
        return Ticket.resolved(question(self.past)())

    def judge(self, record: Record) -> bool:
        learn = self.look_back.before(record)
        if learn is not None:
            learn()
        return self.duplicates.is_duplicate(record)


@pytest.fixture
def late() -> Late:
    past = FakePast([(0, False)] * 3, 1)
    past.logs[0] = [record(f"k{n}", STARTED - 200 + n, offset=n) for n in range(3)]
    return Late(past)


def test_it_learns_once_for_each_topic(late: Late) -> None:
    assert late.judge(record("k1", STARTED + 1, offset=3))
    assert not late.judge(record("new", STARTED + 2, offset=4))
    assert len(late.asked) == 1
    assert not late.judge(record("k1", STARTED + 3, GROUP))
    assert len(late.asked) == 2


def test_what_is_older_than_the_window_is_no_original(late: Late) -> None:
    late.judge(record("other", STARTED - 200 + WINDOW + 1, offset=3))
    assert not late.judge(record("k0", STARTED - 200 + WINDOW + 1, offset=4))
    assert late.judge(record("k2", STARTED - 200 + WINDOW + 1, offset=5))


def test_a_server_that_has_read_for_longer_than_the_window_asks_nothing(late: Late) -> None:
    late.judge(record("k1", STARTED + WINDOW + 10))
    assert not late.asked


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Ticket.failed(BrokerUnavailable("no broker")), "no broker"),
        (Ticket.resolved(False), "too many records"),
    ],
    ids=["refused", "cut"],
)
def test_what_cannot_be_learnt_is_counted_once(
    late: Late, caplog: pytest.LogCaptureFixture, outcome: Ticket[Any], told: str
) -> None:
    late.answer = lambda question: outcome
    for number in range(2):
        assert not late.judge(record("k1", STARTED + 1 + number * 2 * WINDOW, offset=3))
    assert late.stats.snapshot() == {"errors.look_back": 1}
    (line,) = caplog.messages
    assert told in line
    assert "may arrive twice" in line


def test_a_log_that_is_silent_holds_nothing_up_for_long(late: Late) -> None:
    late.answer = lambda question: Ticket()
    assert not late.judge(record("k1", STARTED + 1, offset=3))


def test_who_asks_meanwhile_waits_for_the_same_answer(late: Late) -> None:
    ticket: Ticket[bool] = Ticket()
    late.answer = lambda question: ticket
    waits = [late.look_back.before(record("k1", STARTED + n)) for n in range(2)]
    assert None not in waits
    assert len(late.asked) == 1
    ticket.resolve(True)
    assert late.look_back.before(record("k1", STARTED + 3)) is None


def test_a_replay_learns_what_is_older(late: Late) -> None:
    late.judge(record("other", STARTED + 1, offset=3))
    run_blocking(late.look_back.learn(ALL, STARTED))
    assert len(late.asked) == 1
    run_blocking(late.look_back.learn(ALL, STARTED - 2 * WINDOW))
    assert len(late.asked) == 2


def test_a_layer_that_closes_is_no_error(late: Late) -> None:
    late.answer = lambda question: Ticket.failed(LayerClosed("closed"))
    late.judge(record("k1", STARTED + 1))
    assert not late.stats.snapshot()
