"""Ages by size: each in the first size that it does not exceed."""

from __future__ import annotations

from kafka_layer.observe.ages import BOUNDS, AgeCounts


def test_each_age_counts_for_every_bound_that_it_does_not_exceed() -> None:
    counts = AgeCounts(offset=60.0)
    # The clock of a broker may be ahead by a little.
    for age in (-0.001, 0.0, 0.0025, 0.003, 0.7, 61.0):
        counts.note(age - 60.0)
    told = counts.ages()
    found = dict(zip((*BOUNDS, float("inf")), told.counts, strict=True))
    assert found[0.0025] == 3
    assert found[0.005] == 4
    assert found[0.5] == 4
    assert found[1.0] == found[60.0] == 5
    assert found[float("inf")] == 6
    assert abs(told.total - 61.7055) < 0.01


def test_what_was_counted_stays_and_what_comes_later_is_added() -> None:
    counts = AgeCounts(offset=0.0)
    counts.note(0.2)
    counts.count()
    counts.note(0.2)
    assert counts.ages().counts[-1] == counts.ages().counts[-1] == 2
