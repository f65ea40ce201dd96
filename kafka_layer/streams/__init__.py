"""Streams: records of any Kafka topic for groups and users, and from Django into any topic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .template import PARTS, group_template

__all__ = ["group_name"]


def group_name(template: str, **parts: Any) -> str:
    """Return the name of the group that a stream's template gives for a record.

    A consumer joins the same group as the stream sends to, whatever characters the values have::

        await self.channel_layer.group_add(group_name("order-{key}", key="ü 7"), self.channel_name)

    Args:
        template: As in the setting ``group``: ``order-{key}``.
        parts: What the template names, decoded: ``key``, ``value``, ``headers``, ``topic`` and
            ``partition``.

    Returns:
        A legal group name. Any thread or loop may ask.

    Raises:
        TypeError: If a part is no part of a record, or one that the template names is not given.
        ValueError: If the text is no template, or there is no name for these parts.
    """
    parsed = group_template(template)
    for name in parts:
        if name not in PARTS:
            raise TypeError(f"group_name() has no part {name!r}; parts are {', '.join(PARTS)}.")
    for name in sorted(parsed.needs):
        if name not in parts:
            raise TypeError(f"The template {template!r} names {name!r}, which is not given.")
    return parsed.fill(SimpleNamespace(**parts))
