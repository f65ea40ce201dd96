"""The position token: a place in the log of a layer, as a signed text for pages and browsers.

A position is a vector: for each partition of some topics, the offset up to which everything was
told. The text is opaque to whoever carries it, and ``.`` is the only character in it that
base64url has not: it can stand in a URL and in a websocket's subprotocol. Pure; the key is Django's
``SECRET_KEY``, and its fallbacks are taken, too.

A browser gets the places of the messages beside the position: short texts without a signature, such
as ``g3.1042``. It appends those that it got since the position, each after a ``~``. A place can
only raise the position, so a forged one hides messages from its browser and reveals none.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ormsgpack
from django.core.signing import BadSignature, Signer

from ..exceptions import InvalidPosition
from .records import Place
from .topics import Topic, WorkTopic

__all__ = ["LogPosition", "TopicPosition", "place_text", "short_hash"]

# The version of positions of groups and users, and that of positions of channels.
_VERSION, _OF_CHANNELS = 1, 2
_SALT = "kafka_layer.position"
# Characters of a text that is looked at: room for three topics of 200 partitions.
_LONGEST = 8192
_HASH_BYTES = 8
_ID_BYTES = 16
_LARGEST_OFFSET = 2**63 - 1

# The numbers of topics in a token; they never change.
_CODES: Mapping[Topic, int] = {Topic.SEND_GROUP: 0, Topic.SEND_USER: 1, Topic.SEND_ALL: 2}
_TOPICS = {code: topic for topic, code in _CODES.items()}

# The letters of topics in a place; they never change.
_LETTERS: Mapping[Topic | WorkTopic, str] = {
    Topic.SEND_GROUP: "g",
    Topic.SEND_USER: "u",
    Topic.SEND_ALL: "a",
}
_TOPIC_OF_LETTER = {_LETTERS[topic]: topic for topic in _CODES}
_PLACE = re.compile(r"([gua])([0-9]{1,4})\.([0-9]{1,18})", re.ASCII)


def place_text(place: Place | None) -> str:
    """Return the place of a record as browsers get it; "" where positions do not cover it."""
    if place is None or (letter := _LETTERS.get(place[0])) is None:
        return ""
    return f"{letter}{place[1]}.{place[2]}"


def short_hash(name: str) -> bytes:
    """Return the hash of a group or a user, as positions have it."""
    return hashlib.blake2b(name.encode(), digest_size=_HASH_BYTES).digest()


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """The position in one topic.

    Attributes:
        topic_id: Kafka's id of the topic; None if it is unknown. A topic that was deleted and
            created again has another id, and the offsets mean nothing in it.
        offsets: For each partition the offset of the first record that was not told.
        epochs: For each partition the leader epoch of the record before that, as the position was
            signed; -1 where it is unknown. Empty if none is known.
        signed: The offsets as they were signed; empty if no place raised them.
    """

    topic_id: str | None
    offsets: tuple[int, ...]
    epochs: tuple[int, ...] = ()
    signed: tuple[int, ...] = ()

    def last_told(self, partition: int) -> tuple[int, int] | None:
        """Return the offset of the last record that was told of a partition, and its leader epoch.

        Returns:
            That of the signed position, whatever places follow it; None if its epoch is unknown.
        """
        epoch = self.epochs[partition] if partition < len(self.epochs) else -1
        return None if epoch < 0 else ((self.signed or self.offsets)[partition] - 1, epoch)


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A position in the log of one layer.

    Attributes:
        prefix: The layer's prefix.
        time: When it was taken, by the broker's clock, in seconds since the epoch.
        topics: The position in each topic that it covers; of the topics that all servers read.
        groups: The hashes of the groups for which it holds.
        users: The hashes of the users for whom it holds; mostly one or none.
        names: The hashes of the names of its channel, the latest first: messages may exclude any.
            Empty for the position of a group or a user.
        starts: Where a group's or a user's part begins later than ``offsets`` say, because the
            channel joined later; by topic, hash and partition.
    """

    prefix: str
    time: float
    topics: Mapping[Topic, TopicPosition] = field(default_factory=dict, hash=False)
    groups: frozenset[bytes] = frozenset()
    users: frozenset[bytes] = frozenset()
    names: tuple[bytes, ...] = ()
    starts: Mapping[tuple[Topic, bytes, int], int] = field(default_factory=dict, hash=False)

    def sign(self) -> str:
        """Return the position as a text."""
        of_channel = bool(self.names)
        fields = [
            _OF_CHANNELS if of_channel else _VERSION,
            self.prefix,
            round(self.time * 1000),
            [
                [_CODES[topic], _packed_id(place.topic_id), place.offsets, place.epochs]
                if of_channel
                else [_CODES[topic], place.topic_id, place.offsets]
                for topic, place in self.topics.items()
            ],
            sorted(self.groups),
            # As the first version has it, where it can.
            sorted(self.users) if len(self.users) > 1 else next(iter(self.users), None),
        ]
        if of_channel:
            starts = [[_CODES[where[0]], *where[1:], at] for where, at in self.starts.items()]
            fields += [self.names, starts]
        packed = base64.urlsafe_b64encode(ormsgpack.packb(fields)).rstrip(b"=")
        return Signer(sep=".", salt=_SALT).sign(packed.decode())

    @classmethod
    def read(cls, text: str, prefix: str) -> LogPosition:
        """Return the position that ``sign`` wrote, raised by the places that follow it.

        Args:
            text: The text.
            prefix: The prefix of the layer that reads it.

        Raises:
            InvalidPosition: If the text is no position, was altered, was signed with another
                ``SECRET_KEY``, or is of another version or another prefix.
        """
        if len(text) > _LONGEST:
            raise InvalidPosition("The position is too long to be one.")
        text, *places = text.split("~")
        try:
            packed = Signer(sep=".", salt=_SALT).unsign(text)
        except (BadSignature, UnicodeError):
            raise InvalidPosition(
                "The position was altered, is no position, or was signed with another SECRET_KEY."
            ) from None
        try:
            fields = ormsgpack.unpackb(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            if fields[0] not in (_VERSION, _OF_CHANNELS):
                raise InvalidPosition(f"The position is of version {fields[0]!r}, unknown here.")
            position = _from_fields(*fields[1:])
        except (ValueError, TypeError, LookupError, binascii.Error) as error:
            if isinstance(error, InvalidPosition):
                raise
            raise InvalidPosition(f"The position has no content: {error}.") from None
        if position.prefix != prefix:
            raise InvalidPosition(
                f"The position is of the prefix {position.prefix!r}, and this layer's is "
                f"{prefix!r}."
            )
        return position._raised(places) if places else position

    def _raised(self, places: Iterable[str]) -> LogPosition:
        """Return the position behind these places, too."""
        raised: dict[Topic, dict[int, int]] = {}
        for place in places:
            found = _PLACE.fullmatch(place)
            if found is None:
                raise InvalidPosition(f"The position is followed by {place!r}, which is no place.")
            offsets_of = raised.setdefault(_TOPIC_OF_LETTER[found[1]], {})
            partition, offset = int(found[2]), int(found[3])
            offsets_of[partition] = max(offset + 1, offsets_of.get(partition, 0))
        topics = dict(self.topics)
        for topic, offsets_of in raised.items():
            covered = topics.get(topic)
            if covered is not None:
                # A partition that was added since the position is read from its beginning.
                added = (0,) * (max(offsets_of) + 1 - len(covered.offsets))
                offsets = [*covered.offsets, *added]
                for partition, offset in offsets_of.items():
                    offsets[partition] = max(offsets[partition], offset)
                if tuple(offsets) != covered.offsets:
                    topics[topic] = replace(covered, offsets=tuple(offsets), signed=covered.offsets)
        return replace(self, topics=topics)


def _from_fields(
    prefix: Any,
    milliseconds: Any,
    topics: Any,
    groups: Any,
    users: Any,
    names: Any = (),
    starts: Any = (),
) -> LogPosition:
    if not isinstance(prefix, str) or not isinstance(milliseconds, int):
        raise ValueError("a field has a wrong type")
    found = {}
    for code, topic_id, offsets, *epochs in topics:
        _require_offsets(offsets)
        if epochs and not (
            len(epochs[0]) in (0, len(offsets)) and all(isinstance(each, int) for each in epochs[0])
        ):
            raise ValueError("a leader epoch is none")
        epochs_of = tuple(epochs[0]) if epochs else ()
        found[_TOPICS[code]] = TopicPosition(_unpacked_id(topic_id), tuple(offsets), epochs_of)
    later = {}
    for code, of, partition, offset in starts:
        _require_offsets([partition, offset])
        later[_TOPICS[code], of, partition] = offset
    users = users if isinstance(users, list) else [] if users is None else [users]
    hashes = [*groups, *users, *names, *(each[1] for each in later)]
    if not all(isinstance(each, bytes) and len(each) == _HASH_BYTES for each in hashes):
        raise ValueError("a hash is none")
    return LogPosition(
        prefix,
        milliseconds / 1000,
        found,
        frozenset(groups),
        frozenset(users),
        tuple(names),
        later,
    )


def _require_offsets(offsets: Any) -> None:
    if not all(isinstance(each, int) and 0 <= each <= _LARGEST_OFFSET for each in offsets):
        raise ValueError("an offset is none")


@functools.lru_cache(maxsize=100)
def _packed_id(topic_id: str | None) -> bytes | str | None:
    """Return a topic's id as a token has it: Kafka's, which are base64, in two thirds."""
    if topic_id is None or len(topic_id) != 22:
        return topic_id
    try:
        packed = base64.b64decode(topic_id + "==", validate=True)
    except (ValueError, binascii.Error):
        return topic_id
    return packed if _unpacked_id(packed) == topic_id else topic_id


def _unpacked_id(topic_id: Any) -> str | None:
    if isinstance(topic_id, bytes) and len(topic_id) == _ID_BYTES:
        return base64.b64encode(topic_id).rstrip(b"=").decode()
    if not (topic_id is None or isinstance(topic_id, str)):
        raise ValueError("a topic's id is no text")
    return topic_id
