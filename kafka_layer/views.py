"""The views of ``kafka_layer.urls``: health probes, metrics, and the page for staff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render, resolve_url
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse

from . import get_layer, health
from .dashboard.access import aliases, may_look, new_ticket
from .layer import KafkaChannelLayer

__all__ = ["live", "metrics", "page", "ready", "state"]

V = TypeVar("V", bound=Callable[..., Any])


def _without_login(view: V) -> V:
    """Exempt a view from Django's ``LoginRequiredMiddleware``: its callers cannot log in."""
    view.login_required = False  # type: ignore[attr-defined]
    return view


@_without_login
async def live(request: HttpRequest) -> HttpResponse:
    """Answer 200 while this process and the layers' threads run, else 503; no I/O."""
    return _probed(health.live())


@_without_login
async def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if this process reads and writes, else 503; within a second."""
    return _probed(await health.aready())


@_without_login
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics of this process, in a format that the client accepts."""
    try:
        from .metrics import exposition
    except ImproperlyConfigured:
        return HttpResponse(
            "Metrics need another package: pip install 'kafka-layer[prometheus]'\n",
            status=501,
            content_type="text/plain; charset=utf-8",
        )
    body, content_type = exposition(request.headers.get("Accept", ""))
    return _unstored(HttpResponse(body, content_type=content_type))


def page(request: HttpRequest) -> HttpResponse:
    """Show staff what every server does; ``?layer=`` names one of several layers."""
    alias, layer = _chosen(request)
    if not may_look(layer.config, request):
        return _refused(request)
    context = {"alias": alias, "aliases": aliases(), "prefix": layer.config.prefix}
    response = render(request, "kafka_layer/dashboard.html", context)
    response.headers["Content-Security-Policy"] = _policy(request)
    response.headers["Referrer-Policy"] = "same-origin"
    return _unstored(response)


def state(request: HttpRequest) -> HttpResponse:
    """Answer with the figures of the page and a ticket for its websocket, as JSON; for staff."""
    alias, layer = _chosen(request)
    if not may_look(layer.config, request):
        return _unstored(JsonResponse({"why": "This is for staff."}, status=403))
    told = {**layer._server.watch.look(), "ticket": new_ticket(alias)}
    return _unstored(JsonResponse(told, json_dumps_params={"default": str}))


def _probed(answer: health.Health) -> HttpResponse:
    return _unstored(JsonResponse(answer._asdict(), status=200 if answer.ok else 503))


def _unstored(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "no-store"
    return response


def _chosen(request: HttpRequest) -> tuple[str, KafkaChannelLayer]:
    known = aliases()
    alias = request.GET.get("layer", "".join(known[:1]))
    if alias not in known:
        raise Http404("CHANNEL_LAYERS has no such layer of kafka_layer.")
    return alias, get_layer(alias)


def _refused(request: HttpRequest) -> HttpResponse:
    """Redirect to the login, or answer 403 if that would not help."""
    user = getattr(request, "user", None)
    if user is None or user.is_authenticated:
        return HttpResponse(
            "This page is for staff.\n", status=403, content_type="text/plain; charset=utf-8"
        )
    # The request has a user, so django.contrib.auth is installed.
    from django.contrib.auth.views import redirect_to_login

    try:
        login = reverse("admin:login")
    except NoReverseMatch:
        login = resolve_url(settings.LOGIN_URL)
    return redirect_to_login(request.get_full_path(), login)


def _policy(request: HttpRequest) -> str:
    """Return the Content-Security-Policy that allows the page's own files and its server."""
    files = urlsplit(urljoin(request.build_absolute_uri(), static("kafka_layer/dashboard/page.js")))
    source = "'self'" if files.netloc == request.get_host() else f"{files.scheme}://{files.netloc}"
    # Older browsers do not count websockets of the same host as 'self'.
    websocket = f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    return "; ".join(
        [
            "default-src 'none'",
            *(f"{kind}-src {source}" for kind in ("script", "style", "img")),
            f"connect-src 'self' {websocket}",
            *(f"{each} 'none'" for each in ("base-uri", "form-action", "frame-ancestors")),
        ]
    )
