"""Commands between servers and their acknowledgements: in time, too late, failed, and many."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kafka_layer.delivery.tickets import run_blocking, run_in_loop
from kafka_layer.exceptions import CommandFailed, GroupAckTimeout
from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.cluster import MESSAGE, Cluster
from tests.support.inspect import server_of
from tests.support.layers import Layers, Servers, next_messages, stats_of
from tests.support.waiting import wait_until_async

DEADLINE = 60.0
"""Seconds that a test of many commands may take anywhere; what it takes here, it prints."""

ROUNDS = 40


class Owner:
    """A server whose commands can be held back, and are written down as it carries them out.

    Attributes:
        applied: The commands, in their order: ``("group_add", "room", channel)``.
        holding: While it is set, the next command waits before it is carried out.
        held: Set once a command waits.
    """

    def __init__(self, layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.applied: list[tuple[str, str, str]] = []
        self.holding = threading.Event()
        self.held = threading.Event()
        self._go_on = threading.Event()
        self._change = server_of(layer).registry.change
        monkeypatch.setattr(server_of(layer).registry, "change", self._on_change)

    def release(self) -> None:
        """Let the command that waits be carried out."""
        self.holding.clear()
        self._go_on.set()

    def _on_change(self, command: str, name: str, channel: str) -> None:
        if self.holding.is_set():
            self.held.set()
            assert self._go_on.wait(DEADLINE)
        self.applied.append((command, name, channel))
        self._change(command, name, channel)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[KafkaChannelLayer], Owner]]:
    """Makes an :class:`Owner` of a started layer."""
    owners: list[Owner] = []

    def make(layer: KafkaChannelLayer) -> Owner:
        owners.append(Owner(layer, monkeypatch))
        return owners[-1]

    yield make
    for owner in owners:
        owner.release()


Watch = Callable[[KafkaChannelLayer], Owner]


def begin_group_add(
    layer: KafkaChannelLayer, group: str, channel: str, sync: bool
) -> asyncio.Task[None]:
    """Call ``group_add``, or its twin in a thread."""
    if sync:
        return asyncio.create_task(asyncio.to_thread(layer.group_add_sync, group, channel))
    return asyncio.create_task(layer.group_add(group, channel))


async def until_acknowledged(
    layer: KafkaChannelLayer, group: str, channel: str, sync: bool
) -> None:
    """Add to a group, again where a slow machine needs more than the layer's ``ack_timeout``."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            await begin_group_add(layer, group, channel, sync)
        except GroupAckTimeout:
            assert time.monotonic() < deadline
        else:
            return


class TestAcknowledgement:
    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_it_comes_after_the_command_was_carried_out(
        self, servers: Servers, watch: Watch, sync: bool
    ) -> None:
        asker, owner, _ = servers
        channel = await owner.new_channel()
        watched = watch(owner)
        watched.holding.set()
        adding = begin_group_add(asker, "room", channel, sync)
        await asyncio.to_thread(watched.held.wait, DEADLINE)
        assert not adding.done()
        watched.release()
        await adding
        assert watched.applied == [("group_add", "room", channel)]

    async def test_joining_on_a_server_that_is_gone(self, make_layer: Layers) -> None:
        asker, owner = make_layer(ack_timeout=0.2), make_layer()
        await asker.new_channel()
        channel = await owner.new_channel()
        name = owner.stats().server
        await owner.close()
        for command in ("group_add", "user_add"):
            named = f"(?s){re.escape(name)}.*{command}.*{re.escape(channel)}.*0\\.2 s"
            started = time.monotonic()
            with pytest.raises(GroupAckTimeout, match=named):
                await getattr(asker, command)("name", channel)
            assert 0.15 < time.monotonic() - started < 5
            started = time.monotonic()
            with pytest.raises(GroupAckTimeout, match=named):
                await asyncio.to_thread(getattr(asker, f"{command}_sync"), "name", channel)
            assert 0.15 < time.monotonic() - started < 5
        assert server_of(asker).commands.pending == 0

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_leaving_on_servers_that_are_gone(self, make_layer: Layers, sync: bool) -> None:
        """A membership ends with its server: clean-up of many channels succeeds, in seconds."""
        asker = make_layer(ack_timeout=1.0)
        await asker.new_channel()
        channels = []
        for _ in range(2):
            owner = make_layer()
            channels += [await owner.new_channel() for _ in range(10)]
            await owner.close()
        started = time.monotonic()
        for channel in channels:
            if sync:
                await asyncio.to_thread(asker.group_discard_sync, "room", channel)
                await asyncio.to_thread(asker.user_discard_sync, "me", channel)
            else:
                await asker.group_discard("room", channel)
                await asker.user_discard("me", channel)
        # Far less than the second of each command, of which each channel has two.
        assert time.monotonic() - started < len(channels)
        assert server_of(asker).commands.pending == 0

    async def test_leaving_on_a_server_that_stood_still_is_carried_out(
        self, make_layer: Layers, watch: Watch
    ) -> None:
        asker, owner = make_layer(ack_timeout=0.2), make_layer()
        channel = await owner.new_channel()
        await owner.group_add("room", channel)
        watched = watch(owner)
        watched.holding.set()
        await asker.group_discard("room", channel)
        await asyncio.to_thread(watched.held.wait, DEADLINE)
        watched.release()
        await wait_until_async(lambda: not owner.stats().groups, "it to leave")
        # It answered, if late: from now on it is waited for again.
        requests = server_of(asker).commands
        await wait_until_async(lambda: not requests.silent, "the late answer")

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_an_answer_that_comes_too_late_is_ignored(
        self, make_layer: Layers, watch: Watch, sync: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        asker, owner = make_layer(ack_timeout=0.8), make_layer()
        patient = make_layer(ack_timeout=DEADLINE)
        channel = await owner.new_channel()
        await patient.new_channel()
        watched = watch(owner)
        watched.holding.set()
        with pytest.raises(GroupAckTimeout):
            await begin_group_add(asker, "late", channel, sync)
        await asyncio.to_thread(watched.held.wait, DEADLINE)
        answered = begin_group_add(patient, "next", channel, sync)
        with caplog.at_level(logging.INFO, "kafka_layer"):
            watched.release()
            await asyncio.wait_for(answered, DEADLINE)
            commands = server_of(asker).commands
            await wait_until_async(lambda: not commands.silent, "the late answer")
            await until_acknowledged(asker, "last", channel, sync)
            await patient.group_send("late", MESSAGE)
            assert await next_messages(owner, channel, 1) == [MESSAGE]
        names = [name for _, name, _ in watched.applied]
        assert list(dict.fromkeys(names)) == ["late", "next", "last"]
        assert server_of(asker).commands.pending == 0
        assert not caplog.records
        assert not [name for name in stats_of(asker) if name.startswith(("errors", "dropped"))]

    async def test_a_cancelled_command_leaves_nothing_behind(
        self, servers: Servers, watch: Watch
    ) -> None:
        asker, owner, _ = servers
        channel = await owner.new_channel()
        watched = watch(owner)
        watched.holding.set()
        adding = asyncio.create_task(asker.group_add("room", channel))
        await asyncio.to_thread(watched.held.wait, DEADLINE)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert server_of(asker).commands.pending == 0
        watched.release()
        await asker.group_discard("room", channel)

    async def test_a_failed_command_comes_back_as_an_error(self, make_layer: Layers) -> None:
        """As from a server that runs an older version and does not know a command."""
        asker, owner = make_layer(ack_timeout=DEADLINE), make_layer()
        channel = await owner.new_channel()
        with pytest.raises(CommandFailed, match="does not know the command 'group_rename'"):
            await run_in_loop(asker._change("group_rename", "room", channel))
        with pytest.raises(CommandFailed, match="does not know the command 'group_rename'"):
            await asyncio.to_thread(run_blocking, asker._change("group_rename", "room", channel))
        await asker.group_add("room", channel)

    async def test_a_command_that_breaks_comes_back_as_an_error(
        self, make_layer: Layers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asker, owner = make_layer(ack_timeout=DEADLINE), make_layer()
        channel = await owner.new_channel()

        def change(*_: str) -> None:
            raise MemoryError("out of room")

        with monkeypatch.context() as patch:
            patch.setattr(server_of(owner).registry, "change", change)
            with pytest.raises(CommandFailed, match="out of room"):
                await asker.group_add("room", channel)
        await asker.group_add("room", channel)

    async def test_two_servers_that_use_the_same_numbers_get_their_own_answers(
        self, servers: Servers, watch: Watch
    ) -> None:
        cluster = Cluster(servers)
        channel = str(owned := await cluster[0].new_channel())
        await cluster[1].new_channel()
        await cluster[2].new_channel()
        watched = watch(cluster[0])
        for number in range(20):
            first = cluster[1].group_add(f"room-{number}", channel)
            second = run_in_loop(cluster[2]._change("no_such_command", "room", channel))
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert results[0] is None
            assert isinstance(results[1], CommandFailed)
        assert len(watched.applied) == 40
        assert owned


class TestMany:
    async def test_tasks_and_threads_are_applied_in_order(
        self, make_layer: Layers, watch: Watch
    ) -> None:
        """Each asker joins and leaves a group of its own again and again, all at once."""
        cluster = Cluster([make_layer(ack_timeout=DEADLINE) for _ in range(3)])
        channels = [await cluster[0].new_channel() for _ in range(4)]
        watched = watch(cluster[0])
        await cluster[1].new_channel()
        await cluster[2].new_channel()
        commands = ["group_add", "group_discard"] * 10 + ["group_add"]

        def from_a_thread(number: int) -> None:
            asker, channel = cluster[1 + number % 2], channels[number % 4]
            for command in commands:
                getattr(asker, f"{command}_sync")(f"thread-{number}", channel)

        async def all_in_flight(number: int) -> None:
            # Nobody waits before the next one is on its way.
            asker, channel = cluster[1 + number % 2], channels[number % 4]
            await asyncio.gather(
                *(getattr(asker, command)(f"task-{number}", channel) for command in commands)
            )

        with ThreadPoolExecutor(8) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(loop.run_in_executor(threads, from_a_thread, number) for number in range(8)),
                *(all_in_flight(number) for number in range(40)),
            )
        orders: dict[str, list[str]] = {}
        for command, name, _ in watched.applied:
            orders.setdefault(name, []).append(command)
        assert set(orders) == {f"thread-{n}" for n in range(8)} | {f"task-{n}" for n in range(40)}
        assert [name for name, order in orders.items() if order != commands] == []
        assert cluster[0].stats().groups == 48
        for asker in cluster.servers:
            assert server_of(asker).commands.pending == 0

    async def test_again_and_again_add_remotely_and_send_from_a_third_server(
        self, servers: Servers
    ) -> None:
        cluster = Cluster(servers)
        await cluster[2].new_channel()
        clients = []
        for number in range(ROUNDS):
            client = await cluster.connect(0)
            await cluster[1].group_add(f"room-{number}", client.channel)
            await cluster[2].group_send(f"room-{number}", {"round": number})
            clients.append(client)
        received = [await client.next() for client in clients]
        assert received == [{"round": number} for number in range(ROUNDS)]

    async def test_again_and_again_in_one_group_and_back(self, servers: Servers) -> None:
        cluster = Cluster(servers)
        witness = await cluster.connect(0, "room")
        client = await cluster.connect(0)
        for number in range(ROUNDS):
            await cluster[1].group_add("room", client.channel)
            await cluster[2].group_send("room", {"round": number})
            assert await client.next() == {"round": number}
            await cluster[1].group_discard("room", client.channel)
            await cluster[2].group_send("room", {"not for": "the client"})
            await witness.next()
            assert await witness.next() == {"not for": "the client"}
        assert await client.inbox() == []

    async def test_a_thousand_in_flight_at_once(
        self, make_layer: Layers, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asker, owner = (make_layer(ack_timeout=DEADLINE) for _ in range(2))
        channels = [await owner.new_channel() for _ in range(1000)]
        await asker.new_channel()
        started = time.monotonic()
        adding = [asyncio.create_task(asker.group_add("room", each)) for each in channels]
        await asyncio.wait_for(asyncio.gather(*adding), DEADLINE)
        took = time.monotonic() - started
        with capsys.disabled():
            print(f"\n1,000 remote group_add in flight: acknowledged in {took:.3f} s")  # noqa: T201
        assert len(server_of(owner).registry.groups.members("room")) == 1000
        await asker.group_send("room", MESSAGE)
        for each in channels:
            assert await next_messages(owner, each, 1) == [MESSAGE]
