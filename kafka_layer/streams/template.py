"""Templates such as ``order-{key}``: texts with places that a record fills."""

from __future__ import annotations

from collections.abc import Callable

from .record import StreamRecord

__all__ = ["Template"]


class Template:
    """A text with places for parts of a record; parsed once.

    Args:
        text: ``{key}``, ``{value}``, ``{headers.x}``, ``{topic}`` and ``{partition}`` are filled;
            ``{value.a.0.b}`` looks into dicts and lists. ``{{`` is a brace.
        quote: Applied to each value that is filled in; None: none.

    Attributes:
        needs: Which of ``key``, ``value``, ``headers``, ``topic`` and ``partition`` it reads.

    Raises:
        ValueError: If the text is no template; it says why.
    """

    needs: frozenset[str]

    def __init__(self, text: str, quote: Callable[[str], str] | None = None) -> None:
        raise NotImplementedError

    def fill(self, record: StreamRecord) -> str:
        """Return the text for a record.

        Raises:
            UnreadableRecord: ``template`` if the record lacks a part, or if it is none that stands
                in a text; otherwise as ``record.key`` and ``record.value``.
            RegistryAway: As ``record.value``.
        """
        raise NotImplementedError
