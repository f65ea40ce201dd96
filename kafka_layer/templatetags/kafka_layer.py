"""Template tags of the layer: ``{% load kafka_layer %}``."""

from __future__ import annotations

import logging

from django import template

from .. import get_layer
from ..exceptions import BrokerUnavailable, HistoryUnavailable

__all__ = ["layer_position", "register"]

logger = logging.getLogger("kafka_layer")

register = template.Library()


@register.simple_tag
def layer_position(group: str, using: str = "default") -> str:
    """Return the present position of a group, as ``{% layer_position "room-7" %}``.

    A page that shows the state of the group passes this position on, and its browser gets every
    message after it. Use the tag before you load the state: a message that is sent in between then
    comes although the state has it, and none is missed. If Kafka does not answer, the position is
    empty, and the page is rendered all the same.

    Args:
        group: The group's name.
        using: The layer's alias in CHANNEL_LAYERS.
    """
    try:
        return get_layer(using).group_position_sync(group)
    except (HistoryUnavailable, BrokerUnavailable) as error:
        logger.warning("A page has no position of the group %s: %s", group, error)
        return ""
