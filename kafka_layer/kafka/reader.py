"""Reads partitions and hands their records to a sink: one thread, one Kafka client.

The thread alone calls the client, because concurrent calls starve each other. It assigns partitions
at explicit offsets and without a consumer group, so a reader that comes or goes disturbs no other.

``Reader._read`` and ``Reader._records`` run for each record: a hot path.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.threads import died, new_event, new_thread
from ..config.timings import Timings
from ..delivery.tickets import Ticket
from ..exceptions import BrokerUnavailable, UnreadableRecord
from ..observe.counters import Stats
from ..transport_values import ReadFrom
from ..wire.records import Record
from ..wire.topics import INBOX_TOPICS, topic_ids_differ
from .clients import ask_for_ends, ask_for_times, new_client
from .connection import Connection
from .errors import UNKNOWN_TOPIC, kafka_error
from .liveness import PROGRESSED, UNANSWERED, Behind, Evidence, Liveness
from .log import client_logger
from .read_positions import Partition, PartitionState, Positions, Since, Start
from .replacement import Replacement

if TYPE_CHECKING:
    from ..transport import OnEpoch, OnPositions, RecordSink, StreamSink

__all__ = ["Reader"]

logger = logging.getLogger("kafka_layer")

# Seconds of the first poll. Each one without a record doubles the time of the next, up to the
# reader's rest: what is asked for just after a start takes effect soon.
_FIRST_POLL = 0.02
# Records in one batch: fewer than gc's generation-0 threshold (700), or each batch triggers a
# collection.
_BATCH = 100
# Seconds without a record after which the next one counts as alone.
_PAUSE = 0.001
# Seconds between two requests for ends that a broker does not know yet.
_RETRY = 0.02
# Checks in a row that find a client silent before it is replaced.
_PATIENCE = 3


class Reader:
    """Reads the wanted partitions; any thread may call ``want`` and ``stop``.

    Args:
        name: The reader's name in threads and log lines: ``data``, ``control`` or that of a stream.
        properties: librdkafka's properties of the client.
        topics: The topics of the records by Kafka's names; further ones may be added before they
            are wanted.
        sink: Gets the records, in the reader's thread.
        stats: Counts missed records and errors.
        connection: Gets errors and answers.
        on_unknown_topic: Called, in the thread, when a topic or partition is missing.
        timings: Intervals of the checks that its client still works.
        on_turn: Called in the thread after each batch, and several times a second without records;
            None: nothing. It may call ``want``, which then takes effect before the next batch.
        raw: Whether the sink takes the client's messages, and calls ``record`` for what it needs.
        on_anew: Called in the thread before a partition is read whose topic was created again;
            gets Kafka's name of the topic, and the number.
        on_missed: Called in the thread before a partition goes on behind records that the log lost;
            as ``on_anew``.

    Attributes:
        lag: Records in the log that this reader had not read, at the thread's last look.
        lags: The same, by Kafka's name of the topic.
    """

    def __init__(
        self,
        name: str,
        properties: Mapping[str, Any],
        topics: Mapping[str, Any],
        sink: RecordSink | StreamSink,
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
        timings: Timings,
        on_turn: Callable[[], None] | None = None,
        raw: bool = False,
        on_anew: Callable[[str, int], None] | None = None,
        on_missed: Callable[[str, int], None] | None = None,
    ) -> None:
        self.lag = 0
        self.lags: Mapping[str, int] = {}
        self._on_turn = on_turn
        self._on_anew = on_anew
        self._on_missed = on_missed
        self._name = name
        self._topics = topics
        self._sink = sink
        self._read_records: Callable[[Sequence[Message], list[Message]], Sequence[Any]] = (
            self._without_errors if raw else self._records
        )
        self._timeout = timings.request
        self._rest = timings.reader_rest if on_turn is None else timings.stream_rest
        # Seconds of the next poll: the thread sees a wish or a stop after at most that time.
        self._next_poll = min(_FIRST_POLL, self._rest)
        self._stats = stats
        self._connection = connection
        self._on_unknown_topic = on_unknown_topic
        self._properties = Properties(
            {**properties, "error_cb": self._on_error, "logger": client_logger}
        )
        self._client: Consumer | None = None
        self._positions = Positions()
        # The last known ids of the topics that were wanted, by Kafka's names.
        self._topic_ids: dict[str, str] = {}
        # The last wish that the thread has not taken; each wish is whole. A deque, because taking
        # it is one step.
        self._wishes: deque[Mapping[Partition, Start]] = deque(maxlen=1)
        liveness = Liveness(
            _PATIENCE,
            timings.look,
            alert_interval=timings.look_in_trouble,
            alert_for=timings.trouble,
        )
        self._replacement = Replacement(
            liveness, connection, self._new_client, self._is_answered, _close_apart
        )
        # Whether the client had no more messages at some time since the last check. Before that,
        # messages of a partition may wait behind others that the sink has not taken.
        self._emptied = False
        # The listener for positions, and whether to call it; any thread sets both.
        self._listener: OnPositions | None = None
        self._tells = False
        # The listener for changes of leader epochs, and the last epochs that it got.
        self._on_epoch: OnEpoch | None = None
        self._epochs: dict[Partition, int] = {}
        # Whether this client reached no broker, and has got no answer since; others may have.
        self._cut_off = False
        # The opening partition of ``start``, with its end (-1: unknown), until the first fetch.
        self._opening: dict[Partition, int] = {}
        self._started: Ticket[None] = Ticket()
        self._stop = new_event()
        self._thread: threading.Thread | None = None

    def start(
        self, wish: Mapping[Partition, Start], timeout: float, opening: Partition | None = None
    ) -> Ticket[None]:
        """Begin to read, in the thread; to be called once.

        Args:
            wish: As for ``want``.
            timeout: Seconds until the start has failed.
            opening: A partition to which the caller writes a record just after the start. Without
                it the first records of some partitions may come ``fetch.wait.max.ms`` late. The
                reader does not read it unless it is in the wish.

        Returns:
            A ticket, resolved when the start offsets are fixed: later records will be read. It
            fails with BrokerUnavailable if the offsets do not come in time, and with
            ImproperlyConfigured if librdkafka refuses a property.
        """
        self._opening = {} if opening is None else {opening: -1}
        self._thread = new_thread(
            target=self._run,
            args=(wish, monotonic() + timeout),
            name=self.thread_name,
        )
        self._thread.start()
        return self._started

    def want(self, wish: Mapping[Partition, Start]) -> None:
        """Read these partitions and no others; never blocks.

        Args:
            wish: Each partition with its start. A partition that is read already goes on, unless
                its topic has another id, or the start another ``turn``: then it starts again.
        """
        self._wishes.append(wish)

    @property
    def has_wish(self) -> bool:
        """Whether a wish waits, which takes effect before the next read; the thread alone."""
        return bool(self._wishes)

    @property
    def settled(self) -> bool:
        """Whether each partition that is wanted has its start; the thread alone."""
        return not self._wishes and not self._positions.unsettled

    def caught_up(self) -> bool:
        """Tell whether all that was there at the start is read; the thread alone."""
        if not self.settled or self._client is None:
            return False
        self._note_positions(self._client)
        return self._positions.caught_up

    def read_from(self) -> dict[Partition, ReadFrom]:
        """Return from where each partition that has its start is read on; the thread alone."""
        if self._client is not None:
            self._note_positions(self._client)
        return {where: ReadFrom(*each) for where, each in self._positions.read_from().items()}

    def follow(self, listener: OnPositions, on_epoch: OnEpoch) -> None:
        """Tell the positions; see ``Receiver.follow``. Never blocks."""
        self._listener, self._on_epoch = listener, on_epoch
        self._tells = True

    @property
    def thread_name(self) -> str:
        """The name of its thread."""
        return f"kafka-layer-{self._name}"

    @property
    def died(self) -> bool:
        """Whether its thread has ended although nobody stopped it."""
        return died(self._thread) and not self._stop.is_set()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, wish: Mapping[Partition, Start], deadline: float) -> None:
        try:
            self._client = self._new_client()
            self._note_topic_ids(wish)
            self._positions.want(wish)
            self._begin(self._client, deadline)
        except Exception as error:
            # First, because close() may block for long, or for ever.
            self._started.fail(error)
            if self._client is not None:
                self._client.close()
            return
        self._replacement.begin()
        self._started.resolve(None)
        while not self._stop.is_set():
            try:
                self._go_on(self._client)
            except Exception:
                self._stats.count("errors.consumer")
                logger.exception("The thread that reads %s goes on after an error", self._name)
                self._stop.wait(self._rest)
        self._client.close()

    def _begin(self, client: Consumer, deadline: float) -> None:
        """Fix all start offsets before the first read: explicit offsets lose no record."""
        detail = "no time was left"
        patience = self._timeout
        while self._positions.unsettled:
            left = deadline - monotonic()
            if left <= 0 or self._stop.is_set():
                raise self._no_offsets(detail)
            detail = self._settle_ends(client, min(left, patience)) or detail
            if self._positions.unsettled:
                self._stop.wait(_RETRY)
                self._read_metadata(client, deadline, patience)
                # Another request does not make slow brokers faster: give each request more of the
                # time that is left.
                patience *= 3
        self._fetch(client)

    def _fetch(self, client: Consumer) -> None:
        """Assign all partitions in such a way that the first fetch ends soon.

        librdkafka fetches as soon as one partition is ready, and asks for those that are ready a
        moment later when that fetch ends. So the opening partition is the first one: its record
        ends the fetch. If it is not to be read, it is taken off again before the first poll.
        """
        offsets = self._positions.take_everything()
        opening = {where: end for where, end in self._opening.items() if end >= 0}
        self._opening = {}
        if not opening:
            client.assign(_offsets(offsets))
            return
        unread = _offsets({where: opening[where] for where in opening.keys() - offsets})
        client.assign(_offsets({where: offsets.pop(where, end) for where, end in opening.items()}))
        client.incremental_assign(_offsets(offsets))
        if unread:
            client.incremental_unassign(unread)

    def _read_metadata(self, client: Consumer, deadline: float, patience: float) -> None:
        """Have the client read the metadata of partitions and leaders again.

        A broker may not know a topic that was just created, or its leaders. The client would keep
        that answer for longer than a start may take, and ask no broker for the ends.
        """
        for topic in {topic for topic, _ in self._positions.partitions_in(PartitionState.STARTING)}:
            left = deadline - monotonic()
            if left <= 0:
                return
            try:
                client.list_topics(topic, min(left, patience))
            except KafkaException:
                # No broker answers for the other topics either: try them after the next request.
                return

    def _go_on(self, client: Consumer) -> None:
        if self._tells:
            self._tell_positions(client)
        self._read(client)
        if self._on_turn is not None:
            self._on_turn()
        if self._wishes:
            client = self._take_wish(client)
        if self._positions.unsettled:
            self._settle(client)
        if self._positions.changed:
            self._apply_changes(client)
        if self._replacement.is_called_for(lambda: self._evidence(client)):
            logger.error(
                "The Kafka consumer got nothing that the log holds; a new one goes on (%s)",
                self._name,
            )
            self._replace(client)

    def _read(self, client: Consumer) -> None:
        # consume(_BATCH, t) would wait for _BATCH messages or the whole of t.
        asked = monotonic()
        first = client.poll(self._next_poll)
        if first is None:
            self._emptied = True
            self._next_poll = min(2 * self._next_poll, self._rest)
            if self._cut_off:
                self._ask_whether_back(client)
            return
        # A record for which poll() had to wait is alone: no second call for it.
        if monotonic() - asked < _PAUSE:
            self._read_waiting(client, [first])
        else:
            self._hand_on([first])

    def _read_waiting(self, client: Consumer, messages: list[Message]) -> None:
        """Hand messages on, and at most a batch that wait in the client."""
        full = len(messages) + _BATCH
        try:
            messages += client.consume(_BATCH, 0)
            if len(messages) < full:
                self._emptied = True
        finally:
            self._hand_on(messages)

    def _hand_on(self, messages: list[Message]) -> None:
        failed: list[Message] = []
        records = self._read_records(messages, failed)
        if self._on_epoch is not None:
            self._tell_epochs(messages, self._on_epoch)
        # The garbage collector looks at each object that lives while others are made.
        messages.clear()
        try:
            if records:
                self._sink.deliver(records)
        finally:
            for message in failed:
                self._on_partition_error(message)

    def _records(self, messages: Sequence[Message], failed: list[Message]) -> list[Record]:
        """Return the records of messages; add messages that carry an error to ``failed``."""
        topics = self._topics
        records: list[Record] = []
        for message in messages:
            if message.error() is not None:
                failed.append(message)
                continue
            try:
                headers: Any = message.headers()
                records.append(
                    (
                        topics[message.topic() or ""],
                        message.key(),
                        message.value(),
                        headers or (),
                        message.timestamp()[1] / 1000,
                        message.partition() or 0,
                        message.offset() or 0,
                    )
                )
            except Exception as error:
                self._stats.dropped("undecodable", f"a record of {message.topic()}: {error!r}")
        if self._positions.skipped:
            return [record for record in records if not self._is_skipped(record)]
        return records

    def _without_errors(
        self, messages: Sequence[Message], failed: list[Message]
    ) -> Sequence[Message]:
        """Do what ``_records`` does, for a sink that takes messages."""
        taken = [message for message in messages if message.error() is None]
        if len(taken) < len(messages):
            failed += [message for message in messages if message.error() is not None]
        if self._positions.skipped:
            return [message for message in taken if not self._is_skipped(self.record(message))]
        return taken

    def record(self, message: Message) -> Record:
        """Return the record of a message without an error.

        Raises:
            UnreadableRecord: If the client cannot read it, for example a header's name.
        """
        try:
            headers: Any = message.headers()
            return (
                self._topics[message.topic() or ""],
                message.key(),
                message.value(),
                headers or (),
                message.timestamp()[1] / 1000,
                message.partition() or 0,
                message.offset() or 0,
            )
        except Exception as error:
            where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
            raise UnreadableRecord("undecodable", f"{where}: {error!r}") from error

    def _tell_epochs(self, messages: Sequence[Message], tell: OnEpoch) -> None:
        known = self._epochs
        for message in messages:
            where = message.topic() or "", message.partition() or 0
            epoch = message.leader_epoch()
            if epoch is not None and known.get(where) != epoch and message.error() is None:
                known[where] = epoch
                tell((self._topics[where[0]], where[1]), message.offset() or 0, epoch)

    def _is_skipped(self, record: Record) -> bool:
        topic, _, _, _, _, partition, offset = record
        name = next(name for name, each in self._topics.items() if each is topic)
        first, last = self._positions.skipped.get((name, partition), (0, 0))
        if offset >= last:
            self._positions.skipped.pop((name, partition), None)
        return first <= offset < last

    def _on_error(self, error: KafkaError) -> None:
        # The client calls it within poll(), so in the thread.
        self._connection.on_error(error)
        self._replacement.alert()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._cut_off = True

    def _on_partition_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            # Only where the client's properties ask for it.
            where = message.topic() or "", message.partition() or 0
            self._positions.empty(where, message.offset() or 0)
            return
        self._stats.count(f"errors.{error.name()}")
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            partition = message.topic() or "", message.partition() or 0
            # Not position(), which is unknown before the first record of a partition.
            offset = message.offset()
            self._positions.lose(partition, -1 if offset is None else offset)
            return
        if error.code() in UNKNOWN_TOPIC:
            self._on_unknown_topic()
        client_logger.warning("CONSUME %s: %s", message.topic(), error.str())

    def _ask_whether_back(self, client: Consumer) -> None:
        """Let the client look for the leaders now; by itself it does so once a second."""
        if not self._topics:
            # A stream without a topic: there is nothing to ask for.
            self._cut_off = False
            return
        try:
            for name in self._topics:
                client.list_topics(name, self._timeout)
        except KafkaException:
            return
        self._cut_off = False
        self._connection.on_answer()
        self._replacement.alert()

    def _take_wish(self, client: Consumer) -> Consumer:
        """Take the last wish; return the client to continue with."""
        wish = self._wishes.pop()
        self._note_positions(client)
        before = len(self._positions)
        knew_others = self._note_topic_ids(wish)
        anew = self._positions.want(wish)
        if 0 < before < len(self._positions):
            logger.info(
                "Reading %d new partition(s) of %s from their start",
                len(self._positions) - before,
                self._name,
            )
        if self._on_anew is not None:
            for where in wish:
                if where[0] in anew:
                    self._on_anew(*where)
        for topic, unread in anew.items():
            logger.warning(
                "Topic %s was deleted and created again; it is read from its start", topic
            )
            if unread:
                self._stats.dropped(
                    "retention", f"{topic} was deleted with {unread} that were not read", unread
                )
        # A client that knew the old topic may consider the lower leader epoch of the new one
        # outdated, and never get a record of it, even if it did not read the topic meanwhile.
        return self._replace(client) if knew_others else client

    def _note_topic_ids(self, wish: Mapping[Partition, Start]) -> bool:
        """Note the ids of topics; tell whether the client knew another topic of such a name."""
        ids = {topic: start.topic_id for (topic, _), start in wish.items() if start.topic_id}
        known = self._topic_ids
        knew_others = any(topic_ids_differ(known.get(topic), ids[topic]) for topic in ids)
        known.update(ids)
        return knew_others

    def _settle(self, client: Consumer) -> None:
        """Ask for the ends that starts depend on; tried again while no broker answers."""
        try:
            self._settle_ends(client, self._timeout)
            for partition in self._positions.partitions_in(PartitionState.LOST):
                self._resume(client, partition)
        except KafkaException as exception:
            client_logger.warning("RESUME %s: %s", self._name, kafka_error(exception).str())

    def _settle_ends(self, client: Consumer, timeout: float) -> str:
        """Start partitions whose ends a broker knows; return why others have none."""
        waiting = self._positions.partitions_in(PartitionState.STARTING, PartitionState.ANEW)
        if not waiting:
            return ""
        try:
            ends, detail = ask_for_ends(client, {*waiting, *self._opening}, timeout)
            self._opening = {where: ends.get(where, -1) for where in self._opening}
            times = {
                where: int(at.timestamp * 1000) if isinstance(at, Since) else OFFSET_BEGINNING
                for where, at in self._positions.searches().items()
            }
            # After the ends: if no record is as recent, all records from the end on are read.
            found = ask_for_times(client, times, timeout)
        except KafkaException as exception:
            return kafka_error(exception).str()
        for (topic, number), count in self._positions.settle(ends, found).items():
            self._stats.dropped(
                "doubtful",
                f"{topic}[{number}] was created again, and read before that was noticed: {count} "
                "records there are skipped, which may have been handed on already",
                count,
            )
        return detail

    def _resume(self, client: Consumer, partition: Partition) -> None:
        where = TopicPartition(*partition)
        low, high = client.get_watermark_offsets(where, self._timeout, cached=False)
        if self._on_anew is not None and self._positions.position(partition) > high:
            self._on_anew(*partition)
        missed = self._positions.resume(partition, low, high)
        if self._on_missed is not None and missed:
            self._on_missed(*partition)
        topic, number = partition
        self._stats.dropped(
            "retention",
            f"the position in {topic}[{number}] is gone, its log now holds {low} to {high}",
            missed,
        )

    def _tell_positions(self, client: Consumer) -> None:
        self._note_positions(client)
        self._tells = False
        self._epochs.clear()
        if self._listener is not None:
            told = self._positions.read_from()
            self._listener(
                {
                    (self._topics[name], number): ReadFrom(*read_from)
                    for (name, number), read_from in told.items()
                    if self._topics[name] not in INBOX_TOPICS
                }
            )

    def _apply_changes(self, client: Consumer) -> None:
        self._tells = self._listener is not None
        # Not seek(), which raises after an error of the partition.
        removed, added = self._positions.take_changes()
        if removed:
            client.incremental_unassign([TopicPartition(*where) for where in removed])
        if added:
            client.incremental_assign(_offsets(added))

    def _evidence(self, client: Consumer) -> Evidence:
        """Find out whether the client reads what each partition holds."""
        if not self._emptied:
            # Records that come one at a time, so that no read asked whether there are more.
            self._read_waiting(client, [])
        self._note_positions(client)
        partitions = self._positions.partitions_in(PartitionState.READING, PartitionState.LOST)
        try:
            ends, _ = ask_for_ends(client, partitions, self._timeout)
        except KafkaException:
            return UNANSWERED
        if partitions and not ends:
            return UNANSWERED
        emptied, self._emptied = self._emptied, False
        behind = self._positions.behind(ends)
        self.lag = self._positions.note_ends(ends)
        self.lags = self._positions.lags()
        return Behind(behind) if emptied else PROGRESSED

    def _is_answered(self, spare: Consumer, evidence: Evidence) -> bool:
        """Tell whether a new client learns the end of a partition that this one should read."""
        behind = evidence.positions if isinstance(evidence, Behind) else {}
        asked = list(behind) or self._positions.partitions_in(PartitionState.READING)
        try:
            ends, _ = ask_for_ends(spare, asked, self._timeout)
        except KafkaException:
            return False
        return bool(ends)

    def _replace(self, client: Consumer) -> Consumer:
        """Go on with another client where the old one stopped."""
        self._note_positions(client)
        self._client = another = self._replacement.take()
        another.assign(_offsets(self._positions.take_everything()))
        self._tells = self._listener is not None
        self._emptied = self._cut_off = False
        self._replacement.begin()
        self._stats.count("consumer.replaced")
        _close_apart(client)
        return another

    def _note_positions(self, client: Consumer) -> None:
        if self._positions.changed:
            # The client's positions do not belong to the pending changes: apply those first.
            self._apply_changes(client)
        self._positions.note(
            {
                (each.topic, each.partition): each.offset
                for each in client.position(client.assignment())
                if each.offset >= 0
            }
        )

    def _new_client(self) -> Consumer:
        return new_client(Consumer, self._properties, "consumer_config")

    def _no_offsets(self, detail: str) -> BrokerUnavailable:
        missing = self._positions.partitions_in(PartitionState.STARTING)
        topic, number = missing[0]
        return self._connection.unavailable(
            f"the end of {len(missing)} partitions, among them {topic}[{number}], could not be "
            f"read: {detail}"
        )


def _offsets(positions: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*where, offset) for where, offset in positions.items()]


def _close_apart(client: Consumer) -> None:
    """Close a client in a thread of its own, because close() may block for long, or for ever."""
    closing = new_thread(target=client.close, name="kafka-layer-closing")
    closing.start()
