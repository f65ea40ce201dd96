"""The keyword ``streams``: Kafka's topics from outside the layer, and how they are read."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..streams.addresses import Addresser
from ..streams.codecs import StreamCodec
from ..streams.record import StreamRecord

__all__ = ["Start", "StreamSettings", "read_streams"]

Start = Literal["latest", "earliest"] | datetime.timedelta | datetime.datetime
"""Where reading begins: at the end, at the beginning, so long ago, or at an aware time."""


@dataclass(frozen=True)
class StreamSettings:
    """The settings of one stream.

    Attributes:
        name: The stream's name in this project.
        topic: Kafka's name of its topic; None if ``pattern`` is set.
        pattern: Matches the names of its topics, from their first character on; None if ``topic``
            is set. Use ``takes``, which leaves out topics that are never meant.
        groups: Give the groups that a record is for.
        users: Give the users that a record is for.
        type: The type of its messages, which names the handler; empty if there is no receiver.
        value: Codec of the values.
        key: Codec of the keys.
        where: Whether a record is for anyone; None: every record is. It raises UnreadableRecord
            (``function``) where the project's function fails.
        start: Where a server begins to read, and a consumer group without committed positions.
        tombstone: The type of the message for a record without a value; None skips such records.
        last_value: Whether a channel that joins a group gets the group's latest record first.
        on_error: ``skip`` a record that cannot be delivered, or ``stop`` the stream.
        bootstrap_servers: Brokers of another cluster; None: the layer's own.
        client_config: librdkafka properties of its clients, over the layer's own.
        schema_registry: The settings of the registry, as given; None: none.
        worker_channel: The worker channel, and consumer group, that takes each record once; None:
            none.
    """

    name: str
    topic: str | None
    pattern: re.Pattern[str] | None
    groups: tuple[Addresser, ...]
    users: tuple[Addresser, ...]
    type: str
    value: StreamCodec
    key: StreamCodec
    where: Callable[[StreamRecord], bool] | None
    start: Start
    tombstone: str | None
    last_value: bool
    on_error: Literal["skip", "stop"]
    bootstrap_servers: str | None
    client_config: Mapping[str, Any] = field(repr=False)
    schema_registry: Mapping[str, Any] | None = field(repr=False)
    worker_channel: str | None

    @property
    def is_read(self) -> bool:
        """Whether a server reads it: False if it is for producing or for workers alone."""
        return bool(self.groups or self.users)

    def takes(self, topic: str) -> bool:
        """Tell whether Kafka's topic of this name is one of the stream's."""
        raise NotImplementedError


def read_streams(value: object, prefix: str) -> Mapping[str, StreamSettings]:
    """Read the keyword ``streams``.

    Args:
        value: The keyword's value; right is a mapping of names to mappings of settings.
        prefix: The layer's own prefix: no stream may read the layer's topics.

    Returns:
        The settings of each stream, by its name.

    Raises:
        ImproperlyConfigured: If a name is unknown or a value cannot work; it names the mend.
    """
    raise NotImplementedError
