"""The Django app: system checks and management commands."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["KafkaLayerConfig"]


class KafkaLayerConfig(AppConfig):
    """Registers the system checks."""

    name = "kafka_layer"
    verbose_name = "Kafka channel layer"

    def ready(self) -> None:
        """Register the checks once Django's app registry is complete."""
        from . import checks  # noqa: F401
