"""Streams: records of any Kafka topic for groups and users, and from Django into any topic."""

from __future__ import annotations

from typing import Any

__all__ = ["group_name"]


def group_name(template: str, **fields: Any) -> str:
    """Return the name of the group that a stream's template gives for a record.

    Args:
        template: As in the setting ``group``: ``order-{key}``.
        fields: What the template names: ``key``, ``value``, ``headers``, ``topic``, ``partition``.

    Returns:
        A legal group name.

    Raises:
        ValueError: If the template or the name cannot work; the text says why.
    """
    raise NotImplementedError
