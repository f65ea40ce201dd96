"""Whether the brokers are lost: what clients report, what refutes it, and who is told."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.config.timings import Timings
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.errors import token_hint
from kafka_layer.observe.counters import Stats
from kafka_layer.signals import connection_changed

DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
BROKEN = KafkaError(KafkaError._TRANSPORT, "Connect to ipv4#127.0.0.1:9092 failed")
REFUSED = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error")

AT_ONCE = Timings(connection_doubt=0.0)
NEVER = Timings(connection_doubt=3600.0)


class Told(Stats):
    """Counters that note the signals instead of sending them."""

    def __init__(self) -> None:
        super().__init__("channels")
        self.signals: list[bool] = []

    def signal(self, signal: Any, sender: object, **arguments: Any) -> None:
        assert signal is connection_changed
        self.signals.append(arguments["connected"])


@pytest.fixture
def stats() -> Told:
    return Told()


def suspected(stats: Stats) -> Connection:
    connection = Connection("kafka:9092", stats, NEVER)
    connection.on_error(DOWN)
    return connection


def lost(stats: Stats) -> Connection:
    connection = Connection("kafka:9092", stats, AT_ONCE)
    connection.on_error(DOWN)
    return connection


class TestTransitions:
    """The table of the class' docstring."""

    def test_a_client_that_finds_no_broker_is_a_suspicion(self, stats: Told) -> None:
        connection = suspected(stats)
        assert (connection.lost, connection.doubtful) == (False, True)
        assert stats.signals == []

    def test_a_client_that_gets_no_answer_is_a_suspicion(self, stats: Told) -> None:
        connection = Connection("kafka:9092", stats, NEVER)
        connection.on_silence()
        assert (connection.lost, connection.doubtful) == (False, True)

    def test_a_suspicion_that_an_answer_refutes_is_told_to_nobody(
        self, stats: Told, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = suspected(stats)
        connection.on_answer()
        assert (connection.lost, connection.doubtful) == (False, False)
        assert stats.signals == []
        assert not caplog.records
        assert "reconnects" not in stats.snapshot()

    def test_a_suspicion_is_believed_in_time_where_nothing_else_happens(self, stats: Told) -> None:
        connection = Connection("kafka:9092", stats, Timings(connection_doubt=0.01))
        connection.on_error(DOWN)
        while not connection.lost:
            assert stats.signals == []
        assert (connection.lost, connection.doubtful) == (True, True)
        assert stats.signals == [False]

    def test_a_further_error_in_time_confirms_a_suspicion(self, stats: Told) -> None:
        connection = Connection("kafka:9092", stats, Timings(connection_doubt=0.01))
        connection.on_error(DOWN)
        while not stats.signals:
            connection.on_error(BROKEN)
        assert stats.signals == [False]

    def test_a_broken_connection_alone_is_no_suspicion(self, stats: Told) -> None:
        connection = Connection("kafka:9092", stats, AT_ONCE)
        connection.on_error(BROKEN)
        assert (connection.lost, connection.doubtful) == (False, False)

    def test_a_refusal_needs_no_time(self, stats: Told, caplog: pytest.LogCaptureFixture) -> None:
        connection = Connection("kafka:9092", stats, NEVER)
        connection.on_error(REFUSED)
        assert not connection.refused
        connection.on_error(DOWN)
        assert connection.refused
        assert connection.lost
        assert stats.signals == [False]
        assert "do not let this client in" in caplog.text

    def test_an_answer_ends_a_loss(self, stats: Told, caplog: pytest.LogCaptureFixture) -> None:
        connection = lost(stats)
        connection.on_answer()
        assert (connection.lost, connection.doubtful) == (False, False)
        assert stats.signals == [False, True]
        assert stats.snapshot()["reconnects"] == 1
        assert [each.levelno for each in caplog.records] == [logging.ERROR, logging.WARNING]

    def test_reports_during_a_loss_change_nothing(self, stats: Told) -> None:
        connection = lost(stats)
        connection.on_error(DOWN)
        connection.on_error(BROKEN)
        assert stats.signals == [False]


def test_a_loss_just_after_a_reconnect_is_noticed_though_it_is_reported_once(stats: Told) -> None:
    """librdkafka reports that all brokers are down once, also where they were back for a moment."""
    connection = Connection("kafka:9092", stats, Timings(connection_doubt=0.01))
    connection.on_error(DOWN)
    while not connection.lost:
        pass
    connection.on_answer()
    connection.on_error(DOWN)
    while not connection.lost:
        assert connection.doubtful, "the second loss is forgotten"
    assert stats.signals == [False, True, False]


class Interrupted(logging.Filter):
    """Lets another thread report an answer while the thread that noticed the loss logs it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def filter(self, record: logging.LogRecord) -> bool:
        if "can be reached" in record.getMessage():
            thread = threading.Thread(target=self.connection.on_answer)
            thread.start()
            thread.join(10)
            assert not thread.is_alive(), "an answer waits for the log"
        return True


def test_the_last_signal_tells_the_present_state_whatever_thread_is_switched_out(
    stats: Told,
) -> None:
    connection = Connection("kafka:9092", stats, AT_ONCE)
    interrupted, logger = Interrupted(connection), logging.getLogger("kafka_layer")
    logger.addFilter(interrupted)
    try:
        connection.on_error(DOWN)
    finally:
        logger.removeFilter(interrupted)
    assert not connection.lost
    assert stats.signals == [False, True]


def test_a_state_that_is_read_while_it_changes_does_not_deadlock() -> None:
    """As a signal handler does that calls ``layer.stats()``."""
    done = threading.Event()

    class Reading(Told):
        def signal(self, signal: Any, sender: object, **arguments: Any) -> None:
            super().signal(signal, sender, **arguments)
            if not arguments["connected"]:
                assert connection.lost
                connection.on_answer()

    stats = Reading()
    connection = Connection("kafka:9092", stats, AT_ONCE)

    def change() -> None:
        connection.on_error(DOWN)
        done.set()

    threading.Thread(target=change, daemon=True).start()
    assert done.wait(30), "reading the state waits for the change"
    assert stats.signals == [False, True]


class ConnectionMachine(RuleBasedStateMachine):
    """Any order of reports: signals alternate, and the last one is the state."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = Told()
        self.connection = Connection("kafka:9092", self.stats, AT_ONCE)
        self.reported = False

    @rule(error=st.sampled_from([BROKEN, REFUSED, DOWN]))
    def report(self, error: KafkaError) -> None:
        self.connection.on_error(error)
        self.reported = self.reported or error is DOWN

    @rule()
    def answer(self) -> None:
        self.connection.on_answer()
        self.reported = False

    @rule()
    @precondition(lambda self: self.reported)
    def time_passes(self) -> None:
        assert self.connection.lost

    @invariant()
    def the_last_signal_is_the_state(self) -> None:
        told = self.stats.signals
        assert self.connection.lost == self.reported
        assert (told[-1:] or [True]) == [not self.connection.lost]
        assert told == [index % 2 == 1 for index in range(len(told))]


TestAnyOrder = ConnectionMachine.TestCase


def test_a_client_that_needs_a_token_is_reminded_of_it(stats: Told) -> None:
    properties = {"sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc"}
    reminded = Connection("kafka:9092", stats, NEVER, token_hint(properties))
    assert "before it has an OAUTHBEARER token: look at oauth_cb" in str(reminded.unavailable("it"))
    other = Connection("kafka:9092", stats, NEVER, token_hint({"sasl.mechanism": "PLAIN"}))
    assert "token" not in str(other.unavailable("it"))
