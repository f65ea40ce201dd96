"""``manage.py runworker`` in several processes: each job is done once, whoever comes, goes or dies.

A job ends with a line that its worker writes; what is missing is what was lost.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.workers.groups import handed_out
from tests.cluster.workers.processes import (
    CHANNELS_OWN,
    Crew,
    CrewOf,
    RunWorker,
    send_until_all_take_part,
)
from tests.support.layers import Layers
from tests.support.waiting import wait_until

JOBS = 1_600
PARTITIONS = 12


async def send(
    make_layer: Layers, config: dict[str, Any], channel: str, numbers: range, **more: Any
) -> None:
    # A busy broker may take longer than close() waits: what is sent has to be there.
    layer = make_layer(**config, await_produce=True)
    await asyncio.gather(
        *(layer.send(channel, {"type": "job", "n": number, **more}) for number in numbers)
    )
    await layer.close()


def begun(worker: RunWorker, jobs: int = 1) -> None:
    wait_until(lambda: worker.done >= jobs, f"worker {worker.process.pid} to do {jobs} job(s)", 60)


def stop_in_a_job(worker: RunWorker) -> None:
    """Send the first signal to a worker within a job; return when it waits for that job alone."""
    wait_until(lambda: worker.diary.began, "a job to begin")
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "finishing" in worker.log(), "the worker to stop")


async def test_workers_that_come_on_the_way_share_the_jobs_and_do_each_once(
    make_layer: Layers, config: dict[str, Any], channel: str, forked: CrewOf
) -> None:
    with forked(channel) as crew:
        # Half of them wait for the workers, half come while they work.
        sent = JOBS // 2
        await send(make_layer, config, channel, range(sent))

        def behind() -> bool:
            return sent - sum(each.done for each in crew.workers) < 200

        for _ in range(3):
            worker = crew.add()
            # Jobs come until the new one has its share: those before it must not end the work.
            while worker.done < 50:
                wait_until(
                    lambda: worker.done >= 50 or behind(),  # noqa: B023
                    f"{sent} jobs to be done, all but 200",
                    60,
                )
                await send(make_layer, config, channel, range(sent, sent + 200))
                sent += 200
                assert sent < 10 * JOBS, f"worker {worker.process.pid} got no share"
        before = [each.done for each in crew.workers]
        await send(make_layer, config, channel, range(sent, sent + JOBS // 2))
        sent += JOBS // 2
        diary = crew.wait_done(range(sent))
        assert set(diary.ended.values()) == {1}
        # Each has 4 of the 12 partitions.
        shares = [each.done - done for each, done in zip(crew.workers, before, strict=True)]
        assert min(shares) > JOBS / 2 / 3 * 0.5


# So many that there are some left when the first two workers have ended.
@pytest.mark.parametrize(
    ("protocol", "prefetch", "jobs"),
    [("classic", 10, 2_500), ("classic", 1, 900), ("consumer", 1, 900)],
    indirect=["protocol"],
)
async def test_a_killed_worker_costs_what_it_has_taken_and_a_stopped_one_none(
    make_layer: Layers,
    config: dict[str, Any],
    channel: str,
    forked: CrewOf,
    prefetch: int,
    jobs: int,
) -> None:
    config["worker_channels"] = {channel: {"prefetch_count": prefetch}}
    with forked(channel) as crew:
        killed, stopped, _ = crew.add(), crew.add(), crew.add()
        # The first ones may be done before all have started.
        shared = await send_until_all_take_part(make_layer(**config), channel, crew)
        before = {each: each.done for each in (killed, stopped)}
        await send(make_layer, config, channel, range(shared, shared + jobs))
        jobs += shared
        begun(stopped, before[stopped] + 100)
        assert stopped.end(signal.SIGTERM) == 0
        begun(killed, before[killed] + 100)
        killed.end(signal.SIGKILL)
        diary = crew.wait_done(range(jobs), but=prefetch)
        assert set(diary.began.values()) == {1}
        lost = set(range(jobs)) - diary.ended.keys()
        # Lost is at most what one commit had taken: the job that it had begun, or was about to.
        assert lost <= set(range(jobs)) - stopped.diary.began.keys()
        assert lost >= diary.began.keys() - diary.ended.keys()
        assert len(lost) <= prefetch


@pytest.mark.parametrize("protocol", ["classic"], indirect=True)
class TestOneWorker:
    """What has nothing to do with the protocol."""

    async def test_a_stopped_worker_finishes_the_job_in_its_hand_and_takes_no_other(
        self, make_layer: Layers, config: dict[str, Any], channel: str, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        with Crew(tmp_path, [channel], config) as crew:
            worker = crew.add()
            await send(make_layer, config, channel, range(20), gate=str(gate))
            stop_in_a_job(worker)
            gate.touch()
            assert worker.process.wait(60) == 0
            assert worker.diary.ended == worker.diary.began
            assert worker.diary.ended.total() == 1
            crew.add()
            assert set(crew.wait_done(range(20)).ended.values()) == {1}

    async def test_who_is_killed_in_a_long_job_loses_that_one_alone_whatever_was_prefetched(
        self,
        make_layer: Layers,
        config: dict[str, Any],
        channel: str,
        forked: CrewOf,
        tmp_path: Path,
    ) -> None:
        config["worker_channels"] = {channel: {"partitions": 1, "prefetch_count": 10}}
        with forked(channel) as crew:
            worker = crew.add()
            layer = make_layer(**config)
            await layer.send(channel, {"type": "job", "n": 0, "gate": str(tmp_path / "never")})
            for number in range(1, 20):
                await layer.send(channel, {"type": "job", "n": number})
            wait_until(lambda: worker.diary.began, "the job to begin")
            wait_until(
                lambda: handed_out(layer, channel) == 1, "the rest to be given back", pause=0.1
            )
            worker.end(signal.SIGKILL)
            crew.add()
            assert crew.wait_done(range(1, 20)).ended == Counter(range(1, 20))

    async def test_a_second_signal_ends_it_at_once(
        self, make_layer: Layers, config: dict[str, Any], channel: str, tmp_path: Path
    ) -> None:
        with Crew(tmp_path, [channel], config) as crew:
            worker = crew.add()
            await send(make_layer, config, channel, range(1), gate=str(tmp_path / "never"))
            stop_in_a_job(worker)
            assert worker.end(signal.SIGTERM) == -signal.SIGTERM

    async def test_a_job_that_fails_costs_no_other_and_a_message_without_type_either(
        self, make_layer: Layers, config: dict[str, Any], channel: str, forked: CrewOf
    ) -> None:
        layer = make_layer(**config)
        for number in range(100):
            failing = number % 3 == 0
            await layer.send(channel, {"type": "failing" if failing else "job", "n": number})
            if number % 10 == 0:
                await layer.send(channel, {"n": number})
        await layer.close()
        good = [number for number in range(100) if number % 3]
        with forked(channel) as crew:
            worker = crew.add()
            diary = crew.wait_done(good)
            assert set(diary.ended) == set(good)
            wait_until(lambda: worker.diary.began.total() == 100, "the last one to begin")
            assert set(worker.diary.began.values()) == {1}
            wait_until(
                lambda: worker.log().count("Exception inside application") == 34,
                "each failure to be reported",
            )
            assert "has no type" in worker.log()
            assert worker.end(signal.SIGTERM) == 0

    async def test_one_worker_serves_several_channels_and_synchronous_consumers(
        self, make_layer: Layers, config: dict[str, Any], channel: str, forked: CrewOf
    ) -> None:
        with forked(channel, f"sync.{channel}") as crew:
            worker = crew.add()
            await send(make_layer, config, channel, range(50))
            await send(make_layer, config, f"sync.{channel}", range(50, 100))
            assert set(crew.wait_done(range(100)).ended.values()) == {1}
            assert worker.end(signal.SIGTERM) == 0

    async def test_it_ends_with_an_error_when_one_of_its_channels_cannot_be_served(
        self, make_layer: Layers, config: dict[str, Any], channel: str, tmp_path: Path
    ) -> None:
        await send(make_layer, config, channel, range(1))
        strict = {**config, "auto_create_topics": False}
        with Crew(tmp_path, [channel, f"missing.{channel}"], strict) as crew:
            worker = crew.add()
            assert worker.process.wait(60) == 1
            assert "kafka_setup_topics" in worker.log()

    async def test_channels_own_runworker_works_unchanged(
        self, make_layer: Layers, config: dict[str, Any], channel: str, tmp_path: Path
    ) -> None:
        with Crew(tmp_path, [channel], config, CHANNELS_OWN) as crew:
            crew.add(), crew.add()
            await send(make_layer, config, channel, range(500))
            assert set(crew.wait_done(range(500)).ended.values()) == {1}
