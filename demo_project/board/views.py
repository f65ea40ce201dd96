"""The page with the board."""

from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from demo_project.market import PRICES, SERVERS, TOPIC

from .consumers import MAX_NAME_LENGTH, shown


@require_GET
def board(request: HttpRequest) -> HttpResponse:
    """The board; `?add=plums` adds a row."""
    names = shown(request.GET.getlist("add"))
    added = names[len(PRICES) :]
    context = {
        "names": names,
        "added": added,
        "max_name_length": MAX_NAME_LENGTH,
        "topic": TOPIC,
        "servers": SERVERS,
        "embedded_broker": settings.DEMO_EMBEDDED_BROKER,
        "page": {"socket": f"/ws/board/?{urlencode({'add': added}, doseq=True)}"},
    }
    return render(request, "board/board.html", context)
