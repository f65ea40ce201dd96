"""The former place of ``Position``, which is in ``kafka_layer.messages`` now."""

from __future__ import annotations

from .messages import Position

__all__ = ["Position"]
