"""The faults of the soak, and the plan that a seed reproduces."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .site import TOPICS, Site

__all__ = ["KINDS", "LOSING", "MOVING", "QUIET", "Fault", "Kind", "plan"]


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
        inflict: Does it. All should be well from its return on: the broker's port answers, the
            network is back.
        shortest: Seconds.
        longest: Seconds.
    """

    inflict: Callable[[Site, Fault], None]
    shortest: float = 0
    longest: float = 0


def plan(seed: int, kinds: list[str]) -> Iterator[Fault]:
    """Yield faults without end: every kind once, in a new order, again and again."""
    numbers = random.Random(seed)
    while True:
        for name in numbers.sample(kinds, len(kinds)):
            kind = KINDS[name]
            yield Fault(
                name,
                round(numbers.uniform(kind.shortest, kind.longest), 1),
                numbers.randrange(1000),
                round(numbers.uniform(0.5, 3.0), 1),
            )


def _broker_killed(site: Site, fault: Fault) -> None:
    site.broker.kill()
    time.sleep(fault.seconds)
    site.broker.start()


def _broker_stopped(site: Site, fault: Fault) -> None:
    site.broker.halt()
    time.sleep(fault.seconds)
    site.broker.start()


def _broker_frozen(site: Site, fault: Fault) -> None:
    site.broker.freeze()
    time.sleep(fault.seconds)
    site.broker.thaw()


def _network_cut(site: Site, fault: Fault) -> None:
    site.proxy.cut()
    _mended(site, fault)


def _network_silent(site: Site, fault: Fault) -> None:
    site.proxy.stall()
    _mended(site, fault)


def _network_slow(site: Site, fault: Fault) -> None:
    site.proxy.delay = 0.02 + fault.which / 1000 * 0.08
    _mended(site, fault)


def _mended(site: Site, fault: Fault) -> None:
    time.sleep(fault.seconds)
    site.proxy.delay = 0.0
    site.proxy.mend()


def _connections_dead(site: Site, fault: Fault) -> None:
    site.proxy.strand()


def _partitions_added(site: Site, fault: Fault) -> None:
    site.add_partition(TOPICS[fault.which % len(TOPICS)])
    # Servers look for new partitions every 30 s; what breaks must break under this fault's name.
    time.sleep(fault.seconds)


def _all_topics_grown(site: Site, fault: Fault) -> None:
    """Grow every topic, then let servers start anew: the others write to inboxes that are new to
    them, and repair what they know of the topics, which must not hide the rest of it from them.
    """
    for topic in TOPICS:
        site.add_partition(topic)
    for number in range(2):
        site.restart(site.receivers[(fault.which + number) % len(site.receivers)])
    time.sleep(fault.seconds)


def _topic_deleted(site: Site, fault: Fault) -> None:
    # Not that of the jobs: what waits there is gone with it, and no server can know how much.
    names = [each for each in TOPICS if not each.startswith("work.")]
    site.delete_topic(names[fault.which % len(names)])
    time.sleep(fault.seconds)


def _sender_killed(site: Site, fault: Fault) -> None:
    site.replace(site.senders, fault.which)


def _worker_killed(site: Site, fault: Fault) -> None:
    site.replace(site.workers, fault.which)


def _receiver_restarted(site: Site, fault: Fault) -> None:
    site.restart(site.receivers[fault.which % len(site.receivers)])


def _sender_restarted(site: Site, fault: Fault) -> None:
    site.restart(site.senders[fault.which % len(site.senders)])


def _worker_restarted(site: Site, fault: Fault) -> None:
    site.restart(site.workers[fault.which % len(site.workers)])


def _loop_blocked(site: Site, fault: Fault) -> None:
    site.receivers[fault.which % len(site.receivers)].ask("stall", fault.seconds)


def _worker_blocked(site: Site, fault: Fault) -> None:
    site.workers[fault.which % len(site.workers)].ask("stall", fault.seconds)


KINDS = {
    "broker killed": Kind(_broker_killed, 0, 15),
    "broker stopped": Kind(_broker_stopped, 0, 30),
    "broker frozen": Kind(_broker_frozen, 0.5, 5),
    "network cut": Kind(_network_cut, 0.5, 20),
    "network silent": Kind(_network_silent, 0.5, 20),
    "network slow": Kind(_network_slow, 3, 15),
    "connections dead": Kind(_connections_dead),
    "partition added": Kind(_partitions_added, 32, 32),
    "all topics grown": Kind(_all_topics_grown, 32, 32),
    "topic deleted": Kind(_topic_deleted, 5, 10),
    "sender killed": Kind(_sender_killed),
    "worker killed": Kind(_worker_killed),
    "sender restarted": Kind(_sender_restarted),
    "receiver restarted": Kind(_receiver_restarted),
    "worker restarted": Kind(_worker_restarted),
    "loop blocked": Kind(_loop_blocked, 1, 8),
    "worker blocked": Kind(_worker_blocked, 1, 8),
}
"""By name. ``connections dead``: nothing passes on those that are open, new ones are fine."""

LOSING = ("loop blocked", "topic deleted")
"""Faults during which messages may be lost, if they are counted."""

MOVING = ("partition added", "all topics grown", "topic deleted")
"""Faults that may move a key to another partition: once each, it may arrive out of order."""

QUIET = (
    *("partition added", "sender killed", "worker killed", "sender restarted", "worker restarted"),
    *("loop blocked", "worker blocked"),
)
"""Faults during which commands must be answered at once."""
