"""A message as bytes, and back. docs/wire-format.md is the contract.

The first byte tells the format: ``{`` starts a JSON object, and a msgpack map starts otherwise.
What a process *sends* is set by ``serializer_format``; every process reads both. Nothing here does
I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import ormsgpack

from ..exceptions import UnreadableRecord

__all__ = ["Codec"]

_JSON = ord("{")

# Without these ormsgpack writes a dataclass as a map, a datetime and a UUID as text.
_MSGPACK_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


class Codec:
    """Turns messages into bytes, and back. Any thread may call it.

    Args:
        serializer_format: ``msgpack`` or ``json``, for ``encode``.
    """

    def __init__(self, serializer_format: Literal["msgpack", "json"]) -> None:
        self._writes_json = serializer_format == "json"

    def encode(self, message: dict[str, Any]) -> bytes:
        """Serialize a message.

        Raises:
            TypeError: If it is not a dict or holds what the format cannot carry.
        """
        if not isinstance(message, dict):
            raise TypeError(f"A message must be a dict, not {type(message).__name__}.")
        if self._writes_json:
            return _to_json(message)
        try:
            return ormsgpack.packb(message, option=_MSGPACK_OPTIONS)
        except TypeError as error:
            raise TypeError(f"The message cannot be sent: {error}") from None

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Deserialize what ``encode`` made, in either format.

        Returns:
            A new dict, shared with nobody. Bytes behind a msgpack map are ignored.

        Raises:
            UnreadableRecord: If the payload is not a map.
        """
        try:
            message = json.loads(payload) if payload[0] == _JSON else ormsgpack.unpackb(payload)
        except (ValueError, IndexError, RecursionError) as error:
            raise UnreadableRecord("undecodable", f"not a message: {error}") from None
        if type(message) is not dict:
            raise UnreadableRecord("undecodable", f"not a map but a {type(message).__name__}")
        return message


def _to_json(message: Mapping[str, Any]) -> bytes:
    try:
        _require_str_keys(message)
        return json.dumps(
            message, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        binary = "bytes" in str(error) or "float" in str(error)
        mend = "; serializer_format='msgpack' carries that" if binary else ""
        raise TypeError(f"The message cannot be sent as JSON: {error}{mend}.") from None


def _require_str_keys(value: object) -> None:
    # json.dumps would turn the key 1 into "1" without a word.
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise TypeError(f"dict keys must be str, not {key!r}")
            _require_str_keys(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _require_str_keys(each)
