"""Whom a record of a stream is for: the settings ``group``, ``user`` and ``where``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .record import StreamRecord

__all__ = ["Addresser"]


class Addresser(Protocol):
    """Gives the names of the groups, or the keys of the users, that a record is for.

    Attributes:
        needs: Which of ``key``, ``value``, ``headers``, ``topic`` and ``partition`` it reads; for a
            function all of them. A record's parts are decoded lazily, whatever it says.
    """

    needs: frozenset[str]

    def names(self, record: StreamRecord) -> Sequence[str]:
        """Return legal group names, or user keys as ``wire.names.user_key`` makes them.

        Raises:
            UnreadableRecord: ``template``, ``name``, ``function``, ``undecodable`` or ``schema``.
            RegistryAway: If a schema registry is needed, and does not answer.
        """
