"""Counters, and log lines that do not flood."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from kafka_layer.observe import counters as stats_module
from kafka_layer.observe.counters import LOG_INTERVAL, Stats


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stats_module, "time", clock)
    return clock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_counters() -> None:
    stats = Stats()
    assert stats.snapshot() == {}
    stats.count("delivered")
    stats.count("delivered", 4)
    stats.dropped("full", "detail", 3)
    stats.sent.add()
    snapshot = stats.snapshot()
    assert snapshot == {"delivered": 5, "dropped.full": 3, "sent": 1}
    stats.count("delivered")
    stats.sent.add()
    assert snapshot["delivered"] == 5
    assert stats.snapshot() == {"delivered": 6, "dropped.full": 3, "sent": 2}


def test_threads_lose_no_count() -> None:
    stats = Stats()

    def count() -> None:
        for _ in range(5000):
            stats.count("delivered")
            stats.sent.add()

    threads: list[Any] = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    looks = [stats.snapshot() for _ in range(10)]
    for thread in threads:
        thread.join()
    assert stats.snapshot() == {"delivered": 20_000, "sent": 20_000}
    assert [each.get("sent", 0) for each in looks] == sorted(each.get("sent", 0) for each in looks)


class TestLog:
    def test_the_first_drop_is_logged_at_once_with_its_detail(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        Stats().dropped("full", "channel x", 2)
        (line,) = lines(caplog)
        assert "2 message(s) dropped (full)" in line
        assert "channel x" in line
        assert caplog.records[0].levelno == logging.WARNING

    def test_more_of_them_are_summed_up(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        stats = Stats()
        for _ in range(1000):
            stats.dropped("full", "a")
        assert len(lines(caplog)) == 1
        clock.now += LOG_INTERVAL
        stats.dropped("full", "b")
        assert len(lines(caplog)) == 2
        assert "1000 message(s) dropped (full)" in lines(caplog)[1]

    def test_the_rest_is_logged_without_another_drop(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        stats = Stats()
        for _ in range(10):
            stats.dropped("full", "a")
        stats.flush_log()
        assert len(lines(caplog)) == 1
        clock.now += LOG_INTERVAL
        stats.flush_log()
        stats.flush_log()
        assert len(lines(caplog)) == 2
        assert "9 " in lines(caplog)[1]

    def test_each_cause_has_lines_of_its_own(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        stats = Stats()
        stats.dropped("full", "a")
        stats.dropped("expired", "b")
        assert len(lines(caplog)) == 2
