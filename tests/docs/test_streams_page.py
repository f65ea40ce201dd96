"""The page on streams and its settings: what they show is what the code does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.streams import STREAM_SETTINGS, StreamSettings
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import Cause
from kafka_layer.streams import group_name
from kafka_layer.streams.codecs import CODECS, CodecContext
from kafka_layer.streams.registry import REGISTRY_CODECS
from tests.streams import shop_pb2
from tests.streams.records import record
from tests.support.pages import files_of

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
    for name, text in files_of(PAGE).items():
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
