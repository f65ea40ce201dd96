"""The position token: a place in the log of a layer, as a signed text for pages and browsers.

A position is a vector: for each partition of some topics, the offset of the first record
that was not told. The text is opaque to the browsers and programs that carry it. Besides the
characters of base64url it has only ``.``, so it can stand in a URL and in a websocket's
subprotocol. Nothing here does I/O. The key is Django's ``SECRET_KEY``; its fallbacks are accepted,
too.

A browser gets the places of the messages beside the position: short texts without a signature, such
as ``g3.1042``. It appends those that it got since the position, each after a ``~``. A place can
only raise the position, so a forged one hides messages from its browser and reveals none.

The topics of streams have marks in place of their names, so that no browser learns the names; see
``places``. Their offsets are packed, because there may be hundreds of partitions.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ormsgpack
from django.core.signing import BadSignature, Signer

from ..exceptions import InvalidPosition
from .places import LETTERS, MARK_LENGTH, OF_STREAM
from .topics import Topic

__all__ = ["LogPosition", "StreamPosition", "TopicPosition", "short_hash"]

# The version of positions of groups and users, that of positions of channels, and that of either
# with streams.
_VERSION, _OF_CHANNELS, _WITH_STREAMS = 1, 2, 3
_SALT = "kafka_layer.position"
# Characters of a text that is looked at: room for three topics of 200 partitions, or for streams of
# 1,000 partitions. Headers of 8 KiB are the most that many proxies take.
_LONGEST = 8192
_HASH_BYTES = 8
_ID_BYTES = 16
_LARGEST_OFFSET = 2**63 - 1
_MOST_PARTITIONS = 10_000

# The numbers of topics in a token; they never change.
_CODES: Mapping[Topic, int] = {Topic.SEND_GROUP: 0, Topic.SEND_USER: 1, Topic.SEND_ALL: 2}
_TOPICS = {code: topic for topic, code in _CODES.items()}

_TOPIC_OF_LANE = {LETTERS[topic]: topic for topic in _CODES}
_PLACE = re.compile(r"([gua]|s[A-Za-z0-9_-]{6})([0-9]{1,4})\.([0-9]{1,18})", re.ASCII)


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
class StreamPosition:
    """The position in the topics of one stream.

    Attributes:
        topics: The position in each topic, by its lane; None if it is not known how far the stream
            was read, because its brokers had not answered.
        starts: Where a group's or a user's part begins later than the offsets say: by address and
            lane the first offset of each partition; 0 where it is not later.
        places: What the places say that follow the position, of topics that are newer than it: by
            lane and partition the first offset that was not told.
    """

    topics: Mapping[str, TopicPosition] | None = field(default_factory=dict, hash=False)
    starts: Mapping[tuple[Topic, bytes], Mapping[str, tuple[int, ...]]] = field(
        default_factory=dict, hash=False
    )
    places: Mapping[str, Mapping[int, int]] = field(default_factory=dict, hash=False)

    def offset(self, lane: str, partition: int) -> int:
        """Return the first offset of a partition that was not told."""
        place = None if self.topics is None else self.topics.get(lane)
        if place is None or partition >= len(place.offsets):
            # It was added since, and is read from its beginning.
            return self.places.get(lane, {}).get(partition, 0)
        return place.offsets[partition]

    def start(self, topic: Topic, of: bytes, lane: str, partition: int) -> int:
        """Return the first offset of an address in a partition, where that is later; otherwise 0.

        Args:
            topic: ``SEND_GROUP`` or ``SEND_USER``.
            of: The hash of the group or the user.
            lane: The lane of the topic.
            partition: The partition.
        """
        offsets = self.starts.get((topic, of), {}).get(lane, ())
        return offsets[partition] if partition < len(offsets) else 0


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
        streams: The position in each stream that may reach these groups and users, by its mark.
    """

    prefix: str
    time: float
    topics: Mapping[Topic, TopicPosition] = field(default_factory=dict, hash=False)
    groups: frozenset[bytes] = frozenset()
    users: frozenset[bytes] = frozenset()
    names: tuple[bytes, ...] = ()
    starts: Mapping[tuple[Topic, bytes, int], int] = field(default_factory=dict, hash=False)
    streams: Mapping[str, StreamPosition] = field(default_factory=dict, hash=False)

    def sign(self) -> str:
        """Return the position as a text."""
        of_channel = bool(self.names or self.streams)
        version = _OF_CHANNELS if of_channel else _VERSION
        fields = [
            _WITH_STREAMS if self.streams else version,
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
        if self.streams:
            fields.append([[mark, *_packed_stream(each)] for mark, each in self.streams.items()])
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
            if fields[0] not in (_VERSION, _OF_CHANNELS, _WITH_STREAMS):
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
        raised: dict[str, dict[int, int]] = {}
        for place in places:
            found = _PLACE.fullmatch(place)
            if found is None:
                raise InvalidPosition(f"The position is followed by {place!r}, which is no place.")
            offsets_of = raised.setdefault(found[1], {})
            partition, offset = int(found[2]), int(found[3])
            offsets_of[partition] = max(offset + 1, offsets_of.get(partition, 0))
        topics, streams = dict(self.topics), dict(self.streams)
        for lane, offsets_of in raised.items():
            if lane in _TOPIC_OF_LANE:
                topic = _TOPIC_OF_LANE[lane]
                if topic in topics:
                    topics[topic] = _raise(topics[topic], offsets_of)
                continue
            for mark, stream in tuple(streams.items()):
                if stream.topics is not None and lane in stream.topics:
                    place_of = {**stream.topics, lane: _raise(stream.topics[lane], offsets_of)}
                    streams[mark] = replace(stream, topics=place_of)
                else:
                    streams[mark] = replace(stream, places={**stream.places, lane: offsets_of})
        return replace(self, topics=topics, streams=streams)


def _raise(covered: TopicPosition, offsets_of: Mapping[int, int]) -> TopicPosition:
    """Return the position in a topic, raised to offsets of some partitions."""
    # A partition that was added since the position is read from its beginning.
    added = (0,) * (max(offsets_of) + 1 - len(covered.offsets))
    offsets = [*covered.offsets, *added]
    for partition, offset in offsets_of.items():
        offsets[partition] = max(offsets[partition], offset)
    if tuple(offsets) == covered.offsets:
        return covered
    return replace(covered, offsets=tuple(offsets), signed=covered.offsets)


def _from_fields(
    prefix: Any,
    milliseconds: Any,
    topics: Any,
    groups: Any,
    users: Any,
    names: Any = (),
    starts: Any = (),
    streams: Any = (),
) -> LogPosition:
    if not isinstance(prefix, str) or not isinstance(milliseconds, int):
        raise ValueError("a field has a wrong type")
    found = {}
    for code, topic_id, offsets, *epochs in topics:
        _require_offsets(offsets)
        if epochs and not (
            len(epochs[0]) in (0, len(offsets)) and all(isinstance(each, int) for each in epochs[0])
        ):
            raise ValueError("a leader epoch is not valid")
        epochs_of = tuple(epochs[0]) if epochs else ()
        found[_TOPICS[code]] = TopicPosition(_unpacked_id(topic_id), tuple(offsets), epochs_of)
    later = {}
    for code, of, partition, offset in starts:
        _require_offsets([partition, offset])
        later[_TOPICS[code], of, partition] = offset
    users = users if isinstance(users, list) else [] if users is None else [users]
    _require_hashes([*groups, *users, *names, *(each[1] for each in later)])
    return LogPosition(
        prefix,
        milliseconds / 1000,
        found,
        frozenset(groups),
        frozenset(users),
        tuple(names),
        later,
        {_mark(mark): _unpacked_stream(*packed) for mark, *packed in streams},
    )


def _packed_stream(position: StreamPosition) -> list[Any]:
    """Return the fields of a stream's position in a token."""
    if position.topics is None:
        return [None, []]
    lanes = {lane: number for number, lane in enumerate(position.topics)}
    topics = [
        [
            lane[1:],
            _packed_id(place.topic_id),
            len(place.offsets),
            _packed_numbers(place.offsets),
            _packed_numbers([epoch + 1 for epoch in place.epochs]) if place.epochs else b"",
        ]
        for lane, place in position.topics.items()
    ]
    # Channels mostly join their groups at the same moment.
    joins: dict[tuple[Any, ...], list[Any]] = {}
    for (topic, of), starts in position.starts.items():
        at = tuple((lanes[lane], _packed_numbers(offsets)) for lane, offsets in starts.items())
        joins.setdefault(at, []).append([_CODES[topic], of])
    return [topics, [[addresses, at] for at, addresses in joins.items()]]


def _unpacked_stream(topics: Any, joins: Any) -> StreamPosition:
    if topics is None:
        return StreamPosition(None)
    found = {}
    for mark, topic_id, count, packed, packed_epochs in topics:
        if not 0 <= count <= _MOST_PARTITIONS:
            raise ValueError("a number of partitions is not valid")
        offsets = _unpacked_numbers(packed, count)
        _require_offsets(offsets)
        epochs = _unpacked_numbers(packed_epochs, count) if packed_epochs else ()
        found[OF_STREAM + _mark(mark)] = TopicPosition(
            _unpacked_id(topic_id), offsets, tuple(epoch - 1 for epoch in epochs)
        )
    lanes, starts = list(found), {}
    for addresses, at in joins:
        of_lane = {}
        for number, packed in at:
            lane = lanes[number]
            of_lane[lane] = _unpacked_numbers(packed, len(found[lane].offsets))
            _require_offsets(of_lane[lane])
        for code, of in addresses:
            _require_hashes([of])
            starts[_TOPICS[code], of] = of_lane
    return StreamPosition(found, starts)


def _packed_numbers(numbers: Sequence[int]) -> bytes:
    """Return numbers in as many bytes each as the largest needs; one, where all are equal."""
    if len(set(numbers)) == 1:
        numbers = numbers[:1]
    width = (max(numbers, default=0).bit_length() + 7) // 8
    return bytes([width]) + b"".join(each.to_bytes(width, "big") for each in numbers)


def _unpacked_numbers(packed: Any, count: int) -> tuple[int, ...]:
    width, data = packed[0], packed[1:]
    if not isinstance(data, bytes):
        raise ValueError("numbers are not packed in bytes")
    if not width:
        return (0,) * count
    numbers = tuple(
        int.from_bytes(data[at : at + width], "big") for at in range(0, len(data), width)
    )
    if len(data) % width or len(numbers) not in (1, count):
        raise ValueError("numbers are missing")
    return numbers * count if len(numbers) == 1 else numbers


def _mark(mark: Any) -> str:
    if not isinstance(mark, str) or len(mark) != MARK_LENGTH:
        raise ValueError("a mark is not valid")
    return mark


def _require_hashes(hashes: Iterable[Any]) -> None:
    if not all(isinstance(each, bytes) and len(each) == _HASH_BYTES for each in hashes):
        raise ValueError("a hash is not valid")


def _require_offsets(offsets: Any) -> None:
    if not all(isinstance(each, int) and 0 <= each <= _LARGEST_OFFSET for each in offsets):
        raise ValueError("an offset is not valid")


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
        raise ValueError("a topic's id is not a text")
    return topic_id
