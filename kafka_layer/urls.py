"""Addresses for health probes, metrics and the page for staff.

In the project's ``urls.py``, ``path("kafka/", include("kafka_layer.urls"))``, and among the
websockets of its ``asgi.py`` the same again::

    path("kafka/", URLRouter(kafka_layer.urls.websocket_urlpatterns))

Attributes:
    urlpatterns: The page, its ``state``, and ``live``, ``ready`` and ``metrics``.
    websocket_urlpatterns: The page's ``socket``; without it the page asks for its ``state``.
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

# Any: the stubs of Channels have no words for an ASGI application in a path().
websocket_urlpatterns: list[Any] = [
    path("socket", serve, name="socket"),  # type: ignore[arg-type]
]
