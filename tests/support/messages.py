"""Messages of a Kafka client, for tests of what takes them."""

from __future__ import annotations

from typing import Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError

__all__ = ["FakeMessage"]


class FakeMessage:
    """Stands in for confluent_kafka's Message, of which Python cannot make every kind.

    Args:
        topic: Kafka's name of its topic; None for an error that is about no topic.
        offset: Its offset.
        partition: Its partition.
        error: What it tells instead of a record.
        value: Its value.
        key: Its key.
        timestamp: Its time in milliseconds since the epoch, by the broker.
        headers: Its headers; an exception is raised, as for headers that are no text.
        epoch: Its leader epoch.
    """

    def __init__(
        self,
        topic: str | None,
        offset: int,
        *,
        partition: int = 0,
        error: KafkaError | None = None,
        value: bytes | None = b"{}",
        key: bytes | None = b"room",
        timestamp: int = 1_700_000_000_000,
        headers: Any = None,
        epoch: int | None = None,
    ) -> None:
        self._topic, self._offset, self._partition = topic, offset, partition
        self._error, self._value, self._key = error, value, key
        self._timestamp, self._headers = timestamp, headers
        self._epoch = epoch

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str | None:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def leader_epoch(self) -> int | None:
        return self._epoch

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_LOG_APPEND_TIME, self._timestamp

    def headers(self) -> Any:
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers
