"""The partitions that a server reads, and their two readers.

``read_positions.py`` keeps how far each partition is read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ..wire.topics import BROADCAST_TOPICS, CONTROL_TOPICS, INBOX_TOPICS, Topic
from .read_positions import From, Partition, Start
from .topics import KnownTopic

__all__ = ["CONTROL", "DATA", "Assignment", "Share"]

Share = tuple[Sequence[Topic], Sequence[Topic]]
"""The share of one reader: topics of which it reads all partitions, and topics of which it reads
this server's inbox partition."""

DATA: Share = (BROADCAST_TOPICS, (Topic.SEND_CONN,))

# Commands and acknowledgements have a reader of their own, so that they never wait behind data.
CONTROL: Share = ((), CONTROL_TOPICS)


class Assignment:
    """The partitions of one server; any thread.

    Args:
        names: Kafka's names of the topics.

    Attributes:
        inbox: The number of its inbox partition, the same in every inbox topic; None before
            ``choose_inbox``.
    """

    def __init__(self, names: Mapping[Topic, str]) -> None:
        self.inbox: int | None = None
        self._names = names

    def choose_inbox(self, known: Mapping[str, KnownTopic]) -> None:
        """Choose the inbox partition, among the numbers that all inbox topics have."""
        self.inbox = random.randrange(
            min(known[self._names[topic]].partitions for topic in INBOX_TOPICS)
        )

    def is_served(self, known: Mapping[str, KnownTopic]) -> bool:
        """Tell whether every inbox topic has the inbox partition, where one is chosen."""
        inbox = self.inbox
        return inbox is None or all(
            name not in known or inbox < known[name].partitions
            for name in (self._names[topic] for topic in INBOX_TOPICS)
        )

    def inbox_of(self, topic: Topic) -> Partition:
        """Return this server's partition of an inbox topic, once one is chosen."""
        return self._names[topic], self.inbox or 0

    def wish(
        self, share: Share, known: Mapping[str, KnownTopic], at: From
    ) -> dict[Partition, Start]:
        """Return the partitions that a reader has to read, with their starts.

        Args:
            share: Its share.
            known: The topics as they are.
            at: The start in partitions that are not read yet.
        """
        whole, inbox = share
        wish: dict[Partition, Start] = {}
        for topic in whole:
            name = self._names[topic]
            start = Start(at, known[name].topic_id)
            wish.update(((name, number), start) for number in range(known[name].partitions))
        for topic in inbox:
            where = self.inbox_of(topic)
            wish[where] = Start(at, known[where[0]].topic_id)
        return wish
