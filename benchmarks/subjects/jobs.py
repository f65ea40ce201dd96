"""Worker channels: jobs that exactly one of several processes should do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context, Worker

__all__ = ["SUBJECT", "WORKERS", "begin", "collect", "early", "judge", "stop"]

WORKERS = (1, 2, 3)

_READY_TIMEOUT = 30.0
_QUIET = 2.0
_JOIN_QUIET = 5.0
_LATE = 0.5
_WARM_UP = -1
_SENDERS = 10


class Done(NamedTuple):
    """A job that a worker got: its sender and number, the seconds it took, and when it came."""

    job: tuple[int, int]
    latency: float
    at: float


class _Jobs:
    """The jobs that one worker process got."""

    def __init__(self) -> None:
        self.got: list[Done] = []
        self.task: asyncio.Task[None] | None = None


_jobs = _Jobs()


async def work(context: Context, channel: str) -> None:
    """Begin to receive jobs, one after another as runworker does; once is enough."""
    if _jobs.task is not None:
        return

    async def run() -> None:
        receive = context.port.layer.receive  # type: ignore[attr-defined]
        while True:
            job = await receive(channel)
            now = time.monotonic()
            _jobs.got.append(Done((job["s"], job["n"]), now - job["t"], now))

    _jobs.task = asyncio.create_task(run())
    await asyncio.sleep(0)


async def stop(context: Context) -> None:
    """End the work."""
    if _jobs.task is not None:
        _jobs.task.cancel()
        await asyncio.wait([_jobs.task])


async def progress(context: Context) -> int:
    """Return how many jobs came."""
    return len(_jobs.got)


async def results(context: Context) -> list[Done]:
    """Return the jobs that came, and forget them."""
    got, _jobs.got = _jobs.got, []
    return [each for each in got if each.job[1] != _WARM_UP]


async def send_warm_up(context: Context, channel: str) -> None:
    """Send a job that does not count."""
    await context.port.send(channel, traffic.message(0, _WARM_UP))


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    done_twice = done = 0
    jobs = bench.pick(2_000, 6_000)
    for count in WORKERS:
        channel = bench.unique("jobs")
        with bench.workers(1 + count) as (sender, *workers):
            if count == 1:
                kept = early(sender, workers, channel)
                values["early"] = 1000 * kept.lost / kept.expected
                faults += kept
                if kept.lost == kept.expected:
                    return Outcome(values, faults)
            begin(sender, workers, channel)
            if count == 1:
                seconds = bench.pick(2.0, 4.0)
                sent = sender.call(traffic.send_paced, "send", [channel], 20.0, seconds)
                got = collect(workers, sent.messages)
                latencies = [each.latency * 1000 for each in got]
                values["idle_p50"] = percentile(latencies, 0.50)
                values["idle_p99"] = percentile(latencies, 0.99)
                faults += judge(got, sent.messages)
            sent = sender.call(
                traffic.send_flat_out, "send", [channel], 30.0, _SENDERS, jobs // _SENDERS
            )
            got = collect(workers, sent.messages)
            judged = judge(got, sent.messages)
            faults += judged
            done += judged.expected
            done_twice += judged.twice
            took = max(each.at for each in got) - sent.began
            values[f"workers_{count}"] = len({each.job for each in got}) / took
            for worker in workers:
                worker.call(stop)
    values["twice"] = 1000 * done_twice / done
    return Outcome(values, faults)


def early(sender: Worker, workers: list[Worker], channel: str) -> Faults:
    """Send jobs that nobody waits for yet, then begin to work."""
    sent = sender.call(traffic.send_paced, "send", [channel], 200.0, 0.5)
    for worker in workers:
        worker.call(work, channel)
    return judge(collect(workers, sent.messages, _JOIN_QUIET), sent.messages)


def begin(sender: Worker, workers: list[Worker], channel: str) -> None:
    """Return once every worker has got a job, or after a while in which not all did."""
    sender.call(send_warm_up, channel)
    for worker in workers:
        worker.call(work, channel)
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        if all(worker.call(progress) for worker in workers):
            break
        for _ in range(10):
            sender.call(send_warm_up, channel)
        time.sleep(0.05)
    collect(workers, 0)


def collect(workers: list[Worker], expected: int, quiet: float = _QUIET) -> list[Done]:
    """Return the jobs that came once all did, or nothing comes any more."""
    seen, since = -1, time.monotonic()
    while True:
        count = sum(worker.call(progress) for worker in workers)
        now = time.monotonic()
        if count != seen:
            seen, since = count, now
        # What is done twice comes late: wait for quiet in any case.
        if now - since > (quiet if count < expected else _LATE):
            return [each for worker in workers for each in worker.call(results)]
        time.sleep(0.05)


def judge(got: list[Done], expected: int) -> Faults:
    """Return what went wrong with jobs of which all should have come once."""
    times_done = Counter(each.job for each in got)
    twice = sum(times - 1 for times in times_done.values())
    return Faults(expected, expected - len(times_done), twice)


SUBJECT = Subject(
    "jobs",
    "Worker channels",
    "Ten tasks of one process send jobs to a channel without a '!', one to three others receive, "
    "one job after another; from the first send to the last hand-over. Before that, 100 jobs while "
    "no worker runs: a layer that loses them all has no queue, and nothing else is measured of it.",
    [
        *(
            Figure(f"workers_{count}", f"{count} worker{'s'[: count - 1]}", "jobs/s", "more")
            for count in WORKERS
        ),
        Figure("idle_p50", "p50 to hand-over, 20/s", "ms"),
        Figure("idle_p99", "p99 to hand-over, 20/s", "ms"),
        Figure("twice", "done twice", "of 1,000"),
        Figure("early", "lost: sent while no worker ran", "of 1,000"),
    ],
    measure,
)
