"""kafka_layer.health, its addresses and its check for django-health-check, without a broker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from channels.layers import channel_layers
from django.http import HttpResponse
from django.test import AsyncClient, Client

import kafka_layer
from kafka_layer import health
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, ProduceFailed, TopicError
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.transport import Health
from tests.support.inspect import server_of
from tests.support.patience import START
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "kafka_layer.urls"


SECRET = "kafka-1.internal:9092"


class Patient(InMemoryKafkaChannelLayer):
    """A layer whose answers may take long, and whose round trips stay young."""

    timings = replace(
        Timings(), start=START, ready=10 * PATIENCE, ready_answer=PATIENCE, round_trip=PATIENCE
    )


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Any:
    backend = "kafka_layer.testing.InMemoryKafkaChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    layer = Patient(prefix="health")
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    yield layer
    layer.close_sync()


def get(path: str) -> tuple[int, dict[str, Any]]:
    answer: HttpResponse = Client().get(f"/{path}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert b"\n" not in answer.content
    told = json.loads(answer.content)
    assert told["ok"] == (answer.status_code == 200)
    assert SECRET not in str(told)
    return answer.status_code, told


def lose_kafka(layer: Any, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    told = Health(connected=facts.pop("connected", False), queued=0, lag=0, **facts)
    monkeypatch.setattr(server_of(layer).transport, "health", lambda: told)


def test_a_layer_that_nothing_used_lives_and_becomes_ready(layer: Any) -> None:
    assert get("live") == (200, {"ok": True, "why": "Nothing has used the layer yet."})
    assert layer.stats().state == "idle"

    status, told = get("ready")
    assert status == 200
    assert told["why"].startswith("A record went to Kafka and came back in ")
    assert get("live") == (200, {"ok": True, "why": "All threads run."})


async def test_both_answer_in_an_event_loop(layer: Any) -> None:
    for path in ("live", "ready"):
        assert (await AsyncClient().get(f"/{path}")).status_code == 200
    assert (await health.aready("default")).ok


def test_without_kafka_it_lives_and_is_not_ready(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert health.ready().ok
    lose_kafka(layer, monkeypatch)

    assert get("ready") == (503, {"ok": False, "why": "No Kafka broker can be reached."})
    status, told = get("live")
    assert status == 200
    assert "messages wait" in told["why"]


def test_a_thread_that_ended_is_named(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.ready().ok
    lose_kafka(layer, monkeypatch, connected=True, dead=("kafka-layer-data",))

    for path in ("live", "ready"):
        status, told = get(path)
        assert status == 503
        assert told["why"] == "The thread kafka-layer-data ended unexpectedly."


def test_a_young_round_trip_is_enough_and_an_old_one_is_not(layer: Any) -> None:
    assert health.ready().ok
    trips = server_of(layer).round_trips
    first = trips.last
    assert health.ready().ok
    assert trips.last is first

    trips.last = first._replace(at=first.at - Patient.timings.ready)
    assert health.ready().ok
    assert trips.last.at > first.at


def test_one_that_does_not_come_back_takes_less_than_a_second(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    class Deaf(InMemoryKafkaChannelLayer):
        timings = replace(Timings(), ready_answer=0.1, round_trip=10 * PATIENCE)

    layer = Deaf(prefix="deaf")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer"}}
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    assert wait_until(lambda: health.ready().ok, "the layer to be ready")
    server = server_of(layer)
    server.round_trips.last = None
    monkeypatch.setattr(server.commands, "deliver", lambda records: None)
    monkeypatch.setattr(server.transport, "produce", lambda *arguments: None)

    began = time.monotonic()
    assert get("ready") == (
        503,
        {"ok": False, "why": "A record that went to Kafka did not come back in time."},
    )
    assert time.monotonic() - began < PATIENCE
    layer.close_sync()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (BrokerUnavailable(SECRET), "No Kafka broker answers, or the brokers refuse this server; "),
        (TopicError(SECRET), "A topic is missing, or this server may not use it; "),
        (ProduceFailed(SECRET), "ProduceFailed; "),
        (RuntimeError(SECRET), "RuntimeError; "),
    ],
)
def test_it_never_raises_and_only_the_log_has_addresses(
    layer: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    why: str,
) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(server_of(layer).transport, "open_receiver", fail)
    assert get("ready") == (503, {"ok": False, "why": f"{why}the log says more."})
    assert SECRET in caplog.text


def test_wrong_settings_are_no_exception(settings: Any) -> None:
    for layers in ({}, {"default": {"BACKEND": "nowhere.Layer"}}, {"default": {"BACKEND": 7}}):
        settings.CHANNEL_LAYERS = layers
        assert get("ready")[0] == get("live")[0] == 503


def test_of_several_layers_each_counts(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    memory = {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"}
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    settings.CHANNEL_LAYERS = {"default": memory, "chat": memory, "other": other}
    both = {name: Patient(prefix=name) for name in ("default", "chat")}
    for name, layer in both.items():
        monkeypatch.setitem(channel_layers.backends, name, layer)
    assert wait_until(lambda: health.ready().ok, "both layers to be ready")
    lose_kafka(both["chat"], monkeypatch)

    answer = health.ready()
    assert not answer.ok
    assert "chat: No Kafka broker can be reached." in answer.why
    assert health.ready("default").ok
    assert health.live().ok
    for layer in both.values():
        layer.close_sync()


def test_the_views_need_no_login() -> None:
    from kafka_layer import views

    open_to_all: list[Callable[..., Any]] = [views.live, views.ready, views.metrics]
    assert [view.login_required for view in open_to_all] == [False] * 3  # type: ignore[attr-defined]


async def test_the_check_for_django_health_check(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("health_check.base", reason="the extra health-check is not installed")
    from kafka_layer.health_check import ChannelLayer

    check = ChannelLayer()
    assert (await check.get_result()).error is None
    lose_kafka(layer, monkeypatch)
    error = (await check.get_result()).error
    assert "No Kafka broker can be reached." in str(error)


def test_metrics_are_told_or_which_extra_they_need(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")
    answer = Client().get("/metrics", headers={"accept": "text/plain"})
    assert answer.status_code == 200
    assert b"kafka_layer_build_info" in answer.content
    assert answer.headers["Content-Type"].startswith("text/plain")

    monkeypatch.delitem(sys.modules, "kafka_layer.metrics")
    monkeypatch.delattr(kafka_layer, "metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = Client().get("/metrics")
    assert answer.status_code == 501
    assert b"pip install 'kafka-layer[prometheus]'" in answer.content
