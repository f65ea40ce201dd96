"""Workers whose event loop is blocked, by a handler that is slow and does not await: the jobs that
they cannot take go to the others."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from tests.cluster.workers.clients import use_commits
from tests.cluster.workers.conftest import SESSION_MS, working
from tests.cluster.workers.groups import handed_out
from tests.cluster.workers.processes import CrewOf, send_until_all_take_part
from tests.support.layers import Layers
from tests.support.waiting import wait_until, wait_until_async

REBALANCED = SESSION_MS / 1000
PARTITIONS = 4


async def test_a_receive_on_a_blocked_loop_is_given_a_job_once_at_most(
    make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumers = use_commits(monkeypatch, None)
    blocked = make_layer()
    waits, go_on = threading.Event(), threading.Event()
    got: list[Any] = []

    def block() -> None:
        async def receive_and_block() -> None:
            task = asyncio.create_task(blocked.receive(channel))
            await wait_until_async(lambda: working(blocked, channel), "the receive to wait")
            waits.set()
            go_on.wait(60)
            got.append(await task)

        asyncio.run(receive_and_block())

    thread = threading.Thread(target=block)
    thread.start()
    assert await asyncio.to_thread(waits.wait, 60)
    sender = make_layer()
    for number in range(PARTITIONS):
        await sender.send(channel, {"n": number})
    # It was committed and uncommitted ten times a second.
    until = time.monotonic() + 1.5
    await wait_until_async(lambda: time.monotonic() > until, "time to pass")
    assert len(consumers.committed_positions) <= 4
    assert handed_out(sender, channel) == 0
    go_on.set()
    await asyncio.to_thread(thread.join, 60)
    assert len(got) == 1


async def test_jobs_go_to_an_idle_process_while_another_one_is_blocked(
    make_layer: Layers, config: dict[str, Any], channel: str, forked: CrewOf
) -> None:
    # One process serves two channels: the handler of one blocks the receive of the other.
    slow = f"slow.{channel}"
    config["worker_channels"] = {slow: {"partitions": 1}}
    sender = make_layer(**config)
    with forked(slow, channel) as crew:
        crew.add(), crew.add()
        await send_until_all_take_part(sender, channel, crew)
        await sender.send(slow, {"type": "blocking", "n": -1, "seconds": 100})
        wait_until(lambda: crew.diary.began[-1], "one of them to be blocked")
        numbers = range(10_000, 10_100)
        started = time.monotonic()
        for number in numbers:
            await sender.send(channel, {"type": "job", "n": number})
        diary = crew.wait_done(numbers, 60)
        took = time.monotonic() - started
        assert {diary.ended[number] for number in numbers} == {1}
        # The blocked one has them for a minute and more otherwise.
        assert took < Timings().echo + Timings().worker_idle + 2 * REBALANCED + 20


async def test_processes_that_are_blocked_at_any_moment_do_every_job_once(
    make_layer: Layers, config: dict[str, Any], channel: str, forked: CrewOf
) -> None:
    chance = random.Random(13)
    slow = f"slow.{channel}"
    sender = make_layer(**config)
    with forked(slow, channel) as crew:
        crew.add(), crew.add()
        for number in range(300):
            await sender.send(channel, {"type": "job", "n": number})
            if number % 25 == 0:
                seconds = chance.choice([0.05, 0.15, 0.4, 1.2, 2.5])
                await sender.send(
                    slow, {"type": "blocking", "n": 10_000 + number, "seconds": seconds}
                )
                await asyncio.sleep(0.3)
        jobs = {*range(300), *range(10_000, 10_300, 25)}
        diary = crew.wait_done(jobs, 90)
        assert set(diary.ended.values()) == {1}
