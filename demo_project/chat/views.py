"""The pages of the chat, and the address at which a worker says that it is ready."""

import asyncio
import secrets
import time
from urllib.parse import urlencode

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from kafka_layer.exceptions import KafkaLayerError

from . import people, rules
from .forms import JoinForm

HEALTH_TIMEOUT = 3.0
"""Seconds that a message has to come back through the layer."""


@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    """Ask for a name and a room, then lead there."""
    if request.method != "POST":
        suggested = {"room": request.GET.get("room", "lobby")}
        return render(request, "chat/join.html", {"form": JoinForm(initial=suggested)})
    form = JoinForm(request.POST)
    if not form.is_valid():
        return render(request, "chat/join.html", {"form": form}, status=400)
    person = people.remember(request.session, form.cleaned_data["name"])
    address = reverse("room", args=[form.cleaned_data["room"]])
    return redirect(f"{address}?{urlencode({'as': person.id})}")


@require_GET
def room(request: HttpRequest, room: str) -> HttpResponse:
    """The chat itself, for someone who has chosen a name; others are asked for one."""
    try:
        name = rules.clean_room(room)
    except rules.Invalid:
        form = JoinForm({"room": room})
        form.errors.pop("name")  # nobody was asked for a name yet
        return render(request, "chat/join.html", {"form": form}, status=404)
    person = people.find(request.session, request.GET.get("as", ""))
    if person is None:
        return redirect(f"{reverse('join')}?{urlencode({'room': name})}")
    context = {
        "room": name,
        "person": person,
        "kill_button": settings.DEMO_KILL_BUTTON,
        "page": {
            "room": name,
            "you": {"id": person.id, "name": person.name},
            "socket": f"/ws/rooms/{name}/?{urlencode({'as': person.id})}",
            "join": f"{reverse('join')}?{urlencode({'room': name})}",
            "maxTextLength": rules.MAX_TEXT_LENGTH,
        },
    }
    return render(request, "chat/room.html", context)


@require_GET
async def healthz(request: HttpRequest) -> JsonResponse:
    """Say whether this worker can send and receive through its channel layer."""
    worker = {"worker": settings.DEMO_WORKER}
    try:
        seconds = await asyncio.wait_for(_layer_round_trip(), HEALTH_TIMEOUT)
    except (asyncio.TimeoutError, OSError, ChannelFull, KafkaLayerError) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        return JsonResponse(worker | {"status": "unavailable", "reason": reason}, status=503)
    return JsonResponse(worker | {"status": "ok", "round_trip_ms": round(seconds * 1000, 1)})


async def _layer_round_trip() -> float:
    """Return how many seconds a group message took to a channel of this worker."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    group = f"health-{secrets.token_hex(8)}"
    # Once group_add has returned, a message to the group cannot be missed.
    await layer.group_add(group, channel)
    try:
        started = time.perf_counter()
        await layer.group_send(group, {"type": "health.check"})
        # An announcement reaches this channel, too.
        while (await layer.receive(channel))["type"] != "health.check":
            pass
        return time.perf_counter() - started
    finally:
        await layer.group_discard(group, channel)
