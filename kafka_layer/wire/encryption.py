"""Encryption of records' values, each bound to its address, and the guard against copies.

docs/wire-format.md is the contract. ``Encryption`` is a value without state; a ``ReplayGuard``
remembers the tokens that one reader has seen. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import UnreadableRecord
from .topics import Topic, WorkTopic

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["CLOCK_ERROR", "MAX_TOKENS", "Encryption", "ReplayGuard", "Stamp"]

CLOCK_ERROR = 300.0
"""Seconds by which a sender's clock may differ from the broker's, under encryption."""

MAX_TOKENS = 100_000
"""How many tokens a ``ReplayGuard`` remembers for their whole lifetime."""

# The first byte of a token: Fernet's version byte, 0x80, in base64.
_TOKEN = ord("g")
# The first 27 bytes of a token: version, time, and the start of the initialization vector.
_STAMP_CHARACTERS = 36
# Of the HMAC of a text in a header.
_HASH_BYTES = 16
_STAMPED = re.compile(rb"[A-Za-z0-9_-]{%d}" % _STAMP_CHARACTERS)


class Stamp(NamedTuple):
    """The part of a token that no other token has.

    Attributes:
        number: Its initialization vector, 128 random bits.
        sealed: When the sender made the token, in seconds since the epoch by the sender's clock.
    """

    number: int
    sealed: int


class Encryption:
    """Encrypts and decrypts the values of records; passes them through if there are no keys.

    Any thread may call it.

    Args:
        keys: Encryption keys of any length; the first encrypts, all decrypt.

    Attributes:
        active: Whether there are keys. Without keys ``encrypt`` returns the payload.

    Raises:
        ImproperlyConfigured: If there are keys and ``cryptography`` is not installed.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._secrets = [hashlib.sha256(key).digest() for key in keys]
        self._fernet = _fernet(self._secrets) if keys else None
        self.active = bool(keys)

    def encrypt(self, topic: Topic | WorkTopic, key: str | None, payload: bytes) -> bytes:
        """Return the value of a record.

        Args:
            topic: The record's topic.
            key: Its key. The token holds topic and key, so readers refuse it at another address.
            payload: The message as ``Codec.encode`` returned it.
        """
        if self._fernet is None:
            return payload
        return self._fernet.encrypt(_address(topic, key) + payload)

    def decrypt(self, topic: Topic | WorkTopic, key: str | None, value: bytes | None) -> bytes:
        """Return the payload in the value of a record; it may still be undecodable.

        Raises:
            UnreadableRecord: If there is no value, if no key decrypts the token, if the token is
                for another address, or if only one of the two is so: the value is encrypted, keys
                are set.
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

    def conceal(self, topic: Topic, key: str | None, text: str) -> bytes:
        """Return a text for a header, so that nobody without a key can read, guess or move it.

        Equal texts at one address have one of their hashes in common, also where a sender has other
        keys than the next one, as long as one key is the same.

        Args:
            topic: The record's topic.
            key: Its key.
            text: The text; returned as UTF-8 if there are no encryption keys.

        Returns:
            A hash for each encryption key, separated by commas.
        """
        if not self._secrets:
            return text.encode()
        what = _address(topic, key) + text.encode()
        hashes = (hmac.digest(secret, what, "sha256")[:_HASH_BYTES] for secret in self._secrets)
        return ",".join(each.hex() for each in hashes).encode()

    @staticmethod
    def stamp(value: bytes) -> Stamp:
        """Return the stamp of a token that ``decrypt`` has accepted.

        Raises:
            UnreadableRecord: If its base64 is not written as Fernet writes it.
        """
        # The signature covers the decoded bytes, and decoding skips foreign characters: a copy with
        # some of them would look like another token.
        if _STAMPED.match(value) is None:
            raise UnreadableRecord("decrypt", "the token's base64 has foreign characters")
        raw = base64.urlsafe_b64decode(value[:_STAMP_CHARACTERS])
        return Stamp(int.from_bytes(raw[9:25], "big"), int.from_bytes(raw[1:9], "big"))


class ReplayGuard:
    """Decrypts the values of records for one reader and refuses copies of tokens.

    It refuses a token that was made long before its record was written, and one that another record
    has brought before. So it has to remember a token only for as long as the token is young enough;
    it does, unless more than ``max_tokens`` come in that time.

    One thread at a time may use a guard.

    Args:
        encryption: Decrypts the values.
        expiry: Seconds that a record may wait for the broker, in its sender.
        max_tokens: How many tokens it remembers for their whole lifetime; it holds up to twice as
            many.
        live: The guard of the thread that reads the same records as they come, whose tokens count
            as seen; another thread may use it.
    """

    def __init__(
        self,
        encryption: Encryption,
        expiry: float,
        max_tokens: int = MAX_TOKENS,
        live: ReplayGuard | None = None,
    ) -> None:
        self._encryption = encryption
        self._live = live
        self._max_tokens = max_tokens
        self._max_delay = expiry + CLOCK_ERROR
        # Tokens in two generations. The older one is dropped when the younger one is full, or when
        # all tokens of the older one have become too old to be accepted.
        self._lifetime = expiry + 2 * CLOCK_ERROR
        self._seen: dict[int, object] = {}
        self._seen_before: dict[int, object] = {}
        self._since = float("-inf")

    def __len__(self) -> int:
        """Return how many tokens are remembered."""
        return len(self._seen) + len(self._seen_before)

    def decrypt(
        self,
        topic: Topic | WorkTopic,
        key: str | None,
        value: bytes | None,
        written: float,
        place: object = None,
    ) -> bytes:
        """Return the payload in the value of a record; it may still be undecodable.

        Args:
            topic: The record's topic.
            key: Its key.
            value: Its value, if it has one.
            written: Its timestamp, in seconds since the epoch.
            place: Where it stands in the log, if the caller, or another guard with this ``live``
                one, may read the same record twice; None refuses the second time.

        Raises:
            UnreadableRecord: As ``Encryption.decrypt`` raises it, or if the token is a copy.
        """
        if value and value[0] != _TOKEN and not self._encryption.active:
            # What Encryption.decrypt would return, without the call: most records come here.
            return value
        payload = self._encryption.decrypt(topic, key, value)
        if payload is not value and value is not None:
            stamp = self._encryption.stamp(value)
            self._require_in_time(written - stamp.sealed)
            self._require_new(stamp.number, written, place)
        return payload

    def _require_in_time(self, delay: float) -> None:
        if not -CLOCK_ERROR <= delay <= self._max_delay:
            raise UnreadableRecord(
                "replayed",
                f"its token was sealed {delay:.0f} s before it was written: it is a copy, or the "
                "clock of its sender is wrong",
            )

    def _require_new(self, number: int, written: float, place: object) -> None:
        if written - self._since > self._lifetime or len(self._seen) >= self._max_tokens:
            self._seen_before, self._seen = self._seen, {}
            self._since = written
        live = self._live
        of_live = () if live is None else (live._seen, live._seen_before)
        for seen in (*of_live, self._seen, self._seen_before):
            if number in seen:
                if place is not None and seen[number] == place:
                    return
                raise UnreadableRecord("replayed", "another record had the same token")
        self._seen[number] = place


def _address(topic: Topic | WorkTopic, key: str | None) -> bytes:
    return f"{topic.value}\0{key or ''}\0".encode()


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


def _fernet(secrets: Sequence[bytes]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise ImproperlyConfigured(
            "symmetric_encryption_keys is set, but cryptography is not installed; "
            "install kafka-layer[encryption]."
        ) from None
    return MultiFernet(Fernet(base64.urlsafe_b64encode(secret)) for secret in secrets)
