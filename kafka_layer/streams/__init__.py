"""Streams: records of any Kafka topic for groups and users, and from Django into any topic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .template import PARTS, group_template

__all__ = ["group_name"]


def group_name(template: str, **parts: Any) -> str:
    """Return the name of the group that a stream's template gives for a record.

    With it a consumer joins the group to which the stream sends, whatever characters the values
    have::

        await self.channel_layer.group_add(group_name("order-{key}", key="ü 7"), self.channel_name)

    Args:
        template: As in the setting ``group``: ``order-{key}``.
        parts: The decoded parts of a record that the template names: ``key``, ``value``,
            ``headers``, ``topic`` and ``partition``.

    Returns:
        A valid group name. Any thread or event loop may call this.

    Raises:
        TypeError: If an argument is no part of a record, or a part that the template names is
            missing.
        ValueError: If the text is no template, or these parts give no name.
    """
    parsed = group_template(template)
    for name in parts:
        if name not in PARTS:
            raise TypeError(f"group_name() has no part {name!r}; parts are {', '.join(PARTS)}.")
    for name in sorted(parsed.needs):
        if name not in parts:
            raise TypeError(f"The template {template!r} names {name!r}, which is not given.")
    return parsed.fill(SimpleNamespace(**parts))
