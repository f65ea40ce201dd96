"""``produce_on_commit``: with the database or not at all, on the layer in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import MessageTooLarge
from channels.layers import channel_layers
from django.db import IntegrityError, transaction

from kafka_layer.exceptions import TopicError
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.shortcuts import produce_on_commit
from tests.support.layers import Backend, Layers, memory_backend, next_message, unhurried

pytestmark = pytest.mark.django_db(transaction=True)

STREAMS = {
    "orders": {
        "topic": "shop.orders",
        "type": "order.changed",
        "worker_channel": "orders-to-db",
        "start": "earliest",
    },
    "every": {"topic": r"^shop\..*"},
    "pictures": {
        "key": "bytes",
        "value": "bytes",
        "type": "picture",
        "worker_channel": "pictures-to-db",
        "start": "earliest",
    },
}


@pytest.fixture(scope="module")
def backend() -> Backend:
    return unhurried(memory_backend())


@pytest.fixture
def layer(make_layer: Layers) -> Iterator[KafkaChannelLayer]:
    """The layer that CHANNEL_LAYERS calls ``default``."""
    before = channel_layers.set("default", make_layer(streams=STREAMS))
    yield channel_layers["default"]
    if before is None:
        del channel_layers.backends["default"]
    else:
        channel_layers.set("default", before)


def first(layer: KafkaChannelLayer) -> dict[str, Any]:
    """Return the first record that a worker gets."""
    message: dict[str, Any] = async_to_sync(next_message)(layer, "orders-to-db")
    return message


def test_what_the_value_was_when_it_was_called_goes_out_at_the_commit(
    layer: KafkaChannelLayer,
) -> None:
    with transaction.atomic():
        value = {"state": "new"}
        produce_on_commit("orders", value, key="7", headers={"by": "shop"})
        value["state"] = "changed"
        layer.produce_sync("orders", "before the commit")
    assert first(layer)["value"] == "before the commit"
    message = first(layer)
    assert (message["key"], message["value"]) == ("7", {"state": "new"})
    assert message["headers"] == {"by": "shop"}


def test_what_a_codec_carries_needs_no_copy(layer: KafkaChannelLayer) -> None:
    """PostgreSQL's binary fields are memoryviews, which Python cannot copy."""
    picture = bytearray(b"before")
    with transaction.atomic():
        produce_on_commit("pictures", memoryview(picture), key=memoryview(b"7"))
        picture[:] = b"behind"
    message = async_to_sync(next_message)(layer, "pictures-to-db")
    assert (message["key"], message["value"]) == (b"7", b"before")


def test_nothing_goes_out_after_a_rollback(layer: KafkaChannelLayer) -> None:
    with contextlib.suppress(IntegrityError), transaction.atomic():
        produce_on_commit("orders", 1)
        raise IntegrityError
    layer.produce_sync("orders", 2)
    assert first(layer)["value"] == 2


@pytest.mark.parametrize(
    ("stream", "value", "error"),
    [
        ("weather", 1, TopicError),
        ("every", 1, TopicError),
        ("orders", object(), TypeError),
    ],
)
def test_a_wrong_call_ends_the_transaction(
    layer: KafkaChannelLayer, stream: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error), transaction.atomic():
        produce_on_commit(stream, value)


@pytest.mark.parametrize("robust", [True, False])
def test_a_failure_after_the_commit(layer: KafkaChannelLayer, robust: bool) -> None:
    raises = contextlib.nullcontext() if robust else pytest.raises(MessageTooLarge)
    with raises, transaction.atomic():
        produce_on_commit("orders", "x" * 3_000_000, robust=robust)
    assert layer.stats().errors == ({"on_commit": 1} if robust else {})
