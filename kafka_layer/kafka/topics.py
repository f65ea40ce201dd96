"""The topics of one server: their existence, partition counts and ids.

Brokers do not announce changes of a topic. So two clients check the topics: the producer's, which
itself needs the partition counts, and one with the consumers' credentials, which also gets the ids.
Only its id shows that a topic was deleted and created again: its name, its partition count and
often even its end are the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from django.core.exceptions import ImproperlyConfigured

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import Lock, RLock, new_event, new_thread, wait_for_futures
from ..exceptions import BrokerUnavailable, KafkaLayerError, TopicError
from ..wire.topics import Topic, WorkTopic, topic_name
from .clients import new_client, partition_counts
from .connection import Connection
from .errors import UNANSWERED, kafka_error
from .log import client_logger
from .producer import RecordProducer
from .properties import Identity, rights_properties

if TYPE_CHECKING:
    from .admin import TopicAdmin
    from .specs import TopicSpec

__all__ = ["KnownTopic", "KnownTopics", "LayerTopics", "TopicWatch", "read_answers", "topic_admin"]

logger = logging.getLogger("kafka_layer")

_PLAIN_NAME = (
    "A name without '!' is a work queue for whichever process receives on it. For a reply to one "
    "process send to a name that new_channel() gave it; for a group use group_send. If the queue "
    "is meant, name it in worker_channels."
)

# Stand for an id in answers of brokers older than 2.8, which have no ids.
_NO_ID = frozenset({"None", "AAAAAAAAAAAAAAAAAAAAAA"})
# Seconds for which a topic's partition count is not read again.
_FRESH = 1.0
# Request time-outs for which a client may not see topics that were just created.
_UNSEEN_LOOKS = 2


class KnownTopic(NamedTuple):
    """The known facts of a topic.

    Attributes:
        partitions: The number of partitions.
        topic_id: Kafka's id of the topic; None if it is unknown.
        leaders: The ids of the brokers that lead its partitions; empty if the id is unknown.
    """

    partitions: int
    topic_id: str | None = None
    leaders: tuple[int, ...] = ()


@dataclass
class KnownTopics:
    """The topics, put together from brokers' answers; not thread-safe. Pure.

    A broker may lag behind another one. So a topic never gets fewer partitions, and never an
    earlier id again. A client that was made since may have learned the earlier topic from it.

    Attributes:
        topics: The known facts, by Kafka's names of the topics.
    """

    topics: dict[str, KnownTopic] = field(default_factory=dict)
    _earlier_ids: set[str] = field(default_factory=set)
    # All leaders that a topic has had, each with the number of its partition. A client may know
    # another one of them than the last answer told.
    _led_by: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    # Topics that have moved: True where a broker has told the earlier id since.
    _moved: dict[str, bool] = field(default_factory=dict)

    def learn(self, told: Mapping[str, KnownTopic]) -> frozenset[str]:
        """Take a broker's answer.

        Returns:
            Kafka's names of topics that have moved: they were created again, with a partition on
            another broker now than on one that led it before. A topic that has moved is returned
            a second time if a broker that was behind has told the earlier topic meanwhile.
        """
        moved = set()
        for name, new in told.items():
            known = self.topics.get(name)
            if new.topic_id in self._earlier_ids:
                if name in self._moved:
                    self._moved[name] = True
                continue
            if known is None:
                self.topics[name] = new
            elif new.topic_id is None or known.topic_id in (None, new.topic_id):
                partitions = max(known.partitions, new.partitions)
                topic_id, leaders = new.topic_id or known.topic_id, new.leaders or known.leaders
                self.topics[name] = KnownTopic(partitions, topic_id, leaders)
                if new.topic_id is not None and self._moved.get(name):
                    self._moved[name] = False
                    moved.add(name)
            else:
                self._earlier_ids.add(known.topic_id or "")
                self.topics[name] = new
                self._moved.pop(name, None)
                led = [each for each in self._led_by.pop(name, ()) if each[0] < len(new.leaders)]
                if any(leader != new.leaders[partition] for partition, leader in led):
                    self._moved[name] = False
                    moved.add(name)
            seen = {each for each in enumerate(new.leaders) if each[1] >= 0}
            self._led_by.setdefault(name, set()).update(seen)
        return frozenset(moved)

    def forget(self, names: Iterable[str]) -> None:
        """Forget topics that do not exist any more; if they come again, they are new topics."""
        for name in names:
            self.topics.pop(name, None)
            self._led_by.pop(name, None)
            self._moved.pop(name, None)


class TopicWatch:
    """A client that checks topics; any thread.

    It stays open where topics are checked often, because a connection takes longer than an answer.

    Args:
        config: The layer's settings.
        setting: The CONFIG keyword of the clients whose credentials it has.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
        BrokerUnavailable: If ``oauth_cb`` returns no token.
    """

    def __init__(self, config: LayerConfig, setting: Identity = "consumer_config") -> None:
        own = {
            # Without logs, and with slow reconnects in an outage: the other clients do both.
            "log_level": 0,
            "logger": client_logger,
            "error_cb": lambda error: None,
            "reconnect.backoff.max.ms": 2_000,
            # No question about a missing topic creates it.
            "allow.auto.create.topics": False,
        }
        properties = Properties({**rights_properties(config, setting), **own})
        self._client = new_client(AdminClient, properties, setting)
        # The answers to come. Each operation is one step.
        self._awaited: set[Future[Any]] = set()
        # Whether the broker that was asked last did not answer.
        self._unanswered = False

    def ask(
        self, names: Iterable[str], timeout: float, *, rights: bool = False
    ) -> Mapping[str, Future[Any]]:
        """Ask for topics; returns at once.

        Args:
            names: Kafka's names of the topics.
            timeout: Seconds that the brokers have to answer.
            rights: Whether to ask for the authorized operations of this client, too.

        Returns:
            Futures of the descriptions.
        """
        answers: Mapping[str, Future[Any]] = self._client.describe_topics(
            TopicCollection(list(names)),
            include_authorized_operations=rights,
            request_timeout=timeout,
        )
        self._awaited.update(answers.values())
        for answer in answers.values():
            answer.add_done_callback(self._on_answer)
        if self._unanswered and answers:
            self._ask_another_broker(next(iter(answers)))
        return answers

    def _on_answer(self, answer: Future[Any]) -> None:
        self._awaited.discard(answer)
        error = answer.exception()
        self._unanswered = (
            isinstance(error, KafkaException) and kafka_error(error).code() in UNANSWERED
        )

    def _ask_another_broker(self, name: str) -> None:
        """Have the client learn which broker to ask; returns at once.

        librdkafka asks one broker, which it takes for the controller, and waits for it while it is
        away. It learns of another one from any metadata. (KRaft brokers name any live broker.)
        """
        # The request leaves all the same, and the question goes on with its answer.
        with contextlib.suppress(KafkaException):
            self._client.list_topics(name, timeout=0)

    def names(self, timeout: float) -> list[str]:
        """Return Kafka's names of all topics that this client may see; blocks.

        Raises:
            KafkaException: If no broker answers in ``timeout`` seconds.
        """
        return list(self._client.list_topics(timeout=timeout).topics)

    def close(self) -> None:
        """Free the client; answers that have not come fail."""
        # librdkafka's admin client has no close() of its own.
        self._client.__exit__(None, None, None)
        # About 3 of 100 closes leave answers that are on their way undecided for ever.
        for answer in tuple(self._awaited):
            answer.set_exception(KafkaException(KafkaError(KafkaError._DESTROY)))


def topic_admin(config: LayerConfig, timeout: float) -> TopicAdmin:
    """Return a client for requests that most processes never make; see ``TopicAdmin``."""
    # Imported by the first of them.
    from .admin import TopicAdmin

    return TopicAdmin(config, timeout)


def read_answers(
    answers: Mapping[str, Future[Any]], timeout: float
) -> tuple[dict[str, KnownTopic], frozenset[str]]:
    """Return the facts of topics from brokers' answers.

    Args:
        answers: From ``TopicWatch.ask``.
        timeout: Seconds to wait for them.

    Returns:
        The answered topics, and the missing ones, by Kafka's names.
    """
    wait_for_futures(answers.values(), timeout)
    told, missing = {}, set()
    for name, answer in answers.items():
        error = answer.exception() if answer.done() else None
        if isinstance(error, KafkaException):
            if kafka_error(error).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                missing.add(name)
        elif answer.done() and error is None:
            description = answer.result()
            topic_id = str(description.topic_id)
            told[name] = KnownTopic(
                len(description.partitions),
                None if topic_id in _NO_ID else topic_id,
                tuple(
                    -1 if each.leader is None else each.leader.id for each in description.partitions
                ),
            )
    return told, frozenset(missing)


def _is_answered(answer: Future[Any]) -> bool:
    """Tell whether a broker answered; a refusal is an answer, too."""
    error = answer.exception() if answer.done() else TimeoutError()
    return error is None or (isinstance(error, KafkaException) and kafka_error(error).code() > 0)


class LayerTopics:
    """Knows and provides the topics of one server; any thread, its methods block.

    Args:
        config: The layer's settings.
        producer: Its client is asked for partition counts, which it needs itself.
        connection: The state of the producer's connection, for errors.
        on_change: Called with all topics after every check, in the order of the checks. Must not
            block.
    """

    def __init__(
        self,
        config: LayerConfig,
        producer: RecordProducer,
        connection: Connection,
        on_change: Callable[[Mapping[str, KnownTopic]], None],
    ) -> None:
        self._config = config
        self._producer = producer
        self._connection = connection
        self._on_change = on_change
        self._known = KnownTopics()
        # Guards _known and the order of on_change.
        self._lock = RLock()
        self._watch: TopicWatch | None = None
        # All topics that were ensured so far, in a fixed order, for checks and repairs.
        self._topics: dict[Topic | WorkTopic, None] = {}
        self._read_at: dict[str, float] = {}
        # Worker topics that no setting names, and that were warned of.
        self._warned: set[WorkTopic] = set()
        # Topics that were missing at the last check.
        self._missing: frozenset[str] = frozenset()
        # Those of them that a repair could not create: checks do not repair them again.
        self._given_up: frozenset[str] = frozenset()
        self._closed = new_event()
        # Held while a repair runs or is about to: one at a time.
        self._repairing = Lock()
        # Whether another repair was requested since the present one began.
        self._repair_again = False
        # When a watch is opened for a moment, where none is open, on monotonic().
        self._next_brief_look = 0.0

    @property
    def known(self) -> Mapping[str, KnownTopic]:
        """The known topics, by Kafka's names."""
        with self._lock:
            return dict(self._known.topics)

    @property
    def work_topics(self) -> list[WorkTopic]:
        """The ensured topics of worker channels."""
        return [topic for topic in tuple(self._topics) if isinstance(topic, WorkTopic)]

    def name(self, topic: Topic | WorkTopic) -> str:
        """Return Kafka's name of a topic."""
        return topic_name(self._config.prefix, topic)

    def watch(self) -> TopicWatch:
        """Return the watch; the first call opens it, for all later checks.

        Raises:
            ImproperlyConfigured: If librdkafka refuses a property.
        """
        with self._lock:
            if self._watch is None:
                self._watch = TopicWatch(self._config)
            return self._watch

    def ensure(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> None:
        """Learn the partition counts; create missing topics, if the settings allow it.

        Args:
            topics: The topics. Those that were read within the last second are not read again.
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If topics are missing and cannot be created.
        """
        self._topics.update(dict.fromkeys(topics))
        recently = monotonic() - _FRESH
        stale = [each for each in topics if self._read_at.get(self.name(each), 0.0) < recently]
        if stale:
            # Before the producer's client learns of them: later they may be others of that name.
            answers = self._ask_for_ids(stale)
            self._ensure(stale, timeout)
            if answers:
                self.learn(answers, 0.0)

    def ensure_or_later(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> None:
        """Do what ``ensure`` does; in the background if no broker answers."""
        try:
            self.ensure(topics, timeout)
        except BrokerUnavailable as error:
            logger.warning("%s Messages wait in the producer's queue until then.", error)
            self.repair()

    def read_counts(self, timeout: float) -> None:
        """Learn the partition counts of all topics of this server.

        Repairs missing topics in the background.

        Args:
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If no broker answers the producer's client in time.
        """
        if self._read(tuple(self._topics), timeout):
            self.repair()

    def look(self, timeout: float) -> None:
        """Learn counts and ids from the watch; does nothing without an answer.

        A server that only sends has no watch. It opens one for a moment, until one is answered, and
        then every ``timings.refresh`` seconds; none while the producer finds no broker.

        Repairs missing topics in the background, at each check until they are there: a repair may
        have asked a broker that still showed them. Topics that a repair could not create are left
        out.

        Args:
            timeout: Seconds that this may block.
        """
        if self._watch is not None:
            self._look(timeout)
        elif monotonic() >= self._next_brief_look and not self._connection.doubtful:
            self._look_briefly()
        else:
            return
        if self._missing - self._given_up:
            self.repair()

    def _look(self, timeout: float) -> None:
        """Look with the watch, if it is open, and repair nothing."""
        with self._lock:
            watch = self._watch
        if watch is not None:
            self._look_with(watch, timeout)

    def _look_briefly(self) -> None:
        self._next_brief_look = monotonic() + self._config.timings.refresh
        # With the credentials of the producer: this process may have no others.
        with contextlib.suppress(ImproperlyConfigured, BrokerUnavailable):
            watch = TopicWatch(self._config, "producer_config")
            try:
                # A new client has to connect first.
                if not self._look_with(watch, self._config.timings.repair):
                    self._next_brief_look = 0.0
            finally:
                watch.close()

    def _look_with(self, watch: TopicWatch, timeout: float) -> bool:
        """Return whether a broker answered."""
        names = [self.name(topic) for topic in tuple(self._topics)]
        if self._closed.is_set():
            return False
        try:
            answers = watch.ask(names, timeout)
        except KafkaException:
            # The client itself refuses the question, for example without a token.
            return False
        self._missing = self.learn(answers, timeout)
        self._given_up &= self._missing
        return any(map(_is_answered, answers.values()))

    def _ask_for_ids(self, topics: Iterable[Topic | WorkTopic]) -> Mapping[str, Future[Any]]:
        """Ask the watch, if it is open; returns at once."""
        with self._lock:
            watch = self._watch
        if watch is not None and not self._closed.is_set():
            with contextlib.suppress(KafkaException):
                return watch.ask(map(self.name, topics), self._config.timings.request)
        return {}

    def learn(self, answers: Mapping[str, Future[Any]], timeout: float) -> frozenset[str]:
        """Take the answers of the watch.

        Args:
            answers: From ``TopicWatch.ask``.
            timeout: Seconds to wait for them.

        Returns:
            Kafka's names of missing topics.
        """
        told, missing = read_answers(answers, timeout)
        self._learn(self._writable(told))
        return missing

    def _writable(self, told: Mapping[str, KnownTopic]) -> dict[str, KnownTopic]:
        """Return an answer without new partitions that the producer's client does not know.

        That client refuses records for them. So it is asked first, and thereby learns them.
        """
        known = self.known
        grown = [
            name
            for name, new in told.items()
            if name in known
            and known[name].topic_id in (None, new.topic_id)
            and new.partitions > known[name].partitions
        ]
        counts: Mapping[str, int] = {}
        if grown:
            timeout = self._config.timings.request
            with contextlib.suppress(KafkaLayerError):
                counts = partition_counts(self._producer.client, grown, self._connection, timeout)
        limits = {name: counts.get(name, known[name].partitions) for name in grown}
        return {
            name: new._replace(partitions=min(new.partitions, limits.get(name, new.partitions)))
            for name, new in told.items()
        }

    def is_answered_elsewhere(self) -> bool:
        """Tell whether brokers answer a new client and, given more time, not the producer's own."""
        try:
            # A refusal is an answer, too.
            with (
                contextlib.suppress(TopicError),
                topic_admin(self._config, self._config.timings.request) as admin,
            ):
                admin.inspect([self.name(topic) for topic in Topic])
        except BrokerUnavailable:
            return False
        try:
            self._read(tuple(Topic), self._config.timings.repair)
        except BrokerUnavailable:
            return not self._closed.is_set()
        return False

    def repair(self) -> None:
        """Create missing topics, in a thread; one repair at a time.

        If a repair runs, another one follows: a topic may have gone after the first one's check.
        """
        self._repair_again = True
        if self._closed.is_set() or not self._repairing.acquire(blocking=False):
            return
        try:
            new_thread(target=self._repair, name="kafka-layer-topics").start()
        except RuntimeError as error:
            # No thread can start now; the next error calls this again.
            self._repairing.release()
            logger.error("Missing topics could not be looked for: %s", error)

    def close(self) -> None:
        """Close the watch; a repair that runs ends by itself. Blocks briefly."""
        self._closed.set()
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def abandon(self) -> None:
        """Ask no more, in a forked child."""
        # A new event and lock: a thread of the parent may have held the old ones at the fork.
        self._closed, self._lock = new_event(), RLock()
        self._closed.set()

    def _learn(self, told: Mapping[str, KnownTopic]) -> None:
        with self._lock:
            moved = self._known.learn(told)
            self._on_change(dict(self._known.topics))
        if moved and not self._closed.is_set():
            self._producer.leave_leaders(moved)

    def _ensure(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> None:
        deadline = monotonic() + timeout
        missing = self._read(topics, timeout)
        if not missing:
            return
        names = ", ".join(map(self.name, missing))
        if not self._config.auto_create_topics:
            raise TopicError(
                f"Topics are missing (or this client may not see them): {names}. "
                "Run 'manage.py kafka_setup_topics', or set auto_create_topics=True."
            )
        logger.info("Creating topics: %s", names)
        with topic_admin(self._config, max(0.1, deadline - monotonic())) as admin:
            refused = self._refused_unnamed(missing, admin)
            refused |= self._create([each for each in missing if each not in refused], admin)
        made = [each for each in missing if each not in refused]
        self._read_until_there(made, ", ".join(map(self.name, made)), deadline)
        # The readers have to know the new ids before they read on.
        self._look(self._config.timings.request)
        if refused:
            raise TopicError(" ".join(map(str, refused.values())))

    def _create(
        self, topics: Sequence[Topic | WorkTopic], admin: TopicAdmin
    ) -> dict[Topic | WorkTopic, TopicError]:
        """Create topics, also if some are refused; returns the errors of the refused ones."""
        specs = {topic: self._spec(topic) for topic in topics}
        try:
            admin.create(list(specs.values()))
        except TopicError:
            refused = {}
            for topic, spec in specs.items():
                try:
                    admin.create([spec])
                except TopicError as error:
                    refused[topic] = error
            return refused
        return {}

    def _spec(self, topic: Topic | WorkTopic) -> TopicSpec:
        """Return the topic to create; if it was deleted, with as many partitions as it had.

        With fewer partitions, servers could not be reached if their inbox partition was missing.
        """
        from .specs import topic_spec

        spec = topic_spec(self._config, topic)
        known = self.known.get(spec.name)
        if known is None or known.partitions <= spec.partitions:
            return spec
        return replace(spec, partitions=known.partitions)

    def _refused_unnamed(
        self, missing: Sequence[Topic | WorkTopic], admin: TopicAdmin
    ) -> dict[Topic | WorkTopic, TopicError]:
        """Warn of worker topics that no setting names; returns errors for those over the limit."""
        refused: dict[Topic | WorkTopic, TopicError] = {}
        names_it = self._config.names_worker_channel
        unnamed = [
            each for each in missing if isinstance(each, WorkTopic) and not names_it(each.channel)
        ]
        if not unnamed:
            return refused
        start = f"{self._config.prefix}-"
        existing = [
            WorkTopic.parse(name.removeprefix(start)) for name in admin.topic_names(f"{start}work.")
        ]
        others = sum(each is None or not names_it(each.channel) for each in existing)
        limit = self._config.unnamed_worker_channels
        for topic in unnamed:
            if others >= limit:
                # A repair must not try it again.
                self._topics.pop(topic, None)
                refused[topic] = TopicError(
                    f"Worker channel {topic.channel!r} gets no topic: {others} worker channels "
                    "that no pattern of worker_channels names have one already, and "
                    f"unnamed_worker_channels is {limit}. {_PLAIN_NAME}"
                )
                continue
            others += 1
            # A broker may not show a topic yet that was just created.
            if topic in self._warned:
                continue
            self._warned.add(topic)
            logger.warning(
                "Worker channel %r gets the lasting topic %s, though no pattern of worker_channels "
                "names it. %s",
                topic.channel,
                self.name(topic),
                _PLAIN_NAME,
            )
        return refused

    def _read_until_there(
        self, topics: Sequence[Topic | WorkTopic], names: str, deadline: float
    ) -> None:
        """Wait until the producer's client sees topics that were just created.

        Busy brokers may show them only seconds later; until then it is no missing right.
        """
        missing = topics
        believe_at = monotonic() + _UNSEEN_LOOKS * self._config.timings.request
        while missing:
            missing = self._read(missing, max(0.1, deadline - monotonic()))
            now = monotonic()
            if missing and now >= deadline:
                if now < believe_at:
                    raise BrokerUnavailable(
                        f"The brokers {self._connection.servers} created topics, but have not "
                        f"shown them yet: {names}; they are overloaded."
                    )
                raise TopicError(
                    f"Topics were created, but this client does not see them: {names}. "
                    "Grant it DESCRIBE on them, or look at the brokers' logs."
                )

    def _read(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> list[Topic | WorkTopic]:
        """Learn the partition counts of topics; return the missing ones."""
        names = {topic: self.name(topic) for topic in topics}
        counts = partition_counts(self._producer.client, names.values(), self._connection, timeout)
        now = monotonic()
        self._read_at.update(dict.fromkeys(counts, now))
        self._learn({name: KnownTopic(count) for name, count in counts.items()})
        return [topic for topic, name in names.items() if name not in counts]

    def _repair(self) -> None:
        try:
            while not (self._closed.is_set() or self._was_repaired()):
                self._closed.wait(self._config.timings.repair_pause)
            self._closed.wait(self._config.timings.repair_pause)
        finally:
            self._repairing.release()
        if self._repair_again:
            self.repair()

    def _was_repaired(self) -> bool:
        """Create missing topics; return False if no broker answers, for another try."""
        self._repair_again = False
        missing = self._missing
        try:
            # Also asks the producer's client, which would take them for missing for minutes.
            self._ensure(tuple(self._topics), self._config.timings.repair)
        except BrokerUnavailable:
            return False
        except Exception as error:
            self._given_up = missing
            if not self._closed.is_set():
                logger.error("%s", error)
                self._closed.wait(self._config.timings.repair)
        return True
