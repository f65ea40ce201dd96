"""What workers tell the pages about themselves, every two seconds, through the layer.

A thread of each worker sends a report to a group that all pages are in: nobody keeps a list of
workers, and one that fell silent is gone.
"""

import threading
import time
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer

from kafka_layer.exceptions import KafkaLayerError

from . import messages
from .process import pages

GROUP = "workers"
"""The group of all pages, in whichever room."""

INTERVAL = 2.0
"""Seconds between two reports of a worker."""


def start() -> None:
    """Report for as long as this process lives."""
    # Made here, in the thread that imports the application, and by nobody else meanwhile.
    layer = get_channel_layer()
    threading.Thread(target=_report, args=[layer], name="reports", daemon=True).start()


def _report(layer: Any) -> None:
    reported_at, reported = time.monotonic(), 0
    while True:
        time.sleep(INTERVAL)
        now, delivered = time.monotonic(), pages.delivered
        rate = (delivered - reported) / (now - reported_at)
        reported_at, reported = now, delivered
        # While Kafka is away reports would pile up, to arrive when they are long untrue.
        if layer.stats().state == "disconnected":
            continue
        try:
            layer.group_send_sync(GROUP, messages.report(pages=len(pages), per_second=rate))
        except (ChannelFull, KafkaLayerError):
            continue  # the pages see that this worker is silent
