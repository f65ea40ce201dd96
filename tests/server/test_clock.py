"""The broker's clock as a server sees it."""

from __future__ import annotations

import logging
import time

import pytest

from kafka_layer.server.clock import BrokerClock


def test_before_anything_is_known_it_is_this_machines() -> None:
    assert BrokerClock().now() == pytest.approx(time.time(), abs=0.1)


@pytest.mark.parametrize("offset", [-3600.0, -0.5, 0.0, 0.5, 3600.0])
def test_it_follows_the_brokers(offset: float) -> None:
    clock = BrokerClock()
    now = time.time()
    clock.observe(now + offset, now - 0.01, now + 0.01)
    assert clock.now() == pytest.approx(time.time() + offset, abs=0.1)


def test_the_last_observation_counts() -> None:
    clock = BrokerClock()
    now = time.time()
    for offset in (100.0, -100.0, 2.0):
        clock.observe(now + offset, now, now)
    assert clock.now() == pytest.approx(time.time() + 2, abs=0.1)


@pytest.mark.parametrize(("offset", "word"), [(60.0, "behind"), (-60.0, "ahead of")])
def test_a_wrong_clock_is_logged_once(
    offset: float, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = BrokerClock()
    now = time.time()
    with caplog.at_level(logging.WARNING, "kafka_layer"):
        for _ in range(3):
            clock.observe(now + offset, now, now)
    (record,) = caplog.records
    assert f"60.0 s {word} the Kafka broker's" in record.getMessage()
    assert "NTP" in record.getMessage()


def test_a_clock_that_is_nearly_right_is_not(caplog: pytest.LogCaptureFixture) -> None:
    now = time.time()
    BrokerClock().observe(now + 2, now, now)
    assert not caplog.records
