"""Django signals of the layer. Receivers run in a thread of the layer and must not block it."""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["produce_failed"]

produce_failed = Signal()
"""A record did not reach the broker; nobody waited for it, or somebody gets the error as well.

Arguments: ``error`` (ProduceFailed or MessageTooLarge), ``topic`` (Kafka's name of the topic),
``key`` (bytes or None), ``value`` (bytes, as it stands on the wire), ``headers`` (a list of pairs
or None).
"""
