"""The producers of other clusters, without a broker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.kafka import stream_producers
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.producer import RecordProducer
from kafka_layer.kafka.stream_producers import StreamProducers
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import StreamTopic
from tests.support.waiting import wait_until

AWAY = "127.0.0.1:1"


def test_a_refresh_waits_for_no_cluster_and_asks_each_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upkeep asks the layer's own brokers next; they would count as lost meanwhile."""
    asked: list[threading.Thread] = []
    answers = threading.Event()

    def partition_counts(*_: Any) -> dict[str, int]:
        asked.append(threading.current_thread())
        if threading.current_thread() is not threading.main_thread():
            answers.wait(60)
        raise BrokerUnavailable("it is away")

    monkeypatch.setattr(stream_producers, "partition_counts", partition_counts)
    config = LayerConfig.from_keywords(
        bootstrap_servers="127.0.0.1:2",
        streams={"far": {"bootstrap_servers": AWAY}},
    )
    stats = Stats("test")
    connection = Connection(config.bootstrap_servers, stats)
    own = RecordProducer(config, {}, stats, connection, lambda: None)
    producers = StreamProducers(config, own, connection, stats)
    try:
        producers.open(StreamTopic("far", "far"), 1.0)
        producers.refresh()
        producers.refresh()
        wait_until(lambda: len(asked) == 2, "the cluster to be asked")
        names = [each.name for each in threading.enumerate()]
        assert names.count("kafka-layer-judge-producer") == 1
        answers.set()

        def is_asked_again() -> bool:
            producers.refresh()
            return len(asked) > 2

        wait_until(is_asked_again, "the cluster to be asked again")
    finally:
        answers.set()
        producers.close(0.1)
