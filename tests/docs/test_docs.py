"""The documentation says what the code does: keywords, defaults, topics, checks, options."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from django.core.management import load_command_class
from django.core.management.base import DjangoHelpFormatter

from kafka_layer import checks
from kafka_layer.calls.sync import SyncTwins
from kafka_layer.config.librdkafka import FORBIDDEN
from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.properties import (
    admin_properties,
    consumer_properties,
    producer_properties,
    work_properties,
)
from kafka_layer.wire.topics import Topic
from tests.support.tables import for_each

SETTINGS = Path(__file__).parents[2] / "docs" / "settings.md"
SERVERS = {"bootstrap_servers": "localhost:9092"}
KEYWORDS = ({each.name for each in fields(LayerConfig)} - {"timings"}) | {
    "default_partitions",
    "default_replication_factor",
    "default_topic_config",
}


def table(heading: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a table below a heading, without its head."""
    section = SETTINGS.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found: list[list[list[str]]] = [[]]
    for line in section.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif found[-1]:
            found.append([])
    return found[number][2:]


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def documented_defaults() -> dict[str, str]:
    return {code(row[0])[0]: row[2] for row in table("Keywords of CONFIG")}


def test_every_keyword_is_documented_and_no_other() -> None:
    names = [code(row[0])[0] for row in table("Keywords of CONFIG")]

    assert len(names) == len(set(names))
    assert set(names) == KEYWORDS


@for_each("keyword", sorted(KEYWORDS))
def test_the_documented_default_is_the_default(keyword: str) -> None:
    documented = documented_defaults()[keyword]
    if documented == "required":
        with pytest.raises(Exception, match=f"CONFIG has no {keyword}"):
            LayerConfig.from_keywords()
        return
    value = ast.literal_eval(documented.strip("`"))

    given = LayerConfig.from_keywords(**SERVERS, **{keyword: value})

    assert given == LayerConfig.from_keywords(**SERVERS)


def test_the_comparison_of_defaults_sees_a_difference() -> None:
    default = LayerConfig.from_keywords(**SERVERS)

    for keyword, other in {
        "expiry": 61,
        "default_partitions": 11,
        "default_replication_factor": 1,
        "default_topic_config": {"segment.ms": None},
        "channel_capacity": {"a": 1},
        "topics": {"ack": {"partitions": 1}},
        "worker_channels": {"a": {}},
        "client_config": {"client.id": "a"},
        "symmetric_encryption_keys": ["a"],
    }.items():
        assert LayerConfig.from_keywords(**SERVERS, **{keyword: other}) != default


def test_the_choices_are_documented() -> None:
    types = {code(row[0])[0]: code(row[1]) for row in table("Keywords of CONFIG")}

    for keyword in ("serializer_format", "overflow", "worker_group_protocol"):
        for choice in types[keyword]:
            LayerConfig.from_keywords(**SERVERS, **{keyword: ast.literal_eval(choice)})
        with pytest.raises(
            Exception, match=re.escape(" or ".join(types[keyword]).replace('"', "'"))
        ):
            LayerConfig.from_keywords(**SERVERS, **{keyword: "none of them"})


def test_every_topic_is_documented() -> None:
    assert [code(row[0])[0] for row in table("Topics")] == [topic.value for topic in Topic]


def test_the_documented_topic_configs_are_those_of_new_topics() -> None:
    documented = {code(row[0])[0]: code(row[1])[0] for row in table("Topics", 1)}

    for settings in LayerConfig.from_keywords(**SERVERS, expiry=60).topics.values():
        assert settings.config == documented


def test_every_refused_property_is_documented() -> None:
    everywhere, *others = table("librdkafka properties")
    documented = {"client_config": code(everywhere[1])}
    documented.update({code(row[0])[0]: code(row[1]) for row in others})

    refused = {name: properties for name, properties in FORBIDDEN.items() if properties}

    assert {name: set(each) for name, each in documented.items()} == {
        name: set(each) for name, each in refused.items()
    }


def test_every_property_that_the_layer_sets_is_documented() -> None:
    classic = LayerConfig.from_keywords(**SERVERS)
    kip_848 = LayerConfig.from_keywords(**SERVERS, worker_group_protocol="consumer")
    every: dict[str, set[str]] = {}
    for properties in (
        producer_properties(classic),
        consumer_properties(classic),
        work_properties(classic, "a-topic"),
        work_properties(kip_848, "a-topic"),
        admin_properties(classic),
    ):
        for name, value in properties.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            every.setdefault(name, set()).add(text)
    del every["bootstrap.servers"]  # the keyword

    documented = {code(row[0])[0]: row[3] for row in table("What the layer sets itself")}

    assert sorted(documented) == sorted(every)
    for name, text in documented.items():
        if code(text) and code(text)[0].replace("_", "").isalnum() and "_protocol" not in text:
            assert every[name] == {code(text)[0]} or text == "`expiry`", name


def test_every_check_is_documented() -> None:
    source = Path(checks.__file__).read_text()
    ids = set(re.findall(r"kafka_layer\.[EW]\d{3}", source))
    ids |= {f"kafka_layer.{number}" for number in re.findall(r'"(E\d{3})"', source)}
    documented = [code(row[0])[0] for row in table("System checks")]

    assert len(ids) == 12
    assert sorted(documented) == sorted(ids)


def test_every_synchronous_twin_is_in_the_reference() -> None:
    members = (SETTINGS.parent / "api.md").read_text()
    listed = re.findall(r"^ +- (\w+_sync)$", members, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in vars(SyncTwins) if name.endswith("_sync"))


def test_every_option_of_the_command_is_documented() -> None:
    command = load_command_class("kafka_layer", "kafka_setup_topics")
    parser = command.create_parser("manage.py", "kafka_setup_topics")
    options = {name for action in parser._actions for name in action.option_strings}

    own = {name for name in options - DjangoHelpFormatter.show_last if name.startswith("--")}

    assert own - {"--help"} == {code(row[0])[0].split()[0] for row in table("kafka_setup_topics")}
