"""When a client is looked at, and which one takes its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.liveness import ANSWERED, UNANSWERED, Evidence, Liveness
from kafka_layer.kafka.replacement import Replacement
from kafka_layer.observe.counters import Stats


class Site:
    """Clients are numbers, from 1; those in ``answered`` are answered."""

    def __init__(self, patience: int = 1, interval: float = 0.0) -> None:
        self.made: list[int] = []
        self.closed: list[int] = []
        self.answered = {1, 2}
        self.connection = Connection("nowhere:9092", Stats(), Timings(connection_doubt=0.0))
        liveness = Liveness(patience, interval)
        self.replacement = Replacement(
            liveness,
            self.connection,
            self.make,
            lambda client, _: client in self.answered,
            self.closed.append,
        )

    def make(self) -> int:
        self.made.append(len(self.made) + 1)
        return self.made[-1]

    def is_called_for(self, evidence: Evidence = UNANSWERED) -> bool:
        return self.replacement.is_called_for(lambda: evidence)


def test_the_client_that_was_answered_takes_the_place() -> None:
    site = Site()
    assert site.is_called_for()
    assert site.replacement.take() == 1
    assert site.made == [1]
    # The next one that is taken, without a look, is new.
    assert site.replacement.take() == 2
    assert site.closed == []


def test_a_client_that_is_not_answered_either_is_closed() -> None:
    site = Site()
    site.answered = set()
    assert not site.is_called_for()
    assert site.closed == [1]


def test_a_client_that_is_not_taken_is_closed_once() -> None:
    site = Site()
    assert site.is_called_for()
    site.replacement.drop()
    site.replacement.drop()
    assert site.closed == [1]


@pytest.mark.parametrize("ready", [lambda site: site.is_called_for(ANSWERED), lambda site: None])
def test_no_client_is_made_before_the_verdict_depends_on_it(
    ready: Callable[[Site], object],
) -> None:
    site = Site(patience=2)
    ready(site)
    assert not site.is_called_for()
    assert site.made == []


def test_nobody_looks_before_it_is_time() -> None:
    site = Site(interval=1e9)
    site.replacement.begin()
    assert not site.replacement.is_called_for(lambda: pytest.fail("a look"))


def test_while_all_brokers_are_lost_nobody_looks() -> None:
    site = Site()
    site.connection.on_silence()
    assert not site.replacement.is_called_for(lambda: pytest.fail("a look"))
    site.connection.on_answer()
    assert site.is_called_for()
