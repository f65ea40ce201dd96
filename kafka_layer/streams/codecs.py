"""Codecs of streams: they turn the bytes of a record's key or value into an object, and back."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from json.scanner import make_scanner
from typing import Any, Literal, NamedTuple, Protocol

import ormsgpack

from ..exceptions import KafkaLayerError, UnreadableRecord

__all__ = ["CODECS", "CodecContext", "OwnCodec", "StreamCodec"]


class CodecContext(NamedTuple):
    """Which part of which record a codec works on.

    Attributes:
        topic: Kafka's name of the record's topic.
        part: ``key`` or ``value``.
        headers: The record's headers, in which some producers name the schema.
    """

    topic: str
    part: Literal["key", "value"]
    headers: Sequence[tuple[str, bytes | None]] = ()


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
            TopicError: If the schema registry has no schema for the topic.
            RegistryAway: If the schema registry does not answer.
        """


@functools.cache
def _json_encoder() -> type[json.JSONEncoder]:
    # Imported late: it imports Django's models, which takes longer than this whole package.
    from django.core.serializers.json import DjangoJSONEncoder

    return DjangoJSONEncoder


# In C; JSONDecoder.raw_decode() calls the same.
_json_decoder: Any = json.JSONDecoder()
_scan_json = make_scanner(_json_decoder)


class _Json:
    """JSON in UTF-8; it encodes the types of ``DjangoJSONEncoder``, too."""

    blocking = False

    def decode(self, data: bytes, context: CodecContext) -> Any:
        try:
            # json.loads would guess the encoding of the bytes, which takes a third of its time, and
            # look for spaces around the text, which takes half of the rest.
            text = data.decode()
            try:
                found, end = _scan_json(text, 0)
            except (ValueError, StopIteration):
                end = -1
            return found if end == len(text) else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _undecodable(context, "JSON", error) from None

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        try:
            return json.dumps(
                obj,
                cls=_json_encoder(),
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise _not_encodable(context, "JSON", error) from None


class _Msgpack:
    """msgpack; a map's keys need not be text."""

    blocking = False

    def decode(self, data: bytes, context: CodecContext) -> Any:
        try:
            return ormsgpack.unpackb(data, option=ormsgpack.OPT_NON_STR_KEYS)
        except ValueError as error:
            raise _undecodable(context, "msgpack", error) from None

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        try:
            return ormsgpack.packb(obj, option=ormsgpack.OPT_NON_STR_KEYS)
        except (TypeError, ValueError) as error:
            raise _not_encodable(context, "msgpack", error) from None


class _Text:
    """Text in UTF-8."""

    blocking = False

    def decode(self, data: bytes, context: CodecContext) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _undecodable(context, "UTF-8", error) from None

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        if not isinstance(obj, str):
            raise _not_encodable(context, "text", f"it is a {type(obj).__name__}")
        try:
            return obj.encode()
        except UnicodeEncodeError as error:
            raise _not_encodable(context, "text", error) from None


class _Bytes:
    """The bytes as they are."""

    blocking = False

    def decode(self, data: bytes, context: CodecContext) -> bytes:
        return data

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        if not isinstance(obj, (bytes, bytearray, memoryview)):
            raise _not_encodable(context, "bytes", f"it is a {type(obj).__name__}")
        return bytes(obj)


CODECS: dict[str, StreamCodec] = {
    "json": _Json(),
    "msgpack": _Msgpack(),
    "str": _Text(),
    "bytes": _Bytes(),
}
"""The codecs without a schema, by their names in the settings."""


class OwnCodec:
    """A codec of the project.

    Args:
        given: A function of bytes that returns an object; a pair of it and of a function of an
            object that returns bytes; or an object, or a class, with the methods ``decode`` and
            ``encode``.

    Raises:
        TypeError: If it is none of these; the text says why.
    """

    blocking = False

    def __init__(self, given: Any) -> None:
        decode, encode = given, None
        if isinstance(given, (tuple, list)) and len(given) == 2:
            decode, encode = given
        elif isinstance(given, type):
            # For a class without both methods its constructor decodes.
            if hasattr(given, "decode") and hasattr(given, "encode"):
                made = given()
                decode, encode = made.decode, made.encode
        elif hasattr(given, "decode"):
            decode, encode = given.decode, getattr(given, "encode", None)
        for function in (decode, encode):
            if not callable(function) and (function is not None or decode is None):
                raise TypeError(
                    "it must be a function of bytes, a pair of functions (decode, encode), or an "
                    "object with the methods decode and encode"
                )
            if inspect.iscoroutinefunction(function):
                raise TypeError("it is a coroutine function; it must be a plain function")
        self._decode: Callable[[bytes], Any] = decode
        self._encode: Callable[[Any], bytes] | None = encode

    def decode(self, data: bytes, context: CodecContext) -> Any:
        """As ``StreamCodec.decode``."""
        try:
            return self._decode(data)
        except KafkaLayerError:
            raise
        except Exception as error:
            # The project's code may raise anything; the stream continues with the next record.
            raise UnreadableRecord(
                "undecodable", f"the codec of its {context.part} raised {error!r}"
            ) from error

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        """As ``StreamCodec.encode``."""
        if self._encode is None:
            raise TypeError(
                f"The codec of the {context.part} only decodes; set a pair of functions "
                "(decode, encode), or an object with the methods decode and encode."
            )
        data = self._encode(obj)
        if not isinstance(data, bytes):
            raise TypeError(
                f"The codec of the {context.part} returned a {type(data).__name__}, not bytes."
            )
        return data


def _undecodable(context: CodecContext, kind: str, error: object) -> UnreadableRecord:
    return UnreadableRecord("undecodable", f"its {context.part} is no {kind}: {error}")


def _not_encodable(context: CodecContext, kind: str, error: object) -> TypeError:
    return TypeError(f"The {context.part} cannot be sent as {kind}: {error}.")
