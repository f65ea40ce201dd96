"""A record of a stream, as templates, filters and other functions of the settings see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..exceptions import UnreadableRecord  # noqa: F401
from .codecs import CodecContext, StreamCodec

__all__ = ["StreamRecord"]


class StreamRecord:
    """A record that was read. Its key and its value are decoded when they are first asked for.

    The thread that reads the stream uses it, and hands it on; two threads never use one at a time.

    Args:
        topic: Kafka's name of the topic.
        partition: Number of the partition.
        offset: The record's offset in it.
        timestamp: The record's time, in seconds since the epoch.
        raw_key: The key as bytes, or None.
        raw_value: The value as bytes; None for a tombstone.
        raw_headers: Kafka's headers, in their order.
        key_codec: Decodes the key.
        value_codec: Decodes the value.

    Attributes:
        topic: As given.
        partition: As given.
        offset: As given.
        timestamp: As given.
        raw_key: As given.
        raw_value: As given.
        raw_headers: As given.
    """

    __slots__ = (
        "_key",
        "_key_codec",
        "_value",
        "_value_codec",
        "offset",
        "partition",
        "raw_headers",
        "raw_key",
        "raw_value",
        "timestamp",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp: float,
        raw_key: bytes | None,
        raw_value: bytes | None,
        raw_headers: Sequence[tuple[str, bytes | None]],
        key_codec: StreamCodec,
        value_codec: StreamCodec,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self.raw_key = raw_key
        self.raw_value = raw_value
        self.raw_headers = raw_headers
        self._key_codec = key_codec
        self._value_codec = value_codec

    @property
    def key(self) -> Any:
        """The key, decoded by the stream's codec; None if the record has none.

        Raises:
            UnreadableRecord: If the codec cannot decode it.
            RegistryAway: If the codec needs a schema registry, which does not answer.
        """
        try:
            return self._key
        except AttributeError:
            raw = self.raw_key
            self._key = key = (
                None
                if raw is None
                else self._key_codec.decode(raw, CodecContext(self.topic, "key"))
            )
            return key

    @property
    def value(self) -> Any:
        """The value, decoded by the stream's codec; None for a tombstone.

        Raises:
            UnreadableRecord: If the codec cannot decode it.
            RegistryAway: If the codec needs a schema registry, which does not answer.
        """
        try:
            return self._value
        except AttributeError:
            raw = self.raw_value
            self._value = value = (
                None
                if raw is None
                else self._value_codec.decode(raw, CodecContext(self.topic, "value"))
            )
            return value

    @property
    def headers(self) -> dict[str, str | bytes | None]:
        """The headers: text where they are UTF-8; of several with one name the last one."""
        raise NotImplementedError

    def new_value(self) -> Any:
        """Return the value as an object of its own, which its receiver may change.

        It asks no registry if ``value`` was read before, so event loops may call it then.

        Raises:
            UnreadableRecord: As ``value``.
            RegistryAway: As ``value``.
        """
        raise NotImplementedError
