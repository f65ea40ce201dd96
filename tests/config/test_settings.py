"""CONFIG keywords: what is taken, what is refused, and that each refusal names the mend."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from kafka_layer.config.settings import LayerConfig
from kafka_layer.wire.topics import Topic, WorkTopic
from tests.support.tables import for_each

SERVERS = {"bootstrap_servers": "localhost:9092"}


def make(**keywords: Any) -> LayerConfig:
    return LayerConfig.from_keywords(**{**SERVERS, **keywords})


def refused(**keywords: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as caught:
        make(**keywords)
    return str(caught.value)


# What is taken


def test_bootstrap_servers_is_all_that_is_needed() -> None:
    config = make()

    assert config.bootstrap_servers == "localhost:9092"
    assert config.prefix == "channels"
    assert set(config.topics) == set(Topic)
    assert {each.replication_factor for each in config.topics.values()} == {-1}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("kafka:9092", "kafka:9092"),
        (" kafka-1.example:9092 , kafka_2:9093 ", "kafka-1.example:9092,kafka_2:9093"),
        (["kafka-1:9092", " kafka-2:9092"], "kafka-1:9092,kafka-2:9092"),
        (("10.0.0.1:1", "10.0.0.2:65535"), "10.0.0.1:1,10.0.0.2:65535"),
        ("[::1]:9092,[2001:db8::7]:9092", "[::1]:9092,[2001:db8::7]:9092"),
    ],
)
def test_servers_as_text_list_or_ipv6(given: Any, wanted: str) -> None:
    assert make(bootstrap_servers=given).bootstrap_servers == wanted


def test_a_topic_overrides_the_defaults_and_the_others_keep_them() -> None:
    config = make(
        default_partitions=4,
        default_replication_factor=3,
        topics={"send-group": {"partitions": 20, "config": {"retention.ms": 120_000}}},
    )
    group, ack = config.topics[Topic.SEND_GROUP], config.topics[Topic.ACK]

    assert (group.partitions, group.replication_factor) == (20, 3)
    assert (ack.partitions, ack.replication_factor) == (4, 3)
    assert group.config["retention.ms"] == "120000"
    assert group.config["message.timestamp.type"] == "LogAppendTime"
    assert ack.config["retention.ms"] == "600000"


def test_what_every_server_reads_has_few_partitions_unless_told_otherwise() -> None:
    everything = (*Topic, WorkTopic("mail"))
    default, told = make(), make(default_partitions=4)

    assert [default.topic_settings(topic).partitions for topic in everything] == [
        *(3, 3, 3),  # send-group, send-user, send-all
        *(10, 10, 10, 10),
    ]
    assert {told.topic_settings(topic).partitions for topic in everything} == {4}


@for_each(("expiry", "retention"), [(1, 600_000), (60, 600_000), (3600, 7_200_000)])
def test_retention_is_twice_expiry_and_never_under_ten_minutes(expiry: int, retention: int) -> None:
    config = make(expiry=expiry, group_expiry=max(expiry, 86400)).topics[Topic.ACK].config

    assert config["retention.ms"] == str(retention)


def test_retention_of_just_expiry_is_enough() -> None:
    config = make(expiry=60, topics={"ack": {"config": {"retention.ms": 60_000}}})

    assert config.topics[Topic.ACK].config["retention.ms"] == "60000"


LEFT_TO_THE_BROKER = dict.fromkeys(
    (
        *("cleanup.policy", "retention.ms", "segment.ms", "message.timestamp.type"),
        *("max.message.bytes", "segment.bytes", "min.insync.replicas", "compression.type"),
    )
)


@for_each("name", sorted(LEFT_TO_THE_BROKER))
def test_a_topic_config_of_none_is_left_to_the_broker(name: str) -> None:
    wanted = dict(make().topics[Topic.ACK].config)
    wanted.pop(name, None)
    config = make(
        topics={"ack": {"config": {name: None}}}, worker_channels={"mail": {"config": {name: None}}}
    )

    assert config.topics[Topic.ACK].config == wanted
    assert config.worker_settings("mail").topic.config == wanted
    assert config.topics[Topic.SEND_ALL].config == make().topics[Topic.SEND_ALL].config


def test_all_topic_configs_may_be_left_to_the_broker() -> None:
    config = make(expiry=700_000, topics={"ack": {"config": LEFT_TO_THE_BROKER}})

    assert config.topics[Topic.ACK].config == {}


def test_the_default_topic_config_is_for_all_topics_and_theirs_stand_over_it() -> None:
    config = make(
        default_topic_config={
            "segment.ms": None,
            "min.insync.replicas": 2,
            "retention.ms": 900_000,
        },
        topics={"ack": {"config": {"segment.ms": 60_000}}},
        worker_channels={"mail": {"config": {"retention.ms": None}}},
    )

    every = [*config.topics.values(), config.worker_settings("x").topic]
    assert [topic.config["min.insync.replicas"] for topic in every] == ["2"] * 7
    assert [topic.config["retention.ms"] for topic in every] == ["900000"] * 7
    assert [topic.config.get("segment.ms") for topic in every].count(None) == 6
    assert config.topics[Topic.ACK].config["segment.ms"] == "60000"
    assert config.worker_settings("mail").topic.config.keys() == {
        *("cleanup.policy", "message.timestamp.type", "max.message.bytes", "min.insync.replicas"),
    }
    # It names no worker channel: the limit of those that nothing names holds.
    assert not config.names_worker_channel("x")


@for_each(("given", "limit"), [({}, 2_097_152), (5000, 5000), (None, 1_048_588)])
def test_the_largest_message_of_a_topic(given: Any, limit: int) -> None:
    config = {} if given == {} else {"max.message.bytes": given}

    assert make(topics={"ack": {"config": config}}).max_message_bytes(Topic.ACK) == limit


@pytest.mark.parametrize(("expiry", "group_expiry"), [(60, 86_400), (86_401, 86_401)])
def test_group_expiry_is_a_day_and_never_under_expiry(expiry: int, group_expiry: int) -> None:
    assert make(expiry=expiry).group_expiry == group_expiry


class OwnSerializer:
    def dumps(self, message: dict[str, Any]) -> bytes:
        return b""

    def loads(self, data: bytes) -> dict[str, Any]:
        return {}


@for_each(
    "given",
    [OwnSerializer, OwnSerializer(), f"{__name__}.OwnSerializer"],
)
def test_a_serializer_is_an_object_a_class_or_a_path(given: Any) -> None:
    assert isinstance(make(serializer=given).serializer, OwnSerializer)


def test_topic_config_values_are_written_as_kafka_writes_them() -> None:
    config = make(
        topics={"ack": {"config": {"preallocate": True, "min.cleanable.dirty.ratio": 0.5}}}
    )

    assert config.topics[Topic.ACK].config["preallocate"] == "true"
    assert config.topics[Topic.ACK].config["min.cleanable.dirty.ratio"] == "0.5"


def test_channel_capacity_takes_globs_and_regular_expressions_in_order() -> None:
    config = make(capacity=7, channel_capacity={"a*": 1, re.compile(r"ab|b"): 2})

    assert [config.capacity_of(name) for name in ("ab", "b!x", "c")] == [1, 2, 7]


def test_worker_channels_have_settings_by_pattern_and_defaults() -> None:
    config = make(
        default_partitions=4,
        worker_channels={
            "mail": {"expiry": 7200, "prefetch_count": 5},
            "job-*": {"partitions": 2},
        },
    )

    assert config.worker_settings("mail").expiry == 7200
    assert config.topic_settings(WorkTopic("mail")).config["retention.ms"] == "14400000"
    assert config.topic_settings(WorkTopic("job-1")).partitions == 2
    assert config.topic_settings(WorkTopic("other")).partitions == 4
    assert config.worker_settings("other").expiry == 60
    assert config.worker_settings("mail").prefetch_count == 5
    assert config.worker_settings("other").prefetch_count == 1
    assert config.named_worker_channels == ["mail"]


def test_keys_may_be_text_or_bytes() -> None:
    assert make(symmetric_encryption_keys=["one", b"two"]).symmetric_encryption_keys == (
        b"one",
        b"two",
    )
    assert make(symmetric_encryption_keys=None).symmetric_encryption_keys == ()


def test_properties_are_handed_through_and_cannot_change_afterwards() -> None:
    given = {"security.protocol": "SASL_SSL", "sasl.username": "u", "stats_cb": print}
    config = make(client_config=given)
    given["security.protocol"] = "PLAINTEXT"

    assert config.client_config["security.protocol"] == "SASL_SSL"
    with pytest.raises(TypeError):
        config.client_config["client.id"] = "x"  # type: ignore[index]


def test_a_producer_may_give_up_earlier_than_expiry() -> None:
    config = make(expiry=30, producer_config={"message.timeout.ms": 30_000})

    assert config.producer_config["message.timeout.ms"] == 30_000


async def coroutine(told: object) -> None:
    """A callback of the wrong kind."""


# What is refused

SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"bootstrap_server": "a:1"}, "Unknown CONFIG keyword 'bootstrap_server'; did you mean"),
    (
        {"hosts": [("redis", 6379)]},
        "Unknown CONFIG keyword 'hosts'; that is channels_redis' keyword",
    ),
    ({"zzz": 1}, "Unknown CONFIG keyword 'zzz'; known are ack_timeout, admin_config"),
    ({"bootstrap_servers": "localhost"}, "'localhost'; each server must be 'host:port'"),
    ({"bootstrap_servers": "localhost:0"}, "bootstrap_servers has 'localhost:0'"),
    ({"bootstrap_servers": "localhost:65536"}, "bootstrap_servers has 'localhost:65536'"),
    ({"bootstrap_servers": "a:\u0661"}, "bootstrap_servers has 'a:\u0661'"),
    ({"bootstrap_servers": "::1:9092"}, "bootstrap_servers has '::1:9092'"),
    ({"bootstrap_servers": "a:1,"}, "bootstrap_servers has ''"),
    ({"bootstrap_servers": "kafka://a:1"}, "bootstrap_servers has 'kafka://a:1'"),
    ({"bootstrap_servers": []}, "bootstrap_servers is []; it must be 'host:port'"),
    ({"bootstrap_servers": [b"a:1"]}, "bootstrap_servers has b'a:1'"),
    ({"bootstrap_servers": None}, "bootstrap_servers is None"),
    ({"prefix": ""}, "prefix is ''; it must be 1 to 100 ASCII letters"),
    ({"prefix": "a b"}, "prefix is 'a b'"),
    ({"prefix": "é"}, "prefix is 'é'"),
    ({"prefix": "x" * 101}, "it must be 1 to 100"),
    ({"expiry": 0}, "expiry is 0; it must be a number of seconds from 0.1 to 2147483"),
    ({"expiry": float("nan")}, "expiry is nan"),
    ({"expiry": 3_000_000, "group_expiry": 4_000_000}, "expiry is 3000000; it must be"),
    ({"expiry": True}, "expiry is True"),
    ({"expiry": "60"}, "expiry is '60'"),
    (
        {"expiry": 100_000, "group_expiry": 86_400},
        "group_expiry (86400 s) is shorter than expiry (100000 s)",
    ),
    ({"group_expiry": 59}, "group_expiry (59 s) is shorter than expiry (60 s)"),
    ({"group_expiry": float("inf")}, "group_expiry is inf"),
    ({"capacity": 0}, "capacity is 0; it must be an integer of 1 or more"),
    ({"capacity": 1.5}, "capacity is 1.5"),
    ({"capacity": True}, "capacity is True"),
    ({"channel_capacity": [("a", 1)]}, "channel_capacity is [('a', 1)]; it must be a dict"),
    ({"channel_capacity": {"a*": 0}}, "channel_capacity['a*'] is 0"),
    ({"channel_capacity": {5: 1}}, "channel_capacity has the key 5; each must be a pattern"),
    ({"channel_capacity": {re.compile(b"a"): 1}}, "compiled regular expression of str"),
    ({"symmetric_encryption_keys": "one"}, "symmetric_encryption_keys must be a list"),
    ({"symmetric_encryption_keys": [""]}, "symmetric_encryption_keys has an entry that is no key"),
    ({"symmetric_encryption_keys": [1]}, "symmetric_encryption_keys has an entry that is no key"),
    ({"serializer_format": "pickle"}, "it must be 'msgpack' or 'json'"),
    ({"serializer_format": []}, "serializer_format is []"),
    ({"await_produce": 1}, "await_produce is 1; it must be True or False"),
    ({"ack_timeout": 0.01}, "ack_timeout is 0.01"),
    ({"overflow": "drop"}, "it must be 'raise' or 'block' or 'discard'"),
    ({"auto_create_topics": "no"}, "auto_create_topics is 'no'"),
    ({"worker_group_protocol": "x"}, "it must be 'classic' or 'consumer'"),
    ({"default_partitions": 0}, "default_partitions is 0; it must be an integer from 1 to 100000"),
    ({"default_partitions": 100_001}, "default_partitions is 100001"),
    ({"default_replication_factor": 0}, "integer of 1 or more, or -1 for the broker's default"),
    ({"default_replication_factor": -1.0}, "default_replication_factor is -1.0"),
    ({"default_topic_config": []}, "default_topic_config is []; it must be a dict of Kafka's"),
    ({"default_topic_config": {"segment.ms": []}}, "default_topic_config['segment.ms'] is []"),
    (
        {"default_topic_config": {"segment.bytes": 1}, "topics": {"ack": {"partitions": 1}}},
        "default_topic_config['segment.bytes'] is '1'; it must be an integer, 2097152 or more",
    ),
    (
        {"default_topic_config": {"retention.ms": 59_999}},
        "topics['send-group'] keeps records for retention.ms=59999, shorter than expiry (60 s)",
    ),
    ({"topics": []}, "topics is []; it must be a dict of topic names"),
    ({"topics": {"send-groups": {}}}, "Unknown topic in topics: 'send-groups'; did you mean"),
    ({"topics": {"ack": []}}, "topics['ack'] is []; it must be a dict"),
    ({"topics": {"ack": {"partition": 3}}}, "'partition'; did you mean 'partitions'?"),
    ({"topics": {"ack": {"partitions": "3"}}}, "topics['ack']['partitions'] is '3'"),
    ({"topics": {"ack": {"config": []}}}, "topics['ack']['config'] is []"),
    (
        {"topics": {"ack": {"config": {"retention.ms": []}}}},
        "['retention.ms'] is []; it must be a str, a number, a bool, or None for the broker",
    ),
    (
        {"topics": {"ack": {"config": {"max.message.bytes": None, "segment.bytes": 1_048_587}}}},
        "['segment.bytes'] is '1048587'; it must be an integer, 1048588 or more",
    ),
    ({"serializer": 1}, "serializer is 1; it must be an object, a class or the dotted path of one"),
    ({"serializer": []}, "with the methods dumps and loads"),
    ({"serializer": "nowhere.Serializer"}, "serializer is 'nowhere.Serializer', which cannot be"),
    ({"serializer": "json.dumps"}, "with the methods dumps and loads"),
    ({"topics": {"ack": {"config": {"retention.ms": "1h"}}}}, "is '1h'; it must be an integer"),
    (
        {"topics": {"ack": {"config": {"retention.ms": 59_999}}}},
        "retention.ms=59999, shorter than expiry (60 s)",
    ),
    (
        {"topics": {"ack": {"config": {"cleanup.policy": "compact,delete"}}}},
        "compaction would drop messages that share a key. Use 'delete'",
    ),
    ({"topics": {"ack": {"config": {"max.message.bytes": 10}}}}, "an integer, 1024 to 99999000"),
    (
        {"topics": {"ack": {"config": {"max.message.bytes": 10**8}}}},
        "topics['ack']['config']['max.message.bytes'] is '100000000'",
    ),
    (
        {"topics": {"ack": {"config": {"segment.bytes": 1_048_576}}}},
        "['segment.bytes'] is '1048576'; it must be an integer, 2097152 or more",
    ),
    (
        {"topics": {"ack": {"replication_factor": 2, "config": {"min.insync.replicas": 3}}}},
        "min.insync.replicas=3, more than its replication_factor (2): no message could be written",
    ),
    ({"worker_channels": []}, "worker_channels is []; it must be a dict"),
    ({"worker_channels": {"a b": {}}}, "has the key 'a b', which no worker channel can be called"),
    ({"worker_channels": {"a!": {}}}, "has the key 'a!', which no worker channel can be called"),
    ({"topics": {"ack": {"config": {5: 1}}}}, "['config'] is {5: 1}; it must be a dict of Kafka's"),
    ({"worker_channels": {"a": {"expiry": 0}}}, "worker_channels['a']['expiry'] is 0"),
    ({"worker_channels": {"a": {"partitons": 1}}}, "did you mean 'partitions'?"),
    (
        {"worker_channels": {"a": {"prefetch_count": 0}}},
        "worker_channels['a']['prefetch_count'] is 0",
    ),
    ({"topics": {"ack": {"prefetch_count": 2}}}, "Unknown setting in topics['ack']:"),
    (
        {"worker_channels": {"a": {"expiry": 900, "config": {"retention.ms": 800_000}}}},
        "worker_channels['a'] keeps records for retention.ms=800000, shorter than expiry (900 s)",
    ),
    ({"client_config": []}, "client_config must be a dict of librdkafka property names"),
    ({"client_config": {5: 1}}, "client_config must be a dict of librdkafka property names"),
    (
        {"client_config": {"sasl.password": None}},
        "client_config['sasl.password'] is None; set it, or remove it",
    ),
    (
        {"admin_config": {"client.id": ["x"]}},
        "admin_config['client.id'] is a list; it must be a str",
    ),
    (
        {"client_config": {"oauth_cb": "project.tokens.fetch"}},
        "client_config['oauth_cb'] is a str; it must be a plain function",
    ),
    (
        {"consumer_config": {"stats_cb": coroutine}},
        "consumer_config['stats_cb'] is a coroutine function; it must be a plain function",
    ),
    (
        {"producer_config": {"message.timeout.ms": 60_001}},
        "producer_config['message.timeout.ms'] is 60001; it must be from 1 to 60000, that is exp",
    ),
    ({"producer_config": {"delivery.timeout.ms": 0}}, "it must be from 1 to 60000"),
    ({"client_config": {"message.timeout.ms": "abc"}}, "it must be from 1 to 60000"),
]


# Without the address of a function: the ids are the same in all processes of a run.
@for_each(("keywords", "sentence"), SENTENCES)
def test_a_value_that_cannot_work_is_refused(keywords: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(**keywords)


def test_brokers_must_be_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="CONFIG has no bootstrap_servers"):
        LayerConfig.from_keywords()


@for_each(
    ("keyword", "prop", "reason"),
    [
        ("client_config", "bootstrap.servers", "use the keyword bootstrap_servers"),
        ("producer_config", "metadata.broker.list", "use the keyword bootstrap_servers"),
        ("client_config", "test.mock.num.brokers", "kafka_layer.testing.EmbeddedBroker"),
        ("consumer_config", "error_cb", "the layer needs it"),
        ("admin_config", "logger", "the layer logs to 'kafka_layer'"),
        ("producer_config", "default.topic.config", "name its properties"),
        ("producer_config", "allow.auto.create.topics", "other settings than yours"),
        ("consumer_config", "allow.auto.create.topics", "other settings than yours"),
        ("producer_config", "acks", "stays 'all'"),
        ("producer_config", "request.required.acks", "stays 'all'"),
        ("client_config", "acks", "stays 'all'"),
        ("producer_config", "enable.idempotence", "twice or out of order"),
        ("producer_config", "partitioner", "murmur2_random"),
        ("producer_config", "transactional.id", "does not use transactions"),
        ("producer_config", "on_delivery", "kafka_layer.signals.produce_failed"),
        ("producer_config", "message.max.bytes", "set that in topics"),
        ("client_config", "group.id", "every server reads every partition"),
        ("consumer_config", "group.id", "every server reads every partition"),
        ("consumer_config", "group.protocol", "use the keyword worker_group_protocol"),
        ("consumer_config", "group.instance.id", "all servers would claim"),
        ("consumer_config", "partition.assignment.strategy", "must move one at a time"),
        ("client_config", "partition.assignment.strategy", "must move one at a time"),
        ("consumer_config", "enable.auto.commit", "positions are the layer's own"),
        ("consumer_config", "auto.offset.reset", "resolved and reported by the layer"),
    ],
)
def test_a_property_that_would_break_a_guarantee_is_refused(
    keyword: str, prop: str, reason: str
) -> None:
    sentence = refused(**{keyword: {prop: "x"}})

    assert f"{keyword} must not set {prop!r}: " in sentence
    assert reason in sentence
    assert sentence.endswith("Remove it.")


# Secrets

SECRET = "hunter2-secret"


def test_secrets_are_not_in_the_repr() -> None:
    properties = {"sasl.password": SECRET}
    config = make(
        symmetric_encryption_keys=[SECRET],
        client_config=properties,
        producer_config=properties,
        consumer_config=properties,
        admin_config=properties,
    )

    assert SECRET not in repr(config)
    assert "localhost:9092" in repr(config)


@for_each(
    "keywords",
    [
        {"symmetric_encryption_keys": SECRET},
        {"symmetric_encryption_keys": [SECRET, ""]},
        {"symmetric_encryption_keys": {SECRET}},
        {"client_config": SECRET},
        {"client_config": [("sasl.password", SECRET)]},
        {"client_config": {"sasl.password": [SECRET]}},
        {"client_config": {"sasl.password": SECRET, "acks": 0}},
        {"bootstrap_servers": f"user:{SECRET}@kafka:9092"},
        {"client_confg": {"sasl.password": SECRET}},
    ],
)
def test_secrets_are_not_in_a_refusal(keywords: dict[str, Any]) -> None:
    assert SECRET not in refused(**keywords)


@for_each(
    ("settings", "retention"),
    [
        ({}, 600_000),
        ({"recovery_window": 3600}, 3_720_000),
        ({"recovery_window": 0.5, "expiry": 3600}, 7_200_000),
    ],
)
def test_the_topics_keep_what_may_be_recovered(settings: dict[str, Any], retention: int) -> None:
    topics = make(**settings).topics
    assert topics[Topic.SEND_GROUP].config["retention.ms"] == str(retention)
    assert int(topics[Topic.ACK].config["retention.ms"]) <= retention


@for_each("value", [0, 1000, "1 MiB", True, 2.0e6])
def test_recent_bytes_hold_at_least_a_message(value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"recent_bytes is .* 1048576 \(1 MiB\) or more"):
        make(recent_bytes=value)
