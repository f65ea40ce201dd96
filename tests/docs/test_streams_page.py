"""The page on streams and its settings: what they show is what the code does."""

from __future__ import annotations

import ast
import json
import re
import secrets
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.testing import WebsocketCommunicator

from kafka_layer import get_layer
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.streams import STREAM_SETTINGS, StreamSettings
from kafka_layer.config.timings import Timings
from kafka_layer.consumers import AsyncUserConsumerMixin
from kafka_layer.exceptions import Cause
from kafka_layer.streams import group_name
from kafka_layer.streams.codecs import CODECS, CodecContext
from kafka_layer.streams.registry import REGISTRY_CODECS
from tests.streams import shop_pb2
from tests.streams.records import record
from tests.support.pages import files_of
from tests.support.registry import running_registry
from tests.support.waiting import PATIENCE

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "streams.md").read_text()
SETTINGS = (DOCS / "settings.md").read_text().partition("\n## Streams\n")[2].partition("\n## ")[0]


def rows(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins so."""
    lines = text.partition(f"\n| {head} |")[2].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(autouse=True)
def modules_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the page's files, and what protoc would generate, importable."""
    for name in ("shopstreams.py", "shopcodecs.py", "changedata.py"):
        text = files_of(PAGE)[name]
        module = ModuleType(name.removesuffix(".py"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(text, module.__dict__)
    bills: Any = ModuleType("shop.bills_pb2")
    bills.Bill = shop_pb2.Order
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.bills_pb2", bills)


def streams_of(text: str) -> list[dict[str, StreamSettings]]:
    """Return the streams of each block of settings, read as the layer reads them."""
    found = []
    for block in re.findall(r'^```python\n(".*?)\n```$', text, re.MULTILINE | re.DOTALL):
        keywords = eval(f"{{{block}}}")
        keywords = keywords.get("CONFIG", keywords)
        keywords.setdefault("bootstrap_servers", "kafka:9092")
        found.append(dict(LayerConfig.from_keywords(**keywords).streams))
    return found


def test_the_settings_of_the_page_are_taken() -> None:
    first, functions, longs, registries, changes, prices = streams_of(PAGE)[:6]

    assert first["orders"].topic == "shop.orders.v1"
    came = record(b'{"total":20000}', b"17")
    assert functions["orders"].groups[0].names(came) == ["order-17", "large-orders"]
    assert functions["orders"].where is not None
    assert functions["orders"].where(came)
    long = longs["orders"].key
    assert long.decode(long.encode(7, CodecContext("t", "key")), CodecContext("t", "key")) == 7
    assert set(registries) == {"orders", "bills"}
    assert prices["prices"].last_value
    customers = changes["customers"]
    assert customers.where is not None
    for envelope, passes in (
        (b'{"before":null,"after":{"id":7},"op":"r"}', False),
        (b'{"before":null,"after":{"id":7},"op":"c"}', True),
        (b'{"before":{"id":7},"after":null,"op":"d"}', True),
    ):
        change = record(envelope, b'{"id":7}', key_codec=customers.key)
        assert customers.where(change) is passes
        assert list(customers.groups[0].names(change)) == ["customer-7"]


def test_the_settings_page_takes_its_own() -> None:
    ((orders, audit),) = (each.values() for each in streams_of(SETTINGS))

    assert orders.is_read
    assert not audit.is_read


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {code(row[0])[0]: row[2] for row in rows(SETTINGS, "setting")}

    assert set(documented) == STREAM_SETTINGS
    defaults = {
        name: eval(code(default)[0])
        for name, default in documented.items()
        if name not in ("topic", "type", "tombstone", "where", "worker_channel")
    }
    assert (
        LayerConfig.from_keywords(
            bootstrap_servers="a:1",
            streams={"s": {"user": "{key}", "type": "a", **without(defaults, "user")}},
        )
        .streams["s"]
        .start
        == "latest"
    )
    plain = LayerConfig.from_keywords(bootstrap_servers="a:1", streams={"s": {}}).streams["s"]
    for name, default in without(defaults, "group", "user", "value", "key").items():
        assert getattr(plain, name) == default, name
    assert plain.value is CODECS[defaults["value"]]
    assert plain.key is CODECS[defaults["key"]]


def without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def test_the_names_of_the_page() -> None:
    shown = {code(row[0])[0]: code(row[1])[0] for row in rows(PAGE, "key")}

    assert len(shown) == 4
    assert {key: group_name("order-{key}", key=key) for key in shown} == shown


def test_every_codec_and_every_cause_is_documented() -> None:
    codecs = {name for row in rows(PAGE, "codec") for name in code(row[0])}
    causes = {code(row[0])[0] for row in rows(PAGE, "cause")}

    assert codecs == {*CODECS, *REGISTRY_CODECS}
    assert causes == {"undecodable", "schema", "template", "name", "function"}
    assert causes <= set(get_args(Cause))


def test_the_time_that_a_registry_has() -> None:
    assert f"within {Timings.registry:g} seconds" in PAGE


class Recipe:
    """A recipe of the page, run on a layer in memory.

    Args:
        heading: The recipe's heading.
        settings: Those of Django.
        streams: The streams, if the recipe shows none.
        replaced: Texts of the recipe, and what stands in their place.
    """

    def __init__(
        self, heading: str, settings: Any, streams: dict[str, Any] | None = None, **replaced: str
    ) -> None:
        recipes = PAGE.partition("\n## Recipes\n")[2].partition("\n## ")[0]
        text = recipes.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
        for old, new in replaced.items():
            text = text.replace(old, new)
        blocks = re.findall(r"^```python\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
        shown = [eval(f"{{{block}}}")["streams"] for block in blocks if block.startswith('"')]
        config = {"prefix": f"page-{secrets.token_hex(4)}", "streams": streams or shown[0]}
        backend = "kafka_layer.testing.InMemoryKafkaChannelLayer"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
        self.layer = get_layer()
        self.names: dict[str, Any] = {
            "Any": Any,
            "AsyncJsonWebsocketConsumer": AsyncJsonWebsocketConsumer,
            "AsyncUserConsumerMixin": AsyncUserConsumerMixin,
            "layer": self.layer,
        }
        self._steps = [block for block in blocks if block.startswith("from datetime")]
        for block in blocks:
            if not block.startswith('"') and block not in self._steps:
                exec(block, self.names)

    async def step(self) -> None:
        """Run what the recipe does outside of its classes."""
        for block in self._steps:
            await eval(compile(block, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), self.names)

    def socket(self, consumer: str, number: str = "", **more: Any) -> WebsocketCommunicator:
        """Return a browser of a consumer that the recipe shows; ``more`` are its attributes."""
        made = type(consumer, (self.names[consumer],), more)
        socket = WebsocketCommunicator(made.as_asgi(), "/")
        socket.scope["url_route"] = {"kwargs": {"number": number}}
        return socket


async def test_the_recipe_for_change_data(settings: Any) -> None:
    recipe = Recipe("Change data of a database", settings)
    browser = recipe.socket("Customer", groups=["customer-7"])
    await browser.connect(PATIENCE)
    for operation, before, after in (
        ("r", None, {"id": 7}),
        ("u", {"id": 7}, {"id": 7, "name": "Ada"}),
        ("d", {"id": 7}, None),
    ):
        envelope = {"op": operation, "before": before, "after": after}
        await recipe.layer.produce("customers", envelope, key={"id": 7})
    await recipe.layer.produce("customers", None, key={"id": 7})
    assert await browser.receive_json_from(PATIENCE) == {"id": 7, "name": "Ada"}
    assert await browser.receive_json_from(PATIENCE) == {"deleted": 7}
    assert await browser.receive_nothing()
    await browser.disconnect(timeout=PATIENCE)


async def test_the_recipe_for_a_table(settings: Any) -> None:
    customers = dict(Recipe("Change data of a database", settings).layer.config.streams)
    stream = {"group": "customer-{key.id}", "key": "json", "type": customers["customers"].type}
    recipe = Recipe("A table behind a group", settings, {"customers": stream})
    browser = recipe.socket("CustomerPage", "7")
    await browser.connect(PATIENCE)
    assert await browser.receive_json_from(PATIENCE) == {"id": 7}
    await recipe.layer.produce("customers", {"after": {"id": 7, "n": 1}}, key={"id": 7})
    assert await browser.receive_json_from(PATIENCE) == {"id": 7, "n": 1}
    await browser.disconnect(timeout=PATIENCE)


async def test_the_recipe_for_prices(settings: Any) -> None:
    recipe = Recipe("Prices with the last value", settings)
    for price in (4.1, 4.2):
        await recipe.layer.produce("prices", price, key="tea")
    browser = recipe.socket("Board")
    await browser.connect(PATIENCE)
    await browser.send_json_to({"show": ["tea", "coffee"]})
    assert await browser.receive_json_from(PATIENCE) == {"symbol": "tea", "price": 4.2}
    await recipe.layer.produce("prices", 6.5, key="coffee")
    assert await browser.receive_json_from(PATIENCE) == {"symbol": "coffee", "price": 6.5}
    await browser.disconnect(timeout=PATIENCE)


PAYMENT = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "customer_id", "type": "long"},
        {
            "name": "amount",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}


async def test_the_recipe_for_avro(settings: Any) -> None:
    with running_registry() as registry:
        registry.register("shop.payments-value", json.dumps(PAYMENT))
        recipe = Recipe("Avro with a registry", settings, **{"http://registry:8081": registry.url})
        browser = recipe.socket("Payments", get_user_id=lambda self: 5)
        await browser.connect(PATIENCE)
        await recipe.step()
        paid = await browser.receive_json_from(PATIENCE)
        assert paid == {"amount": "9.50", "at": recipe.names["payment"]["at"].isoformat()}
        with pytest.raises(TypeError, match="amount"):
            await recipe.layer.produce("payments", {"customer_id": 5})
        await browser.disconnect(timeout=PATIENCE)


@pytest.mark.parametrize("may_see", [True, False], ids=["staff", "others"])
async def test_the_recipe_for_who_may_see_what(settings: Any, may_see: bool) -> None:
    streams = {"orders": {"group": "order-{key}", "type": "order.changed"}}
    recipe = Recipe("Who may see what", settings, streams)
    browser = recipe.socket("OwnOrder", "7")
    browser.scope["user"] = SimpleNamespace(is_staff=may_see)
    assert (await browser.connect(PATIENCE))[0] is may_see
    assert recipe.layer.stats().groups == may_see
    await browser.disconnect(timeout=PATIENCE)
