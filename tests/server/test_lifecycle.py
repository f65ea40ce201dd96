"""The states of a server: its table, and starts that happen once."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import sampled_from

from kafka_layer.exceptions import KafkaLayerError, LayerClosed
from kafka_layer.server.lifecycle import TRANSITIONS, Lifecycle, State
from tests.support.tables import for_each
from tests.support.waiting import PATIENCE

DEADLINE = PATIENCE


def lifecycle_in(state: State) -> tuple[Lifecycle, list[State]]:
    """Return a lifecycle in a state, and the list of the states that it will tell of."""
    ways = {
        State.NEW: [],
        State.SENDING: [State.SENDING],
        State.RECEIVING: [State.SENDING, State.RECEIVING],
        State.CLOSING: [State.CLOSING],
        State.CLOSED: [State.CLOSING, State.CLOSED],
    }
    told: list[State] = []
    lifecycle = Lifecycle(told.append)
    for each in ways[state]:
        assert lifecycle.advance(each)
    told.clear()
    return lifecycle, told


class TestTable:
    def test_it_names_every_state(self) -> None:
        assert set(TRANSITIONS) == set(State)

    def test_nothing_follows_the_last_state(self) -> None:
        assert TRANSITIONS[State.CLOSED] == frozenset()

    def test_no_way_leads_back(self) -> None:
        order = list(State)
        for state, following in TRANSITIONS.items():
            assert all(order.index(each) > order.index(state) for each in following)

    @for_each("state", State)
    @for_each("to", State)
    def test_each_transition(self, state: State, to: State) -> None:
        lifecycle, told = lifecycle_in(state)
        allowed = to in TRANSITIONS[state]
        assert lifecycle.advance(to) is allowed
        assert lifecycle.state is (to if allowed else state)
        assert told == ([to] if allowed else [])
        assert lifecycle.ended is (lifecycle.state in {State.CLOSING, State.CLOSED})
        assert lifecycle.closed.done is (lifecycle.state is State.CLOSED)


class TestStarts:
    def test_callers_at_the_same_time_share_one_start(self) -> None:
        lifecycle, _ = lifecycle_in(State.NEW)
        go_on, runs = threading.Event(), []

        def start() -> int:
            go_on.wait(DEADLINE)
            runs.append(threading.current_thread().name)
            return len(runs)

        tickets = [lifecycle.once("it", "kafka-layer-start-it", start) for _ in range(10)]
        go_on.set()
        assert [each.result(DEADLINE) for each in tickets] == [1] * 10
        assert runs == ["kafka-layer-start-it"]
        assert lifecycle.once("it", "other", start).result(DEADLINE) == 1

    def test_one_that_failed_is_tried_again(self) -> None:
        lifecycle, _ = lifecycle_in(State.NEW)
        outcomes = [KafkaLayerError("not yet"), None]

        def start() -> str:
            error = outcomes.pop(0)
            if error is not None:
                raise error
            return "started"

        with pytest.raises(KafkaLayerError, match="not yet"):
            lifecycle.once("it", "start", start).result(DEADLINE)
        assert lifecycle.once("it", "start", start).result(DEADLINE) == "started"

    def test_callers_of_one_that_failed_get_errors_of_their_own(self) -> None:
        """One object would gather the traceback of every caller."""
        lifecycle, _ = lifecycle_in(State.NEW)
        go_on = threading.Event()

        def start() -> None:
            go_on.wait(DEADLINE)
            raise KafkaLayerError("no broker")

        tickets = [lifecycle.once("it", "start", start) for _ in range(5)]
        go_on.set()
        errors = []
        for each in tickets:
            with pytest.raises(KafkaLayerError, match="no broker") as caught:
                each.result(DEADLINE)
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 5

    @pytest.mark.parametrize("state", [State.CLOSING, State.CLOSED])
    def test_nothing_starts_once_it_closes(self, state: State) -> None:
        lifecycle, _ = lifecycle_in(state)
        with pytest.raises(LayerClosed):
            lifecycle.once("it", "start", lambda: pytest.fail("it started")).result(DEADLINE)

    def test_where_no_thread_can_be_started_it_can_be_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lifecycle, _ = lifecycle_in(State.NEW)

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                lifecycle.once("it", "start", lambda: 1).result(DEADLINE)
        assert lifecycle.once("it", "start", lambda: 1).result(DEADLINE) == 1

    def test_a_signal_handler_in_the_thread_that_holds_the_lock_does_not_deadlock(self) -> None:
        lifecycle, _ = lifecycle_in(State.NEW)
        with lifecycle.lock:
            assert lifecycle.once("it", "start", lambda: 1).result(DEADLINE) == 1
            assert lifecycle.advance(State.SENDING)


class TestFork:
    @pytest.mark.parametrize("state", State)
    def test_a_child_is_closed_whoever_held_the_lock(self, state: State) -> None:
        lifecycle, _ = lifecycle_in(state)
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with lifecycle.lock:
                held.set()
                go_on.wait(DEADLINE)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(DEADLINE)
        try:
            lifecycle.abandon()
            assert lifecycle.state is State.CLOSED
            assert lifecycle.closed.done
        finally:
            go_on.set()
            thread.join()


class AnyOrder(RuleBasedStateMachine):
    """Whatever is called in whatever order, states follow each other by the table."""

    def __init__(self) -> None:
        super().__init__()
        self.told = [State.NEW]
        self.lifecycle = Lifecycle(self.told.append)

    @rule(state=sampled_from(State))
    def advance(self, state: State) -> None:
        self.lifecycle.advance(state)

    @rule()
    def fork(self) -> None:
        self.lifecycle.abandon()

    @rule()
    def start(self) -> None:
        ended = self.lifecycle.ended
        ticket = self.lifecycle.once("it", "start", lambda: None)
        assert (ticket.error is not None) is ended

    @invariant()
    def states_follow_the_table(self) -> None:
        assert all(after in TRANSITIONS[before] for before, after in pairwise(self.told))
        assert self.lifecycle.state is self.told[-1]
        assert self.lifecycle.closed.done is (self.lifecycle.state is State.CLOSED)


TestAnyOrder = AnyOrder.TestCase
