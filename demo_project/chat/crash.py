"""The button that ends a worker process, so that one can watch its pages go on with another.

This is safe in a demo only. Whoever can see the page can end the process that serves it, with
the connections of everybody else on it, as often as they like: on a public site that is a way
to shut it down. So the button is there with DEBUG alone, which `manage.py demo` turns on when
nobody but this machine can reach it. The view wants a POST with a CSRF token, so that another
site cannot have a browser press it, and the process itself looks at the setting once more,
since anybody who may write to Kafka can send the order without the view.
"""

import asyncio
import os
import re
import signal

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_POST

from kafka_layer.exceptions import KafkaLayerError

from . import messages, process, reports

GRACE = 0.1
"""Seconds in which the answer to the POST can leave, which may come from the same process."""

_PROCESS = re.compile(r"[0-9a-f]{16}", re.ASCII)


@require_POST
def end_worker(request: HttpRequest) -> HttpResponse:
    """End the process that serves a page, wherever it is: the layer carries the order there."""
    if not settings.DEMO_KILL_BUTTON:
        raise Http404("There is no such button here: DEBUG is off.")
    wanted = request.POST.get("process", "")
    if not _PROCESS.fullmatch(wanted):
        return HttpResponse("There is no process like that.\n", status=400)
    layer = get_channel_layer()
    try:
        # An order that waits for Kafka would end a process when nobody wants that any more.
        if layer.stats().state != "disconnected":
            layer.group_send_sync(reports.GROUP, messages.end(wanted))
            return HttpResponse(status=202)
    except (ChannelFull, KafkaLayerError):
        pass
    return HttpResponse("Kafka, which carries the order, does not answer.\n", status=503)


def obey(order: messages.Message) -> None:
    """End this process as a crash would, if the order means it: no goodbye, no clean-up."""
    if settings.DEMO_KILL_BUTTON and order.get("process") == process.ID:
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE, os.kill, os.getpid(), signal.SIGKILL)
