"""The keyword ``streams``: what is taken, and that each refusal names the mend."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.streams import StreamSettings, place_at
from kafka_layer.streams.codecs import CODECS, CodecContext
from tests.support.tables import for_each

UTC = datetime.timezone.utc
SERVERS = {"bootstrap_servers": "localhost:9092"}
READ = {"group": "order-{key}", "type": "order.changed"}
REGISTRY = {"url": "http://registry.example:8081"}


def make(**keywords: Any) -> LayerConfig:
    return LayerConfig.from_keywords(**{**SERVERS, **keywords})


def stream(**settings: Any) -> StreamSettings:
    return make(streams={"orders": {**READ, **settings}}).streams["orders"]


def refused(streams: Any, **keywords: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as caught:
        make(streams=streams, **keywords)
    return str(caught.value)


def is_public(record: Any) -> bool:
    return True


def owners(record: Any) -> list[str]:
    return ["anna"]


async def later(record: Any) -> bool:
    return True


# What is taken


def test_defaults() -> None:
    assert make().streams == {}
    found = stream()

    assert (found.name, found.topic, found.pattern) == ("orders", "orders", None)
    assert (found.type, found.tombstone) == ("order.changed", None)
    assert (found.key, found.value) == (CODECS["str"], CODECS["json"])
    assert (found.start, found.on_error, found.last_value) == ("latest", "skip", False)
    assert (found.where, found.users, found.worker_channel) == (None, (), None)
    assert found.is_read


def test_a_stream_without_receivers_is_for_producing() -> None:
    found = make(streams={"orders": {}}).streams["orders"]

    assert not found.is_read
    assert found.topic == "orders"


def test_a_worker_channel_alone_is_a_receiver_that_no_server_reads_for() -> None:
    settings = {"worker_channel": "orders-to-db", "type": "order.changed"}
    found = make(streams={"orders": settings}).streams["orders"]

    assert found.worker_channel == "orders-to-db"
    assert not found.is_read


@for_each("given", [owners, f"{__name__}.owners", ["{key}", owners]])
def test_groups_and_users_are_templates_functions_paths_or_lists(given: Any) -> None:
    found = stream(group=given, user=given)

    assert len(found.groups) == len(found.users) == (2 if isinstance(given, list) else 1)


@pytest.mark.parametrize("given", [is_public, f"{__name__}.is_public"])
def test_a_filter_is_a_function_or_its_path(given: Any) -> None:
    where = stream(where=given).where

    assert where is not None
    assert where(None) is True  # type: ignore[arg-type]


@for_each(
    "start",
    [
        "latest",
        "earliest",
        datetime.timedelta(hours=1),
        datetime.datetime(2026, 11, 28, tzinfo=UTC),
    ],
)
def test_starts(start: Any) -> None:
    assert stream(start=start).start == start


def test_a_pattern_takes_matching_topics_and_never_kafkas_internal_ones() -> None:
    found = stream(topic="^(shop|__).*orders")

    assert found.topic is None
    assert [
        name
        for name in ("shop.orders", "shop.orders.v2", "a.shop.orders", "shop", "__orders")
        if found.takes(name)
    ] == ["shop.orders", "shop.orders.v2"]


def test_a_topic_takes_itself_alone() -> None:
    found = stream(topic="shop.orders")

    assert found.takes("shop.orders")
    assert not found.takes("shop.orders.v2")


def test_codecs_by_name_by_path_and_as_they_are() -> None:
    context = CodecContext("orders", "value")
    for given in ("str", "base64.b64decode", str, (bytes.decode, str.encode)):
        assert stream(value=given, key=given).value.decode(b"YQ==", context)


def test_a_stream_of_another_cluster_takes_nothing_of_the_layers_clients() -> None:
    config = make(
        client_config={"sasl.password": "ours", "client.id": "web"},
        consumer_config={"fetch.max.bytes": 1000},
        streams={
            "theirs": {"bootstrap_servers": "other:9092", "client_config": {"client.id": "x"}},
            "ours": {"client_config": {"client.id": "x"}},
            "plain": {},
        },
    )
    theirs = config.for_stream(config.streams["theirs"])
    ours = config.for_stream(config.streams["ours"])

    assert (theirs.bootstrap_servers, theirs.client_config) == ("other:9092", {"client.id": "x"})
    assert theirs.consumer_config == {}
    assert ours.client_config == {"sasl.password": "ours", "client.id": "x"}
    assert ours.consumer_config == {"fetch.max.bytes": 1000}
    assert config.for_stream(config.streams["plain"]) is config


def test_a_topic_of_another_cluster_may_have_a_name_of_the_layers() -> None:
    for topic in ("channels-send-group", "^.*"):
        assert stream(topic=topic, bootstrap_servers="other:9092").takes("channels-send-group")


def test_no_password_is_shown() -> None:
    found = make(
        streams={
            "orders": {
                "value": "avro",
                "schema_registry": {**REGISTRY, "basic.auth.user.info": "user:secret"},
                "client_config": {"sasl.password": "secret"},
            }
        }
    )

    assert "secret" not in repr(found)
    assert "secret" not in repr(found.streams["orders"].schema_registry)


# What is refused


def test_a_value_of_the_wrong_shape() -> None:
    assert "streams is []; it must be a dict of names" in refused([])
    assert "streams['orders'] is 'x'; it must be a dict of settings" in refused({"orders": "x"})
    for name in (5, "", "or ders", "a" * 101):
        assert f"streams has the name {name!r}" in refused({name: {}})


def test_an_unknown_setting_suggests_the_similar_one() -> None:
    assert "Unknown setting in streams['orders']: 'gruop'; did you mean 'group'?" in refused(
        {"orders": {"gruop": "a"}}
    )
    assert "known are bootstrap_servers, client_config, group" in refused({"orders": {"zzz": 1}})


@for_each(
    ("settings", "said"),
    [
        # topics
        ({"topic": "shop orders"}, "['topic'] is 'shop orders'; it must be Kafka's name"),
        ({"topic": ""}, "a pattern of names that begins with '^'"),
        ({"topic": "a" * 250}, "it must be Kafka's name"),
        ({"topic": 5}, "['topic'] is 5"),
        ({"topic": "^shop("}, "'^shop(', which is no regular expression"),
        ({"topic": "channels-send-user"}, "a topic of the layer itself"),
        ({"topic": "channels-work.mail"}, "a topic of the layer itself"),
        ({"topic": "^.*"}, "matches a topic of the layer itself, 'channels-send-group'"),
        ({"topic": "^channels-w"}, "Make it narrower: '^(?!'"),
        ({"topic": r"^channels-work\.mai"}, "'channels-work.mail'"),
        # addresses
        ({"group": "order-{key"}, "is 'order-{key', no template: expected '}'"),
        ({"group": "order-{kye}"}, "a template may name {key}"),
        ({"group": "order {key}"}, "characters that a group's name cannot have"),
        ({"group": ""}, "no template: it is empty"),
        ({"user": ""}, "no template: it is empty"),
        ({"user": "{key!r}"}, "a format or a conversion"),
        ({"group": "shop.streams.owners"}, "'shop.streams.owners', which cannot be imported"),
        ({"group": ["{key}", "{nope}"]}, "streams['orders']['group'][1] is '{nope}'"),
        ({"group": []}, "a list of at least one"),
        ({"group": 5}, "a function of a record, or its dotted path"),
        ({"user": f"{__name__}.UTC"}, "a function of a record, or its dotted path"),
        ({"group": f"{__name__}.later"}, "it is a coroutine function"),
        ({"group": make}, "it cannot be called with a record"),
        ({"where": f"{__name__}.later"}, "it is a coroutine function"),
        ({"where": "is_public"}, "which cannot be imported"),
        ({"where": True}, "a function of a record, or its dotted path"),
        # handlers
        ({"type": "order changed"}, "the name of a handler, such as 'order.changed'"),
        ({"type": "_private"}, "the name of a handler"),
        ({"type": "1st"}, "the name of a handler"),
        ({"type": ""}, "the name of a handler"),
        ({"type": 5}, "the name of a handler"),
        ({"type": "websocket.disconnect"}, "an event of ASGI itself"),
        ({"type": None}, "has no type; name the handler"),
        ({"tombstone": "order deleted"}, "['tombstone'] is 'order deleted'"),
        # starts
        ({"start": "newest"}, "'latest', 'earliest', a timedelta"),
        ({"start": 5}, "'latest', 'earliest', a timedelta"),
        ({"start": datetime.datetime(2026, 11, 28)}, "without a time zone; give it one"),
        ({"start": datetime.timedelta(hours=-1)}, "it must be above 0"),
        ({"start": datetime.timedelta(0)}, "it must be above 0"),
        # what contradicts itself
        ({"group": None, "user": "{key}", "last_value": True}, "'last_value' and no group"),
        ({"last_value": True, "start": "latest"}, "'last_value' and 'start'"),
        ({"group": None}, "has 'type', and nobody to send to: set 'group'"),
        # choices
        ({"on_error": "ignore"}, "'skip' or 'stop'"),
        ({"last_value": "yes"}, "True or False"),
        ({"worker_channel": "a!b"}, "the name of a channel"),
        ({"worker_channel": "a" * 100}, "the name of a channel"),
        ({"worker_channel": ""}, "the name of a channel"),
        ({"worker_channel": "to-db", "topic": "^a"}, "the topic is a pattern: the workers"),
        # clients
        ({"bootstrap_servers": "other"}, "streams['orders']['bootstrap_servers'] has 'other'"),
        (
            {"client_config": {"group.id": "x"}},
            "streams['orders']['client_config'] must not set 'group.id'",
        ),
        (
            {"client_config": {"isolation.level": "read_uncommitted"}},
            "must not set 'isolation.level': a stream reads committed records alone",
        ),
        ({"client_config": {"client.id": None}}, "['client_config']['client.id'] is None"),
        # codecs
        ({"value": "jsno"}, "Unknown codec in streams['orders']['value']: 'jsno'; did you mean"),
        ({"key": "base64.b64decod"}, "'base64.b64decod', which cannot be imported"),
        ({"value": 5}, "it must be a function of bytes"),
        ({"value": "avro"}, "there is no schema registry: set 'schema_registry'"),
        ({"schema_registry": REGISTRY}, "that neither its value nor its key needs"),
        ({"value": "avro", "schema_registry": "http://a"}, "must be a dict with 'url'"),
        ({"value": "avro", "schema_registry": {}}, "cannot work: Missing required"),
        ({"value": "avro", "schema_registry": {**REGISTRY, "tiemout": 1}}, "tiemout"),
        ({"value": "avro", "schema_registry": {"url": "a:8081"}}, "Invalid url"),
        ({"value": "protobuf", "schema_registry": REGISTRY}, "['value.message'] is None"),
        (
            {
                "value": "protobuf",
                "schema_registry": {**REGISTRY, "value.message": "shop.orders_pb2.Order"},
            },
            "'shop.orders_pb2.Order', which cannot be imported",
        ),
        (
            {"value": "avro", "schema_registry": {**REGISTRY, "value.message": "builtins.dict"}},
            "for protobuf, and only there",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], said: str) -> None:
    problem = refused({"orders": {**READ, **settings}}, worker_channels={"mail": {}})

    assert said in problem
    assert "streams['orders']" in problem


@for_each(
    "setting",
    [
        {"type": "order.changed"},
        {"where": is_public},
        {"start": "earliest"},
        {"tombstone": "order.deleted"},
        {"last_value": True},
        {"on_error": "stop"},
    ],
)
def test_settings_of_readers_need_a_receiver(setting: dict[str, Any]) -> None:
    assert f"has {next(iter(setting))!r}, and nobody to send to" in refused({"orders": setting})


def test_two_streams_cannot_share_a_worker_channel() -> None:
    settings = {"worker_channel": "to-db", "type": "a.b"}

    assert "streams['a'] and streams['b'] have the same worker_channel ('to-db')" in refused(
        {"a": settings, "b": settings}
    )


@pytest.mark.parametrize(
    ("codec", "package"),
    [
        ("avro", "fastavro"),
        ("json-schema", "jsonschema"),
        ("avro", "cachetools"),
    ],
)
def test_a_registry_without_its_extra(
    codec: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("confluent_kafka.schema_registry", package)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    problem = refused({"orders": {"value": codec, "schema_registry": REGISTRY}})

    assert "needs a package that is not installed" in problem
    assert "pip install 'kafka-layer[schema-registry]'" in problem


@for_each(
    ("start", "place"),
    [
        ("latest", "latest"),
        ("earliest", "earliest"),
        (datetime.timedelta(seconds=60), datetime.datetime.fromtimestamp(40, UTC)),
        # Kafka would take a negative time for the end or the beginning, or refuse it.
        (datetime.timedelta(seconds=101), "earliest"),
        (datetime.timedelta(days=10**6), "earliest"),
        (datetime.timedelta.max, "earliest"),
        (datetime.datetime.min.replace(tzinfo=UTC), "earliest"),
        (datetime.datetime.max.replace(tzinfo=UTC), datetime.datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_where_reading_begins_at_a_moment(start: Any, place: Any) -> None:
    assert place_at(start, 100.0) == place
