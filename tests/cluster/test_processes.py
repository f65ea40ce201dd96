"""Servers in processes of their own: one that only asks, one that is killed, one that is frozen."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kafka_layer.exceptions import GroupAckTimeout
from kafka_layer.wire.names import owner_of
from tests.cluster.cluster import MESSAGE, Cluster, inboxes
from tests.cluster.conftest import MakeRemote
from tests.support.inspect import server_of
from tests.support.layers import Layers, next_message, stats_of

DEADLINE = 60.0
ROUNDS = 40


async def test_a_process_that_only_asks_gets_its_acknowledgements(make_layer: Layers) -> None:
    cluster = Cluster([make_layer() for _ in range(2)])
    clients = [await cluster.connect(0) for _ in range(2)]
    config = {**make_layer.backend.config, "prefix": make_layer.prefix}
    asker = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "-m", "tests.cluster.asker", json.dumps(config)),
            *(client.channel for client in clients),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (asker.returncode, asker.stdout, asker.stderr) == (0, "acknowledged\n", "")
    await cluster[1].group_send("left", {"to": "left"})
    await cluster[1].group_send("room", {"to": "room"})
    await cluster[1].user_send("ann", {"to": "ann"})
    await cluster.settle(cluster[1], groups=["left", "room"], users=["ann"])
    for client in clients:
        assert sorted(each["to"] for each in await client.inbox()) == ["ann", "room"]


async def test_three_processes(make_layer: Layers, make_remote: MakeRemote) -> None:
    here = make_layer()
    asker, sender = remotes = [await make_remote(), await make_remote()]
    theirs = [await remote.call("new_channel") for remote in remotes]
    # What one adds, another one sends to, again and again.
    mine = [await here.new_channel() for _ in range(ROUNDS)]
    for number, channel in enumerate(mine):
        await asker.call("group_add", f"room-{number}", channel)
        await sender.call("group_send", f"room-{number}", {"round": number})
    received = [await next_message(here, channel) for channel in mine]
    assert received == [{"round": number} for number in range(ROUNDS)]
    # Who gets what.
    for channel in (mine[0], *theirs):
        await here.user_add("ann", channel)
        await here.group_add("room", channel)
    await here.group_send("room", {"to": "others"}, exclude=[mine[0]])
    await here.send_many(theirs, {"to": "each"})
    await here.user_send("ann", {"to": "ann"}, exclude=[theirs[0]])
    await here.all_send({"to": "all"})
    for remote, channel, expected in zip(
        remotes, theirs, [["all", "each", "others"], ["all", "ann", "each", "others"]], strict=True
    ):
        received = [await remote.call("receive", channel) for _ in expected]
        assert sorted(each["to"] for each in received) == expected
    received = [await next_message(here, mine[0]) for _ in range(2)]
    assert sorted(each["to"] for each in received) == ["all", "ann"]


async def test_a_killed_process_acknowledges_nothing_and_harms_no_other(
    make_layer: Layers, make_remote: MakeRemote
) -> None:
    asker, remote = make_layer(ack_timeout=0.8), await make_remote()
    cluster = Cluster([asker, make_layer(ack_timeout=DEADLINE)])
    gone = await remote.call("new_channel")
    await cluster[1].group_add("room", gone)
    await remote.call("user_add", "ann", gone)
    clients = await cluster.connect_each(group="room", user="ann")
    await remote.kill()
    server = re.escape(str(owner_of(gone)))
    with pytest.raises(GroupAckTimeout, match=f"{server} did not acknowledge .* 0.8 s"):
        await asker.group_add("room", gone)
    with pytest.raises(GroupAckTimeout, match=f"{server} did not acknowledge .* 0.8 s"):
        await asyncio.to_thread(asker.user_add_sync, "ann", gone)
    # Its memberships ended with it.
    await asyncio.to_thread(asker.group_discard_sync, "room", gone)
    for number in range(ROUNDS):
        await asker.group_send("room", {"n": number})
        for client in clients:
            assert await client.next() == {"n": number}
    await asker.user_send("ann", MESSAGE)
    await asker.send(gone, MESSAGE)
    await asker.all_send(MESSAGE)
    await cluster.settle(asker, groups=["room"], users=["ann"])
    assert await inboxes(*clients) == [[MESSAGE] * 2, [MESSAGE] * 2]


async def test_a_frozen_process_does_not_carry_out_what_was_given_up(
    make_layer: Layers, make_remote: MakeRemote
) -> None:
    asker, patient = make_layer(ack_timeout=0.8), make_layer(ack_timeout=DEADLINE)
    remote = await make_remote()
    channel, mine = await remote.call("new_channel"), await asker.new_channel()
    await patient.group_add("room", channel)
    await asker.group_add("room", mine)
    remote.freeze()
    with pytest.raises(GroupAckTimeout):
        await asker.user_add("ann", channel)
    # Carried out when the process goes on; it gives the first one time to be given up for long.
    await asker.group_discard("room", channel)
    waiting = asyncio.create_task(patient.group_add("other", channel))
    # The others are not held up meanwhile.
    await patient.group_send("room", {"n": 1})
    assert await next_message(asker, mine) == {"n": 1}
    assert not waiting.done()
    remote.thaw()
    await asyncio.wait_for(waiting, DEADLINE)
    await patient.group_send("room", {"n": 2})
    await patient.user_send("ann", {"n": 3})
    assert await next_message(asker, mine) == {"n": 2}
    await patient.group_send("other", {"n": 4})
    received = []
    while {"n": 4} not in received:
        received.append(await remote.call("receive", channel))
    # The message that was sent while it stood still may be read before the command is.
    assert {"n": 2} not in received
    assert {"n": 3} not in received
    assert server_of(asker).commands.pending == 0
    assert not [name for name in stats_of(asker) if name.startswith(("errors", "dropped"))]
