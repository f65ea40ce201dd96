"""The drill of docs/operations.md: five faults, and what page, metrics and alerts show in each.

A real Prometheus scrapes real layers, with the alert rules of ``deploy/``, whose waiting times are
cut short; tests/docs/test_operations.py has promtool judge these.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.metrics import LayerCollector
from kafka_layer.testing.embedded import EmbeddedBroker
from tests.support.inspect import server_of
from tests.support.layers import Layers, embedded_backend, next_message, next_messages
from tests.support.patience import PATIENT
from tests.support.prometheus import Prometheus, quick, require_prometheus
from tests.support.records import create_topic, produce
from tests.support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
BOARD = json.loads((DEPLOY / "grafana" / "kafka-layer.json").read_text())

SLOW = 60.0
# More than the threshold of the alert, 1,000.
MANY = 3000


class Servers:
    """Layers that Prometheus scrapes, each at an address of its own as a process would be."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._servers: dict[str, Any] = {}

    def add(self, name: str, layer: KafkaChannelLayer) -> None:
        registry = CollectorRegistry()
        registry.register(LayerCollector({name.partition("-")[0]: layer}))
        server, _ = start_http_server(0, "127.0.0.1", registry)
        self._servers[name] = server
        self.addresses[name] = f"127.0.0.1:{server.server_port}"

    def kill(self, name: str) -> None:
        server = self._servers.pop(name)
        server.shutdown()
        server.server_close()

    def close(self) -> None:
        for name in list(self._servers):
            self.kill(name)


@pytest.fixture
def servers() -> Iterator[Servers]:
    require_prometheus()
    made = Servers()
    yield made
    made.close()


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the queries of the dashboard with their panels' titles, as Grafana would ask them."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], re.sub(r"\$\w+", ".*", text)


async def test_five_faults(make_layer: Layers, kafka: str, prefix: str, servers: Servers) -> None:
    for topic in ("poisoned", "spotted"):
        create_topic(kafka, f"{prefix}-{topic}")
    make_layer.timings = replace(PATIENT, look=0.3)
    streams = {
        name: {"topic": f"{prefix}-{name}", "group": name, "type": "x", "on_error": on_error}
        for name, on_error in (("poisoned", "stop"), ("spotted", "skip"))
    }
    # Its messages live longer than they wait, on whatever machine.
    slow = make_layer(f"{prefix}-slow", capacity=4, expiry=600)
    lossy = make_layer(f"{prefix}-lossy", capacity=1)
    well, other = (make_layer(prefix, streams=streams) for _ in range(2))
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        apart = Layers(embedded_backend(broker))
        stack.callback(apart.close)
        away = apart(f"{prefix}-away")
        for layer in (slow, lossy, well, other, away):
            await layer.group_send("nobody", {})
        for name, layer in (
            ("slow", slow),
            ("lossy", lossy),
            ("well-1", well),
            ("well-2", other),
            ("away", away),
        ):
            servers.add(name, layer)
        prometheus = stack.enter_context(Prometheus(servers.addresses, quick(RULES)))
        drill = Drill(prometheus)
        await drill.until(set(), "every server to be well")

        # 1. Lag: a consumer takes one message at a time, and slowly, while many come.
        channel = await slow.new_channel()
        await slow.group_add("room", channel)
        stop = asyncio.Event()

        async def take_slowly() -> int:
            taken = 0
            while not stop.is_set():
                await next_message(slow, channel)
                taken += 1
                await asyncio.sleep(0.03)
            return taken

        taking = asyncio.create_task(take_slowly())
        for number in range(MANY):
            await slow.group_send("room", {"n": number})
        await drill.until({("KafkaLayerLag", "slow")}, "the lag to be told")
        assert await drill.value('sum(kafka_layer_consumer_lag_records{alias="slow"})') > 1000
        await drill.until_page(slow, lambda page: own(page)["lag"] > 1000, "the lag")
        stop.set()
        await next_messages(slow, channel, MANY - await taking, timeout=SLOW)
        await drill.until(set(), "the lag to be over")

        # 2. Drops: a channel takes nothing.
        full = await lossy.new_channel()
        await lossy.group_add("room", full)
        for number in range(20):
            await lossy.group_send("room", {"n": number})
        drops = {("KafkaLayerDrops", "lossy")}
        await drill.until(drops, "the drops to be told")
        dropped = 'kafka_layer_messages_dropped_total{alias="lossy",cause="full"}'
        await drill.until_value(dropped, 19)
        await drill.until_page(lossy, lambda page: own(page)["dropped"] == {"full": 19}, "drops")

        # 3. A dead server: one of two.
        await other.new_channel()
        dead = other.stats().server
        await drill.until_page(well, lambda page: dead in page["servers"], "both servers")
        servers.kill("well-2")
        await other.close()
        gone = {("KafkaLayerServerGone", "well")}
        await drill.until_fired(gone, "the dead server to be missed")
        assert await drill.value('up{instance="well-2"}') == 0
        await drill.until_page(
            well, lambda page: page["servers"][dead]["silent"] > 2, "the server to be silent"
        )
        # After a while it counts as scaled down; "up" tells it until the target is removed.
        await drill.until(drops, "the others to be all there are")

        # 4. Kafka away.
        broker.stop()
        lost = {("KafkaLayerDisconnected", "away")}
        await drill.until(drops | lost, "the outage to be told")
        assert await drill.value('kafka_layer_connected{alias="away"}') == 0
        assert await drill.value('kafka_layer_connected{alias="slow"}') == 1
        await drill.until_page(away, lambda page: page["state"] == "disconnected", "the outage")

        # 5. A poisoned stream: one is to stop at it, one to skip it.
        listener = await well.new_channel()
        for name in ("poisoned", "spotted"):
            await well.group_add(name, listener)
            produce(kafka, f"{prefix}-{name}", [b"{no json"])
        poisoned = {
            ("KafkaLayerStreamDown", "poisoned"),
            ("KafkaLayerStreamErrors", "poisoned"),
            ("KafkaLayerStreamErrors", "spotted"),
        }
        await drill.until(drops | lost | poisoned, "the poisoned streams to be told")
        assert await drill.value('kafka_layer_stream_up{stream="poisoned"}') == 0
        assert await drill.value('kafka_layer_stream_up{stream="spotted"}') == 1
        errors = 'kafka_layer_stream_records_total{stream="spotted",outcome="undecodable"}'
        assert await drill.value(errors) == 1
        await drill.until_page(
            well, lambda page: own(page)["streams"]["poisoned"]["state"] == "stopped", "the stop"
        )
        assert own(server_of(well).watch.look())["streams"]["spotted"]["errors"] == {
            "undecodable": 1
        }

        # The dashboard's queries are PromQL, and find something.
        shown = {
            title
            for title, expression in expressions()
            if await asyncio.to_thread(prometheus.query, expression)
        }
        assert {"Sent", "Delivered", "Age", "Dropped", "Processes connected", "Channels"} <= shown

        # And none is left.
        servers.close()
        none = {("KafkaLayerNoServer", "")}
        await drill.until_fired(none, "it to be told that no server is left")


def own(page: Any) -> Any:
    """Return what the page shows of the server that was asked; as of a healthy one before it is."""
    nothing = {"lag": 0, "dropped": {}, "streams": {"poisoned": {"state": ""}}}
    return page["servers"].get(page["server"]) or nothing


class Drill:
    """Asks one Prometheus, beside the event loop.

    Args:
        prometheus: Which one.
    """

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus

    async def until(self, alerts: set[tuple[str, str]], what: str) -> None:
        """Wait until these alerts fire and no others."""
        await self._wait(lambda firing: firing == alerts, f"{what}: {sorted(alerts)}")

    async def until_fired(self, alerts: set[tuple[str, str]], what: str) -> None:
        """Wait until these alerts have fired, perhaps for a moment, and whichever others did."""
        await self._wait(alerts.issubset, f"{what}: {sorted(alerts)}", self._prometheus.fired)

    async def until_value(self, expression: str, value: float) -> None:
        """Wait until the one value of an expression is this one."""

        def look() -> float | None:
            found = self._prometheus.query(expression)
            return float(found[0]["value"][1]) if found else None

        await self._wait(lambda found: found == value, f"{expression} to be {value}", look)

    async def until_page(
        self, layer: KafkaChannelLayer, is_right: Callable[[Any], bool], what: str
    ) -> None:
        """Wait until the page for staff shows something, at the server of a layer."""
        await self._wait(is_right, f"the page to show {what}", server_of(layer).watch.look)

    async def value(self, expression: str) -> float:
        """Return the one value of an expression."""
        [sample] = await asyncio.to_thread(self._prometheus.query, expression)
        return float(sample["value"][1])

    async def _wait(
        self, is_right: Callable[[Any], bool], what: str, look: Callable[[], Any] | None = None
    ) -> None:
        found: Any = None

        def is_there() -> bool:
            nonlocal found
            found = (look or self._prometheus.firing)()
            return is_right(found)

        try:
            await asyncio.to_thread(wait_until, is_there, what, SLOW, pause=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {found}") from None
