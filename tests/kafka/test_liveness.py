"""The judge of a client: evidence and time in, verdict out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kafka_layer.kafka.liveness import (
    ANSWERED,
    PROGRESSED,
    UNANSWERED,
    Behind,
    Evidence,
    Liveness,
    Verdict,
)
from tests.support.tables import for_each

ALIVE, SUSPECTED = Verdict.ALIVE, Verdict.SUSPECTED
OUTAGE, REPLACE = Verdict.OUTAGE, Verdict.REPLACE
GROUP, ACK = ("send-group", 0), ("ack", 3)
STUCK = Behind({GROUP: 5})
NOTHING_LEFT = Behind({})


def verdicts(judge: Liveness, looks: Sequence[Evidence], elsewhere: bool = True) -> list[Verdict]:
    return [judge.judge(evidence, 0.0, lambda: elsewhere) for evidence in looks]


class TestTable:
    """The states and transitions of the class's docstring, one test for each line."""

    @for_each("good", [PROGRESSED, ANSWERED, NOTHING_LEFT])
    def test_trusted_stays_trusted_on_good_evidence(self, good: Evidence) -> None:
        assert verdicts(Liveness(2, 1.0), [good] * 5) == [ALIVE] * 5

    @pytest.mark.parametrize("bad", [UNANSWERED, STUCK])
    def test_bad_evidence_makes_suspected_and_patience_times_replaces(self, bad: Evidence) -> None:
        assert verdicts(Liveness(3, 1.0), [bad] * 3) == [SUSPECTED, SUSPECTED, REPLACE]

    @for_each("good", [PROGRESSED, ANSWERED, NOTHING_LEFT])
    @for_each("bad", [UNANSWERED, STUCK])
    def test_suspected_becomes_trusted_on_good_evidence(
        self, bad: Evidence, good: Evidence
    ) -> None:
        looks = [bad, good, bad, good, bad, bad]
        expected = [SUSPECTED, ALIVE, SUSPECTED, ALIVE, SUSPECTED, REPLACE]
        assert verdicts(Liveness(2, 1.0), looks) == expected

    def test_a_client_that_moves_while_behind_is_counted_from_one(self) -> None:
        looks = [Behind({GROUP: offset}) for offset in range(10)]
        assert verdicts(Liveness(2, 1.0), looks) == [SUSPECTED] * 10

    def test_one_partition_that_stands_is_enough_while_others_move(self) -> None:
        looks = [Behind({GROUP: 5, ACK: offset}) for offset in range(3)]
        assert verdicts(Liveness(3, 1.0), looks) == [SUSPECTED, SUSPECTED, REPLACE]

    def test_unanswered_and_behind_count_together(self) -> None:
        looks = [UNANSWERED, STUCK, UNANSWERED]
        assert verdicts(Liveness(3, 1.0), looks) == [SUSPECTED, SUSPECTED, REPLACE]

    @pytest.mark.parametrize("bad", [UNANSWERED, STUCK])
    def test_where_nobody_is_answered_it_is_an_outage_again_and_again(self, bad: Evidence) -> None:
        expected = [SUSPECTED, OUTAGE] * 3
        assert verdicts(Liveness(2, 1.0), [bad] * 6, elsewhere=False) == expected

    def test_another_client_is_asked_only_when_the_verdict_depends_on_it(self) -> None:
        asked = 0

        def elsewhere() -> bool:
            nonlocal asked
            asked += 1
            return True

        judge = Liveness(3, 1.0)
        for evidence in (UNANSWERED, STUCK, ANSWERED, UNANSWERED, UNANSWERED):
            judge.judge(evidence, 0.0, elsewhere)
        assert asked == 0
        assert judge.judge(UNANSWERED, 0.0, elsewhere) is REPLACE
        assert asked == 1


class TestNotTwiceForTheSameStandstill:
    def test_a_position_where_the_new_client_stops_too_is_excused(self) -> None:
        assert verdicts(Liveness(1, 1.0), [STUCK] * 4) == [REPLACE, ALIVE, ALIVE, ALIVE]

    def test_another_partition_that_stands_is_not_excused(self) -> None:
        both = Behind({GROUP: 5, ACK: 7})
        assert verdicts(Liveness(1, 1.0), [STUCK, both, both]) == [REPLACE, REPLACE, ALIVE]

    def test_a_partition_that_moved_or_caught_up_is_not_excused_any_more(self) -> None:
        judge = Liveness(1, 1.0)
        assert verdicts(judge, [STUCK, Behind({GROUP: 6})]) == [REPLACE, REPLACE]
        assert verdicts(judge, [NOTHING_LEFT, Behind({GROUP: 6})]) == [ALIVE, REPLACE]

    def test_records_of_other_partitions_do_not_end_the_excuse(self) -> None:
        looks = [STUCK, PROGRESSED, STUCK, PROGRESSED, STUCK]
        assert verdicts(Liveness(1, 1.0), looks) == [REPLACE, *[ALIVE] * 4]

    def test_clients_that_are_never_answered_are_replaced_ever_more_rarely(self) -> None:
        told = verdicts(Liveness(1, 1.0), [UNANSWERED] * 80)
        replaced = [number for number, verdict in enumerate(told, 1) if verdict is REPLACE]
        assert replaced == [1, 3, 7, 15, 31, 47, 63, 79]

    def test_an_answer_ends_that(self) -> None:
        looks = [UNANSWERED, ANSWERED, UNANSWERED]
        assert verdicts(Liveness(1, 1.0), looks) == [REPLACE, ALIVE, REPLACE]


class TestTime:
    def test_the_first_look_is_due_an_interval_after_the_client_began(self) -> None:
        judge = Liveness(3, 5.0)
        judge.begin(100.0)
        assert not judge.is_due(104.9)
        assert judge.is_due(105.0)

    def test_each_look_plans_the_next(self) -> None:
        judge = Liveness(3, 5.0)
        judge.judge(ANSWERED, 100.0, lambda: True)
        assert [judge.is_due(now) for now in (100.0, 104.9, 105.0)] == [False, False, True]

    def test_after_trouble_looks_come_sooner_for_a_while(self) -> None:
        judge = Liveness(3, 5.0, alert_interval=0.5, alert_for=10.0)
        judge.begin(100.0)
        judge.alert(101.0)
        assert [judge.is_due(now) for now in (101.4, 101.5)] == [False, True]
        judge.judge(STUCK, 110.9, lambda: True)
        assert judge.is_due(111.4)
        judge.judge(STUCK, 111.4, lambda: True)
        assert not judge.is_due(116.3)
        assert judge.judge(STUCK, 116.4, lambda: True) is REPLACE

    def test_trouble_never_puts_a_look_off(self) -> None:
        judge = Liveness(3, 5.0, alert_interval=0.5)
        judge.begin(100.0)
        judge.alert(104.8)
        assert judge.is_due(105.0)

    def test_a_client_that_began_anew_is_not_suspected_for_the_one_before(self) -> None:
        judge = Liveness(2, 1.0)
        assert verdicts(judge, [UNANSWERED]) == [SUSPECTED]
        judge.begin(0.0)
        assert verdicts(judge, [UNANSWERED]) == [SUSPECTED]


class AnyEvidence(RuleBasedStateMachine):
    """Whatever comes, in whatever order: the rule of the module's first lines holds."""

    @initialize(patience=st.integers(1, 4))
    def begin(self, patience: int) -> None:
        self.patience = patience
        self.judge = Liveness(patience, 1.0, alert_interval=0.1)
        self.now = 0.0
        self.verdict = ALIVE
        self.bad: list[Evidence] = []
        self.replaced_at: set[tuple[tuple[str, int], int]] = set()
        self.elsewhere = True

    @rule(elsewhere=st.booleans(), seconds=st.floats(0.01, 10.0), trouble=st.booleans())
    def time_passes(self, elsewhere: bool, seconds: float, trouble: bool) -> None:
        self.elsewhere = elsewhere
        self.now += seconds
        if trouble:
            self.judge.alert(self.now)

    @rule(
        evidence=st.sampled_from([PROGRESSED, ANSWERED, UNANSWERED])
        | st.dictionaries(st.sampled_from([GROUP, ACK]), st.integers(0, 2)).map(Behind)
    )
    def look(self, evidence: Evidence) -> None:
        self.verdict = self.judge.judge(evidence, self.now, lambda: self.elsewhere)
        if isinstance(evidence, Behind):
            self.replaced_at &= set(evidence.positions.items())
        good = evidence in (PROGRESSED, ANSWERED) or evidence == NOTHING_LEFT
        self.bad = [] if good else [*self.bad, evidence]
        if good:
            assert self.verdict is ALIVE
        if self.verdict in (REPLACE, OUTAGE):
            self.check_condemned()
        assert not self.judge.is_due(self.now)
        assert self.judge.is_due(self.now + 1.001)

    def check_condemned(self) -> None:
        assert len(self.bad) >= self.patience
        assert (self.verdict is REPLACE) == self.elsewhere
        told = [set(each.positions.items()) for each in self.bad[-self.patience :]
                if isinstance(each, Behind)]  # fmt: skip
        if told:
            standstill = set.intersection(*told)
            assert standstill - self.replaced_at
            if self.verdict is REPLACE:
                self.replaced_at |= standstill
        self.bad = []

    @invariant()
    def nothing_is_replaced_without_cause(self) -> None:
        assert self.verdict is not REPLACE or not self.bad


TestAnyEvidence = AnyEvidence.TestCase


@given(st.integers(1, 5), st.lists(st.sampled_from([UNANSWERED, STUCK]), min_size=5, max_size=5))
def test_a_client_that_stands_still_is_replaced_within_patience_looks(
    patience: int, looks: list[Evidence]
) -> None:
    assert verdicts(Liveness(patience, 1.0), looks)[patience - 1] is REPLACE
