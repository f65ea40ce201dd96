"""Tickets: one outcome for all that wait, and procedures carried out in two ways."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kafka_layer.delivery.tickets import (
    Steps,
    Ticket,
    in_thread,
    run_blocking,
    run_in_loop,
    wait,
)
from tests.support.waiting import PATIENCE

DEADLINE = PATIENCE


def blocking(steps: Steps[Any]) -> Any:
    return run_blocking(steps)


def in_a_loop(steps: Steps[Any]) -> Any:
    return asyncio.run(run_in_loop(steps))


@pytest.fixture(params=[blocking, in_a_loop], ids=["blocking", "in a loop"])
def run(request: pytest.FixtureRequest) -> Callable[[Steps[Any]], Any]:
    """Carries a procedure out."""
    carry_out: Callable[[Steps[Any]], Any] = request.param
    return carry_out


class TestTicket:
    def test_the_first_outcome_stays(self) -> None:
        ticket: Ticket[int] = Ticket()
        assert ticket.resolve(1)
        assert not ticket.resolve(2)
        assert not ticket.fail(ValueError())
        assert ticket.result() == 1
        assert ticket.error is None

    def test_each_waiter_gets_an_error_of_its_own(self) -> None:
        ticket: Ticket[int] = Ticket.failed(ValueError("no"))
        errors = []
        for _ in range(3):
            with pytest.raises(ValueError, match="no") as caught:
                ticket.result()
            errors.append(caught.value)
        assert len(set(map(id, errors))) == 3

    async def test_a_cancelled_waiter_leaves_the_others_theirs(self) -> None:
        ticket: Ticket[int] = Ticket()
        waiting = [asyncio.ensure_future(ticket.outcome()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        threading.Thread(target=ticket.resolve, args=(1,)).start()
        assert await asyncio.wait_for(waiting[1], DEADLINE) == 1
        assert await ticket.outcome() == 1

    async def test_it_is_waited_for_no_longer_than_asked(self) -> None:
        ticket: Ticket[int] = Ticket()
        with pytest.raises(TimeoutError):
            await ticket.outcome(0.01)
        with pytest.raises(TimeoutError):
            ticket.result(0.01)
        ticket.resolve(1)
        assert await ticket.outcome(0.01) == 1

    def test_a_loop_that_closed_meanwhile_disturbs_nobody(self) -> None:
        ticket: Ticket[int] = Ticket()

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ticket.outcome(), 0.01)

        asyncio.run(give_up())
        assert ticket.resolve(1)

    def test_a_thread_that_fails_fails_its_ticket(self) -> None:
        def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            in_thread("test", fail).result(DEADLINE)


class TestProcedures:
    def test_results_are_sent_in(self, run: Callable[[Steps[Any]], Any]) -> None:
        def steps() -> Steps[int]:
            first = yield from wait(in_thread("test", lambda: 1))
            second = yield from wait(Ticket.resolved(2), DEADLINE)
            return first + second

        assert run(steps()) == 3

    def test_one_that_waits_for_nothing(self, run: Callable[[Steps[Any]], Any]) -> None:
        def steps() -> Steps[int]:
            yield from ()
            return 1

        assert run(steps()) == 1

    def test_errors_are_thrown_in(self, run: Callable[[Steps[Any]], Any]) -> None:
        def steps() -> Steps[str]:
            try:
                yield from wait(Ticket[int].failed(ValueError("no")))
            except ValueError as error:
                return str(error)
            return ""

        assert run(steps()) == "no"

    def test_errors_come_out(self, run: Callable[[Steps[Any]], Any]) -> None:
        def steps() -> Steps[None]:
            yield from wait(Ticket[int].failed(ValueError("no")))

        with pytest.raises(ValueError, match="no"):
            run(steps())

    def test_a_ticket_that_stays_open_is_a_time_out(self, run: Callable[[Steps[Any]], Any]) -> None:
        def steps() -> Steps[str]:
            try:
                yield from wait(Ticket[int](), 0.01)
            except TimeoutError:
                return "too late"
            return ""

        assert run(steps()) == "too late"

    async def test_cancelling_runs_what_is_to_be_cleaned_up(self) -> None:
        cleaned = []

        def steps() -> Steps[None]:
            try:
                yield from wait(Ticket[int]())
            finally:
                cleaned.append(1)

        running = asyncio.ensure_future(run_in_loop(steps()))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert cleaned == [1]
