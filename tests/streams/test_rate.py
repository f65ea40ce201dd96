"""How many records come in a second."""

from __future__ import annotations

from kafka_layer.streams.rate import Rate


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = Rate(100.0)
    assert rate.note(100.0, 0) == 0
    assert [rate.note(100.0 + second, 50 * second) for second in range(1, 31)] == [50.0] * 30
    assert rate.note(200.0, 1500) == 0
