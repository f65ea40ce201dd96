"""What all Kafka clients share: how they are made, asked, and let go of after a fork."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from ..config.librdkafka import Properties
from .errors import configuration_error, kafka_error

__all__ = ["abandon", "ask_for_ends", "ends_of", "new_client"]

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
    raise configuration_error(reason, properties, setting)


def abandon(client: object) -> None:
    """Keep a client from ever being freed: in a forked child that aborts the process."""
    if client is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))


def ask_for_ends(
    client: Consumer, partitions: Iterable[tuple[str, int]], timeout: float
) -> tuple[dict[tuple[str, int], int], str]:
    """Ask brokers where partitions end; the thread that owns the client.

    Args:
        client: Any consumer.
        partitions: Which ones, each as Kafka's name of the topic and the number.
        timeout: Seconds that this may block.

    Returns:
        The offset of the next record to come, for the partitions whose leaders tell it, and why
        the others do not.

    Raises:
        KafkaException: If no broker answered in time.
    """
    asked = [TopicPartition(*where, OFFSET_END) for where in partitions]
    ends = {}
    detail = ""
    for answer in client.offsets_for_times(asked, timeout):
        if answer.error is None and answer.offset >= 0:
            ends[answer.topic, answer.partition] = answer.offset
        else:
            detail = str(answer.error or f"offset {answer.offset}")
    return ends, detail


def ends_of(
    client: Consumer, partitions: Iterable[tuple[str, int]], timeout: float
) -> dict[tuple[str, int], int]:
    """Return where partitions end, as far as their leaders tell; raises like ``ask_for_ends``."""
    return ask_for_ends(client, partitions, timeout)[0]
