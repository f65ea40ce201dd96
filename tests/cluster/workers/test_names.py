"""Every legal channel name has a legal topic name of its own."""

from __future__ import annotations

import itertools
import random
import re
import string

import pytest
from confluent_kafka.admin import AdminClient

from kafka_layer.wire.topics import Topic, WorkTopic, topic_name
from tests.cluster.workers.groups import topic_of
from tests.support.layers import Backend, Layers, next_message

LETTERS = string.ascii_letters + string.digits + "-_."
LONGEST_NAME = 99
LONGEST_PREFIX = 100

LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def clash_key(topic: str) -> str:
    """Kafka refuses a topic that is the same as another one in this respect."""
    return topic.replace(".", "_")


def random_names(count: int) -> set[str]:
    chance = random.Random(5)
    # Few letters: many names that differ little.
    return {
        "".join(chance.choices(alphabet, k=chance.randint(1, longest)))
        for alphabet, longest in ((LETTERS, LONGEST_NAME), ("-_.", 12), ("a-_.uh", LONGEST_NAME))
        for _ in range(count)
    }


def similar_names() -> set[str]:
    return {f"a{''.join(middle)}b" for middle in itertools.product("-_.uh", repeat=4)}


def longest_names() -> set[str]:
    stem = "_" * (LONGEST_NAME - 2)
    return {stem + first + last for first in "-_.a" for last in "-_.a"}


@pytest.mark.parametrize("prefix", ["channels", "a.b_c-d", "p" * LONGEST_PREFIX])
def test_every_channel_name_has_a_legal_topic_of_its_own(prefix: str) -> None:
    names = random_names(5_000) | similar_names() | longest_names()
    topics = [topic_name(prefix, WorkTopic(name)) for name in names]
    assert [topic for topic in topics if not LEGAL_TOPIC.fullmatch(topic)] == []
    fixed = [topic_name(prefix, topic) for topic in Topic]
    assert len({clash_key(topic) for topic in topics + fixed}) == len(topics) + len(fixed)


def test_a_topic_is_named_like_its_channel_where_that_is_possible() -> None:
    assert topic_name("shop", WorkTopic("thumbnails")) == "shop-work.thumbnails"
    assert topic_name("shop", WorkTopic("email.send")) == "shop-work.email.send"
    assert topic_name("shop", WorkTopic("a-b_c")) == "shop-work.a--b-uc"


async def test_a_broker_takes_them_all(backend: Backend, make_layer: Layers) -> None:
    longest = longest_names()
    names = ["a.b", "a_b", "a-b", "a..b", "a--b", "a-_b", "a_-b", "a.-b", ".", "_", "-", *longest]
    prefix = make_layer.prefix.ljust(LONGEST_PREFIX, "x")
    layer = make_layer(prefix=prefix, default_partitions=1)
    for name in names:
        await layer.send(name, {"to": name})
    await layer.close()
    admin = AdminClient({"bootstrap.servers": backend.config["bootstrap_servers"]})
    topics = admin.list_topics(timeout=30).topics
    assert {topic_of(layer, name) for name in names} <= topics.keys()
    receiver = make_layer(prefix=prefix, default_partitions=1)
    for name in [*names[:4], min(longest), max(longest)]:
        assert await next_message(receiver, name) == {"to": name}
