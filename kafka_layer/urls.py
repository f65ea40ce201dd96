"""Addresses for health probes, metrics and the page for staff.

The project's ``urls.py`` has ``path("kafka/", include("kafka_layer.urls"))``, and the websocket
routes of its ``asgi.py`` have::

    path("kafka/", URLRouter(kafka_layer.urls.websocket_urlpatterns))

Attributes:
    urlpatterns: The page, its ``state``, and ``live``, ``ready`` and ``metrics``.
    websocket_urlpatterns: The page's ``socket``; without it the page requests ``state`` by HTTP.
"""

from __future__ import annotations

from typing import Any

from django.urls import URLPattern, path

from . import views
from .dashboard.socket import serve

__all__ = ["app_name", "urlpatterns", "websocket_urlpatterns"]

app_name = "kafka_layer"

urlpatterns: list[URLPattern] = [
    path("", views.page, name="page"),
    path("state", views.state, name="state"),
    path("live", views.live, name="live"),
    path("ready", views.ready, name="ready"),
    path("metrics", views.metrics, name="metrics"),
]

# Any: the type stubs do not allow an ASGI application in path().
websocket_urlpatterns: list[Any] = [
    path("socket", serve, name="socket"),  # type: ignore[arg-type]
]
