"""Functions for all Kafka clients: make them, ask them, and leak them after a fork."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.threads import sleep
from .connection import Connection
from .errors import UNANSWERED, configuration_error, kafka_error, topic_error

if TYPE_CHECKING:
    from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

__all__ = [
    "abandon",
    "ask_for_ends",
    "ask_for_times",
    "ends_of",
    "new_client",
    "partition_counts",
]

logger = logging.getLogger("kafka_layer")

C = TypeVar("C")

# Callbacks of the settings that return nothing.
_NOTES = ("stats_cb", "throttle_cb")

# Seconds between two requests for a topic that a broker does not know yet.
_RETRY = 0.02
# Time-outs of the first two metadata requests: an authentication error arrives within them.
_FIRST_TIMEOUTS = (0.5, 1.0)

_MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


def new_client(kind: Callable[[dict[str, Any]], C], properties: Properties, setting: str) -> C:
    """Make a client; no I/O, except a call of ``oauth_cb`` if that is set.

    Args:
        kind: The client's class.
        properties: librdkafka's properties.
        setting: The CONFIG keyword that adds to them, for the error.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
        BrokerUnavailable: If ``oauth_cb`` returns no token.
    """
    given = Properties({**properties, **_callbacks(properties)})
    try:
        client: C = _referable(kind)(given)
    except KafkaException as exception:
        reason = kafka_error(exception).str()
    except (TypeError, ValueError) as error:
        reason = str(error)
    else:
        _clients.add(client)
        return client
    raise configuration_error(reason, properties, setting)


def _callbacks(properties: Properties) -> dict[str, Any]:
    """Return the settings' callbacks, wrapped for clients."""
    callbacks: dict[str, Any] = {}
    fetch = properties.get("oauth_cb")
    if callable(fetch) and isinstance(fetch, Hashable):
        # Imported by the first client that needs tokens.
        from .tokens import token_source

        # The constructor waits for a token, and would report a failure as a wrong property.
        source = callbacks["oauth_cb"] = token_source(fetch)
        source.prefetch(properties.get("sasl.oauthbearer.config"))
    for name in _NOTES:
        callback = properties.get(name)
        if callable(callback):
            callbacks[name] = partial(_guarded, name, callback)
    return callbacks


def _guarded(name: str, callback: Callable[[Any], object], told: Any) -> None:
    # poll() would raise the exception, and it serves messages and reports as well.
    try:
        callback(told)
    except Exception:
        logger.exception("%s of the settings failed", name)


def abandon(client: object) -> None:
    """Keep a client from ever being freed: that may block, and in a forked child it aborts."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))


# All clients of this process. A fork holds them, so that the child frees none: not even one that a
# thread of the parent was closing, or that waited for the garbage collector.
_clients: WeakSet[Any] = WeakSet()
_held: list[Any] = []


@cache
def _referable(kind: Callable[[dict[str, Any]], C]) -> Callable[[dict[str, Any]], C]:
    """Return the class, or one like it whose objects can be in a WeakSet."""
    if not isinstance(kind, type) or kind.__weakrefoffset__:
        return kind
    return type(kind.__name__, (kind,), {"__slots__": ("__weakref__",), "__doc__": kind.__doc__})


def _before_fork() -> None:
    """Hold the clients; import a module for ``abandon``, as another thread may be importing it."""
    import ctypes  # noqa: F401 (a process that never forks does without)

    _held.extend(_clients)


def _abandon_all() -> None:
    for client in _clients:
        abandon(client)
    _held.clear()
    _clients.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_held.clear, after_in_child=_abandon_all
    )


def ask_for_ends(
    client: Consumer, partitions: Iterable[tuple[str, int]], timeout: float
) -> tuple[dict[tuple[str, int], int], str]:
    """Ask brokers for the ends of partitions; the thread that owns the client.

    Args:
        client: Any consumer.
        partitions: Each as Kafka's name of the topic and the number.
        timeout: Seconds that this may block.

    Returns:
        The offset of the next record, for the partitions whose leaders answer; and why the others
        have none.

    Raises:
        KafkaException: If no broker answered in time.
    """
    ends = {}
    detail = ""
    for answer in _ask(client, dict.fromkeys(partitions, OFFSET_END), timeout):
        if answer.error is None and answer.offset >= 0:
            ends[answer.topic, answer.partition] = answer.offset
        else:
            detail = str(answer.error or f"offset {answer.offset}")
    return ends, detail


def ask_for_times(
    client: Consumer, times: Mapping[tuple[str, int], int], timeout: float
) -> dict[tuple[str, int], int | None]:
    """Ask brokers for the first records since some times; the thread that owns the client.

    Args:
        client: Any consumer.
        times: For each partition the time in milliseconds, or ``OFFSET_BEGINNING`` for the oldest
            record.
        timeout: Seconds that this may block.

    Returns:
        The offsets, for the partitions whose leaders answer; None where there is no such record.

    Raises:
        KafkaException: If no broker answered in time.
    """
    return {
        (answer.topic, answer.partition): answer.offset if answer.offset >= 0 else None
        for answer in _ask(client, times, timeout)
        if answer.error is None
    }


def _ask(
    client: Consumer, times: Mapping[tuple[str, int], int], timeout: float
) -> list[TopicPartition]:
    asked = [TopicPartition(*where, time) for where, time in times.items()]
    return client.offsets_for_times(asked, timeout) if asked else []


def ends_of(
    client: Consumer, partitions: Iterable[tuple[str, int]], timeout: float
) -> dict[tuple[str, int], int]:
    """Return the ends of partitions whose leaders answer; raises like ``ask_for_ends``."""
    return ask_for_ends(client, partitions, timeout)[0]


class _Lists(Protocol):
    """Any client: each can list topics."""

    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata: ...


def partition_counts(
    client: _Lists, names: Iterable[str], connection: Connection, timeout: float
) -> dict[str, int]:
    """Ask for the number of partitions of each topic.

    Args:
        client: Any client.
        names: Kafka's names of the topics.
        connection: The state of the client's connection, for the error.
        timeout: Seconds that this may block.

    Returns:
        The existing topics that this client may see; each of their partitions has a leader.

    Raises:
        BrokerUnavailable: If no broker answers in time, or none lets this client in.
    """
    deadline = monotonic() + timeout
    counts = {}
    looks = iter(_FIRST_TIMEOUTS)
    patience = next(looks)
    # An old refusal may be over: give the client the time of two requests to connect again.
    earlier = connection.refusal
    for name in names:
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise connection.unavailable(f"the partitions of {name} could not be read")
            try:
                topic = client.list_topics(name, timeout=min(left, patience)).topics[name]
            except KafkaException as exception:
                error = kafka_error(exception)
                if error.code() not in UNANSWERED:
                    raise topic_error(f"look at {name}", error, connection.servers) from None
                refused = connection.refused and connection.refusal is not earlier
                if refused or monotonic() >= deadline:
                    raise connection.unavailable(f"look at {name}: {error.str()}") from None
                earlier = None
                patience = next(looks, timeout)
                sleep(_RETRY)
                continue
            connection.refusal = None
            if topic.error is not None and topic.error.code() in _MISSING:
                break
            if topic.error is None and all(each.leader >= 0 for each in topic.partitions.values()):
                counts[name] = len(topic.partitions)
                break
            # The topic was just created: its leaders are being elected.
            sleep(_RETRY)
    return counts
