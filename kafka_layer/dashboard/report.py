"""The report of one server for the page for staff."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .. import __version__
from ..config.realtime import monotonic
from ..server.server import Server
from ..stats import LayerStats

__all__ = ["Reporter"]

# Without the histogram of ages, which the page does not show.
_FIGURES = [each.name for each in fields(LayerStats) if each.name != "ages"]
_LARGEST = 20
# Seconds for which a report, and the list of the largest groups in it, is returned again. To find
# the largest of 100,000 groups takes some hundredths of a second.
_GOOD_FOR = 0.5
_GROUPS_GOOD_FOR = 5.0


class Reporter:
    """Makes the reports of one server; any thread.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last: dict[str, Any] = {}
        self._last_at = self._groups_at = float("-inf")
        self._groups: list[tuple[str, int]] = []

    def __call__(self) -> dict[str, Any]:
        """Return the fields of ``LayerStats`` and more, as JSON or msgpack can carry them.

        ``at`` is the time of the report in seconds, on a monotonic clock: two reports give rates.
        ``work`` has the number of this process's partitions by worker channel. ``largest_groups``
        are pairs of a group's name and the number of its members in this process.
        """
        now = monotonic()
        if now - self._last_at > _GOOD_FOR:
            server = self._server
            if now - self._groups_at > _GROUPS_GOOD_FOR:
                self._groups = server.registry.groups.largest(_LARGEST)
                self._groups_at = now
            stats = server.describe()
            self._last = {
                **{name: _plain(getattr(stats, name)) for name in _FIGURES},
                "at": now,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "version": __version__,
                "work": dict(server.transport.work_shares()),
                "largest_groups": [list(each) for each in self._groups],
            }
            self._last_at = now
        return self._last


def _plain(value: Any) -> Any:
    """Return a value in which every mapping is a dict."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value
