"""Which partitions are read, from where, and how far: the states, and what must hold of any mix."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.kafka.read_positions import (
    From,
    Partition,
    PartitionState,
    Positions,
    Since,
    Start,
)
from tests.support.tables import for_each

BEGINNING, OLDEST, END = From.BEGINNING, From.OLDEST, From.END
STARTING, ANEW = PartitionState.STARTING, PartitionState.ANEW
READING, LOST = PartitionState.READING, PartitionState.LOST
P = ("group", 0)
Q = ("group", 1)


def reading(position: int = 10, topic_id: str | None = "one", confirmed: int = 10) -> Positions:
    """Return positions of one partition that was read up to ``position``."""
    positions = Positions()
    positions.want({P: Start(confirmed, topic_id)})
    positions.take_changes()
    positions.note({P: position})
    return positions


def anew(position: int = 10, confirmed: int = 10) -> Positions:
    positions = reading(position, confirmed=confirmed)
    positions.want({P: Start(BEGINNING, "two")})
    return positions


class TestTable:
    """The states and transitions of the class's docstring, one test for each line."""

    def test_wanted_from_its_end_it_is_starting_and_not_assigned(self) -> None:
        positions = Positions()
        positions.want({P: Start(END)})
        assert positions.state(P) is STARTING
        assert positions.unsettled
        assert not positions.changed

    @for_each(("at", "offset"), [(BEGINNING, 0), (7, 7), (0, 0)])
    def test_wanted_from_the_beginning_or_an_offset_it_is_read_from_there(
        self, at: From | int, offset: int
    ) -> None:
        positions = Positions()
        positions.want({P: Start(at)})
        assert positions.state(P) is READING
        assert positions.take_changes() == (frozenset(), {P: offset})
        assert not positions.unsettled

    def test_starting_is_read_from_its_end_once_that_is_known(self) -> None:
        positions = Positions()
        positions.want({P: Start(END), Q: Start(END)})
        assert positions.settle({P: 42}) == {}
        assert (positions.state(P), positions.state(Q)) == (READING, STARTING)
        assert positions.unsettled
        assert positions.take_changes() == (frozenset(), {P: 42})

    def test_starting_whose_topic_is_made_anew_is_read_from_its_start(self) -> None:
        positions = Positions()
        positions.want({P: Start(END, "one")})
        assert positions.want({P: Start(END, "two")}) == {"group": 0}
        assert positions.state(P) is READING
        assert positions.take_changes() == (frozenset(), {P: 0})

    def test_reading_whose_position_is_gone_is_lost_and_stays_assigned(self) -> None:
        positions = reading()
        positions.lose(P, 10)
        assert positions.state(P) is LOST
        assert positions.unsettled
        assert not positions.changed

    def test_reading_whose_topic_is_made_anew_is_taken_off_until_its_end_is_known(self) -> None:
        positions = anew()
        assert positions.state(P) is ANEW
        assert positions.unsettled
        assert positions.take_changes() == (frozenset({P}), {})

    def test_lost_goes_on_at_the_oldest_record_there_is(self) -> None:
        positions = reading()
        positions.lose(P, 10)
        assert positions.resume(P, 30, 50) == 20
        assert positions.state(P) is READING
        assert not positions.unsettled
        assert positions.take_changes() == (frozenset({P}), {P: 30})

    def test_lost_whose_topic_is_made_anew_is_taken_off_until_its_end_is_known(self) -> None:
        positions = reading()
        positions.lose(P, 10)
        positions.want({P: Start(BEGINNING, "two")})
        assert positions.state(P) is ANEW
        assert positions.take_changes() == (frozenset({P}), {})

    def test_anew_is_read_from_its_start_once_its_end_is_known(self) -> None:
        positions = anew()
        positions.take_changes()
        assert positions.settle({P: 3}) == {}
        assert positions.state(P) is READING
        assert positions.take_changes() == (frozenset(), {P: 0})

    def test_anew_whose_topic_is_made_anew_once_more_stays(self) -> None:
        positions = anew()
        assert positions.want({P: Start(BEGINNING, "three")}) == {"group": 0}
        assert positions.state(P) is ANEW

    @for_each("state", list(PartitionState))
    def test_what_is_not_wanted_any_more_is_forgotten_in_every_state(
        self, state: PartitionState
    ) -> None:
        positions = anew() if state is ANEW else reading()
        if state is LOST:
            positions.lose(P, 10)
        if state is STARTING:
            positions = Positions()
            positions.want({P: Start(END)})
        assert positions.state(P) is state
        positions.want({})
        assert positions.state(P) is None
        assert not positions.unsettled
        assert positions.take_changes().removed == (frozenset() if state is STARTING else {P})

    def test_another_turn_starts_a_partition_again_whatever_its_state(self) -> None:
        positions = reading(position=25)
        positions.want({P: Start(3, "one", turn=1)})
        assert positions.take_changes() == (frozenset({P}), {P: 3})
        positions.want({P: Start(7, "one", turn=1)})
        assert not positions.changed
        positions.want({P: Start(END, "one", turn=2)})
        assert positions.state(P) is STARTING


class TestStarts:
    """Starts that a broker has to find: the oldest record, or the first since a time."""

    def test_they_are_asked_for_and_the_end_is_not(self) -> None:
        positions = Positions()
        positions.want({P: Start(Since(5.0)), Q: Start(END), ("group", 2): Start(OLDEST)})
        assert positions.searches() == {P: Since(5.0), ("group", 2): OLDEST}

    @pytest.mark.parametrize(("found", "offset"), [(4, 4), (None, 9)])
    def test_what_is_found_or_else_the_end(self, found: int | None, offset: int) -> None:
        positions = Positions()
        positions.want({P: Start(Since(5.0))})
        positions.settle({P: 9}, {P: found})
        assert positions.take_changes() == (frozenset(), {P: offset})

    def test_without_an_answer_it_stays_unsettled(self) -> None:
        positions = Positions()
        positions.want({P: Start(OLDEST)})
        positions.settle({P: 9}, {})
        assert positions.state(P) is STARTING
        assert positions.unsettled


class TestCaughtUp:
    def test_all_that_was_there_at_the_start_is_read(self) -> None:
        positions = Positions()
        positions.want({P: Start(OLDEST)})
        assert not positions.caught_up
        positions.settle({P: 9}, {P: 4})
        positions.note({P: 8})
        assert not positions.caught_up
        positions.note({P: 9})
        assert positions.caught_up

    def test_the_end_lies_behind_the_last_record_where_a_transaction_ended(self) -> None:
        positions = reading(position=8)
        assert not positions.caught_up
        positions.empty(P, 10)
        positions.note({P: 8})
        assert positions.caught_up
        positions.note_ends({P: 10})
        assert positions.behind({P: 10}) == {}
        assert positions.note_ends({P: 10}) == 0

    def test_a_partition_that_starts_again_has_to_be_read_again(self) -> None:
        positions = reading()
        positions.empty(P, 10)
        positions.want({P: Start(3, "one", turn=1)})
        assert not positions.caught_up


class TestWish:
    def test_the_same_wish_again_changes_nothing(self) -> None:
        positions = reading(position=25)
        assert positions.want({P: Start(BEGINNING, "one")}) == {}
        assert not positions.changed
        assert positions.take_everything() == {P: 25}

    def test_partitions_that_were_added_are_read_whoever_looked_first(self) -> None:
        # A repair and a refresh both state the whole wish; the second finds nothing to do.
        positions = reading()
        grown = {("group", number): Start(BEGINNING, "one") for number in range(4)}
        positions.want(grown)
        positions.want(grown)
        added = {("group", number): 0 for number in (1, 2, 3)}
        assert positions.take_changes() == (frozenset(), added)
        positions.want(grown)
        assert not positions.changed

    def test_an_id_that_becomes_known_later_begins_nothing_anew(self) -> None:
        positions = reading(topic_id=None)
        assert positions.want({P: Start(BEGINNING, "one")}) == {}
        assert positions.want({P: Start(BEGINNING, None)}) == {}
        assert positions.want({P: Start(BEGINNING, "one")}) == {}
        assert not positions.changed
        assert positions.want({P: Start(BEGINNING, "two")}) == {"group": 0}

    def test_put_on_and_taken_off_before_it_was_applied_is_no_change(self) -> None:
        positions = Positions()
        positions.want({P: Start(BEGINNING)})
        positions.want({})
        assert not positions.changed

    def test_taken_off_and_wanted_again_before_it_was_applied_is_both(self) -> None:
        positions = reading()
        positions.want({})
        positions.want({P: Start(BEGINNING)})
        assert positions.take_changes() == (frozenset({P}), {P: 0})


class TestAnew:
    def test_what_the_old_topic_held_and_was_not_read_is_told(self) -> None:
        positions = reading(position=10)
        positions.note_ends({P: 14})
        assert positions.want({P: Start(BEGINNING, "two")}) == {"group": 4}

    def test_what_may_be_read_of_the_new_topic_already_is_skipped_and_told(self) -> None:
        # The id was "one" at 10; by the time that "two" was told, it was read up to 13.
        positions = anew(position=13, confirmed=10)
        assert positions.settle({P: 20}) == {P: 3}
        assert positions.skipped == {P: (10, 13)}

    def test_what_was_read_when_the_id_was_last_confirmed_is_not_skipped(self) -> None:
        positions = reading(position=20, confirmed=10)
        positions.want({P: Start(BEGINNING, "one")})
        positions.note({P: 23})
        positions.want({P: Start(BEGINNING, "two")})
        assert positions.settle({P: 30}) == {P: 3}
        assert positions.skipped == {P: (20, 23)}

    def test_a_position_beyond_the_new_end_was_reached_in_the_old_topic(self) -> None:
        positions = anew(position=13, confirmed=10)
        assert positions.settle({P: 12}) == {}
        assert positions.skipped == {}

    def test_a_position_that_was_resumed_in_the_new_topic_is_not_begun_again(self) -> None:
        positions = reading(position=10)
        positions.lose(P, 10)
        positions.note_ends({P: 12})
        assert positions.resume(P, 0, 3) == 2, "the two that the old topic held"
        positions.note({P: 3})
        assert positions.want({P: Start(BEGINNING, "two")}) == {}
        assert positions.take_everything() == {P: 3}


class TestLooks:
    def test_nothing_is_behind_that_was_read_to_the_end(self) -> None:
        positions = reading(position=10)
        positions.note_ends({P: 10})
        assert positions.behind({P: 10}) == {}

    def test_what_came_since_the_last_look_does_not_count(self) -> None:
        positions = reading(position=10)
        positions.note_ends({P: 10})
        assert positions.behind({P: 15}) == {}
        positions.note_ends({P: 15})
        assert positions.behind({P: 15}) == {P: 10}

    def test_a_partition_of_which_nothing_was_read_yet_counts_from_its_start(self) -> None:
        positions = Positions()
        positions.want({P: Start(END)})
        positions.settle({P: 30})
        positions.note_ends({P: 30})
        assert positions.behind({P: 30}) == {}

    def test_a_position_beyond_the_end_is_behind(self) -> None:
        assert reading(position=10).behind({P: 4}) == {P: 10}

    def test_a_partition_without_an_end_is_behind_where_others_have_one(self) -> None:
        positions = reading(position=10)
        positions.want({P: Start(0, "one"), Q: Start(0, "one")})
        assert positions.behind({Q: 0}) == {P: 10}

    @for_each(("end", "lag"), [(10, 0), (14, 4), (6, 6)])
    def test_the_lag_counts_what_is_not_read_of_a_log_that_was_made_anew_too(
        self, end: int, lag: int
    ) -> None:
        assert reading(position=10).note_ends({P: end}) == lag


class AnyCourse(RuleBasedStateMachine):
    """A topic, a client and a reader's positions: partitions are added, the topic is created again.

    Whatever happens, no record is handed on twice; and all that the topic holds in the end was
    handed on or counted. A deaf client does not notice that its position is beyond the end. Between
    two looks, some seconds, the topic is created again at most once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids = map(str, itertools.count())
        self.numbers = itertools.count()
        self.topic_id = self.seen_id = next(self.ids)
        self.logs: list[list[int]] = [[], []]
        self.positions = Positions()
        self.client: dict[Partition, int] = {}
        self.broken: set[Partition] = set()
        self.delivered: list[int] = []
        self.counted = 0
        self.positions.want(self.wish(END))
        self.go_round(deaf=False)

    def wish(self, at: From) -> dict[Partition, Start]:
        return {where: Start(at, self.topic_id) for where in self.ends()}

    def ends(self) -> dict[Partition, int]:
        return {("group", number): len(log) for number, log in enumerate(self.logs)}

    @rule(number=st.integers(0, 1), count=st.integers(1, 4))
    def write(self, number: int, count: int) -> None:
        self.logs[number % len(self.logs)].extend(itertools.islice(self.numbers, count))

    @rule()
    def add_a_partition(self) -> None:
        self.logs.append(list(itertools.islice(self.numbers, 2)))

    @precondition(lambda self: self.topic_id == self.seen_id)
    @rule(held=st.integers(0, 6), count=st.integers(1, 2))
    def make_anew(self, held: int, count: int) -> None:
        self.topic_id = next(self.ids)
        self.logs = [list(itertools.islice(self.numbers, held)) for _ in range(count)]

    @rule()
    def look(self) -> None:
        self.apply()
        self.positions.note(self.client)
        self.positions.want(self.wish(BEGINNING))
        self.seen_id = self.topic_id

    @rule(deaf=st.booleans())
    def go_round(self, deaf: bool) -> None:
        self.counted += sum(self.positions.settle(self.ends()).values())
        for where in self.positions.partitions_in(LOST):
            self.positions.resume(where, 0, self.ends().get(where, 0))
        self.apply()
        self.read(deaf)

    @rule()
    def replace_the_client(self) -> None:
        self.apply()
        self.positions.note(self.client)
        self.client = self.positions.take_everything()
        self.broken.clear()

    def apply(self) -> None:
        removed, added = self.positions.take_changes()
        assert removed <= self.client.keys()
        for where in removed:
            del self.client[where]
            self.broken.discard(where)
        assert not added.keys() & self.client.keys()
        self.client.update(added)
        assert self.client.keys() == set(self.positions.partitions_in(READING, LOST))

    def read(self, deaf: bool) -> None:
        for where, offset in self.client.items():
            _, number = where
            log = self.logs[number] if number < len(self.logs) else []
            if where in self.broken:
                continue
            if offset > len(log):
                if not deaf:
                    self.broken.add(where)
                    self.positions.lose(where, offset)
                continue
            first, last = self.positions.skipped.get(where, (0, 0))
            self.delivered += [
                record for at, record in enumerate(log[offset:], offset) if not first <= at < last
            ]
            self.client[where] = len(log)

    @invariant()
    def nothing_came_twice(self) -> None:
        assert len(set(self.delivered)) == len(self.delivered)

    def teardown(self) -> None:
        for _ in range(3):
            self.look()
            self.go_round(deaf=False)
        assert self.client.keys() == self.ends().keys()
        held = set(itertools.chain.from_iterable(self.logs))
        assert len(held - set(self.delivered)) <= self.counted


TestAnyCourse = AnyCourse.TestCase
# Short courses, and many.
TestAnyCourse.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=15)
