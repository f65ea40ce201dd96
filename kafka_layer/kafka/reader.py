"""The consumer of a server: reads the broadcast topics and its own inbox, and hands records over.

One thread owns every call on the client, because concurrent calls starve each other. Partitions
are assigned with explicit offsets and without a consumer group, so a server that comes or goes
never disturbs another.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from ..config.librdkafka import Properties
from ..config.settings import LayerConfig
from ..exceptions import BrokerUnavailable
from ..observe.counters import Stats
from ..transport import RecordSink
from ..wire.records import Record
from ..wire.topics import Topic
from .clients import abandon, ask_for_ends, ends_of, new_client, tells_an_end
from .connection import Connection
from .errors import UNKNOWN_TOPIC, kafka_error
from .log import client_logger
from .properties import consumer_properties

__all__ = ["BroadcastConsumer"]

logger = logging.getLogger("kafka_layer")

_POLL = 0.1
# More would live at the same time than Python's garbage collector lets pass without a look.
_BATCH = 100
# Seconds without a record after which the next one counts as alone.
_PAUSE = 0.001
_REQUEST_TIMEOUT = 1.0

# How often the thread looks whether its client reads what the log holds, more often for a while
# after the client reported trouble, and how many times in a row it may seem not to.
_CHECK_INTERVAL = 5.0
_CHECK_INTERVAL_IN_TROUBLE = 0.3
_TROUBLED_FOR = 30.0
_PATIENCE = 3


class BroadcastConsumer:
    """One consumer of one server.

    Args:
        config: The layer's settings.
        topics: The layer's topics by Kafka's names.
        sink: Gets the records, in the consumer's thread.
        stats: Counts what was missed and what went wrong.
        connection: Is told of errors.
        on_unknown_topic: Called, from the thread, when a topic or partition is not there.

    Attributes:
        lag: Records that the log holds and this server has not read, some seconds ago.
    """

    def __init__(
        self,
        config: LayerConfig,
        topics: Mapping[str, Topic],
        sink: RecordSink,
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
    ) -> None:
        self._topics = topics
        self._sink = sink
        self._stats = stats
        self._connection = connection
        self._on_unknown_topic = on_unknown_topic
        self.lag = 0
        self._properties = Properties(
            {
                **consumer_properties(config),
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
                "logger": client_logger,
            }
        )
        self._client: Consumer | None = None
        self._added: queue.SimpleQueue[list[TopicPartition]] = queue.SimpleQueue()
        self._gone: queue.SimpleQueue[list[TopicPartition]] = queue.SimpleQueue()
        # Partitions whose position is gone from the log, and what it was.
        self._lost: dict[tuple[str, int], int] = {}
        # Where partitions were begun, and what _checked found out the last time.
        self._starts: dict[tuple[str, int], int] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._emptied = False
        self._suspicions = 0
        # Whether this client found no broker and was not answered since; others may have been.
        self._cut_off = False
        self._troubled_until = 0.0
        self._stuck: dict[tuple[str, int], int] = {}
        self._next_check = 0.0
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, partitions: Sequence[tuple[str, int]], timeout: float) -> None:
        """Read from the present ends of ``partitions`` on; returns once that is settled.

        Args:
            partitions: Kafka's topic names and partition numbers.
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If the offsets cannot be had in time.
            ImproperlyConfigured: If librdkafka refuses a property.
        """
        self._thread = threading.Thread(
            target=self._run,
            args=([TopicPartition(*each) for each in partitions], time.monotonic() + timeout),
            name="kafka-layer-consumer",
            daemon=True,
        )
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def add(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Read new partitions from their first record on; any thread."""
        self._added.put([TopicPartition(name, number, 0) for name, number in partitions])

    def read_anew(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Forget the positions in partitions that are gone; any thread.

        A topic of the same name starts at 0. Once it holds more than the old one did, nothing
        would tell that the old position is wrong.
        """
        self._gone.put([TopicPartition(name, number, 0) for name, number in partitions])

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Keep the client from ever being freed: in a forked child that aborts the process."""
        abandon(self._client)

    def _run(self, partitions: list[TopicPartition], deadline: float) -> None:
        try:
            self._client = client = new_client(Consumer, self._properties, "consumer_config")
            ends = self._at_their_ends(client, partitions, deadline)
            client.assign(ends)
            self._note_starts(ends)
        except Exception as error:
            self._error = error
            self._ready.set()
            if self._client is not None:
                self._client.close()
            return
        self._ready.set()
        self._next_check = time.monotonic() + _CHECK_INTERVAL
        while not self._stop.is_set():
            try:
                self._read(client)
                if time.monotonic() >= self._next_check:
                    client = self._checked(client)
            except Exception:
                self._stats.count("errors.consumer")
                logger.exception("The consumer's thread goes on after an error")
                self._stop.wait(_POLL)
        client.close()

    def _read(self, client: Consumer) -> None:
        # consume(_BATCH, t) alone would wait for _BATCH messages or the whole of t.
        asked = time.monotonic()
        first = client.poll(_POLL)
        if first is not None:
            messages = [first]
            # One that was waited for came alone, and does not wait for a look at others.
            if time.monotonic() - asked < _PAUSE:
                messages += client.consume(_BATCH, 0)
            self._sink.deliver(self._records(client, messages))
        else:
            self._emptied = True
            if self._cut_off:
                self._ask_whether_back(client)
        while not self._gone.empty():
            partitions = self._gone.get()
            client.incremental_unassign(partitions)
            client.incremental_assign(partitions)
            self._note_starts(partitions)
        while not self._added.empty():
            partitions = self._added.get()
            client.incremental_assign(partitions)
            self._note_starts(partitions)
        for (topic, number), wanted in list(self._lost.items()):
            self._resume_at_start(client, topic, number, wanted)
            del self._lost[topic, number]

    def _on_error(self, error: KafkaError) -> None:
        # Called by the client while it is polled, so in the thread.
        self._connection.on_error(error)
        self._expect_trouble()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._cut_off = True

    def _ask_whether_back(self, client: Consumer) -> None:
        """Have the client look for the leaders now: by itself it does so once a second."""
        try:
            for name in self._topics:
                client.list_topics(name, _REQUEST_TIMEOUT)
        except KafkaException:
            return
        self._cut_off = False
        self._connection.on_answer()
        self._expect_trouble()

    def _expect_trouble(self) -> None:
        now = time.monotonic()
        self._troubled_until = now + _TROUBLED_FOR
        self._next_check = min(self._next_check, now + _CHECK_INTERVAL_IN_TROUBLE)

    def _note_starts(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            self._starts[each.topic, each.partition] = each.offset
            self._ends.pop((each.topic, each.partition), None)

    def _checked(self, client: Consumer) -> Consumer:
        """Return a client that reads: another one where this one does not get what the log holds.

        After an outage librdkafka may stay silent for good, without an error.
        """
        now = time.monotonic()
        self._next_check = now + _CHECK_INTERVAL
        if self._connection.lost:
            self._suspicions = 0
            return client
        positions = self._positions(client)
        behind = {
            where: positions[where]
            for where, end in self._ends.items()
            if self._emptied and positions.get(where, end) < end
        }
        self._emptied = False
        self._ends = self._ends_of(client, list(positions))
        # Where nobody is answered, another client would have to wait as well. One that is cut off
        # is alone with that here.
        if (self._ends or self._cut_off) and now < self._troubled_until:
            self._next_check = now + _CHECK_INTERVAL_IN_TROUBLE
        # Where another client did not get on either, there is nothing to get.
        suspicious = (behind and behind != self._stuck) or not self._ends
        self._suspicions = self._suspicions + 1 if suspicious else 0
        if self._suspicions < _PATIENCE:
            return client
        self._suspicions = 0
        self._stuck = behind
        return self._replaced(client, positions)

    def _replaced(self, client: Consumer, positions: dict[tuple[str, int], int]) -> Consumer:
        """Go on with a new client where the old one stopped."""
        self._client = another = new_client(Consumer, self._properties, "consumer_config")
        another.assign([TopicPartition(*where, offset) for where, offset in positions.items()])
        self._starts, self._ends = positions, {}
        self._stats.count("consumer.replaced")
        logger.error("The Kafka consumer got nothing that the log holds; a new one goes on")
        # It may take its time, or never end.
        threading.Thread(target=client.close, name="kafka-layer-closing", daemon=True).start()
        return another

    def _positions(self, client: Consumer) -> dict[tuple[str, int], int]:
        """Return the offset of the next record of each partition."""
        return {
            (each.topic, each.partition): each.offset
            if each.offset >= 0
            else self._starts[each.topic, each.partition]
            for each in client.position(client.assignment())
        }

    def _ends_of(
        self, client: Consumer, partitions: list[tuple[str, int]]
    ) -> dict[tuple[str, int], int]:
        """Return where the log ends, as far as a broker says so within a second."""
        try:
            return ends_of(client, partitions, _REQUEST_TIMEOUT)
        except KafkaException:
            return {}

    def _records(self, client: Consumer, messages: list[Message]) -> Iterator[Record]:
        # These may have been fetched before the brokers were lost: they are no sign of life.
        topics = self._topics
        for message in messages:
            error = message.error()
            if error is None:
                headers: Any = message.headers()
                _, timestamp = message.timestamp()
                yield (
                    topics[message.topic() or ""],
                    message.key(),
                    message.value(),
                    headers or (),
                    timestamp / 1000,
                    message.partition() or 0,
                    message.offset() or 0,
                )
            else:
                self._on_partition_error(client, message, error)

    def _at_their_ends(
        self, client: Consumer, partitions: list[TopicPartition], deadline: float
    ) -> list[TopicPartition]:
        """Look the ends up until every partition has one: explicit offsets lose nothing."""
        found: list[TopicPartition] = []
        missing = partitions
        detail = "no time was left"
        while missing:
            left = deadline - time.monotonic()
            if left <= 0 or self._stop.is_set():
                raise self._no_offsets(missing, detail)
            asked = [(each.topic, each.partition) for each in missing]
            try:
                answers = ask_for_ends(client, asked, min(left, _REQUEST_TIMEOUT))
            except KafkaException as exception:
                detail = kafka_error(exception).str()
                continue
            missing = []
            for answer in answers:
                if tells_an_end(answer):
                    found.append(answer)
                else:
                    detail = str(answer.error or f"offset {answer.offset}")
                    missing.append(answer)
            # Just after its creation a topic may have no leader for a moment.
            if missing:
                self._stop.wait(0.02)
        return found

    def _on_statistics(self, statistics: str) -> None:
        # What is fetched and not read yet, and what is not fetched yet.
        self.lag = sum(
            partition["fetchq_cnt"] + max(0, partition["hi_offset"] - partition["next_offset"])
            for topic in json.loads(statistics).get("topics", {}).values()
            for partition in topic.get("partitions", {}).values()
            if partition["next_offset"] >= 0
        )

    def _on_partition_error(self, client: Consumer, message: Message, error: KafkaError) -> None:
        self._stats.count(f"errors.{error.name()}")
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            partition = message.topic() or "", message.partition() or 0
            # Not position(): that is unknown before the first record of a partition was read.
            wanted = message.offset()
            self._lost[partition] = OFFSET_INVALID if wanted is None else wanted
        else:
            if error.code() in UNKNOWN_TOPIC:
                self._on_unknown_topic()
            client_logger.warning("CONSUME %s: %s", message.topic(), error.str())

    def _resume_at_start(self, client: Consumer, topic: str, number: int, wanted: int) -> None:
        partition = TopicPartition(topic, number)
        low, high = client.get_watermark_offsets(partition, _REQUEST_TIMEOUT, cached=False)
        missed = max(0, low - wanted) if 0 <= wanted <= high else 0
        # seek() raises in this state; taking the partition off and on works.
        client.incremental_unassign([partition])
        client.incremental_assign([TopicPartition(topic, number, low)])
        self._note_starts([TopicPartition(topic, number, low)])
        self._stats.dropped(
            "retention",
            f"{topic}[{number}] was at {wanted}, its log now holds {low} to {high}",
            missed,
        )

    def _no_offsets(self, missing: list[TopicPartition], detail: str) -> BrokerUnavailable:
        return self._connection.unavailable(
            f"the end of {len(missing)} partitions, among them "
            f"{missing[0].topic}[{missing[0].partition}], could not be read: {detail}"
        )
