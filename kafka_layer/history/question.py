"""A question for the history of one address, with its arguments checked. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..messages import Since
from ..transport import Extent
from ..wire.partitions import partitions_while_growing
from ..wire.position_token import LogPosition, StreamPosition, TopicPosition, short_hash
from ..wire.topics import Topic, Where

__all__ = ["MAX_LIMIT", "Question", "partitions_to_read", "require_limit"]

MAX_LIMIT = 1000
"""Most messages that one call returns."""


def require_limit(limit: object, hint: str, name: str = "limit") -> None:
    """Check a limit of messages.

    Args:
        limit: The limit.
        hint: What to do if the limit is too low, for the error.
        name: The name of the argument, for the error.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is out of range.
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{name} must be an int from 0 to {MAX_LIMIT}, not {limit!r}.")
    if not 0 <= limit <= MAX_LIMIT:
        raise ValueError(f"{name} must be from 0 to {MAX_LIMIT}, not {limit}; {hint}.")


@dataclass(frozen=True)
class Question:
    """A query for the messages of one address.

    Attributes:
        prefix: The layer's prefix.
        topic: The topic of the address.
        key: The group or the user; empty for everybody.
        limit: Most messages to return; 0 for the position alone.
        since: Where they begin: a position, a time of the broker's clock in seconds since the
            epoch, or how long ago. None: the last messages.
        newest_first: Whether to return the newest message first, and the last ``limit`` messages.
        streams: The position in each stream that may reach the address. It is not compared, so that
            equal queries at the same time are shared.
    """

    prefix: str
    topic: Topic
    key: str
    limit: int = 0
    since: LogPosition | float | datetime.timedelta | None = None
    newest_first: bool = False
    streams: Mapping[str, StreamPosition] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        prefix: str,
        topic: Topic,
        key: str,
        limit: int,
        since: Since | None,
        newest_first: bool,
    ) -> Question:
        """Check the arguments of a call.

        Raises:
            TypeError: If ``limit`` is no int, or ``since`` has another type.
            ValueError: If ``limit`` is out of range, or ``since`` is a naive datetime, a negative
                timedelta, or the position of another address.
            InvalidPosition: If ``since`` is a str, but no position of this layer.
        """
        require_limit(limit, "ask for more in turns, with since=history.position")
        return cls(prefix, topic, key, limit, _start(prefix, topic, key, since), newest_first)

    @property
    def reads_on(self) -> bool:
        """Whether it reads from its start towards the end, and not back from the end."""
        return self.since is not None and not self.newest_first

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics of its position: messages to everybody reach the address as well."""
        return tuple(dict.fromkeys((self.topic, Topic.SEND_ALL)))

    def position(self, time: float, extents: Mapping[Where, Extent]) -> LogPosition:
        """Return the present position: the ends of the log.

        In topics that the query does not read the position of ``since`` stays.

        Args:
            time: The present time of the broker's clock, in seconds since the epoch.
            extents: The extents of the log.
        """
        places = {
            topic: TopicPosition(
                extents[topic, 0].topic_id,
                tuple(extents[where].end for where in sorted(extents) if where[0] is topic),
            )
            for topic in self.topics
        }
        groups, users = frozenset[bytes](), frozenset[bytes]()
        if isinstance(self.since, LogPosition):
            groups, users = self.since.groups, self.since.users
            for topic, place in self.since.topics.items():
                if topic is not self.topic:
                    places[topic] = place
        if self.topic is Topic.SEND_GROUP:
            # The position does not cover other groups of the same partition.
            groups = frozenset({short_hash(self.key)})
        elif self.topic is Topic.SEND_USER:
            users = frozenset({short_hash(self.key)})
        return LogPosition(self.prefix, time, places, groups, users, streams=self.streams)


def partitions_to_read(
    question: Question, extents: Mapping[int, Extent], place: TopicPosition | None
) -> list[int]:
    """Return the partitions that may have records of a query's address.

    While the topic had fewer partitions, a key may have had another partition. The log does not
    show how many partitions there were. But a partition that has lost old records is older than all
    records that the log holds, so it existed when they were written.

    Args:
        question: The query.
        extents: The extent of each partition of the topic.
        place: The position from which it reads, in the present topic; None if there is none.
    """
    if question.topic is Topic.SEND_ALL:
        return list(extents)
    fewest = 1 + max((number for number, extent in extents.items() if extent.start), default=0)
    if place is not None:
        fewest = max(fewest, min(len(place.offsets), len(extents)))
    return list(partitions_while_growing(question.key, fewest, len(extents)))


def _start(
    prefix: str, topic: Topic, key: str, since: object
) -> LogPosition | float | datetime.timedelta | None:
    if since is None:
        return None
    if isinstance(since, datetime.timedelta):
        if since < datetime.timedelta(0):
            raise ValueError(
                f"since is {since!r}, and a time ahead has no history; give how long ago, such as "
                "timedelta(minutes=5)."
            )
        return since
    if isinstance(since, datetime.datetime):
        if since.tzinfo is None or since.utcoffset() is None:
            raise ValueError(
                f"since is the naive datetime {since}; give an aware one, such as "
                "django.utils.timezone.now() returns with USE_TZ."
            )
        return since.timestamp()
    if isinstance(since, str):
        position = LogPosition.read(since, prefix)
        if topic is Topic.SEND_GROUP and short_hash(key) not in position.groups:
            raise ValueError(
                f"since is no position of the group {key!r}; give one of group_position or "
                "group_history of that group."
            )
        if topic is Topic.SEND_USER and short_hash(key) not in position.users:
            raise ValueError(
                f"since is no position of the user {key!r}; give one of user_history of that user."
            )
        return position
    raise TypeError(
        f"since must be a position, an aware datetime or a timedelta, not {type(since).__name__}."
    )
