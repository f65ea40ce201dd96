"""A check for django-health-check 4 (``pip install 'kafka-layer[health-check]'``)."""

from __future__ import annotations

from dataclasses import dataclass

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from .health import aready

__all__ = ["ChannelLayer"]


@dataclass
class ChannelLayer(HealthCheck):  # type: ignore[misc, unused-ignore]
    """Checks whether this process reads and writes; see ``kafka_layer.health.ready``.

    Among the ``checks`` of a ``HealthCheckView``: ``"kafka_layer.health_check.ChannelLayer"``.

    Args:
        alias: The layer's alias in CHANNEL_LAYERS; None: all Kafka layers.
    """

    alias: str | None = None

    async def run(self) -> None:
        """Raise ``ServiceUnavailable``, with the reason, if it does not."""
        health = await aready(self.alias)
        if not health.ok:
            raise ServiceUnavailable(health.why)
