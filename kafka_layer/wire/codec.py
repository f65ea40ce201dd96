"""A message as bytes, and back. docs/wire-format.md is the contract.

The first byte tells the format: ``{`` starts a JSON object, 0xc1 the bytes of a project's own
serializer, any other byte a msgpack map. The settings say what a process *sends*; every process
reads msgpack and JSON. Nothing here does I/O.
"""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

import ormsgpack

from ..exceptions import UnreadableRecord
from .plain import MAX_DEPTH, NotPlain, is_too_deep, plain, plain_value

__all__ = ["Codec", "Serializer"]

_JSON = ord("{")
_OWN_SERIALIZER = b"\xc1"  # no msgpack value starts with it

# Without these ormsgpack writes a dataclass as a map, a datetime, a UUID and an Enum as their
# values, and the items of a dict's subclass in the order in which they were stored. With them it
# passes all of these to plain_value.
_MSGPACK_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
)


class Serializer(Protocol):
    """A project's own way to write and read messages, for the setting ``serializer``."""

    def dumps(self, message: dict[str, Any]) -> bytes:
        """Return a message as bytes; raises TypeError if it cannot be sent. Any thread."""

    def loads(self, data: bytes) -> dict[str, Any]:
        """Return a new dict of what ``dumps`` returned. Any thread."""


class Codec:
    """Turns messages into bytes, and back. Any thread may call it.

    Args:
        serializer_format: ``msgpack`` or ``json``, for ``encode``.
        serializer: Writes all messages instead, and reads those of other processes that have it.
    """

    def __init__(
        self,
        serializer_format: Literal["msgpack", "json"],
        serializer: Serializer | None = None,
    ) -> None:
        self._serializer = serializer
        self._writes_msgpack = serializer_format == "msgpack" and serializer is None

    def encode(self, message: dict[str, Any]) -> bytes:
        """Serialize a message.

        Raises:
            TypeError: If it is not a dict or holds a value that the format cannot carry; the text
                names the place in the message.
        """
        if not isinstance(message, dict):
            raise TypeError(f"A message must be a dict, not {type(message).__name__}.")
        if not self._writes_msgpack:
            serializer = self._serializer
            return _to_json(message) if serializer is None else _dumps(serializer, message)
        try:
            return ormsgpack.packb(message, plain_value, _MSGPACK_OPTIONS)
        except TypeError:
            return ormsgpack.packb(_plain(message, as_json=False))

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Deserialize a message that ``encode`` serialized, in either format.

        Returns:
            A new dict. Bytes behind a msgpack map are ignored.

        Raises:
            UnreadableRecord: If the payload is not a map.
        """
        try:
            if payload[0] == _JSON:
                # From bytes it would first guess the encoding, for a third of its time.
                message = json.loads(payload.decode())
                # In order of cost: each level takes a byte that opens it and one that closes it.
                if (
                    len(payload) > 2 * MAX_DEPTH
                    and payload.count(b"[") + payload.count(b"{") > MAX_DEPTH
                    and is_too_deep(message)
                ):
                    raise ValueError(f"nested more than {MAX_DEPTH} deep")
            else:
                message = ormsgpack.unpackb(payload)
        except (ValueError, IndexError, RecursionError) as error:
            if payload[:1] != _OWN_SERIALIZER:
                raise UnreadableRecord("undecodable", f"not a message: {error}") from None
            message = _loads(self._serializer, payload[1:])
        if not isinstance(message, dict):
            raise UnreadableRecord("undecodable", f"not a map but a {type(message).__name__}")
        return message


def _dumps(serializer: Serializer, message: dict[str, Any]) -> bytes:
    data = serializer.dumps(message)
    if not isinstance(data, bytes):
        raise TypeError(f"serializer.dumps() returned {type(data).__name__}, not bytes.")
    return _OWN_SERIALIZER + data


def _loads(serializer: Serializer | None, data: bytes) -> object:
    if serializer is None:
        raise UnreadableRecord(
            "undecodable", "written by a project's own serializer, and serializer is not set"
        )
    try:
        return serializer.loads(data)
    except Exception as error:
        # The project's code may raise anything, and receive() must go on with the next message.
        raise UnreadableRecord("undecodable", f"serializer.loads() raised {error!r}") from error


def _to_json(message: dict[str, Any]) -> bytes:
    try:
        # ormsgpack checks keys, depth and types faster than Python code.
        ormsgpack.packb(message, plain_value, _MSGPACK_OPTIONS)
        return _dump_json(message)
    except (TypeError, ValueError):
        return _dump_json(_plain(message, as_json=True))


def _dump_json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(message: dict[str, Any], as_json: bool) -> dict[str, Any]:
    try:
        return plain(message, as_json)
    except NotPlain as error:
        raise TypeError(f"The message cannot be sent: {error}.") from None
