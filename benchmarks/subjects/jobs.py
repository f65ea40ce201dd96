"""Worker channels: jobs that exactly one of several processes should do, and what they disturb."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.support.counting import Tally

from .. import traffic
from ..servers import Skipped
from ..subject import Bench, Line, Rounds, subject
from ..workers import Worker, call_all

WORKERS = (1, 2, 3)

_READY_TIMEOUT = 30.0
_QUIET, _JOIN_QUIET, _LATE = 2.0, 5.0, 0.5
_BEFORE = 0.1
_PHASES = {
    "alone": "nothing else",
    "channel": "500/s to a channel",
    "waiting": "worker channel, no jobs",
    "working": "worker channel, 500 jobs/s",
}


def _crew(bench: Bench, sender: Worker, workers: Sequence[Worker]) -> Line:
    """Return workers on a channel of their own, who do not work yet, and who sends to it."""
    return Line(sender, workers, "send", [bench.unique("jobs")], quiet=_QUIET, late=_LATE)


def _early(bench: Bench, crew: Line) -> Tally:
    """Send jobs that nobody waits for yet, then begin to work; returns what became of them."""
    sent = crew.send(traffic.paced, 200.0, 0.5)
    call_all(crew.receivers, traffic.work, *crew.addresses)
    return bench.drained(crew._replace(quiet=_JOIN_QUIET), sent, sent.messages).tally


def _warm_up(bench: Bench, crew: Line) -> None:
    """Send until every worker has got a job, or for a while in which not all did."""
    few = (traffic.paced, 1000.0, 0.01)
    crew.send(*few)
    call_all(crew.receivers, traffic.work, *crew.addresses)
    call_all(crew.receivers, traffic.restart)
    deadline = time.monotonic() + _READY_TIMEOUT
    idle = crew.receivers
    while idle and time.monotonic() < deadline:
        crew.send(*few)
        time.sleep(0.05)
        idle = [each for each in idle if not each.call(traffic.count)]
    bench.settle(crew, 0)


@subject(
    "Worker channels",
    "Ten tasks of one process send jobs to a channel without a '!', one to three others receive, "
    "one job after another; from the first send to the last hand-over. Before that, 100 jobs while "
    "no worker runs: a layer that loses them all has no queue, and nothing else is measured of it.",
    *(f"workers_{count}: {count} worker{'s'[: count - 1]} (jobs/s, more)" for count in WORKERS),
    *("idle_p50: p50 to hand-over, 20/s (ms)", "idle_p99: p99 to hand-over, 20/s (ms)"),
    *("twice: done twice (of 1,000)", "early: lost: sent while no worker ran (of 1,000)"),
)
def jobs(bench: Bench) -> Rounds:
    while True:
        values: dict[str, float] = {}
        at_work = Tally()
        for count in WORKERS:
            with bench.workers(1 + count) as (sender, *workers):
                crew = _crew(bench, sender, workers)
                if count == 1:
                    kept = _early(bench, crew)
                    values["early"] = 1000 * kept.lost / kept.expected
                    if kept.lost == kept.expected:
                        break
                _warm_up(bench, crew)
                if count == 1:
                    slow = bench.exchange(crew, traffic.paced, 20.0, bench.pick(2.0, 4.0))
                    values |= slow.ms("idle_")
                fast = bench.exchange(crew, traffic.flat_out, 30.0, bench.pick(200, 600))
                at_work += fast.tally
                values[f"workers_{count}"] = fast.per_second
        if at_work.expected:
            values["twice"] = 1000 * at_work.twice / at_work.expected
        yield values


@subject(
    "Broadcasts beside a worker channel",
    "50 group messages a second to a member in another process. What else that process receives "
    "meanwhile: nothing; 500 messages a second to a channel; a worker channel on which it waits; "
    "500 jobs a second on it. The difference between the second and the last is what the worker "
    "channel itself disturbs.",
    *(f"{phase}_p50: p50, {label} (ms)" for phase, label in _PHASES.items()),
    *(f"{phase}_p99: p99, {label} (ms)" for phase, label in _PHASES.items()),
    long=True,
)
def beside(bench: Bench) -> Rounds:
    with bench.workers(2) as (other, receiver):
        if _early(bench, _crew(bench, other, [receiver])).lost:
            raise Skipped("it has no queue: jobs that were sent while no worker ran are lost")
    seconds = bench.pick(1.5, 3.0)
    while True:
        values: dict[str, float] = {}
        with bench.workers(3) as (sender, other, receiver):
            crew = _crew(bench, other, [receiver])
            _, ordinary = bench.channels([receiver], 2, True)
            line = Line(sender, [receiver], "group_send", [bench.group([receiver], [1])])
            bench.exchange(line, traffic.paced, 50.0, 0.6)
            beside = {"channel": crew._replace(addresses=[ordinary]), "working": crew}
            for phase in _PHASES:
                if phase == "waiting":
                    _warm_up(bench, crew)
                receiver.call(traffic.restart)
                if phase in beside:
                    others = beside[phase].start(traffic.paced, 500.0, seconds)
                    # The first messages of a process have nothing to do with it.
                    time.sleep(_BEFORE)
                sent = line.send(traffic.paced, 50.0, seconds - _BEFORE)
                expected = sent.messages + (others().messages if phase in beside else 0)
                found = bench.drained(crew, sent, expected)
                # The first inbox is that of the group.
                values |= found._replace(inboxes=found.inboxes[:1]).ms(f"{phase}_")
        yield values
