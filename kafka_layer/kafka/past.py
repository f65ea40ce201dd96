"""Reads older records of the log, with a thread and clients that exist only while they are needed.

It assigns partitions by hand and without a consumer group, so it disturbs no other client. For
other packages ``transport.Past`` is the protocol of a query's reads.
"""

from __future__ import annotations

import contextlib
import logging
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import StreamSettings
from ..config.threads import Event, RLock, Thread, new_event, new_thread
from ..delivery.tickets import Ticket
from ..exceptions import BrokerUnavailable, LayerClosed, TopicError
from ..transport import Extent, Past
from ..wire.record_block import Columns, RecordBlock
from ..wire.records import Record
from ..wire.topics import StreamTopic, Topic, Where, topic_name
from .clients import new_client
from .connection import Connection
from .errors import kafka_error, topic_error
from .log import client_logger
from .properties import history_properties
from .read_parts import ReadParts
from .topics import KnownTopic, TopicWatch, read_answers

__all__ = ["PastReader"]

logger = logging.getLogger("kafka_layer")

T = TypeVar("T")

AnyLogTopic = Topic | StreamTopic
"""A topic of the layer that all servers read, or one of a stream."""

# Seconds of a poll without a record; the thread sees a stop after at most that time.
_POLL = 0.1
# Messages in one batch: fewer than gc's generation-0 threshold (700), or each batch triggers a
# collection.
_BATCH = 500
# Records of one block, or a batch more.
_BLOCK = 10_000
# Seconds between two requests that no broker answered.
_RETRY = 0.05
# Seconds for one request: a broker that goes away will not answer it.
_PATIENCE = 1.0


class _Waiting(NamedTuple):
    """A query that has not begun.

    Attributes:
        question: The query; it returns a function that makes the answer for each caller.
        deadline: When to give up, on ``monotonic()``.
        tickets: The tickets of the callers.
    """

    question: Callable[[Past], Callable[[], Any]]
    deadline: float
    tickets: list[Ticket[Any]]

    def fail(self, error: Exception) -> None:
        """Fail all tickets."""
        for ticket in self.tickets:
            ticket.fail(error)


class PastReader:
    """Runs queries of older records, one after another; any thread may call ``ask``.

    Queries that wait at the same time share the extents of the log, and equal ones run once.

    States: *idle*, without a thread and clients; *reading*, from the first query until none came
    for ``timings.history_idle``; *closed*, for good.

    Args:
        config: The settings of the clients.
        connection: Gets errors and answers.
        stream: The stream whose topics are read; None: the layer's own.
    """

    def __init__(
        self, config: LayerConfig, connection: Connection, stream: StreamSettings | None = None
    ) -> None:
        self._config = config
        self._connection = connection
        self._stream = stream
        # Re-entrant: a signal handler may interrupt the holder and ask.
        self._lock = RLock()
        self._waiting: dict[Hashable, _Waiting] = {}
        self._asked = new_event()
        self._stop = new_event()
        self._thread: Thread | None = None
        # Used by the thread alone.
        self._clients: _Clients | None = None

    def ask(
        self, key: Hashable, question: Callable[[Past], Callable[[], T]], deadline: float
    ) -> Ticket[T]:
        """Run a query; see ``Log.ask_past``."""
        ticket: Ticket[T] = Ticket()
        with self._lock:
            if self._stop.is_set():
                return Ticket.failed(LayerClosed("The channel layer is closed."))
            waiting = self._waiting.setdefault(key, _Waiting(question, deadline, []))
            waiting.tickets.append(ticket)
            if self._thread is None:
                self._thread = new_thread(self._run, "kafka-layer-past")
                try:
                    self._thread.start()
                except RuntimeError as error:
                    self._thread = None
                    del self._waiting[key]
                    return Ticket.failed(BrokerUnavailable(f"No thread can be started: {error}"))
        self._asked.set()
        return ticket

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it; queries fail with ``LayerClosed``."""
        with self._lock:
            self._stop.set()
            waiting, self._waiting = self._waiting, {}
        self._asked.set()
        for each in waiting.values():
            each.fail(LayerClosed("The channel layer was closed."))

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def abandon(self) -> None:
        """Ask no more, in a forked child."""
        self._lock, self._stop, self._asked = RLock(), new_event(), new_event()
        self._stop.set()
        self._thread = None

    def _run(self) -> None:
        while True:
            waiting = self._next()
            if waiting:
                self._carry_out_all(waiting)
                continue
            # Queries that come meanwhile wait for this thread, because the clients have one owner.
            self._free()
            with self._lock:
                if self._stop.is_set() or not self._waiting:
                    self._thread = None
                    return

    def _next(self) -> list[_Waiting]:
        """Wait for queries; returns none if none come for a while, or the reader is closed."""
        idle_at = monotonic() + self._config.timings.history_idle
        while True:
            with self._lock:
                self._asked.clear()
                waiting, self._waiting = self._waiting, {}
            if waiting or self._stop.is_set() or monotonic() >= idle_at:
                return list(waiting.values())
            self._asked.wait(max(0.0, idle_at - monotonic()))

    def _carry_out_all(self, waiting: Sequence[_Waiting]) -> None:
        extents: _KnownExtents = {}
        error: Exception | None = None
        for each in waiting:
            if isinstance(error, BrokerUnavailable):
                # Do not let the others wait as long for the same error.
                each.fail(error)
            else:
                error = self._carry_out(each, extents)

    def _carry_out(self, waiting: _Waiting, extents: _KnownExtents) -> Exception | None:
        """Run a query; returns the error with which it failed.

        Args:
            waiting: The query.
            extents: The extents that were read for other queries since this one was asked.
        """
        try:
            if self._stop.is_set():
                raise LayerClosed("The channel layer was closed.")
            if monotonic() >= waiting.deadline:
                raise BrokerUnavailable("Other questions took until the deadline; ask again.")
            if self._clients is None:
                self._clients = _Clients(self._config, self._connection, self._stream)
            past = _KafkaPast(self._clients, self._stop, waiting.deadline, extents)
            make = waiting.question(past)
            for ticket in waiting.tickets:
                ticket.resolve(make())
            self._clients.consumer.unassign()
        except Exception as error:
            waiting.fail(error)
            # The next query gets new clients, which may work.
            self._free(apart=not self._stop.is_set())
            return error
        return None

    def _free(self, apart: bool = False) -> None:
        """Close the clients; with ``apart`` in another thread, because it may block for long."""
        clients, self._clients = self._clients, None
        if clients is None:
            return
        if apart:
            # If no thread can start, the process ends.
            with contextlib.suppress(RuntimeError):
                new_thread(clients.close, "kafka-layer-closing").start()
        else:
            clients.close()


_KnownExtents = dict[tuple[AnyLogTopic, ...], Mapping[Where, Extent]]
"""The extents of the partitions of some topics."""


class _Names(dict[AnyLogTopic, str]):
    """Kafka's names of topics."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def __missing__(self, topic: AnyLogTopic) -> str:
        name = self[topic] = topic_name(self._prefix, topic)
        return name


class _Clients:
    """The two clients of the thread, one for records and one for topics' ids; and kept records."""

    def __init__(
        self, config: LayerConfig, connection: Connection, stream: StreamSettings | None
    ) -> None:
        self.config = config
        self.connection = connection
        self.stream = stream
        self.names = _Names(config.prefix)
        self.watch = TopicWatch(config)
        try:
            self.consumer = self._new_consumer()
        except Exception:
            self.watch.close()
            raise
        self.parts = ReadParts()
        self._ids: dict[str, str | None] = {}

    def note_ids(self, told: Mapping[str, KnownTopic]) -> None:
        """Replace the consumer if a topic was created again.

        The old one may consider the lower leader epoch of the new topic outdated, and get no
        records.
        """
        ids = {name: each.topic_id for name, each in told.items()}
        if any(self._ids.get(name, each) != each for name, each in ids.items()):
            old, self.consumer = self.consumer, self._new_consumer()
            old.close()
            self.parts.clear()
        self._ids.update(ids)

    def close(self) -> None:
        with contextlib.suppress(KafkaException, RuntimeError):
            self.consumer.close()
        self.watch.close()

    def _new_consumer(self) -> Consumer:
        properties = Properties(
            {
                **history_properties(self.config, of_stream=self.stream is not None),
                "error_cb": self.connection.on_error,
                "logger": client_logger,
            }
        )
        return new_client(Consumer, properties, "consumer_config")


class _KafkaPast:
    """``Past`` for one query; for the reader's thread."""

    def __init__(
        self, clients: _Clients, stop: Event, deadline: float, extents: _KnownExtents
    ) -> None:
        self.deadline = deadline
        self._extents = extents
        self._clients = clients
        self._stop = stop
        self._answer = clients.config.timings.history_answer

    def topics(self) -> Sequence[StreamTopic]:
        stream = self._clients.stream
        if stream is None:
            return ()
        until = min(self.deadline, monotonic() + self._answer)
        detail = "the deadline came first"
        while (left := until - monotonic()) > 0:
            self._require_open()
            try:
                watch, patience = self._clients.watch, min(left, _PATIENCE)
                if stream.topic is None:
                    names = sorted(filter(stream.takes, watch.names(patience)))
                else:
                    names = [stream.topic]
                told, missing = (
                    read_answers(watch.ask(names, left), patience) if names else ({}, ())
                )
            except KafkaException as exception:
                detail = kafka_error(exception).str()
            else:
                if len(told) + len(missing) == len(names):
                    return [StreamTopic(stream.name, name) for name in told]
                detail = "no broker described the topics"
            self._stop.wait(_RETRY)
        raise self._clients.connection.unavailable(detail)

    def extents(self, topics: Sequence[AnyLogTopic]) -> Mapping[Where, Extent]:
        if not topics:
            return {}
        known = self._extents.get(tuple(topics))
        if known is None:
            known = self._extents[tuple(topics)] = self._ask_extents(topics)
            self._clients.parts.forget(lambda where: known[where].end if where in known else None)
        return known

    def _ask_extents(self, topics: Sequence[AnyLogTopic]) -> Mapping[Where, Extent]:
        names = {self._clients.names[topic]: topic for topic in topics}
        until = min(self.deadline, monotonic() + self._answer)
        missing: frozenset[str] = frozenset()
        detail = "the deadline came first"
        while (left := until - monotonic()) > 0:
            self._require_open()
            try:
                answers = self._clients.watch.ask(list(names), left)
                told, missing = read_answers(answers, min(left, _PATIENCE))
                if not told:
                    detail = "no broker described the topics"
                if len(told) == len(names):
                    self._clients.note_ids(told)
                    where = [(name, n) for name in names for n in range(told[name].partitions)]
                    starts = self._offsets(where, OFFSET_BEGINNING, until)
                    ends = self._offsets(where, OFFSET_END, until)
                    self._clients.connection.on_answer()
                    return {
                        (names[each[0]], each[1]): Extent(
                            told[each[0]].topic_id, starts[each], max(starts[each], ends[each])
                        )
                        for each in where
                    }
            except KafkaException as exception:
                error = kafka_error(exception)
                if error.code() in _FORBIDDEN:
                    raise self._refusal("look at the log", error) from None
                detail = error.str()
                self._read_metadata(names, until)
            self._stop.wait(_RETRY)
        if missing:
            raise TopicError(
                f"Topics are missing (or this client may not see them): "
                f"{', '.join(sorted(missing))}. Run 'manage.py kafka_setup_topics', or grant this "
                "client READ on them."
            )
        raise self._clients.connection.unavailable(detail)

    def first_since(self, where: Where, extent: Extent, timestamp: float) -> int:
        if extent.start == extent.end:
            return extent.end
        partition = self._clients.names[where[0]], where[1]
        until = min(self.deadline, monotonic() + self._answer)
        milliseconds = max(0, round(timestamp * 1000))
        try:
            offset = self._offsets([partition], milliseconds, until, none=OFFSET_END)[partition]
        except KafkaException as exception:
            raise self._clients.connection.unavailable(kafka_error(exception).str()) from None
        if offset >= 0:
            return min(max(offset, extent.start), extent.end)
        # No record is as recent, or the broker (an embedded one) has no index of timestamps.
        first, end = extent.start, extent.end
        if self._time_at(where, end - 1, extent) < timestamp:
            return end
        while first < end:
            middle = (first + end) // 2
            if self._time_at(where, middle, extent) < timestamp:
                first = middle + 1
            else:
                end = middle
        return first

    def read(self, where: Where, first: int, end: int) -> tuple[int, Sequence[Record]]:
        return self._clients.parts.read(where, first, end, partial(self._read, where))

    def read_blocks(self, where: Where, first: int, end: int) -> tuple[int, Sequence[RecordBlock]]:
        start, columns = self._fetch(where, first, end, _columns)
        return start, list(_blocks(where, columns))

    def epochs(self, offsets: Mapping[Where, int]) -> Mapping[Where, int]:
        found = {}
        for where, offset in offsets.items():
            _, epochs = self._fetch(where, offset, offset + 1, _last_epoch)
            if epochs and epochs[0] is not None:
                found[where] = epochs[0]
        return found

    def _read(self, where: Where, first: int, end: int) -> tuple[int, Sequence[Record]]:
        start, batches = self._fetch(where, first, end, _records)
        return start, list(chain.from_iterable(batches))

    def _fetch(
        self,
        where: Where,
        first: int,
        end: int,
        convert: Callable[[Where, list[Message]], T],
    ) -> tuple[int, list[T]]:
        """Read a part of a partition, and no other partition meanwhile.

        Args:
            where: The partition.
            first: The first offset.
            end: The offset after the last one.
            convert: Gets the partition and some messages in order, at least one.

        Returns:
            The first offset that the log still holds, and the results of ``convert``.
        """
        if monotonic() >= self.deadline:
            raise TimeoutError
        partition = self._clients.names[where[0]], where[1]
        converted: list[T] = []
        reached = first
        self._clients.consumer.assign([TopicPartition(*partition, first)])
        while reached < end:
            messages, event = self._poll(partition, end - reached)
            if event == KafkaError._AUTO_OFFSET_RESET:
                # The first records were deleted since the query began.
                first = reached = min(self._start_of(partition), end)
                converted = []
                # Not seek(), which raises after an error of the partition.
                self._clients.consumer.incremental_unassign([TopicPartition(*partition)])
                self._clients.consumer.incremental_assign([TopicPartition(*partition, first)])
                continue
            if messages:
                reached = 1 + (messages[-1].offset() or 0)
                if reached > end:
                    messages = [each for each in messages if (each.offset() or 0) < end]
            if messages:
                converted.append(convert(where, messages))
            if event == KafkaError._PARTITION_EOF:
                break
        return first, converted

    def _poll(self, partition: tuple[str, int], most: int) -> tuple[list[Message], int | None]:
        """Return messages of the assigned partition, if there are some within a short time.

        Args:
            partition: The partition.
            most: The number of wanted messages.

        Returns:
            The messages, and ``_PARTITION_EOF`` or ``_AUTO_OFFSET_RESET`` if the client reported
            it.

        Raises:
            TimeoutError: If the deadline has come.
            LayerClosed: If the layer closes.
        """
        self._require_open()
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        message = self._clients.consumer.poll(min(_POLL, left))
        if message is None:
            return [], None
        messages = [message, *self._clients.consumer.consume(min(_BATCH, most), 0)]
        event = None
        for failed in [each for each in messages if each.error() is not None]:
            messages.remove(failed)
            error = failed.error()
            # An error without a topic concerns the group, which this reader does not use.
            if error is None or failed.topic() is None:
                continue
            event = error.code()
            if event not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                raise self._refusal(f"read {partition[0]}[{partition[1]}]", error)
        return messages, event

    def _read_metadata(self, names: Iterable[str], until: float) -> None:
        """Let the client learn new partitions and leaders, which brokers do not announce."""
        for name in names:
            left = until - monotonic()
            if left <= 0:
                return
            with contextlib.suppress(KafkaException):
                self._clients.consumer.list_topics(name, min(left, _PATIENCE))

    def _time_at(self, where: Where, offset: int, extent: Extent) -> float:
        """Return the timestamp of the first record from an offset on; infinite without one."""
        for end in (offset + 1, extent.end):
            _, records = self._read(where, offset, end)
            if records:
                return records[0][4]
        return float("inf")

    def _start_of(self, partition: tuple[str, int]) -> int:
        until = min(self.deadline, monotonic() + self._answer)
        try:
            return self._offsets([partition], OFFSET_BEGINNING, until)[partition]
        except KafkaException as exception:
            raise self._clients.connection.unavailable(kafka_error(exception).str()) from None

    def _offsets(
        self,
        partitions: Sequence[tuple[str, int]],
        at: int,
        until: float,
        none: int | None = None,
    ) -> dict[tuple[str, int], int]:
        """Ask for offsets by time, or for the first or the last ones.

        Args:
            partitions: The partitions.
            at: The time in milliseconds, or one of librdkafka's constants.
            until: When to give up, on ``monotonic()``.
            none: The answer for a partition without such an offset; None if that is an error.

        Raises:
            KafkaException: If an answer is missing.
        """
        asked = [TopicPartition(*each, at) for each in partitions]
        found = {}
        timeout = min(max(0.05, until - monotonic()), _PATIENCE)
        for answer in self._clients.consumer.offsets_for_times(asked, timeout):
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset < 0 and none is None:
                detail = f"{answer.topic}[{answer.partition}] has the offset {answer.offset}"
                raise KafkaException(KafkaError(KafkaError._FAIL, detail))
            offset = none if answer.offset < 0 and none is not None else answer.offset
            found[answer.topic, answer.partition] = offset
        return found

    def _require_open(self) -> None:
        if self._stop.is_set():
            raise LayerClosed("The channel layer was closed.")

    def _refusal(self, what: str, error: KafkaError) -> Exception:
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return TopicError(f"Cannot {what} ({error.str()}; grant it an ACL for READ).")
        refused = topic_error(what, error, self._clients.connection.servers)
        return refused if isinstance(refused, BrokerUnavailable) else TopicError(str(refused))


_FORBIDDEN = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
)


def _columns(where: Where, messages: Sequence[Message]) -> Columns:
    # There may be 100,000 records, and these are Python's fastest loops.
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    offsets: Sequence[int] = range(first, last + 1)
    if len(offsets) != len(messages):
        offsets = [each.offset() or 0 for each in messages]
    try:
        return Columns(
            offsets,
            tuple([each.key() for each in messages]),
            tuple([each.value() for each in messages]),
            tuple([each.headers() for each in messages]),
            array("d", [each.timestamp()[1] / 1000 for each in messages]),
            (messages[0].leader_epoch(), messages[-1].leader_epoch()),
        )
    except Exception:
        # The name of a header is not UTF-8.
        return Columns.of(_records(where, messages))


def _blocks(where: Where, columns: Iterable[Columns]) -> Iterator[RecordBlock]:
    gathered: list[Columns] = []
    count = 0
    for each in columns:
        gathered.append(each)
        count += len(each.offsets)
        if count >= _BLOCK:
            yield RecordBlock(where, gathered)
            gathered, count = [], 0
    if gathered:
        yield RecordBlock(where, gathered)


def _records(where: Where, messages: Iterable[Message]) -> list[Record]:
    return [_record(where[0], each) for each in messages]


def _last_epoch(where: Where, messages: Sequence[Message]) -> int | None:
    return messages[-1].leader_epoch()


def _record(topic: Any, message: Message) -> Record:
    value = message.value()
    headers: Any = ()
    try:
        headers = message.headers() or ()
    except Exception:
        # The name of a header is not UTF-8. Without a value the record counts as undecodable.
        value = None
    return (
        topic,
        message.key(),
        value,
        headers,
        message.timestamp()[1] / 1000,
        message.partition() or 0,
        message.offset() or 0,
    )
