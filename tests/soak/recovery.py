"""How soon servers get messages again: ``python -m tests.soak.recovery --outages 25``.

A broker is killed or shut down again and again, and comes back after some seconds, while one layer
sends to a group that has a member on each of several others. Counted from the moment at which the
broker's port answers; what was lost, came twice or out of order is counted, too.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
from collections.abc import Iterator
from statistics import median

from tests.faults.traffic import Inbox, Stream, answers_at
from tests.support.counting import Tally
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, kafka_backend

__all__ = ["main"]

_RATE = 50
_CALM = 1.0
_DEADLINE = 60.0


def main() -> int:
    """Measure and print; status 1 if a message was lost, came twice or out of order."""
    options = _options()
    # The layers' words about each outage.
    logging.getLogger("kafka_layer").setLevel(logging.CRITICAL)
    with RealBroker() as broker:
        layers = Layers(kafka_backend(broker.bootstrap_servers))
        try:
            return asyncio.run(_measure(broker, layers, options))
        finally:
            layers.close()


async def _measure(broker: RealBroker, layers: Layers, options: argparse.Namespace) -> int:
    rng = random.Random(options.seed)
    inboxes = [await Inbox.opened(layers(), "room") for _ in range(options.servers)]
    stream = Stream(layers(), "room", inboxes, _RATE)
    stream.start()
    await stream.goes_on(_RATE)
    firsts: list[float] = []
    lasts: list[float] = []
    for _ in range(options.outages):
        end = rng.choice([broker.kill, broker.halt])
        away = rng.uniform(*options.away)
        await asyncio.to_thread(end)
        await asyncio.sleep(away)
        with answers_at(broker.bootstrap_servers) as answered:
            await asyncio.to_thread(broker.start)
            waiting = stream.accepted[-1]
            for inbox in inboxes:
                for kind in ("group", "direct"):
                    await inbox.has(kind, waiting, _DEADLINE)
        first = [_first_after(inbox, answered[0]) - answered[0] for inbox in inboxes]
        last = [max(_arrivals(inbox, waiting)) - answered[0] for inbox in inboxes]
        firsts += first
        lasts += last
        print(
            f"{end.__name__}, {away:.1f} s: first message {min(first):.2f} to {max(first):.2f} s, "
            f"all that waited {min(last):.2f} to {max(last):.2f} s",
            flush=True,
        )
        await asyncio.sleep(_CALM)
    await stream.settled(inboxes, _DEADLINE)
    tallies = stream.tallies(inboxes)
    print(f"\n{len(firsts)} recoveries, seed {options.seed}, after the port answered:")
    for what, times in (("first message", firsts), ("all that waited", lasts)):
        print(f"{what}: median {median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s")
    print(*tallies, sep="\n")
    return int(set(tallies) != {Tally(len(stream.accepted), 0, 0, 0)})


def _first_after(inbox: Inbox, moment: float) -> float:
    return next(at for at, _ in inbox.arrived if at >= moment)


def _arrivals(inbox: Inbox, number: int) -> Iterator[float]:
    return (at for at, message in inbox.arrived if message["n"] == number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.recovery", description=__doc__)
    parser.add_argument("--outages", type=int, default=25, metavar="N", help="default: 25")
    parser.add_argument("--servers", type=int, default=6, metavar="N", help="receivers: 6")
    parser.add_argument(
        "--away",
        type=float,
        nargs=2,
        default=(3.0, 12.0),
        metavar=("SHORTEST", "LONGEST"),
        help="seconds without a broker: 3 to 12",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
