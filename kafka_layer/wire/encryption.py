"""Opening the values of records, and each encrypted one once: a copy of a token is refused.

A token tells when it was sealed. It is refused where its record was written much later, and where
another record brought it before; so it need be remembered for some minutes only, and it is if
there are not too many of them.
"""

from __future__ import annotations

from ..exceptions import UnreadableRecord
from .codec import Codec
from .topics import Topic, WorkTopic

__all__ = ["CLOCK_ERROR", "MOST", "Opener"]

CLOCK_ERROR = 300.0
"""Seconds by which the clock of a sender may differ from the broker's, under encryption."""


MOST = 100_000
"""How many tokens a reader remembers in any case, and twice as many at most."""


class Opener:
    """Opens the values of records for one reader; one thread at a time.

    Args:
        codec: Decrypts them.
        expiry: Seconds that a record may wait for the broker, in its sender.
    """

    def __init__(self, codec: Codec, expiry: float) -> None:
        self._codec = codec
        self._latest = expiry + CLOCK_ERROR
        # Two halves: the older one is forgotten when the younger one has served for so long that
        # nothing in the older one would still be taken, or when it is full.
        self._lifetime = expiry + 2 * CLOCK_ERROR
        self._seen: dict[int, object] = {}
        self._seen_before: dict[int, object] = {}
        self._since = float("-inf")

    def open(
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
            place: Where it stands, if it may rightly be read again from there.

        Raises:
            UnreadableRecord: As ``Codec.open`` raises it, or if the token is a copy.
        """
        payload = self._codec.open(topic, key, value)
        if payload is not value and value is not None:
            stamp = self._codec.stamp(value)
            self._require_in_time(written - stamp.sealed)
            self._require_new(stamp.number, written, place)
        return payload

    def _require_in_time(self, late: float) -> None:
        if not -CLOCK_ERROR <= late <= self._latest:
            raise UnreadableRecord(
                "replayed",
                f"its token was sealed {late:.0f} s before it was written: it is a copy, or the "
                "clock of its sender is wrong",
            )

    def _require_new(self, number: int, written: float, place: object) -> None:
        if written - self._since > self._lifetime or len(self._seen) >= MOST:
            self._seen_before, self._seen = self._seen, {}
            self._since = written
        for seen in (self._seen, self._seen_before):
            if number in seen:
                if place is not None and seen[number] == place:
                    return
                raise UnreadableRecord("replayed", "another record had the same token")
        self._seen[number] = place
