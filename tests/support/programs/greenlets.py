"""Uses a layer in greenlets, as gunicorn's gevent worker does; writes what came out as JSON.

Arguments: the bootstrap servers, the prefix, the name of a scenario below, and whether threads are
replaced before the layer is imported ("patch_first") or after it ("import_first").
"""

from __future__ import annotations

import importlib
import os
import sys

from gevent import monkey

SERVERS, PREFIX, SCENARIO, ORDER = sys.argv[1:]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

if ORDER == "import_first":
    importlib.import_module("kafka_layer.layer")

monkey.patch_all()

import contextlib  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from asgiref.sync import async_to_sync  # noqa: E402

from kafka_layer.config.timings import Timings  # noqa: E402
from kafka_layer.layer import KafkaChannelLayer  # noqa: E402
from tests.support.patience import PatientLayer  # noqa: E402

TICK = 0.005


class SoonClosed(KafkaChannelLayer):
    """A layer that gives up soon what no broker takes."""

    timings = Timings(close=2.0)


class Ticker:
    """A greenlet that always runs, and the two longest times in which it did not.

    The time is not counted in which threads of this process were ready to run and the machine was
    busy with others.
    """

    def __init__(self) -> None:
        self.gaps = [0.0, 0.0]
        self._last = time.monotonic()
        self._waited: dict[Path, int] = {}
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            gap = now - self._last - self._kept_from_running()
            self.gaps = sorted([*self.gaps, gap])[-2:]
            self._last = now
            gevent.sleep(TICK)

    def _kept_from_running(self) -> float:
        """Return how long threads waited for a processor since the last call, in seconds."""
        before, self._waited = self._waited, {}
        for path in Path("/proc/self/task").glob("*/schedstat"):
            # A thread may end meanwhile.
            with contextlib.suppress(OSError):
                self._waited[path] = int(path.read_text().split()[1])
        return sum(now - before.get(path, now) for path, now in self._waited.items()) / 1e9


def layer(kind: type[KafkaChannelLayer] = KafkaChannelLayer, **config: Any) -> KafkaChannelLayer:
    return kind(bootstrap_servers=SERVERS, prefix=PREFIX, **config)


def outcome(call: Callable[[], object]) -> str:
    """Call something; return what it raised, or "ok"."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "ok"


def receives() -> dict[str, Any]:
    """Receive, as the health view of docs/deployment.md does, and by a channel."""
    here, there = layer(PatientLayer), layer(PatientLayer)
    trips = [here.round_trip_sync(timeout=30) for _ in range(3)]
    channel = async_to_sync(there.new_channel)()
    here.group_add_sync("room", channel)
    for number in range(3):
        here.group_send_sync("room", {"n": number})
    received = [async_to_sync(there.receive)(channel)["n"] for _ in range(3)]
    # Patiently only where the machine is slow: a question takes all of its time.
    servers = next((n for seconds in (0.3, 1, 5) if (n := len(here.servers_sync(seconds))) == 2), 0)
    awaited = layer(PatientLayer, await_produce=True)
    greenlets = [gevent.spawn(awaited.group_send_sync, "room", {"n": n}) for n in range(50)]
    gevent.joinall(greenlets, timeout=30)
    positions = len({greenlet.value for greenlet in greenlets})
    ends = [outcome(each.close_sync) for each in (here, there, awaited)]
    return {
        "trips": len(trips),
        "received": received,
        "servers": servers,
        "positions": positions,
        "ends": ends,
    }


def no_broker() -> dict[str, Any]:
    """Send, wait for outcomes, ask and close while no broker answers."""
    plain, awaited = layer(SoonClosed), layer(SoonClosed, await_produce=True, expiry=3)
    waiting = gevent.spawn(outcome, lambda: awaited.group_send_sync("room", {"n": 1}))
    asking = gevent.spawn(outcome, lambda: plain.round_trip_sync(timeout=1))
    sent = 0
    end = time.monotonic() + 4
    while time.monotonic() < end or sent < 30:
        plain.group_send_sync("room", {"n": sent})
        sent += 1
        gevent.sleep(0.02)
    gevent.joinall([waiting, asking], timeout=10)
    ends = [outcome(each.close_sync) for each in (plain, awaited)]
    return {"sent": sent, "awaited": waiting.value, "asked": asking.value, "ends": ends}


# Importing takes its time, and is not what is measured.
importlib.import_module("kafka_layer.kafka.backplane")
ticker = Ticker()
result = {"receives": receives, "no_broker": no_broker}[SCENARIO]()
sys.stdout.write(json.dumps({**result, "gaps": ticker.gaps}))
