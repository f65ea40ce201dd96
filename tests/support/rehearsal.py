"""What tests do with a broker, in short: a cache of its classes has then what they need."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from tests.support.waiting import wait_until

__all__ = ["rehearse"]

_TIMEOUT: Final = 60.0
_TOPICS: Final = [f"rehearsal-{number}" for number in range(4)]
_RECORDS: Final = 200


def rehearse(servers: str, group_protocols: tuple[str, ...]) -> None:
    """Make topics, produce, consume, administer; returns when all is done.

    Args:
        servers: Where the broker is.
        group_protocols: Those of librdkafka's ``group.protocol`` that it knows.

    Raises:
        TimeoutError: The broker did not do it in time.
        KafkaException: It refused something.
    """
    config = {"bootstrap.servers": servers, "log_level": 0}
    admin = AdminClient(config)
    _done(admin.create_topics([NewTopic(name, 2) for name in _TOPICS]))
    _done(admin.create_partitions([NewPartitions(name, 4) for name in _TOPICS]))
    _produce(Producer(config | {"enable.idempotence": True, "linger.ms": 0}))
    _transact(Producer(config | {"transactional.id": "rehearsal"}))
    for protocol in group_protocols:
        _consume(config, protocol)
        _administer_group(admin, protocol)
    _administer(admin)
    _done(admin.delete_topics(_TOPICS))


def _produce(producer: Producer) -> None:
    for number in range(_RECORDS):
        name = _TOPICS[number % len(_TOPICS)]
        producer.produce(name, b"value", key=str(number), headers={"name": b"value"})
        if number % 10 == 0:
            producer.flush(_TIMEOUT)
    assert producer.flush(_TIMEOUT) == 0, "records were left over"


def _transact(producer: Producer) -> None:
    producer.init_transactions(_TIMEOUT)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(_TOPICS[0], b"value")
        end(_TIMEOUT)


def _consume(config: Mapping[str, Any], protocol: str) -> None:
    consumer = Consumer(
        {
            **config,
            "group.id": protocol,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
    )
    records: list[Message] = []

    def all_came() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            records.append(message)
        return len(records) >= _RECORDS

    try:
        consumer.subscribe(_TOPICS)
        wait_until(all_came, f"{_RECORDS} records by group protocol {protocol}", _TIMEOUT)
        consumer.commit(asynchronous=False)
        start = TopicPartition(_TOPICS[0], 0, 0)
        consumer.offsets_for_times([start], timeout=_TIMEOUT)
        consumer.get_watermark_offsets(start, timeout=_TIMEOUT)
        consumer.list_topics(timeout=_TIMEOUT)
    finally:
        consumer.close()


def _administer_group(admin: AdminClient, group: str) -> None:
    admin.list_consumer_groups().result(_TIMEOUT)
    _done(admin.describe_consumer_groups([group]))
    _done(admin.delete_consumer_groups([group]))


def _administer(admin: AdminClient) -> None:
    entry = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, _TOPICS[0], incremental_configs=[entry])
    _done(admin.incremental_alter_configs([topic]))
    _done(admin.describe_configs([topic, ConfigResource(ResourceType.BROKER, "1")]))
    admin.describe_cluster().result(_TIMEOUT)
    first = TopicPartition(_TOPICS[0], 0, 1)
    _done(admin.list_offsets({first: OffsetSpec.latest()}))
    _done(admin.delete_records([first]))


def _done(answers: Mapping[Any, Future[Any]]) -> None:
    for answer in answers.values():
        answer.result(_TIMEOUT)
