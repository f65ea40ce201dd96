"""The page for staff, its state and its websocket, without a broker: who may see what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from channels.layers import channel_layers
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import include, path

from kafka_layer import views
from kafka_layer.config.timings import Timings
from kafka_layer.dashboard.access import new_ticket
from kafka_layer.dashboard.socket import SUBPROTOCOL, TICKET
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.urls import websocket_urlpatterns
from tests.support.inspect import server_of
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

urlpatterns = [path("kafka/", include("kafka_layer.urls"))]

ORIGIN = (b"origin", b"https://shop.example")
BACKEND = "kafka_layer.testing.InMemoryKafkaChannelLayer"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]


class Layer(InMemoryKafkaChannelLayer):
    timings = replace(Timings(), ask_servers=0.02, looking=0.3, gone=0.5)


def allowed(request: HttpRequest) -> bool:
    return request.GET.get("who") == "me"


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Any]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND}}
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["shop.example"]
    settings.STATIC_URL = "/static/"
    settings.TEMPLATES = TEMPLATES
    made = Layer(prefix="page", dashboard_access=f"{__name__}.allowed")
    monkeypatch.setitem(channel_layers.backends, "default", made)
    yield made
    made.close_sync()


def get(address: str, **extra: Any) -> HttpResponse:
    return Client(headers={"host": "shop.example"}).get(address, **extra)


def by(user: Any, view: Any = views.page) -> HttpResponse:
    """Ask as a user, of a project that has users."""
    request = RequestFactory(headers={"host": "shop.example"}).get("/kafka/")
    request.user = user
    answer: HttpResponse = view(request)
    return answer


def user(**facts: bool) -> Any:
    known = {"is_active": True, "is_staff": False, "is_authenticated": True}
    return SimpleNamespace(**{**known, **facts})


def test_only_whom_the_settings_allow_sees_anything(layer: Any) -> None:
    for address in ("/kafka/", "/kafka/state"):
        assert get(address).status_code == 403
        assert get(f"{address}?who=me").status_code == 200
        assert get(f"{address}?who=me&layer=other").status_code == 404
    assert server_of(layer).watch.look()["prefix"] == "page"


def test_without_that_setting_staff_sees_it(monkeypatch: Any, layer: Any) -> None:
    monkeypatch.setitem(channel_layers.backends, "default", Layer(prefix="page"))
    assert get("/kafka/").status_code == 403
    for view in (views.page, views.state):
        assert by(user(is_staff=True), view).status_code == 200
        assert by(user(), view).status_code == 403
        assert by(user(is_staff=True, is_active=False), view).status_code == 403
    assert by(user(is_authenticated=False), views.state).status_code == 403


def test_the_page_allows_its_own_files_and_nothing_inline(layer: Any, settings: Any) -> None:
    answer = get("/kafka/?who=me")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "connect-src 'self' ws://shop.example" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    text = answer.content.decode()
    assert "<style" not in text
    assert " style=" not in text
    assert "<script>" not in text
    assert "page</span>" in text

    settings.STATIC_URL = "https://cdn.example/static/"
    policy = get("/kafka/?who=me").headers["Content-Security-Policy"]
    assert "script-src https://cdn.example;" in policy


def test_the_state_tells_what_the_server_does(layer: Any) -> None:
    layer.group_send_sync("room", {"type": "x"})

    def is_told() -> Any:
        told = json.loads(get("/kafka/state?who=me").content)
        return told["server"] in told["servers"] and told

    told = wait_until(is_told, "the server to tell of itself")
    report = told["servers"][told["server"]]
    assert told["state"] == report["state"] == "connected"
    assert report["sent"] >= 1
    assert report["work"] == {}
    assert {"host", "pid", "version", "at", "largest_groups"} <= report.keys()


def test_nothing_is_asked_while_nobody_looks(layer: Any) -> None:
    watch = server_of(layer).watch
    assert not watch.watching
    wait_until(lambda: watch.look() and watch.watching, "the watch to begin")
    wait_until(lambda: len(watch.look()["servers"]), "the server to tell of itself")
    wait_until(lambda: not watch.watching, "the watch to end")

    def is_quiet() -> bool:
        # For ten times the pause between two questions; the last answer may still come.
        sent = layer.stats().sent
        time.sleep(10 * Layer.timings.ask_servers)
        return bool(layer.stats().sent == sent)

    wait_until(is_quiet, "the questions to end")
    wait_until(lambda: watch.look() and watch.watching, "the watch to begin again")


async def test_the_largest_groups_are_told(layer: Any) -> None:
    channels = [await layer.new_channel() for _ in range(3)]
    for number, channel in enumerate(channels):
        for group in ("small", "middle", "large")[number:]:
            await layer.group_add(group, channel)
    report = server_of(layer).reporter()
    assert report["largest_groups"] == [["large", 3], ["middle", 2], ["small", 1]]
    assert server_of(layer).registry.groups.largest(1) == [("large", 3)]


# The websocket


def connection(ticket: str, origin: tuple[bytes, bytes] = ORIGIN) -> Any:
    application = URLRouter([path("kafka/", URLRouter(websocket_urlpatterns))])
    offers = [SUBPROTOCOL, TICKET + ticket]
    return WebsocketCommunicator(application, "/kafka/socket", [origin], offers)


async def test_the_websocket_tells_each_second(layer: Any) -> None:
    socket = connection(new_ticket("default"))
    assert await socket.connect(PATIENCE) == (True, SUBPROTOCOL)
    for _ in range(3):
        assert (await socket.receive_json_from(PATIENCE))["prefix"] == "page"
    await socket.disconnect(timeout=PATIENCE)
    watch = server_of(layer).watch
    await wait_until_async(lambda: not watch.watching, "the watch to end")


async def test_the_websocket_lets_in_whom_the_page_let_in(layer: Any, monkeypatch: Any) -> None:
    old = new_ticket("default")
    for ticket in ("", "default", old[:-1], old.replace(".", "..", 1)):
        assert await connection(ticket).connect(PATIENCE) == (False, 4403)
    stranger = (b"origin", b"https://elsewhere.example")
    connected, _ = await connection(old, stranger).connect(PATIENCE)
    assert not connected
    monkeypatch.setattr("kafka_layer.dashboard.socket.Timings", lambda: Timings(page_ticket=-1))
    assert await connection(old).connect(PATIENCE) == (False, 4403)


async def test_the_websocket_ends_so_that_the_page_asks_again(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = replace(layer.config.timings, page_session=0.1)
    layer.config = replace(layer.config, timings=timings)
    socket = connection(new_ticket("default"))
    await socket.connect(PATIENCE)
    while True:
        event = await socket.receive_output(PATIENCE)
        if event["type"] == "websocket.close":
            break
    assert event["code"] == 4000


# The link in the admin


def test_the_admin_has_a_link_for_who_may_see_the_page(layer: Any, settings: Any) -> None:
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        *("django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"),
        *("django.contrib.messages", "django.contrib.sessions"),
    ]
    from django.contrib.admin import site

    from kafka_layer.admin import PageAdmin

    urlconf = ModuleType("urls_with_admin")
    urlconf.urlpatterns = [path("admin/", site.urls), *urlpatterns]  # type: ignore[attr-defined]
    settings.ROOT_URLCONF = urlconf
    assert [each.check() for each in site._registry.values() if isinstance(each, PageAdmin)] == [[]]
    links = {}
    for who in ("me", "you"):
        request = RequestFactory().get(f"/admin/?who={who}")
        request.user = SimpleNamespace(has_module_perms=lambda app: False, has_perm=lambda p: False)
        links[who] = [
            (app["name"], model["name"], model["admin_url"], model["add_url"])
            for app in site.get_app_list(request)
            for model in app["models"]
        ]
    assert links["you"] == []
    assert links["me"] == [("Kafka channel layer", "Servers", "/admin/kafka_layer/servers/", None)]
    assert get("/admin/kafka_layer/servers/").headers["Location"] == "/kafka/"
