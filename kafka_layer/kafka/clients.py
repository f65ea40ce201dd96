"""Making Kafka clients, and letting go of those that a fork has inherited."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from django.core.exceptions import ImproperlyConfigured

from ..conf import Properties
from .errors import kafka_error

__all__ = ["abandon", "new_client"]

C = TypeVar("C")


def new_client(kind: Callable[[dict[str, Any]], C], properties: Properties, setting: str) -> C:
    """Make a client; no I/O.

    Args:
        kind: The client's class.
        properties: librdkafka's properties.
        setting: The CONFIG keyword that adds to them, for the error.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
    """
    try:
        return kind(properties)
    except KafkaException as exception:
        reason = kafka_error(exception).str()
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise ImproperlyConfigured(
        f"The Kafka client refuses its configuration: {reason}. Correct client_config or {setting}."
    )


def abandon(client: object) -> None:
    """Keep a client from ever being freed: in a forked child that aborts the process."""
    if client is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
