"""What staff and programs say, from ordinary views, with the layer's synchronous methods.

Both views ask for the token that `manage.py demo` prints, which DEMO_STAFF_TOKEN can set. It also
opens the page that shows the servers.
"""

import shlex

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST

from kafka_layer.exceptions import KafkaLayerError

from . import messages, people, rules
from .forms import PostForm, StaffForm

UNAVAILABLE = "Kafka does not answer right now. Please try again."


@require_http_methods(["GET", "HEAD", "POST"])
def announce(request: HttpRequest) -> HttpResponse:
    """Say something to everyone in every room."""
    if request.method != "POST":
        form = StaffForm(initial={"token": request.GET.get("token", "")})
        return _announce_page(request, form)
    form = StaffForm(request.POST)
    if not form.is_valid():
        return _announce_page(request, form, status=_status(form))
    text = form.cleaned_data["text"]
    try:
        get_channel_layer().all_send_sync(messages.announcement(text))
    except (ChannelFull, KafkaLayerError):
        form.add_error("text", UNAVAILABLE)
        return _announce_page(request, form, status=503)
    again = StaffForm(initial={"token": form.cleaned_data["token"]})
    return _announce_page(request, again, sent=text)


# The token also keeps other sites from having a browser post here.
@csrf_exempt
@require_POST
def post(request: HttpRequest) -> HttpResponse:
    """Say something in one room: `curl -d token=… -d room=lobby -d text=Hello …/post/`."""
    form = PostForm(request.POST)
    if not form.is_valid():
        reasons = [str(reason) for reasons in form.errors.values() for reason in reasons]
        return _plain(" ".join(reasons), _status(form))
    said = form.cleaned_data
    message = messages.chat_message(people.program(said["name"]), said["text"])
    try:
        get_channel_layer().group_send_sync(rules.group_name(said["room"]), message)
    except (ChannelFull, KafkaLayerError):
        return _plain(UNAVAILABLE, 503)
    return _plain(f"Said in #{said['room']}, through {settings.DEMO_WORKER}.")


def may_look(request: HttpRequest) -> bool:
    """Tell whether a browser may see what the servers do: on this machine, or with the token."""
    token = request.GET.get("token", "")
    if token and constant_time_compare(token, settings.DEMO_STAFF_TOKEN):
        request.session["staff"] = True
    return bool(settings.DEBUG or request.session.get("staff"))


def _status(form: StaffForm) -> int:
    return 403 if "token" in form.errors else 400


def _plain(text: str, status: int = 200) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")


def _announce_page(
    request: HttpRequest, form: StaffForm, *, sent: str = "", status: int = 200
) -> HttpResponse:
    token = str(form["token"].value() or "")
    address = request.build_absolute_uri(reverse("post"))
    context = {
        "form": form,
        "sent": sent,
        "worker": settings.DEMO_WORKER,
        "curl": [
            "curl --data-urlencode " + shlex.quote(f"token={token or '…'}"),
            "     --data-urlencode room=lobby",
            "     --data-urlencode 'text=Hello from a shell'",
            f"     {address}",
        ],
    }
    return render(request, "chat/announce.html", context, status=status)
