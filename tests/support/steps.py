"""Procedures that wait, without the waiting."""

from __future__ import annotations

from kafka_layer.delivery.tickets import Steps

__all__ = ["waits"]


def waits(steps: Steps[object]) -> float:
    """Carry a procedure out; return for how many seconds it waits for what never comes.

    No time passes: a ticket that has no outcome yet counts as one that never gets any.
    """
    waited = 0.0
    try:
        ticket, timeout = next(steps)
        while True:
            error: BaseException
            if ticket.done:
                try:
                    result = ticket.result(0)
                except BaseException as failed:
                    error = failed
                else:
                    ticket, timeout = steps.send(result)
                    continue
            else:
                assert timeout is not None, "it waits for ever"
                waited += timeout
                error = TimeoutError()
            ticket, timeout = steps.throw(error)
    except StopIteration:
        return waited
