"""The embedded broker: what it can do, what its docstring says it cannot, and its life."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from kafka_layer.testing import embedded as embedded_module
from kafka_layer.testing.embedded import EmbeddedBroker
from tests.support.layers import next_message
from tests.support.patience import PatientLayer
from tests.support.records import consume, leader_of, produce
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


class TestRecords:
    def test_what_is_produced_can_be_consumed(self, embedded: EmbeddedBroker, prefix: str) -> None:
        embedded.create_topic(prefix, partitions=3)
        produce(embedded.bootstrap_servers, prefix, [b"one", b"two"], partition=2)
        records = consume(embedded.bootstrap_servers, prefix, 2, partition=2)
        assert [record.value() for record in records] == [b"one", b"two"]

    def test_records_of_the_largest_size_a_real_broker_takes(
        self, embedded: EmbeddedBroker, prefix: str
    ) -> None:
        embedded.create_topic(prefix, partitions=1)
        values = [os.urandom(999_000) for _ in range(4)]
        produce(embedded.bootstrap_servers, prefix, values)
        records = consume(embedded.bootstrap_servers, prefix, len(values))
        assert [record.value() for record in records] == values

    def test_it_stores_create_time_and_reports_a_constant(
        self, embedded: EmbeddedBroker, prefix: str
    ) -> None:
        embedded.create_topic(prefix, partitions=1)
        (report,) = produce(embedded.bootstrap_servers, prefix, [b"x"])
        (record,) = consume(embedded.bootstrap_servers, prefix, 1)
        assert record.timestamp()[0] == TIMESTAMP_CREATE_TIME
        assert report.timestamp() == (TIMESTAMP_LOG_APPEND_TIME, 1234)

    def test_another_process_can_connect(self, embedded: EmbeddedBroker, prefix: str) -> None:
        embedded.create_topic(prefix, partitions=1)
        run_python(f"""
            from tests.support.records import produce
            produce({embedded.bootstrap_servers!r}, {prefix!r}, [b"from afar"])
        """)
        (record,) = consume(embedded.bootstrap_servers, prefix, 1)
        assert record.value() == b"from afar"


class TestGroups:
    def test_two_members_share_the_partitions(self, embedded: EmbeddedBroker, prefix: str) -> None:
        embedded.create_topic(prefix, partitions=4)
        members = [
            Consumer(
                {
                    "bootstrap.servers": embedded.bootstrap_servers,
                    "group.id": prefix,
                    "group.protocol": "consumer",
                }
            )
            for _ in range(2)
        ]

        def shares() -> bool:
            for member in members:
                member.poll(0.01)
            return [len(member.assignment()) for member in members] == [2, 2]

        for member in members:
            member.subscribe([prefix])
        wait_until(shares, "2 of 4 partitions for each of 2 members")
        for member in members:
            member.close()


class TestTopics:
    def test_a_topic_has_the_partitions_asked_for(
        self, embedded: EmbeddedBroker, prefix: str
    ) -> None:
        embedded.create_topic(prefix, partitions=7, replication_factor=-1)
        assert len(partitions_of(embedded, prefix)) == 7

    def test_a_second_topic_of_that_name_is_refused(
        self, embedded: EmbeddedBroker, prefix: str
    ) -> None:
        embedded.create_topic(prefix, partitions=1)
        with pytest.raises(KafkaException, match=prefix) as caught:
            embedded.create_topic(prefix, partitions=1)
        assert caught.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS

    @pytest.mark.parametrize(
        ("name", "partitions", "replicas", "complaint"),
        [
            ("no spaces", 1, 1, "no spaces"),
            ("..", 1, 1, "ASCII letters"),
            ("x" * 250, 1, 1, "249"),
            ("ok", 0, 1, "partitions=0"),
            ("ok", 1, 2, "replication_factor=2"),
            ("ok", 1, 0, "replication_factor=0"),
        ],
    )
    def test_what_librdkafka_would_choke_on_is_refused(
        self, embedded: EmbeddedBroker, name: str, partitions: int, replicas: int, complaint: str
    ) -> None:
        with pytest.raises(ValueError, match=complaint):
            embedded.create_topic(name, partitions, replicas)

    def test_a_cluster_spreads_its_leaders(self, prefix: str) -> None:
        with EmbeddedBroker(brokers=3) as cluster:
            assert cluster.bootstrap_servers.count(":") == 3
            cluster.create_topic(f"{prefix}-everywhere", partitions=3, replication_factor=3)
            cluster.create_topic(prefix, partitions=3)
            servers = cluster.bootstrap_servers
            assert {leader_of(servers, prefix, partition) for partition in range(3)} == {1, 2, 3}

    @pytest.mark.parametrize("request_name", ["create_topics", "describe_configs"])
    def test_admin_requests_that_it_lacks_fail_at_once(
        self, embedded: EmbeddedBroker, prefix: str, request_name: str
    ) -> None:
        admin = AdminClient({"bootstrap.servers": embedded.bootstrap_servers})
        subject = {
            "create_topics": NewTopic(prefix, 1),
            "describe_configs": ConfigResource(ResourceType.TOPIC, prefix),
        }[request_name]
        (future,) = getattr(admin, request_name)([subject], request_timeout=60).values()
        with pytest.raises(KafkaException) as caught:
            future.result(timeout=30)
        assert caught.value.args[0].code() == KafkaError._UNSUPPORTED_FEATURE


class TestLife:
    def test_it_does_nothing_before_start(self) -> None:
        broker = EmbeddedBroker()
        broker.stop()
        with pytest.raises(RuntimeError, match=r"call start\(\)"):
            _ = broker.bootstrap_servers
        with pytest.raises(RuntimeError, match=r"call start\(\)"):
            broker.create_topic("topic", 1)

    def test_start_and_stop_can_be_repeated(self) -> None:
        broker = EmbeddedBroker()
        for _ in range(3):
            broker.start()
            servers = broker.bootstrap_servers
            broker.start()
            assert broker.bootstrap_servers == servers
            broker.create_topic("forgotten-at-stop", 1)
            broker.stop()
            broker.stop()
            assert not listens(servers)

    def test_it_needs_a_broker(self) -> None:
        with pytest.raises(ValueError, match="brokers=0"):
            EmbeddedBroker(brokers=0)

    def test_its_settings_are_a_new_dictionary_each_time(self) -> None:
        broker = EmbeddedBroker()
        broker.client_settings["consumer_config"].clear()
        assert broker.client_settings["consumer_config"] == {"fetch.wait.max.ms": 5}

    async def test_its_config_is_all_that_a_layer_needs(
        self, embedded: EmbeddedBroker, prefix: str
    ) -> None:
        keywords: dict[str, Any] = {
            "prefix": prefix,
            "default_partitions": 3,
            "worker_channels": {"mail": {"partitions": 2}, "job-*": {}},
        }
        config = embedded.config(**keywords)
        assert config == embedded.config(**keywords)  # what exists stays
        client = AdminClient({"bootstrap.servers": embedded.bootstrap_servers})
        made = {
            name.removeprefix(prefix): len(topic.partitions)
            for name, topic in client.list_topics(timeout=30).topics.items()
            if name.startswith(prefix)
        }
        broadcast = ["send-group", "send-user", "send-all", "send-conn", "group-mgmt", "ack"]
        assert made == {"-work.mail": 2, **{f"-{name}": 3 for name in broadcast}}
        layer = PatientLayer(**config)
        await layer.send("mail", {"n": 1})
        assert await next_message(layer, "mail") == {"n": 1}
        await layer.close()

    def test_threads_may_use_it_together(self, prefix: str) -> None:
        broker = EmbeddedBroker()

        def use(number: int) -> None:
            broker.start()
            for topic in range(50):
                broker.create_topic(f"{prefix}-{number}-{topic}", 2)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        topics = AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(
            timeout=30
        )
        broker.stop()
        assert len(topics.topics) == 400

    def test_stopping_while_threads_use_it_ends_their_calls_with_an_error(self) -> None:
        broker = EmbeddedBroker()
        broker.start()
        started = threading.Barrier(5)
        errors: list[Exception] = []

        def create_until_stopped(number: int) -> None:
            started.wait(60)
            try:
                for topic in range(1_000_000):
                    broker.create_topic(f"t-{number}-{topic}", 1)
            except RuntimeError as error:
                errors.append(error)

        threads = [threading.Thread(target=create_until_stopped, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        started.wait(60)
        broker.stop()
        for thread in threads:
            thread.join(60)
        assert len(errors) == 4

    def test_it_can_be_stopped_at_exit(self) -> None:
        run_python("""
            import atexit
            from kafka_layer.testing.embedded import EmbeddedBroker
            broker = EmbeddedBroker()
            broker.start()
            atexit.register(broker.stop)
        """)

    def test_a_process_that_never_stops_it_ends_cleanly(self) -> None:
        run_python("""
            from kafka_layer.testing.embedded import EmbeddedBroker
            from tests.support.records import produce
            broker = EmbeddedBroker()
            broker.start()
            broker.create_topic("topic", 1)
            produce(broker.bootstrap_servers, "topic", [b"x"])
        """)


class TestFork:
    def test_the_parent_goes_on_and_the_child_leaves_it_alone(self) -> None:
        run_python("""
            import os
            import sys
            from kafka_layer.testing.embedded import EmbeddedBroker
            from tests.support.records import consume, produce

            def refused(call):
                try:
                    call()
                except RuntimeError as error:
                    return "forked" in str(error)
                return False

            broker = EmbeddedBroker()
            broker.start()
            broker.create_topic("topic", 1)
            for round in range(3):
                child = os.fork()
                if child == 0:
                    broker.stop()
                    ok = refused(lambda: broker.create_topic("other", 1)) and refused(broker.start)
                    sys.exit(0 if ok and broker.bootstrap_servers else 1)
                assert os.waitpid(child, 0)[1] == 0
                produce(broker.bootstrap_servers, "topic", [b"x"])
            assert len(consume(broker.bootstrap_servers, "topic", 3)) == 3
            broker.stop()
        """)

    def test_a_child_can_be_a_client(self, prefix: str) -> None:
        with EmbeddedBroker() as broker:
            broker.create_topic(prefix, 1)
            child = multiprocessing.get_context("spawn").Process(
                target=produce, args=(broker.bootstrap_servers, prefix, [b"from the child"])
            )
            child.start()
            (record,) = consume(broker.bootstrap_servers, prefix, 1)
            child.join(60)
            assert record.value() == b"from the child"
            assert child.exitcode == 0


class TestFindingTheLibrary:
    def test_any_of_the_places_will_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for path in usable(embedded_module._library_paths):
            monkeypatch.setattr(embedded_module, "_library_paths", lambda path=path: iter([path]))
            with EmbeddedBroker() as broker:
                assert listens(broker.bootstrap_servers)

    def test_the_error_names_the_mend(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        other = tmp_path / "librdkafka.so.1"
        other.write_bytes(b"not a library")
        monkeypatch.setattr(embedded_module, "_library_paths", lambda: iter([other]))
        with pytest.raises(RuntimeError, match="pip install") as caught:
            EmbeddedBroker().start()
        assert str(other) in str(caught.value)


def usable(paths: Callable[[], object]) -> list[Path]:
    found = [path for path in paths() if path.exists()]  # type: ignore[attr-defined]
    assert found
    return found


def partitions_of(broker: EmbeddedBroker, topic: str) -> dict[int, object]:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    return dict(admin.list_topics(topic, timeout=30).topics[topic].partitions)


def listens(servers: str) -> bool:
    host, port = servers.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def run_python(program: str) -> None:
    """Run a program of its own, from the repository; what it prints is in the error."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
