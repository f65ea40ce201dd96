"""A message as bytes: serialization, encryption and headers. docs/wire-format.md is its contract.

A value is told apart by its first byte: ``{`` starts a JSON object, ``g`` a Fernet token, and a
msgpack map starts with neither. What a process *sends* is set by ``serializer_format``; every
process reads both. Pure functions and values; nothing here does I/O, all of it is thread-safe.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ormsgpack
from django.core.exceptions import ImproperlyConfigured

from ..exceptions import UnreadableRecord
from .topics import Topic, WorkTopic

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["Codec", "Stamp"]

_JSON = ord("{")
# The first 27 bytes of a token.
_STAMP_CHARACTERS = 36
_STAMPED = re.compile(rb"[A-Za-z0-9_-]{%d}" % _STAMP_CHARACTERS)
_TOKEN = ord("g")  # base64 of Fernet's version byte, 0x80


class Stamp(NamedTuple):
    """What tells a token from all others.

    Attributes:
        number: A random one of 128 bits.
        sealed: When it was made, in seconds since the epoch, by its sender's clock.
    """

    number: int
    sealed: int


class Codec:
    """Turns messages into the values of records, and back.

    Args:
        serializer_format: ``msgpack`` or ``json``, for ``encode``.
        keys: Encryption keys of any length; the first encrypts, all decrypt. None: no encryption.

    Attributes:
        encode: Serializes a message; ``TypeError`` if it is not a dict or holds what the format
            cannot carry.
        seal: Returns the value of a record for a topic, a key and a payload: the payload, encrypted
            where keys are set. The token holds the address as well, so that it is worth nothing
            under another one.

    Raises:
        ImproperlyConfigured: If there are keys and ``cryptography`` is not installed.
    """

    def __init__(
        self, serializer_format: Literal["msgpack", "json"], keys: Sequence[bytes] = ()
    ) -> None:
        self.encode = _to_json if serializer_format == "json" else _to_msgpack
        self._fernet = _fernet(keys) if keys else None
        self.seal: Callable[[Topic | WorkTopic, str | None, bytes], bytes] = (
            _as_it_is if self._fernet is None else partial(_encrypted, self._fernet)
        )

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

    def open(self, topic: Topic | WorkTopic, key: str | None, value: bytes | None) -> bytes:
        """Return the payload in the value of a record; it may still be undecodable.

        Raises:
            UnreadableRecord: If there is no value, if the token cannot be decrypted or was made
                for another address, if it is encrypted and no keys are set, or the other way round.
        """
        if not value:
            raise UnreadableRecord("undecodable", "it has no value")
        encrypted = value[0] == _TOKEN
        if self._fernet is None:
            if encrypted:
                raise UnreadableRecord(
                    "decrypt", "encrypted, but symmetric_encryption_keys is not set"
                )
            return value
        if not encrypted:
            raise UnreadableRecord("decrypt", "not encrypted, but symmetric_encryption_keys is set")
        return _decrypt(self._fernet, _address(topic, key), value)

    def stamp(self, value: bytes) -> Stamp:
        """Return the stamp of a token that ``open`` took.

        Raises:
            UnreadableRecord: If its base64 is not written as Fernet writes it.
        """
        # Fernet's layout: a version byte, the time, and the initialization vector, all of them
        # signed. The text is not: characters that are no base64 are skipped in it.
        if _STAMPED.match(value) is None:
            raise UnreadableRecord("decrypt", "the token's base64 has foreign characters")
        raw = base64.urlsafe_b64decode(value[:_STAMP_CHARACTERS])
        return Stamp(int.from_bytes(raw[9:25], "big"), int.from_bytes(raw[1:9], "big"))


def _as_it_is(topic: Topic | WorkTopic, key: str | None, payload: bytes) -> bytes:
    return payload


def _address(topic: Topic | WorkTopic, key: str | None) -> bytes:
    return f"{topic.value}\0{key or ''}\0".encode()


def _encrypted(
    fernet: MultiFernet, topic: Topic | WorkTopic, key: str | None, payload: bytes
) -> bytes:
    return fernet.encrypt(_address(topic, key) + payload)


def _decrypt(fernet: MultiFernet, address: bytes, token: bytes) -> bytes:
    from cryptography.fernet import InvalidToken

    try:
        plain = fernet.decrypt(token)
    except InvalidToken:
        raise UnreadableRecord(
            "decrypt", "no key in symmetric_encryption_keys decrypts it, or it was tampered with"
        ) from None
    if not plain.startswith(address):
        raise UnreadableRecord("decrypt", "the token was made for another address")
    return plain[len(address) :]


def _fernet(keys: Sequence[bytes]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise ImproperlyConfigured(
            "symmetric_encryption_keys is set, but cryptography is not installed; "
            "install kafka-layer[encryption]."
        ) from None
    return MultiFernet(
        Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())) for key in keys
    )


def _to_msgpack(message: Mapping[str, Any]) -> bytes:
    if not isinstance(message, dict):
        raise _no_dict(message)
    try:
        return ormsgpack.packb(message, option=_MSGPACK_OPTIONS)
    except TypeError as error:
        raise TypeError(f"The message cannot be sent: {error}") from None


# What the specification allows and no more: ormsgpack alone would turn these into strings.
_MSGPACK_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
)


def _to_json(message: Mapping[str, Any]) -> bytes:
    if not isinstance(message, dict):
        raise _no_dict(message)
    try:
        _require_str_keys(message)
        return json.dumps(
            message, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        binary = "bytes" in str(error) or "float" in str(error)
        mend = "; serializer_format='msgpack' carries that" if binary else ""
        raise TypeError(f"The message cannot be sent as JSON: {error}{mend}.") from None


def _no_dict(message: object) -> TypeError:
    return TypeError(f"A message must be a dict, not {type(message).__name__}.")


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
