"""The state of a stream: its table, and that records are read in no other state."""

from __future__ import annotations

import itertools
from typing import Any

from kafka_layer.streams.state import Situation, StreamState
from tests.support.tables import for_each

# In the order of the table: what makes the state, where none of those above it holds.
ROWS: list[tuple[StreamState, dict[str, Any]]] = [
    (StreamState.CLOSED, {"closed": True}),
    (StreamState.PAUSED, {"paused": True}),
    (StreamState.STOPPED, {"failure": "a poison record"}),
    (StreamState.IDLE, {"idle": True}),
    (StreamState.WAITING, {"missing": True}),
    (StreamState.HELD_UP, {"held_up": "the registry is away"}),
    (StreamState.LOADING, {"loading": True}),
    (StreamState.READING, {}),
]
QUIET: dict[str, Any] = {"idle": False, "missing": False}


def test_the_table_names_every_state_in_the_order_in_which_they_count() -> None:
    lines = (Situation.__doc__ or "").splitlines()
    names = [line.split()[0] for line in lines if line.strip()[:4].isupper()]
    assert names == [state.name for state, _ in ROWS]
    assert set(names) == {state.name for state in StreamState}


@for_each(("row", "below"), list(itertools.combinations_with_replacement(range(8), 2)))
def test_the_first_row_that_holds_is_the_state(row: int, below: int) -> None:
    state, facts = ROWS[row]
    assert Situation(**{**QUIET, **ROWS[below][1], **facts}).state is state


@for_each(("state", "facts"), ROWS)
def test_records_are_read_in_the_last_four_states_alone(
    state: StreamState, facts: dict[str, Any]
) -> None:
    reads = [each for each, _ in ROWS].index(state) >= 4
    assert Situation(**{**QUIET, **facts}).reads is reads
