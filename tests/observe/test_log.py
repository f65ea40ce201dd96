"""Drops in the log: the first at once, then summaries."""

from __future__ import annotations

import logging

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.observe.counters import Stats

AT_ONCE = Timings(drop_summary=0.0)
LATER = Timings(drop_summary=3600.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_the_first_drop_of_a_cause_is_logged_at_once_with_its_detail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Stats("channels", LATER).dropped("full", "channel x", 2)
    assert lines(caplog) == ["channels: 2 message(s) dropped (full), the last: channel x"]


def test_further_drops_wait_for_the_next_line(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats("channels", LATER)
    for _ in range(1000):
        stats.dropped("full", "a")
    stats.tick()
    assert len(lines(caplog)) == 1


def test_a_line_that_is_due_sums_up_what_was_dropped_since(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("kafka_layer.observe.log.monotonic", lambda: now[0])
    stats = Stats("channels", LATER)
    for _ in range(10):
        stats.dropped("full", "a")
    for seconds in (LATER.drop_summary - 1, 1, 1):
        now[0] += seconds
        stats.tick()
    assert "9 message(s) dropped (full)" in lines(caplog)[1]
    assert len(lines(caplog)) == 2


def test_a_drop_whose_line_is_due_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats("channels", AT_ONCE)
    stats.dropped("full", "a")
    stats.dropped("full", "b", 5)
    assert "5 message(s) dropped (full), the last: b" in lines(caplog)[1]


def test_close_logs_what_no_line_told_of(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats("channels", LATER)
    stats.dropped("full", "a")
    stats.dropped("full", "b", 6)
    stats.close(1.0)
    stats.close(1.0)
    assert len(lines(caplog)) == 2
    assert "6 message(s) dropped (full)" in lines(caplog)[1]


def test_each_cause_has_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats("channels", LATER)
    stats.dropped("full", "a")
    stats.dropped("expired", "b")
    assert len(lines(caplog)) == 2


def test_no_message_dropped_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kafka_layer")
    Stats("channels", AT_ONCE).dropped("retention", "the log was created again", 0)
    assert lines(caplog) == []
    assert [each.levelname for each in caplog.records] == ["INFO"]
    assert "the log was created again" in caplog.records[0].getMessage()
