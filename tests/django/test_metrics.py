"""Prometheus: what the collector tells of layers, how it is registered, and in which formats."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kafka_layer import metrics
from kafka_layer.checks import check_settings
from kafka_layer.exceptions import Cause, Reason
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.stats import LayerStats
from tests.support.layers import Layers, memory_backend, next_message, unhurried
from tests.support.waiting import PATIENCE, wait_until_async

MEMORY = "kafka_layer.testing.InMemoryKafkaChannelLayer"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Values = dict[tuple[str, ...], float]


@pytest.fixture
def layers() -> Iterator[Layers]:
    made = Layers(unhurried(memory_backend()))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """A default registry for the test alone."""
    fresh = CollectorRegistry()
    monkeypatch.setattr(metrics, "REGISTRY", fresh)
    monkeypatch.setattr(metrics.register, "__defaults__", (fresh,))
    return fresh


def told(**layers: Any) -> Values:
    """Return what a collector tells of layers: by name and labels, without the alias."""
    found: Values = {}
    for family in metrics.LayerCollector(layers).collect():
        for sample in family.samples:
            labels = [value for label, value in sample.labels.items() if label != "alias"]
            found[(sample.name, *labels)] = sample.value
    return found


class TestFigures:
    async def test_of_messages_by_kind(self, layers: Layers) -> None:
        here, there = layers("kinds"), layers("kinds")
        channel = await there.new_channel()
        told(there=there)  # ages are measured from the first scrape on
        await there.group_add("room", channel)
        await there.user_add("7", channel)
        await here.group_send("room", {"n": 1})
        await here.user_send("7", {"n": 2})
        await here.all_send({"n": 3})
        await here.send(channel, {"n": 4})
        for _ in range(4):
            await next_message(there, channel)
        # One that a receive finds may be counted a moment later.
        await wait_until_async(lambda: there.stats().delivered == 4, "all to be counted")
        sent, got = told(here=here), told(there=there)
        for kind in ("group", "user", "all", "channel"):
            assert sent["kafka_layer_messages_sent_total", kind] == 1, kind
            assert got["kafka_layer_messages_delivered_total", kind] == 1, kind
        assert sent["kafka_layer_messages_sent_total", "job"] == 0
        assert got["kafka_layer_message_age_seconds_count",] == 4
        assert 0 <= got["kafka_layer_message_age_seconds_sum",] < 60
        assert (got["kafka_layer_channels",], got["kafka_layer_groups",]) == (1, 1)
        assert got["kafka_layer_connected",] == 1

    async def test_of_the_ages_for_a_tracked_channel(self, layers: Layers) -> None:
        layer = layers("tracked")
        early = await layer.new_channel()
        layer.track(early)
        told(default=layer)
        late = await layer.new_channel()
        layer.track(late)
        await layer.all_send({"n": 1})
        for channel in (early, late):
            await next_message(layer, channel)
        assert told(default=layer)["kafka_layer_message_age_seconds_count",] == 2

    async def test_of_what_stayed_in_the_process_no_age_is_told(self, layers: Layers) -> None:
        layer = layers("local")
        channel = await layer.new_channel()
        told(default=layer)
        await layer.send(channel, {"n": 1})
        await next_message(layer, channel)
        assert told(default=layer)["kafka_layer_message_age_seconds_count",] == 0

    async def test_of_jobs(self, layers: Layers) -> None:
        layer = layers("jobs")
        told(default=layer)
        await layer.send("thumbs.small", {"n": 1})
        await layer.send("thumbs.small", {"n": 2})
        for end in ("done", "failed"):
            _, job = await asyncio.wait_for(layer.receive_job("thumbs.small"), PATIENCE)
            job.done() if end == "done" else job.failed(ValueError())
        found = told(default=layer)
        for outcome in ("done", "failed"):
            assert found["kafka_layer_worker_jobs_total", "thumbs.small", outcome] == 1
        assert found["kafka_layer_messages_delivered_total", "job"] == 2
        # They may well wait.
        assert found["kafka_layer_message_age_seconds_count",] == 0
        assert layer.stats().jobs == {"thumbs.small": {"done": 1, "failed": 1}}

    async def test_of_recoveries(self, layers: Layers) -> None:
        layer = layers("recoveries")
        await layer.group_send("room", {"n": 0})
        position = await layer.group_position("room")
        await layer.group_send("room", {"n": 1})
        channel = await layer.new_channel()
        layer.track(channel)
        await layer.group_add("room", channel)
        assert (await layer.recover(channel, position)).recovered
        assert not (await layer.recover(channel, "nonsense")).recovered
        found = told(default=layer)
        assert found["kafka_layer_recoveries_total", "recovered"] == 1
        assert found["kafka_layer_recoveries_total", "invalid"] == 1
        assert found["kafka_layer_recovered_messages_total",] == 1

    async def test_of_a_stream(self, layers: Layers) -> None:
        streams = {
            "prices": {
                "topic": "prices",
                "group": "price-{key}",
                "type": "price",
                "where": lambda it: it.key != "x",
            }
        }
        layer = layers("streams", streams=streams)
        channel = await layer.new_channel()
        await layer.group_add("price-a", channel)
        for key, value in (("a", 1), ("x", 2)):
            await layer.produce("prices", value, key=key)
        await layer.produce("prices", 3)  # no key: its group has no name
        read = {"records": 3, "filtered": 1, "delivered": 1}
        await wait_until_async(
            lambda: read.items() <= layer.stats().streams["prices"].items(), "three records"
        )
        found = told(default=layer)
        assert found["kafka_layer_stream_records_total", "prices", "read"] == 3
        assert found["kafka_layer_stream_records_total", "prices", "filtered"] == 1
        failed = [
            found["kafka_layer_stream_records_total", "prices", cause]
            for cause in ("name", "template")
        ]
        assert sum(failed) == 1
        assert found["kafka_layer_stream_up", "prices"] == 1
        assert found["kafka_layer_messages_delivered_total", "stream"] == 1
        assert found["kafka_layer_messages_sent_total", "stream"] == 3

    def test_a_layer_that_was_never_used_tells_zeros_and_not_whether_it_is_connected(
        self, layers: Layers
    ) -> None:
        """Or ``increase`` would miss the first drop."""
        found = told(default=layers("idle"))
        assert ("kafka_layer_connected",) not in found
        for cause in get_args(Cause):
            assert found["kafka_layer_messages_dropped_total", cause] == 0
        for outcome in ("recovered", *get_args(Reason)):
            assert found["kafka_layer_recoveries_total", outcome] == 0

    def test_a_counter_never_falls_but_for_a_new_server(self) -> None:
        """``rate`` takes each fall for a restart."""
        figures = LayerStats(delivered_by_kind={"job": 5}, since=1.0)

        class Layer:
            def measure(self) -> None:
                pass

            def stats(self) -> LayerStats:
                return figures

        collector = metrics.LayerCollector({"default": Layer()})

        def delivered() -> float:
            return next(
                sample.value
                for family in collector.collect()
                for sample in family.samples
                if sample.labels.get("kind") == "job" and "delivered" in sample.name
            )

        assert delivered() == 5
        figures = LayerStats(delivered_by_kind={"job": 3}, since=1.0)  # two were given back
        assert delivered() == 5
        figures = LayerStats(delivered_by_kind={"job": 1}, since=2.0)
        assert delivered() == 1

    async def test_no_label_is_a_group_or_a_user(self, layers: Layers) -> None:
        layer = layers("labels")
        channel = await layer.new_channel()
        await layer.group_add("a-group", channel)
        await layer.user_add("a-user", channel)
        await layer.group_send("a-group", {})
        await next_message(layer, channel)
        labels = {each for key in told(default=layer) for each in key[1:]}
        assert labels
        assert not any(name in label for label in labels for name in ("a-group", "a-user", channel))


class TestRegistration:
    async def test_by_the_setting_and_once_for_two_layers(self, settings: Any) -> None:
        config = {"metrics": True}
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": MEMORY, "CONFIG": {**config, "prefix": "one"}},
            "other": {"BACKEND": MEMORY, "CONFIG": {**config, "prefix": "two"}},
        }
        for alias in ("default", "other"):
            await get_channel_layer(alias).group_send("room", {})
        body, _ = metrics.exposition()
        sent = [
            (sample.labels["alias"], sample.value)
            for family in parse_text(body.decode())
            for sample in family.samples
            if sample.name == "kafka_layer_messages_sent_total" and sample.labels["kind"] == "group"
        ]
        assert sorted(sent) == [("default", 1), ("other", 1)]
        for alias in ("default", "other"):
            await channel_layers[alias].close()

    def test_by_hand_and_by_the_setting(self, registry: CollectorRegistry, layers: Layers) -> None:
        registry.register(metrics.LayerCollector())
        with pytest.raises(ImproperlyConfigured, match=r"by hand, too\. Remove one of the two"):
            layers("twice", metrics=True)
        # The view shows the one that there is.
        assert metrics.exposition()[0].count(b"# TYPE kafka_layer_connected gauge") == 1

    def test_a_registry_refuses_a_second_collector(self, registry: CollectorRegistry) -> None:
        metrics.register(registry)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(metrics.LayerCollector())

    @pytest.mark.parametrize(
        ("keyword", "module", "extra"),
        [
            ("metrics", "prometheus_client", "prometheus"),
            ("tracing", "opentelemetry.trace", "opentelemetry"),
        ],
    )
    def test_without_the_extra(
        self,
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
        keyword: str,
        module: str,
        extra: str,
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        config = {"bootstrap_servers": "kafka:9092", keyword: True}
        mend = re.escape(f"pip install 'kafka-layer[{extra}]'")
        with pytest.raises(ImproperlyConfigured, match=f"{keyword} is True.* Run: {mend}"):
            KafkaChannelLayer(**config)
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}
        }
        [found] = check_settings()
        assert found.id == "kafka_layer.E002"
        assert extra in str(found.hint)

    def test_the_module_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        monkeypatch.delitem(sys.modules, "kafka_layer.metrics")
        with pytest.raises(
            ImproperlyConfigured, match=r"needs prometheus_client\. Run: pip install"
        ):
            importlib.import_module("kafka_layer.metrics")

    def test_several_processes_at_one_address(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        layer = {"BACKEND": MEMORY, "CONFIG": {"metrics": True}}
        settings.CHANNEL_LAYERS = {"default": layer}
        [found] = check_settings()
        assert found.id == "kafka_layer.W008"
        get_channel_layer()
        assert b'kafka_layer_channels{alias="default"} 0.0' in metrics.exposition()[0]


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*"])
async def test_the_text_format(layers: Layers, accept: str) -> None:
    layer = layers("text")
    await layer.group_send("room", {})
    metrics.REGISTRY.register(metrics.LayerCollector({"default": layer}))
    body, content_type = metrics.exposition(accept)
    assert content_type.startswith("text/plain; version=")
    names = {family.name for family in parse_text(body.decode())}
    assert {"kafka_layer_connected", "kafka_layer_messages_sent"} <= names


async def test_openmetrics(layers: Layers) -> None:
    """prometheus_client's parser checks what the format asks."""
    layer = layers("open")
    await layer.group_send("room", {})
    metrics.REGISTRY.register(metrics.LayerCollector({"default": layer}))
    body, content_type = metrics.exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["kafka_layer_messages_sent"].type == "counter"
    assert families["kafka_layer_build"].type == "info"
    assert families["kafka_layer_message_age_seconds"].type == "histogram"
    assert body.endswith(b"# EOF\n")
