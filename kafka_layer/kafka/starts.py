"""From where topics are read: offsets by the ends, the beginnings or the times of partitions."""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import OFFSET_BEGINNING, Consumer

from ..config.realtime import monotonic, wall_clock
from ..config.streams import Start, place_at
from .clients import ask_for_times, ends_of

__all__ = ["start_offsets"]

_LEAST_TIMEOUT = 0.1


def start_offsets(
    client: Consumer, partitions: Collection[tuple[str, int]], start: Start, timeout: float
) -> dict[tuple[str, int], int]:
    """Ask brokers from which offsets to read partitions; the thread that owns the client.

    Args:
        client: Any consumer.
        partitions: Each as Kafka's name of the topic and the number.
        start: The ends, the beginnings, or the first record since a time. Where there is none since
            then, the end.
        timeout: Seconds that this may block.

    Returns:
        The offsets, of the partitions whose leaders answer.

    Raises:
        KafkaException: If no broker answered in time.
    """
    if start == "latest":
        return ends_of(client, partitions, timeout)
    place, deadline = place_at(start, wall_clock()), monotonic() + timeout
    since = OFFSET_BEGINNING if isinstance(place, str) else int(place.timestamp() * 1000)
    found = ask_for_times(client, dict.fromkeys(partitions, since), timeout)
    nothing_since = [where for where, offset in found.items() if offset is None]
    ends = ends_of(client, nothing_since, max(_LEAST_TIMEOUT, deadline - monotonic()))
    return {**{where: offset for where, offset in found.items() if offset is not None}, **ends}
