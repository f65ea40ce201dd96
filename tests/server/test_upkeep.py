"""The thread that runs a server's upkeep."""

from __future__ import annotations

import threading

import pytest

from kafka_layer.observe.counters import Stats
from kafka_layer.server.upkeep import Upkeep
from tests.support.waiting import wait_until


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_end_that_nobody_asked_for_shows() -> None:
    def end() -> None:
        raise SystemExit

    others = set(threading.enumerate())
    upkeep, stopped = Upkeep(0.01, [end], Stats()), Upkeep(0.01, [], Stats())
    assert not upkeep.died
    for each in (upkeep, stopped):
        each.start()
    wait_until(lambda: upkeep.died, "the thread to end")
    stopped.stop()
    wait_until(lambda: set(threading.enumerate()) <= others, "the other thread to end")
    assert not stopped.died
