"""Which records are for nobody here, as far as their keys tell."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.config.settings import LayerConfig
from kafka_layer.delivery.registry import Registry
from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.streams.interest import Interest, interest
from kafka_layer.streams.names import is_hashed
from kafka_layer.wire.names import ServerName
from kafka_layer.wire.topics import StreamTopic
from tests.support.tables import for_each

from .records import record

SERVER = ServerName(0, "abcdef01")
TOPIC = StreamTopic("orders", "orders")


class Site:
    """A stream's interest, and the channels of its server."""

    def __init__(self, **settings: Any) -> None:
        config = LayerConfig.from_keywords(
            bootstrap_servers="a:1", streams={"orders": {"type": "order.changed", **settings}}
        )
        self.registry = Registry(config)
        self.settings = config.streams["orders"]
        self.names: list[str] = []

    def found(self) -> Interest:
        found = interest(self.settings, self.registry)
        assert found is not None
        return found

    def join(self, group: str, user: str = "") -> str:
        name = self.registry.new_channel("specific", SERVER)
        self.names.append(name)
        self.registry.change("group_add", group, name)
        if user:
            self.registry.change("user_add", user, name)
        return name


def concerned(found: Interest, *keys: bytes | None) -> list[bytes | None]:
    messages = [(TOPIC, key) for key in keys]
    return [key for _, key in found.concerned(messages, itemgetter(1))]


KEYS = st.text(max_size=60) | st.text("_xh7é/", min_size=20, max_size=120)


@given(KEYS, KEYS, st.sampled_from(["{key}", "order-{key}", "{key}.x", "a_{key}_xh"]))
def test_a_key_stays_while_its_group_has_a_member(key: str, other: str, template: str) -> None:
    site = Site(group=template)
    fill = site.settings.groups[0]
    found = site.found()
    assert b"" in concerned(found, b"", b"7"), "it may be no name, which is an error of the record"

    def name_of(text: str) -> str:
        return str(fill.names(record(key=text.encode()))[0])

    try:
        name, name_of_other = name_of(key), name_of(other)
    except UnreadableRecord:
        return
    channel = site.join(name)
    for each in (found, site.found()):  # also of groups that were there before
        assert key.encode() in concerned(each, key.encode())
        if other and name_of_other != name and not is_hashed(name):
            assert concerned(each, other.encode()) == []
    site.registry.change("group_discard", name, channel)
    assert not key or concerned(found, key.encode(), b"7") == []


def test_keys_that_are_errors_of_their_records_stay() -> None:
    found = Site(group="order-{key}").found()
    assert concerned(found, b"7", b"8") == []
    for error in (None, b"\xff", b""):
        assert error in concerned(found, b"7", error)


def test_a_group_of_another_kind_concerns_no_key() -> None:
    site = Site(group="order-{key}.v1")
    found = site.found()
    for group in ("room-7", "order-7", "7.v1", "order-.v1", "order-_xZZ.v1", "order.v1"):
        site.join(group)
    assert concerned(found, b"7", b"room-7", b"_xZZ") == []
    site.join("order-7.v1")
    assert concerned(found, b"7", b"8") == [b"7"]


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"group": "order-{key.id}", "key": "json"}, [b'{"id": 7}', b'{"id": 8}']),
        ({"group": "order-{key}-{key}"}, [b"7", b"8"]),
        ({"user": "{key}"}, [b"7", b"8"]),
    ],
)
def test_other_keys_are_known_once_they_were_read(
    settings: dict[str, Any], keys: list[bytes]
) -> None:
    site = Site(**settings)
    found = site.found()
    assert concerned(found, *keys) == keys
    [addresser] = (*site.settings.groups, *site.settings.users)
    names = [addresser.names(record(key=key, key_codec=site.settings.key))[0] for key in keys]
    assert concerned(found, *keys) == []
    site.join(names[0], user=names[0])
    assert concerned(found, *keys) == keys[:1]


@for_each(
    "settings",
    [
        {"group": "order-{value.id}"},
        {"group": "order-{key}-{partition}"},
        {"group": "order-{key}", "user": "{key}"},
        {"group": ["order-{key}", "all"]},
        {"group": lambda record: "all"},
        {"group": "order-{key}", "where": lambda record: True},
        {"group": "order-{key}", "last_value": True},
    ],
)
def test_where_more_decides_the_keys_tell_nothing(settings: dict[str, Any]) -> None:
    site = Site(**settings)
    assert interest(site.settings, site.registry) is None
