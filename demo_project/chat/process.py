"""This worker process: its name for others, and its open pages.

What Kafka cannot carry goes from here to the pages directly: that Kafka itself is out of reach.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections import Counter
from typing import Any, Protocol

from django.conf import settings
from django.dispatch import receiver

from kafka_layer.signals import connection_changed

ID = secrets.token_hex(8)
"""Tells this process from an earlier one with the same worker's name."""

HEARD_WITHIN = 3.0
"""Seconds for which a report of another worker counts; one comes every two seconds."""

SENT_ON = 1
"""How often a page is sent on at most before it is let in."""


class Page(Protocol):
    """The websocket of an open page."""

    async def deliver(self, frame: dict[str, Any]) -> None: ...


class Pages:
    """The open pages of this process, each with the event loop it belongs to; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: dict[Page, asyncio.AbstractEventLoop] = {}
        self._elsewhere: dict[str, tuple[int, float]] = {}
        # By the name of a page that was not let in, how often it was sent on.
        self._sent_on: Counter[str] = Counter()
        self._delivered = 0

    def add(self, page: Page) -> None:
        """Note a page that opened; on its event loop."""
        with self._lock:
            self._loops[page] = asyncio.get_running_loop()

    def discard(self, page: Page) -> None:
        """Forget a page that closed, if it was ever noted."""
        with self._lock:
            self._loops.pop(page, None)

    def __len__(self) -> int:
        return len(self._loops)

    def hear_of(self, worker: str, number: int) -> None:
        """Note how many pages a worker said it has."""
        self._elsewhere[worker] = number, time.monotonic()

    def send_on(self, tab: str) -> bool:
        """Tell whether a page should try another worker, of which this one heard lately.

        Args:
            tab: The name by which the page is known again.
        """
        if self._sent_on[tab] >= SENT_ON or not self._are_crowded():
            del self._sent_on[tab]
            return False
        if len(self._sent_on) >= 1000:  # most of them have found another worker
            self._sent_on.clear()
        self._sent_on[tab] += 1
        return True

    def _are_crowded(self) -> bool:
        lately = time.monotonic() - HEARD_WITHIN
        others = [
            number
            for worker, (number, at) in self._elsewhere.items()
            if worker != settings.DEMO_WORKER and not worker.startswith("job-") and at > lately
        ]
        return len(self) > min(others, default=len(self))

    def tell(self, frame: dict[str, Any]) -> None:
        """Have a frame delivered to all pages; returns at once."""
        with self._lock:
            pages = list(self._loops.items())
        for page, loop in pages:
            asyncio.run_coroutine_threadsafe(page.deliver(frame), loop)

    def count_delivery(self) -> None:
        """Count one message that was handed to one page."""
        with self._lock:
            self._delivered += 1

    @property
    def delivered(self) -> int:
        """How many messages were handed to pages since this process began."""
        return self._delivered


pages = Pages()


# In a thread of the layer, which must not wait for anything.
@receiver(connection_changed)
def tell_of_kafka(*, connected: bool, seconds: float, **_: object) -> None:
    """Tell all pages that Kafka was lost, or is back after so many seconds."""
    with contextlib.suppress(RuntimeError):  # the event loop has ended, and the pages with it
        pages.tell({"type": "kafka", "connected": connected, "seconds": round(seconds, 1)})
