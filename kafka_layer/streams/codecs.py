"""Codecs of streams: bytes of a record's key or value into objects, and back."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

__all__ = ["CodecContext", "StreamCodec"]


class CodecContext(NamedTuple):
    """Which part of which record a codec works on.

    Attributes:
        topic: Kafka's name of the record's topic.
        part: ``key`` or ``value``.
    """

    topic: str
    part: Literal["key", "value"]


class StreamCodec(Protocol):
    """Decodes and encodes one part of the records of a stream.

    Attributes:
        blocking: Whether a call may wait for a schema registry. Then no event loop may make it.
    """

    blocking: bool

    def decode(self, data: bytes, context: CodecContext) -> Any:
        """Return a new object for the bytes of a record; any thread.

        Raises:
            UnreadableRecord: ``undecodable``, or ``schema`` for a schema that the registry does
                not know.
            RegistryAway: If the schema registry does not answer.
        """

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        """Return an object as the bytes of a record; any thread.

        Raises:
            TypeError: If the object is none that the codec, or the schema, can carry; the text
                says why.
            RegistryAway: If the schema registry does not answer.
        """
