"""The faults of the soak, and the plan that a seed reproduces."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .site import Site, retried

__all__ = ["KINDS", "Fault", "Kind", "plan"]


@dataclass(frozen=True)
class Fault:
    """One fault of a plan.

    Attributes:
        kind: Its name, in :data:`KINDS`.
        seconds: How long it lasts.
        which: Picks what it hits, where there are several.
        pause: Seconds until it begins.
    """

    kind: str
    seconds: float
    which: int
    pause: float


@dataclass(frozen=True)
class Kind:
    """A kind of faults.

    Attributes:
        inflict: Does it, and returns ``time.monotonic()`` of the moment from which on all should be
            well: the broker's port answers, the network is back.
        shortest: Seconds.
        longest: Seconds.
    """

    inflict: Callable[[Site, Fault], float]
    shortest: float
    longest: float


def plan(seed: int) -> Iterator[Fault]:
    """Yield faults without end: every kind once, in a new order, again and again."""
    numbers = random.Random(seed)
    while True:
        for name in numbers.sample(sorted(KINDS), len(KINDS)):
            kind = KINDS[name]
            yield Fault(
                name,
                round(numbers.uniform(kind.shortest, kind.longest), 1),
                numbers.randrange(1000),
                round(numbers.uniform(0.5, 3.0), 1),
            )


def _broker_killed(site: Site, fault: Fault) -> float:
    site.broker.kill()
    return _started_again(site, fault)


def _broker_stopped(site: Site, fault: Fault) -> float:
    site.broker.halt()
    return _started_again(site, fault)


def _started_again(site: Site, fault: Fault) -> float:
    time.sleep(fault.seconds)
    site.broker.start()
    return time.monotonic()


def _broker_frozen(site: Site, fault: Fault) -> float:
    site.broker.freeze()
    time.sleep(fault.seconds)
    site.broker.thaw()
    return time.monotonic()


def _network_cut(site: Site, fault: Fault) -> float:
    site.proxy.cut()
    return _mended(site, fault)


def _network_silent(site: Site, fault: Fault) -> float:
    site.proxy.stall()
    return _mended(site, fault)


def _network_slow(site: Site, fault: Fault) -> float:
    site.proxy.delay = 0.02 + fault.which / 1000 * 0.08
    return _mended(site, fault)


def _mended(site: Site, fault: Fault) -> float:
    time.sleep(fault.seconds)
    site.proxy.delay = 0.0
    site.proxy.mend()
    return time.monotonic()


def _connections_dead(site: Site, fault: Fault) -> float:
    site.proxy.strand()
    return time.monotonic()


def _partitions_added(site: Site, fault: Fault) -> float:
    topic = ("send-group", "send-user")[fault.which % 2]
    retried(lambda: site.add_partition(topic))
    # Servers look for new partitions every 30 s; what breaks must break under this fault's name.
    time.sleep(fault.seconds)
    return time.monotonic()


def _sender_killed(site: Site, fault: Fault) -> float:
    site.replace(site.senders, fault.which)
    return time.monotonic()


def _worker_killed(site: Site, fault: Fault) -> float:
    site.replace(site.workers, fault.which)
    return time.monotonic()


def _loop_stalled(site: Site, fault: Fault) -> float:
    receiver = site.receivers[fault.which % len(site.receivers)]
    receiver.ask("stall", fault.seconds)
    return time.monotonic()


KINDS = {
    "broker killed": Kind(_broker_killed, 0, 15),
    "broker stopped": Kind(_broker_stopped, 0, 30),
    "broker frozen": Kind(_broker_frozen, 0.5, 5),
    "network cut": Kind(_network_cut, 0.5, 20),
    "network silent": Kind(_network_silent, 0.5, 20),
    "network slow": Kind(_network_slow, 3, 15),
    "connections dead": Kind(_connections_dead, 0, 0),
    "partitions added": Kind(_partitions_added, 32, 32),
    "sender killed": Kind(_sender_killed, 0, 0),
    "worker killed": Kind(_worker_killed, 0, 0),
    "loop stalled": Kind(_loop_stalled, 1, 8),
}
"""By name. ``connections dead``: nothing passes on those that are open, new ones are fine."""
