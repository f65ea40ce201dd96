"""What servers tell each other for the page for staff, and the end of a thread in probes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kafka_layer.calls.health import liveness
from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Layers, Servers, next_message
from tests.support.waiting import wait_until_async


def picture(layer: KafkaChannelLayer) -> dict[str, Any]:
    told: dict[str, Any] = layer._server.watch.look()
    return told


async def test_each_server_is_told_with_its_figures(servers: Servers) -> None:
    first, second, _ = servers
    channel = await second.new_channel()
    await second.group_add("told", channel)
    await first.group_send("told", {"type": "x"})
    await next_message(second, channel)

    def is_told() -> Any:
        told = picture(first)["servers"]
        report = told.get(second.stats().server, {})
        return (
            report.get("delivered")
            and ["told", 1] in report["largest_groups"]
            and report["channels"] == second.stats().channels
            and report["silent"] < 5
        )

    await wait_until_async(is_told, "the second server to tell of itself")
    told = picture(first)
    assert (told["server"], told["state"], told["trouble"]) == (
        first.stats().server,
        "connected",
        "",
    )


async def test_a_server_that_ends_falls_silent_and_is_forgotten(
    make_layer: Layers, prefix: str
) -> None:
    timings = replace(Timings(), ask_servers=0.1, gone=1.5)
    stays, goes = (make_layer(prefix, timings=timings) for _ in range(2))
    await goes.new_channel()
    name = goes.stats().server
    await wait_until_async(lambda: name in picture(stays)["servers"], "both to be told")
    await goes.close()
    await wait_until_async(
        lambda: picture(stays)["servers"].get(name, {"silent": 1})["silent"] >= 1, "its silence"
    )
    await wait_until_async(lambda: name not in picture(stays)["servers"], "it to be forgotten")


async def test_worker_channels_are_told_with_backlog_and_shares(
    make_layer: Layers, prefix: str
) -> None:
    timings = replace(Timings(), ask_servers=0.1, ask_backlogs=0.2)
    asker, worker = (make_layer(prefix, timings=timings) for _ in range(2))
    await asker.send("resize", {"type": "x"})

    def backlog() -> Any:
        return next((each for each in picture(asker)["backlogs"] if each["waiting"]), None)

    # Nobody works yet.
    told = await wait_until_async(backlog, "the backlog")
    assert told == {
        "channel": "resize",
        "waiting": 1,
        "workers": 0,
        "stream": None,
        "trouble": "",
    }
    await worker.receive("resize")
    receiving = asyncio.create_task(worker.receive("resize"))
    name = worker.stats().server

    def share() -> Any:
        return server_of(worker).transport.work_shares().get("resize")

    assert name is None
    assert await wait_until_async(share, "the worker to have its share") >= 1
    await worker.new_channel()
    name = str(worker.stats().server)
    await wait_until_async(
        lambda: picture(asker)["servers"].get(name, {}).get("work", {}).get("resize"),
        "the worker to tell its share",
    )
    receiving.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_ends_is_no_life(make_layer: Layers) -> None:
    layer = make_layer(prefix=None)
    await layer.new_channel()
    assert liveness(layer).ok

    def end() -> Any:
        raise SystemExit

    server = server_of(layer)
    server.commands.report = end
    with server.commands.asking_for_reports() as (_, ask):
        ask()
        await wait_until_async(lambda: not liveness(layer).ok, "the thread to end")
    assert liveness(layer).why == "The thread kafka-layer-control ended unexpectedly."
