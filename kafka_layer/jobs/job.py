"""A job: a message of a worker channel, from its record to the receive that takes it."""

from __future__ import annotations

from ..delivery.mailbox import Envelope
from ..wire.records import Place

__all__ = ["Job"]


class Job(Envelope):
    """A message of a worker channel, with its place in the channel's topic.

    Attributes:
        assignment: Token of the partition's assignment; a worker cannot give back a job of an
            earlier assignment.
    """

    __slots__ = ("assignment",)

    def __init__(self, payload: bytes, deadline: float, place: Place, assignment: object) -> None:
        super().__init__(payload, deadline, *place)
        self.assignment = assignment
