"""Worker channels: jobs that exactly one of several processes should do, and what they disturb."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.counting import Tally

from .. import traffic
from ..subject import Bench, Outcome, Skipped, percentiles, subject
from ..workers import Context, Worker

WORKERS = (1, 2, 3)

_READY_TIMEOUT = 30.0
_QUIET, _JOIN_QUIET, _LATE = 2.0, 5.0, 0.5
_WARM_UP = -1
_BEFORE = 0.1
_PHASES = {
    "alone": "nothing else",
    "channel": "500/s to a channel",
    "waiting": "worker channel, no jobs",
    "working": "worker channel, 500 jobs/s",
}


class Done(NamedTuple):
    """A job that a worker got: sender and number, the milliseconds it took, and when it came."""

    job: tuple[int, int]
    latency: float
    at: float


class _Taken(list[Done]):
    """The jobs that a worker got."""

    def take(self, job: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self.append(Done((job["s"], job["n"]), (now - job["t"]) * 1000, now))


async def work(context: Context, channel: str) -> None:
    """Receive jobs from now on, one after another as runworker does; once is enough."""
    if "taken" not in context.notes:
        context.notes["taken"] = _Taken()
        await context.port.listen({channel: context.notes["taken"]})


async def results(context: Context) -> list[Done]:
    """Return the jobs that came, and forget them."""
    taken = list(context.notes["taken"])
    context.notes["taken"].clear()
    return taken


async def send_warm_up(context: Context, channel: str) -> None:
    """Send a job that does not count."""
    await context.port.send(channel, traffic.message(0, _WARM_UP))


class _Crew:
    """Workers on a channel of their own, and a process that sends to it."""

    def __init__(self, bench: Bench, sender: Worker, workers: list[Worker]) -> None:
        self.channel = bench.unique("jobs")
        self.sender = sender
        self.workers = workers

    def early(self) -> Tally:
        """Send jobs that nobody waits for yet, then begin to work."""
        sent = self.sender.call(traffic.paced, "send", [self.channel], 200.0, 0.5)
        for worker in self.workers:
            worker.call(work, self.channel)
        return self.collect(sent.messages, _JOIN_QUIET)[1]

    def begin(self) -> None:
        """Return once every worker has got a job, or after a while in which not all did."""
        self.sender.call(send_warm_up, self.channel)
        for worker in self.workers:
            worker.call(work, self.channel)
        idle = list(self.workers)
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            idle = [each for each in idle if not each.call(results)]
            if not idle:
                break
            for _ in range(10):
                self.sender.call(send_warm_up, self.channel)
            time.sleep(0.05)
        self.collect(0)

    def collect(self, expected: int, quiet: float = _QUIET) -> tuple[list[Done], Tally]:
        """Return the jobs that came, all or as many as come, and what became of those expected."""
        got: list[Done] = []
        since = time.monotonic()
        # What is done twice comes late: wait for quiet in any case.
        while time.monotonic() - since <= (quiet if len(got) < expected else _LATE):
            new = [each for worker in self.workers for each in worker.call(results)]
            if new:
                got += (each for each in new if each.job[1] != _WARM_UP)
                since = time.monotonic()
            time.sleep(0.05)
        times_done = Counter(each.job for each in got)
        return got, Tally(expected, expected - len(times_done), len(got) - len(times_done))


@subject(
    "Worker channels",
    "Ten tasks of one process send jobs to a channel without a '!', one to three others receive, "
    "one job after another; from the first send to the last hand-over. Before that, 100 jobs while "
    "no worker runs: a layer that loses them all has no queue, and nothing else is measured of it.",
    *(f"workers_{count}: {count} worker{'s'[: count - 1]} (jobs/s, more)" for count in WORKERS),
    *("idle_p50: p50 to hand-over, 20/s (ms)", "idle_p99: p99 to hand-over, 20/s (ms)"),
    *("twice: done twice (of 1,000)", "early: lost: sent while no worker ran (of 1,000)"),
)
def jobs(bench: Bench) -> Iterator[Outcome]:
    while True:
        values: dict[str, float] = {}
        tally = at_work = Tally()
        for count in WORKERS:
            with bench.workers(1 + count) as (sender, *workers):
                crew = _Crew(bench, sender, workers)
                if count == 1:
                    kept = crew.early()
                    values["early"] = 1000 * kept.lost / kept.expected
                    tally += kept
                    if kept.lost == kept.expected:
                        break
                crew.begin()
                if count == 1:
                    slow = (traffic.paced, "send", [crew.channel], 20.0, bench.pick(2.0, 4.0))
                    got, found = crew.collect(sender.call(*slow).messages)
                    values |= percentiles([each.latency for each in got], "idle_")
                    tally += found
                fast = (traffic.flat_out, "send", [crew.channel], 30.0, bench.pick(200, 600))
                sent = sender.call(*fast)
                got, found = crew.collect(sent.messages)
                at_work += found
                took = max(each.at for each in got) - sent.began
                values[f"workers_{count}"] = (found.expected - found.lost) / took
        if at_work.expected:
            values["twice"] = 1000 * at_work.twice / at_work.expected
        yield Outcome(values, tally + at_work)


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
def beside(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(2) as (other, receiver):
        if _Crew(bench, other, [receiver]).early().lost:
            raise Skipped("it has no queue: jobs that were sent while no worker ran are lost")
    while True:
        with bench.workers(3) as (sender, other, receiver):
            yield _beside(bench, sender, _Crew(bench, other, [receiver]), bench.pick(1.5, 3.0))


def _beside(bench: Bench, sender: Worker, crew: _Crew, seconds: float) -> Outcome:
    values: dict[str, float] = {}
    [receiver] = crew.workers
    _, ordinary = bench.channels([receiver], 2, True)
    group = bench.unique("group")
    receiver.call(traffic.join, group, 1)
    sending = (traffic.paced, "group_send", [group], 50.0)
    tally = bench.exchange(sender, [receiver], 1, *sending, 0.6).tally
    for phase in _PHASES:
        if phase == "waiting":
            crew.begin()
        receiver.call(traffic.restart)
        others = lambda: traffic.Sent(0, 0, 0)  # noqa: E731
        if address := {"channel": ordinary, "working": crew.channel}.get(phase):
            others = crew.sender.start(traffic.paced, "send", [address], 500.0, seconds)
            # The first messages of a process have nothing to do with it.
            time.sleep(_BEFORE)
        sent = sender.call(*sending, seconds - _BEFORE).messages
        beside = others().messages
        # Jobs come to no inbox.
        expected = sent + (beside if phase == "channel" else 0)
        inboxes = receiver.call(traffic.drain, expected)
        tally += Tally.of(expected, inboxes)
        if phase == "working":
            tally += crew.collect(beside)[1]
        latencies = [each * 1000 for each in inboxes[0].latencies]
        values |= percentiles(latencies, f"{phase}_")
    return Outcome(values, tally)
