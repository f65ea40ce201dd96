"""Leader epochs: none that is told is wrong, and those of all records that were read are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.recovery.epochs import UNKNOWN, LeaderEpochs
from kafka_layer.wire.topics import Topic

WHERE = Topic.SEND_GROUP, 0


@given(
    # How much the epoch grows with each record.
    st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=15),
    st.data(),
)
def test_what_is_known(steps: list[int], data: st.DataObject) -> None:
    log = [sum(steps[: offset + 1]) for offset in range(len(steps))]
    start = data.draw(st.integers(0, len(log)))
    asked = data.draw(st.lists(st.integers(0, len(log) - 1), max_size=4))
    epochs = LeaderEpochs()
    for offset in asked[:2]:
        epochs.note(WHERE, offset, log[offset])
    for end in range(start, len(log) + 1):
        for offset, epoch in enumerate(log):
            found = epochs.at(WHERE, offset, end)
            assert found == epoch or (found == UNKNOWN and not start <= offset < end)
        # As the thread that reads: told before the record is read.
        if end < len(log) and (end == start or log[end] != log[end - 1]):
            epochs.read(WHERE, end, log[end])
    for offset in asked:
        epochs.note(WHERE, offset, log[offset])
        assert epochs.at(WHERE, offset, len(log)) == log[offset]


def test_two_records_of_one_epoch_tell_those_between() -> None:
    epochs = LeaderEpochs()
    epochs.note(WHERE, 3, 1)
    epochs.note(WHERE, 9, 1)
    assert [epochs.at(WHERE, offset, 20) for offset in (2, 3, 5, 9, 10)] == [-1, 1, 1, 1, -1]


def test_of_a_log_that_another_one_follows_nothing_more_is_learnt() -> None:
    other = Topic.SEND_ALL, 0
    former = LeaderEpochs()
    former.read(WHERE, 0, 1)
    former.read(other, 0, 1)
    present = former.without({WHERE})
    former.end({WHERE: 5, other: 5})
    present.read(WHERE, 3, 2)
    assert [former.at(WHERE, offset, 9) for offset in (4, 5)] == [1, UNKNOWN]
    assert [present.at(WHERE, offset, 9) for offset in (2, 4)] == [UNKNOWN, 2]
    assert [each.at(other, 8, 9) for each in (former, present)] == [UNKNOWN, 1]
