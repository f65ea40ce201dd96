"""Messages of the log, and the places of records in it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NamedTuple

from .wire.places import place_text
from .wire.records import Record

__all__ = [
    "History",
    "Message",
    "Position",
    "Recovery",
    "ReplayedMessage",
    "SelfTimedPosition",
    "Since",
    "TakenMessage",
]

Since = str | datetime.datetime | datetime.timedelta
"""Where a history begins: a position, an aware datetime, or a timedelta before now."""


class Message(dict[str, Any]):
    """A message of the log: a dict that equals the sent message, with its place in the log.

    Args:
        content: The sent message.
        position: The position right after the message, or a function that returns it.
        timestamp: The broker's timestamp, in seconds since the epoch.
        replayed: Whether the message was read from the past of the log, and not when it came.
        place: The place of its record, as a short text for browsers, such as ``g3.1042``; empty for
            a message to a single channel.
    """

    __slots__ = ("_place", "_position", "_replayed", "_timestamp", "envelope", "traced_by")

    # Its envelope or job, and the maker of its handler's span; set only if they are needed.
    envelope: Any
    traced_by: Any

    def __init__(
        self,
        content: dict[str, Any],
        position: str | Callable[[], str],
        timestamp: float,
        replayed: bool,
        place: str = "",
    ) -> None:
        super().__init__(content)
        self._position = position
        self._timestamp = timestamp
        self._replayed = replayed
        self._place = place

    @property
    def position(self) -> str:
        """The position right after the message, an opaque text; signed at the first access."""
        if not isinstance(self._position, str):
            self._position = self._position()
        return self._position

    @property
    def timestamp(self) -> float:
        """The broker's time, as given."""
        return self._timestamp

    @property
    def replayed(self) -> bool:
        """Whether it was read from the log's past, as given."""
        return self._replayed

    @property
    def place(self) -> str:
        """The place of its record, as given."""
        return self._place

    def __reduce__(self) -> tuple[type[Message], tuple[dict[str, Any], str, float, bool, str]]:
        return Message, (dict(self), self.position, self.timestamp, self.replayed, self.place)


class TakenMessage(Message):
    """A message that a tracked channel takes; its properties are computed when they are read.

    Hot path: the constructor is dict's own, which takes half the time. The code that makes the
    message sets the attributes.

    Attributes:
        mailbox: The mailbox from which it was taken.
        envelope: Its envelope.
    """

    __slots__ = ("mailbox",)

    __init__ = dict.__init__

    mailbox: Any

    @property
    def position(self) -> str:
        """The position right behind the message, as an opaque text; signed at each access."""
        position: str = self.mailbox.tracked.sign_behind(self.envelope, self.timestamp)
        return position

    @property
    def timestamp(self) -> float:
        """The broker's time."""
        written: float = self.envelope.timestamp
        return written

    @property
    def replayed(self) -> bool:
        """False: it was delivered when it was read."""
        return False

    @property
    def place(self) -> str:
        """The place of its record, as browsers get it."""
        return place_text(self.envelope.place)


class ReplayedMessage(Message):
    """A message that a recovery replays; its properties are computed when they are read.

    It is made as ``TakenMessage`` is.

    Attributes:
        record: Its record.
        number: Its index in the replay, from 0 on.
        sign: Returns the position right after the message with a given number.
    """

    __slots__ = ("number", "record", "sign")

    __init__ = dict.__init__

    record: Record
    number: int
    sign: Callable[[int], str]

    @property
    def position(self) -> str:
        """The position right behind the message, as an opaque text; signed at each access."""
        return self.sign(self.number)

    @property
    def timestamp(self) -> float:
        """The broker's time."""
        return self.record[4]

    @property
    def replayed(self) -> bool:
        """True."""
        return True

    @property
    def place(self) -> str:
        """The place of its record, as browsers get it."""
        topic, _, _, _, written, partition, offset = self.record
        return place_text((topic, partition, offset, written))


class History(NamedTuple):
    """Messages of the log to a group, to a user or to everybody.

    Attributes:
        messages: The messages, each with its place.
        position: The position after these messages, for the next ``since``.
        complete: Whether these are all the messages that were asked for. False if the log no longer
            holds some of them, if the scan has reached its limit, or if a record cannot be read.
    """

    messages: list[Message]
    position: str
    complete: bool


class Recovery(NamedTuple):
    """The result of the recovery of a channel.

    Attributes:
        recovered: Whether all missed messages are in ``messages``. It is all or nothing: if one
            record may be missing, nothing is replayed.
        reason: Why nothing is replayed: ``expired``, ``truncated``, ``epoch``, ``future``,
            ``limit``, ``undecodable``, ``flushed``, ``user``, ``invalid``, ``timeout`` or
            ``unavailable``. None if it was recovered.
        messages: The missed messages, in the order of the log.
        seconds_away: The age of the position, in seconds of the broker's clock; 0.0 if unknown.
    """

    recovered: bool
    reason: str | None
    messages: list[Message]
    seconds_away: float


class Position(NamedTuple):
    """The place of a record in the log.

    Attributes:
        topic: Kafka's name of the topic.
        partition: Number of the partition.
        offset: The record's offset in it.
        timestamp: The broker's, in seconds since the epoch.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float


class SelfTimedPosition(Position):
    """A position whose timestamp is this machine's time, not the time of the broker's append.

    The topic has ``message.timestamp.type=CreateTime``, or the broker reports no timestamp. The
    broker clock must not be set by it.
    """

    __slots__ = ()
