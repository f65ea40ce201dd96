"""What one server tells for the staff's page."""

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

# Without a histogram for the metrics, which the page does not show.
_FIGURES = [each.name for each in fields(LayerStats) if each.name != "ages"]
_LARGEST = 20
# Seconds for which a report, and the list of groups in it, is good for further askers. To find the
# largest of 100,000 groups takes some hundredths of a second.
_GOOD_FOR = 0.5
_GROUPS_GOOD_FOR = 5.0


class Reporter:
    """Tells how one server is; any thread. It costs nothing between the calls.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last: dict[str, Any] = {}
        self._last_at = self._groups_at = float("-inf")
        self._groups: list[tuple[str, int]] = []

    def __call__(self) -> dict[str, Any]:
        """Return the fields of ``LayerStats``, and more, as JSON or msgpack can carry them.

        ``at`` is a time, in seconds, by which rates are computed from two reports; ``work`` has, by
        worker channel, how many partitions this process has; ``largest_groups`` are pairs of a name
        and how many members it has here.
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
    """Return a value with dicts in place of other mappings."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value
