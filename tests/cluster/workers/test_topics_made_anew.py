"""A worker channel's topic is deleted and created again; its group keeps or gets old positions."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]

from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.workers.groups import topic_of
from tests.support.layers import Layers, next_messages
from tests.support.records import create_topic
from tests.support.waiting import wait_until

PARTITIONS = 2
JOBS = 20
_TIMEOUT = 20.0


def committed(admin: AdminClient, group: str) -> list[TopicPartition]:
    asked = [ConsumerGroupTopicPartitions(group)]
    told = admin.list_consumer_group_offsets(asked)[group].result(_TIMEOUT)
    return list(told.topic_partitions)


def commit(admin: AdminClient, group: str, positions: list[TopicPartition]) -> None:
    kept = [ConsumerGroupTopicPartitions(group, positions)]
    told = admin.alter_consumer_group_offsets(kept)[group].result(_TIMEOUT)
    assert not any(each.error for each in told.topic_partitions)


def make_anew(admin: AdminClient, servers: str, topic: str) -> None:
    admin.delete_topics([topic])[topic].result(_TIMEOUT)
    wait_until(lambda: not committed(admin, topic), "the positions to be deleted", _TIMEOUT)
    create_topic(servers, topic, PARTITIONS)


@pytest.mark.parametrize("kept", [JOBS, 1], ids=["after the jobs", "among the jobs"])
async def test_old_positions_skip_no_job_of_the_new_topic(
    make_layer: Layers, config: dict[str, Any], channel: str, kept: int
) -> None:
    """Kafka deletes them, but may do so late; the test keeps them as they were."""
    first = make_layer(**config)
    topic, servers = topic_of(first, channel), first.config.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    for number in range(kept):
        await first.send(channel, {"n": number})
    await next_messages(first, channel, kept)
    positions = committed(admin, topic)
    await first.close()
    make_anew(admin, servers, topic)
    commit(admin, topic, positions)

    async def done_by(worker: KafkaChannelLayer) -> list[int]:
        """Stop the worker after half of the jobs, so that another one begins at its positions."""
        numbers = [each["n"] for each in await next_messages(worker, channel, JOBS // 2)]
        await worker.close()
        return numbers

    sender = make_layer(**config)
    for number in range(JOBS):
        await sender.send(channel, {"n": number})
    done = await done_by(make_layer(**config)) + await done_by(make_layer(**config))
    assert sorted(done) == list(range(JOBS))
