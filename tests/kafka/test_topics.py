"""What is known of topics, put together from what brokers tell; and repairs, without a broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, TopicError
from kafka_layer.kafka import admin as admin_module
from kafka_layer.kafka import topics as topics_module
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.producer import RecordProducer
from kafka_layer.kafka.specs import TopicSpec
from kafka_layer.kafka.topics import (
    KnownTopic,
    KnownTopics,
    LayerTopics,
    TopicWatch,
    read_answers,
)
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import Topic, WorkTopic, topic_name
from tests.support.tables import for_each
from tests.support.waiting import wait_until

NO_BROKER = "127.0.0.1:1"


class TestKnownTopics:
    @for_each(
        ("told", "known"),
        [
            ([KnownTopic(4)], KnownTopic(4)),
            ([KnownTopic(4), KnownTopic(4, "one")], KnownTopic(4, "one")),
            ([KnownTopic(4, "one"), KnownTopic(8)], KnownTopic(8, "one")),
            ([KnownTopic(4, "one"), KnownTopic(8, "one")], KnownTopic(8, "one")),
        ],
    )
    def test_what_is_told_later_completes_it(
        self, told: list[KnownTopic], known: KnownTopic
    ) -> None:
        topics = KnownTopics()
        for each in told:
            topics.learn({"t": each})
        assert topics.topics == {"t": known}

    def test_a_broker_that_lags_behind_takes_no_partition_away(self) -> None:
        topics = KnownTopics()
        for count in (4, 8, 4):
            topics.learn({"t": KnownTopic(count, "one")})
        assert topics.topics["t"].partitions == 8

    def test_a_topic_made_anew_may_have_fewer_partitions(self) -> None:
        topics = KnownTopics()
        topics.learn({"t": KnownTopic(8, "one")})
        topics.learn({"t": KnownTopic(2, "two")})
        assert topics.topics == {"t": KnownTopic(2, "two")}

    def test_a_broker_that_lags_behind_does_not_bring_an_earlier_topic_back(self) -> None:
        topics = KnownTopics()
        for topic_id in ("one", "two", "one", "three", "two", "one"):
            topics.learn({"t": KnownTopic(2, topic_id)})
        assert topics.topics == {"t": KnownTopic(2, "three")}

    @for_each(
        ("told", "moved"),
        [
            ([KnownTopic(2, "one", (1, 2)), KnownTopic(2, "two", (1, 3))], {"t"}),
            ([KnownTopic(2, "one", (1, 2)), KnownTopic(2, "two", (1, 2))], set()),
            ([KnownTopic(2, "one", (1, 2)), KnownTopic(3, "two", (1, 2, 3))], set()),
            ([KnownTopic(2, "one", (1, 2)), KnownTopic(2, "one", (3, 3))], set()),
        ],
    )
    def test_only_a_topic_made_anew_on_other_brokers_has_moved(
        self, told: list[KnownTopic], moved: set[str]
    ) -> None:
        topics = KnownTopics()
        assert [topics.learn({"t": each}) for each in told] == [set(), moved]

    @for_each(
        ("leaders", "moved"),
        [
            ([(1,), (2,)], {"t"}),
            ([(1,), (-1,), (2,)], {"t"}),
            ([(2,), (1,), (2,)], {"t"}),
            ([(2,), (-1,), (2,)], set()),
            ([(2,), (2, 1)], set()),
        ],
    )
    def test_a_client_may_know_any_leader_that_the_earlier_topic_had(
        self, leaders: list[tuple[int, ...]], moved: set[str]
    ) -> None:
        topics = KnownTopics()
        for each in leaders:
            topics.learn({"t": KnownTopic(len(each), "one", each)})
        topics.learn({"t": KnownTopic(1)})
        assert topics.learn({"t": KnownTopic(1, "two", (2,))}) == moved
        # Those of the topic before it do not count any more.
        assert topics.learn({"t": KnownTopic(1, "three", (2,))}) == set()

    @for_each(
        ("leaders", "told", "moved"),
        [
            ((1, 2), ["one", "two", "one", "one", "two", "two"], [1, 4]),
            ((1, 2), ["one", "one", "two", "two", "three", "two", "three"], [2, 4, 6]),
            ((1, 2, 2), ["one", "two", "three", "two", "three"], [1]),
            ((2, 2), ["one", "two", "one", "two"], []),
        ],
    )
    def test_a_broker_that_was_behind_may_have_told_a_new_client_of_the_earlier_topic(
        self, leaders: tuple[int, ...], told: list[str], moved: list[int]
    ) -> None:
        ids, topics = sorted(set(told), key=told.index), KnownTopics()
        led_by = {each: leaders[n % len(leaders)] for n, each in enumerate(ids)}
        answers = [{"t": KnownTopic(1, each, (led_by[each],))} for each in told]
        assert [n for n, each in enumerate(answers) if topics.learn(each)] == moved

    def test_a_topic_that_is_not_told_of_stays_known(self) -> None:
        topics = KnownTopics()
        topics.learn({"t": KnownTopic(2, "one")})
        topics.learn({})
        assert topics.topics == {"t": KnownTopic(2, "one")}


@pytest.fixture
def topics() -> Iterator[LayerTopics]:
    config = LayerConfig.from_keywords(bootstrap_servers=NO_BROKER)
    stats = Stats("test")
    connection = Connection(NO_BROKER, stats)
    names = {topic: topic_name("test", topic) for topic in Topic}
    producer = RecordProducer(config, names, stats, connection, lambda: None)
    made = LayerTopics(config, producer, connection, lambda known: None)
    yield made
    made.close()


class TestUnseen:
    """Topics that were created, and that the client does not see."""

    @pytest.fixture(autouse=True)
    def unseen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topics_module, "partition_counts", lambda *_: {})
        monkeypatch.setattr(admin_module, "TopicAdmin", MagicMock())

    def ensure(self, times: Timings) -> None:
        config = LayerConfig.from_keywords(prefix="test", bootstrap_servers=NO_BROKER)
        object.__setattr__(config, "timings", times)
        connection = Connection(NO_BROKER, Stats("test"))
        LayerTopics(config, MagicMock(), connection, lambda known: None).ensure(
            [Topic.SEND_ALL], 0.2
        )

    def test_for_a_while_they_are_taken_for_those_of_a_busy_broker(self) -> None:
        with pytest.raises(BrokerUnavailable, match="test-send-all; they are overloaded"):
            self.ensure(Timings(request=10))

    def test_after_that_a_right_is_missing(self) -> None:
        with pytest.raises(TopicError, match="Grant it DESCRIBE"):
            self.ensure(Timings(request=0.02))


def answer(partitions: int, topic_id: str = "one", leader: int | None = None) -> Future[Any]:
    """What the watch tells of a topic."""
    told: Future[Any] = Future()
    partition = SimpleNamespace(leader=leader and SimpleNamespace(id=leader))
    told.set_result(SimpleNamespace(topic_id=topic_id, partitions=[partition] * partitions))
    return told


def no_answer() -> Future[Any]:
    asked: Future[Any] = Future()
    asked.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    return asked


def test_answers_that_have_not_come_fail_where_the_watch_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start that a close overtook waited for one until its time was up."""
    answers: dict[str, Future[Any]] = {"told": answer(1), "on its way": Future()}
    client = MagicMock()
    client.describe_topics.return_value = answers
    monkeypatch.setattr(topics_module, "new_client", lambda *_: client)
    watch = TopicWatch(LayerConfig.from_keywords(bootstrap_servers=NO_BROKER))
    assert watch.ask(answers, 60) is answers
    watch.close()
    told, missing = read_answers(answers, 60)
    assert (told.keys(), missing) == ({"told"}, set())
    with pytest.raises(KafkaException):
        answers["on its way"].result(0)


def test_another_broker_is_looked_for_while_the_one_that_is_asked_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """librdkafka waits for the broker that it takes for the controller, however long it is away."""
    client = MagicMock()
    monkeypatch.setattr(topics_module, "new_client", lambda *_: client)
    watch = TopicWatch(LayerConfig.from_keywords(bootstrap_servers=NO_BROKER))
    looked_for = []
    for error in (None, KafkaError._TIMED_OUT, KafkaError.UNKNOWN_TOPIC_OR_PART, None):
        client.list_topics.reset_mock()
        asked: Future[Any] = answer(1) if error is None else Future()
        client.describe_topics.return_value = {"orders": asked}
        watch.ask(["orders"], 60)
        looked_for.append(client.list_topics.mock_calls == [call("orders", timeout=0)])
        if error is not None:
            asked.set_exception(KafkaException(KafkaError(error)))
    assert looked_for == [False, False, True, False]


class TestASenderLooks:
    """A server that only sends has no watch; it opens one for a moment, now and then."""

    answers: Sequence[Future[Any]] = (answer(1, "one", 1), answer(1, "two", 2))

    @pytest.fixture(autouse=True)
    def watches(self, monkeypatch: pytest.MonkeyPatch) -> list[MagicMock]:
        made: list[MagicMock] = []

        def watch(config: LayerConfig, setting: str) -> MagicMock:
            assert setting == "producer_config"
            told = {"test-send-all": self.answers[len(made)]}
            made.append(MagicMock(ask=lambda names, timeout: told))
            return made[-1]

        monkeypatch.setattr(topics_module, "TopicWatch", watch)
        return made

    def sender(self, times: Timings) -> tuple[LayerTopics, MagicMock]:
        config = LayerConfig.from_keywords(prefix="test", bootstrap_servers=NO_BROKER)
        object.__setattr__(config, "timings", times)
        self.connection, producer = Connection(NO_BROKER, Stats("test")), MagicMock()
        return LayerTopics(config, producer, self.connection, lambda known: None), producer

    def test_and_leaves_the_leaders_of_a_topic_that_was_created_again(
        self, watches: list[MagicMock]
    ) -> None:
        topics, producer = self.sender(Timings(refresh=0.0))
        for _ in self.answers:
            topics.look(1.0)
        producer.leave_leaders.assert_called_once_with({"test-send-all"})
        for each in watches:
            each.close.assert_called_once_with()

    def test_once_between_two_refreshes(self, watches: list[MagicMock]) -> None:
        topics, _ = self.sender(Timings())
        for _ in self.answers:
            topics.look(1.0)
        assert len(watches) == 1

    def test_until_it_is_answered(self, watches: list[MagicMock]) -> None:
        self.answers = no_answer(), no_answer(), answer(1)
        topics, _ = self.sender(Timings())
        for _ in (*self.answers, "one more"):
            topics.look(1.0)
        assert len(watches) == len(self.answers)

    def test_not_while_the_producer_finds_no_broker(self, watches: list[MagicMock]) -> None:
        """Each question would last for as long as it may."""
        topics, _ = self.sender(Timings())
        self.connection.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        topics.look(1.0)
        assert not watches
        self.connection.on_answer()
        topics.look(1.0)
        assert watches


def test_new_partitions_are_used_once_the_producers_client_knows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refused the records for them, for up to 30 s."""
    name, seen = "test-work.jobs", 4
    monkeypatch.setattr(
        topics_module, "partition_counts", lambda client, names, *_: dict.fromkeys(names, seen)
    )
    config = LayerConfig.from_keywords(prefix="test", bootstrap_servers=NO_BROKER)
    connection = Connection(NO_BROKER, Stats("test"))
    topics = LayerTopics(config, MagicMock(), connection, lambda known: None)
    for told, seen, used in ((4, 4, 4), (8, 4, 4), (8, 8, 8)):  # noqa: B007 (seen by the lambda)
        topics.learn({name: answer(told)}, 1)
        assert topics.known[name].partitions == used


class TestCreation:
    @pytest.fixture
    def admin(self, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
        """An admin client whose broker refuses ``work.refused``, and no other topic."""
        made: dict[str, int] = {}
        admin = MagicMock(made=made, tries=[])
        admin.__enter__.return_value = admin
        admin.topic_names.return_value = []

        def create(specs: Sequence[TopicSpec]) -> None:
            admin.tries.append(specs)
            if any(spec.name.endswith("work.refused") for spec in specs):
                raise TopicError("work.refused: a policy of the broker")
            made.update({spec.name: spec.partitions for spec in specs})

        admin.create = create
        monkeypatch.setattr(admin_module, "TopicAdmin", lambda *_: admin)
        monkeypatch.setattr(
            topics_module,
            "partition_counts",
            lambda client, names, *_: {name: made[name] for name in names if name in made},
        )
        return admin

    def topics(self, **config: int) -> LayerTopics:
        settings = LayerConfig.from_keywords(
            prefix="test", bootstrap_servers=NO_BROKER, auto_create_topics=True, **config
        ).timed(Timings(repair=0.01, repair_pause=0.2))
        connection = Connection(NO_BROKER, Stats("test"))
        return LayerTopics(settings, MagicMock(), connection, lambda known: None)

    def ensure(self, **config: int) -> None:
        self.topics(**config).ensure([WorkTopic("refused"), Topic.SEND_ALL, WorkTopic("mail")], 5)

    def test_of_a_deleted_one_with_as_many_partitions_as_it_had(self, admin: MagicMock) -> None:
        topics = self.topics(default_partitions=4)
        admin.made["test-ack"] = 9
        topics.ensure([Topic.ACK, Topic.GROUP_MGMT], 5)
        del admin.made["test-ack"]
        topics.repair()
        wait_until(lambda: len(admin.made) == 2, "the topic to be created again")
        topics.close()
        assert admin.made == {"test-ack": 9, "test-group-mgmt": 4}

    def test_of_one_that_was_deleted_in_the_pause_behind_a_repair(self, admin: MagicMock) -> None:
        """Nobody repaired it then, until a message had failed after 30 s."""
        topics = self.topics()
        topics.ensure([Topic.ACK, Topic.GROUP_MGMT], 5)
        for name in ("test-ack", "test-group-mgmt"):
            del admin.made[name]
            topics.repair()
            wait_until(partial(admin.made.__contains__, name), f"{name} to be created again")
        topics.close()

    def test_of_one_that_a_repair_still_saw(
        self, admin: MagicMock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some brokers learn later than others that a topic is gone."""
        topics = self.looking(monkeypatch)
        topics.ensure([Topic.ACK], 5)
        self.look(topics)
        del admin.made["test-ack"]
        self.look(topics)
        assert "test-ack" in admin.made

    def test_of_one_that_a_broker_refuses_is_tried_once(
        self, admin: MagicMock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topics = self.looking(monkeypatch)
        with pytest.raises(TopicError):
            topics.ensure([WorkTopic("refused")], 5)
        tries = []
        for _ in range(3):
            self.look(topics)
            tries.append(len(admin.tries))
        assert tries[0] == tries[1] == tries[2] > 2

    def looking(self, monkeypatch: pytest.MonkeyPatch) -> LayerTopics:
        """Topics with a watch whose broker shows none of them."""
        gone = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))

        def ask(names: Sequence[str], timeout: float) -> dict[str, Future[Any]]:
            answers: dict[str, Future[Any]] = {name: Future() for name in names}
            for each in answers.values():
                each.set_exception(gone)
            return answers

        monkeypatch.setattr(topics_module, "TopicWatch", lambda _: MagicMock(ask=ask))
        topics = self.topics()
        topics.watch()
        return topics

    def look(self, topics: LayerTopics) -> None:
        """Look, and return when a repair that this calls for is over."""
        others = repairs()
        topics.look(1)
        wait_until(lambda: repairs() <= others, "the repair to end")

    def test_of_the_others_where_a_broker_refuses_one(self, admin: MagicMock) -> None:
        with pytest.raises(TopicError, match=r"work.refused: a policy"):
            self.ensure()
        assert set(admin.made) == {"test-send-all", "test-work.mail"}

    def test_of_the_others_where_there_are_too_many_worker_channels(self, admin: MagicMock) -> None:
        admin.topic_names.return_value = ["test-work.old"]
        with pytest.raises(TopicError, match=r"'refused' gets no topic.*'mail' gets no topic"):
            self.ensure(unnamed_worker_channels=1)
        assert set(admin.made) == {"test-send-all"}


def repairs() -> set[threading.Thread]:
    """The threads of repairs, also of those that another test left behind."""
    return {each for each in threading.enumerate() if each.name == "kafka-layer-topics"}


def test_a_repair_that_finds_no_thread_does_not_keep_the_next_one_from_running(
    topics: LayerTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        topics.repair()
    others = repairs()
    topics.repair()
    wait_until(lambda: repairs() - others, "the next repair to run")
    topics.close()
    wait_until(lambda: repairs() <= others, "it to end")
