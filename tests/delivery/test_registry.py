"""Who is here: channels, their groups and users, and when they are forgotten."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import time
from collections.abc import Callable

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.registry import ChannelForgotten, Registry
from kafka_layer.wire.names import ChannelName, ServerName
from tests.support.tables import for_each
from tests.support.waiting import PATIENCE, wait_until

SERVER = ServerName(0, "abcdef01")


def make_registry(**config: object) -> Registry:
    return Registry(LayerConfig.from_keywords(bootstrap_servers="a:1", **config))


@pytest.fixture
def registry() -> Registry:
    return make_registry(expiry=0.1)


def new(registry: Registry, prefix: str = "specific") -> str:
    return registry.new_channel(prefix, SERVER)


def mailbox_of(registry: Registry, channel: str) -> Mailbox:
    mailbox = registry.mailbox(channel)
    assert mailbox is not None
    return mailbox


def swept(registry: Registry) -> bool:
    registry.sweep()
    return not len(registry)


def repickled(name: str) -> str:
    loaded = pickle.loads(pickle.dumps(name))
    assert isinstance(loaded, str)
    return loaded


class TestChannels:
    def test_a_new_channel_is_here(self, registry: Registry) -> None:
        name = new(registry)
        assert mailbox_of(registry, name).channel == name
        assert registry.mailbox("specific.0-abcdef01!other") is None
        assert len(registry) == 1

    def test_capacities(self) -> None:
        registry = make_registry(capacity=7, channel_capacity={"small.*": 2})
        assert mailbox_of(registry, new(registry)).capacity == 7
        assert mailbox_of(registry, new(registry, "small")).capacity == 2

    def test_open_mailbox_finds_or_makes_one(self, registry: Registry) -> None:
        name = new(registry)
        assert registry.open_mailbox(name) is registry.mailbox(name)
        reborn = registry.open_mailbox("specific.0-abcdef01!gone")
        assert registry.mailbox("specific.0-abcdef01!gone") is reborn


class TestChanges:
    @pytest.mark.parametrize("kind", ["group", "user"])
    def test_add_and_discard(self, registry: Registry, kind: str) -> None:
        members = registry.groups if kind == "group" else registry.users
        first, second = new(registry), new(registry)
        for name in (first, second, first):
            registry.change(f"{kind}_add", "x", name)
        assert [each.channel for each in members.members("x")] == [first, second]
        registry.change(f"{kind}_discard", "x", first)
        registry.change(f"{kind}_discard", "x", first)
        registry.change(f"{kind}_discard", "never", first)
        assert [each.channel for each in members.members("x")] == [second]
        registry.change(f"{kind}_discard", "x", second)
        assert members.members("x") == ()
        assert len(members) == 0

    def test_a_channel_that_is_not_here_changes_nothing(self, registry: Registry) -> None:
        registry.change("group_add", "room", "specific.0-abcdef01!gone")
        assert len(registry.groups) == 0

    @for_each("command", ["", "group", "group_send", "flush", "user_remove", "_add"])
    def test_unknown_commands(self, registry: Registry, command: str) -> None:
        with pytest.raises(ValueError, match="does not know"):
            registry.change(command, "room", new(registry))

    def test_clear_keeps_the_channels(self, registry: Registry) -> None:
        names = [new(registry) for _ in range(3)]
        for name in names:
            registry.change("group_add", "room", name)
            registry.change("user_add", "me", name)
            mailbox_of(registry, name).put(envelope())
        assert registry.clear() == 3
        assert len(registry) == 3
        assert registry.groups.members("room") == registry.users.members("me") == ()
        registry.change("group_add", "room", names[0])
        assert len(registry.groups.members("room")) == 1

    @pytest.mark.parametrize("kind", ["group", "user"])
    def test_a_channel_that_is_forgotten_in_that_very_moment_leaves_nothing(
        self,
        registry: Registry,
        later: Callable[[float], None],
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
    ) -> None:
        members = registry.groups if kind == "group" else registry.users
        add = members.add

        def add_to_a_forgotten_one(name: str, mailbox: Mailbox) -> None:
            later(1)
            wait_until(lambda: swept(registry), "it to be forgotten")
            add(name, mailbox)

        monkeypatch.setattr(members, "add", add_to_a_forgotten_one)
        name = "".join(new(registry))
        gc.collect()
        registry.change(f"{kind}_add", "x", name)
        assert len(members) == 0
        assert members.members("x") == ()


class TestForgetting:
    def test_who_holds_the_name_keeps_the_channel(
        self, registry: Registry, later: Callable[[float], None]
    ) -> None:
        name = new(registry)
        registry.change("group_add", "room", name)
        for _ in range(30):
            later(0.01)
            registry.sweep()
        assert registry.is_open(mailbox_of(registry, name))
        assert len(registry.groups.members("room")) == 1

    def test_a_collected_name_ends_it_with_all_it_had(
        self, registry: Registry, later: Callable[[float], None]
    ) -> None:
        name = new(registry)
        registry.change("group_add", "room", name)
        registry.change("user_add", "me", name)
        mailbox = mailbox_of(registry, name)
        del name
        gc.collect()
        assert not registry.is_open(mailbox)
        later(1)
        wait_until(lambda: swept(registry), "it to be forgotten")
        assert len(registry.groups) == len(registry.users) == 0

    def test_a_channel_on_which_its_name_object_alone_received_goes_with_it(self) -> None:
        registry = make_registry(expiry=3600)
        name = new(registry)
        registry.change("group_add", "room", name)
        mailbox_of(registry, name).received_by = type(name)
        registry.sweep()
        assert len(registry) == 1
        del name
        gc.collect()
        registry.sweep()
        assert len(registry) == len(registry.groups) == 0

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, str, "".join, repickled])
    def test_a_copy_of_a_name_is_text(
        self, registry: Registry, copied: Callable[[str], str]
    ) -> None:
        name = new(registry)
        assert type(name) is ChannelName
        assert type(copied(name)) is str
        assert copied(name) == name

    def test_not_before_expiry(self) -> None:
        registry = make_registry(expiry=30)
        name = "".join(new(registry))
        gc.collect()
        registry.sweep()
        assert registry.mailbox(name) is not None

    def test_expiry_counts_from_the_last_receive(self, later: Callable[[float], None]) -> None:
        registry = make_registry(expiry=30)
        name = "".join(new(registry))
        mailbox = mailbox_of(registry, name)
        gc.collect()
        for _ in range(5):
            mailbox.last_seen += 20  # as each receive does
            later(20)
            registry.sweep()
        assert registry.mailbox(name) is mailbox
        later(30)
        assert swept(registry)

    async def test_a_waiting_receive_keeps_it(self, registry: Registry) -> None:
        name = "".join(new(registry))
        waiting = asyncio.create_task(mailbox_of(registry, name).wait())
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.to_thread(passes, registry, 0.3)
        assert registry.is_open(mailbox_of(registry, name))
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.to_thread(wait_until, lambda: swept(registry), "it to be forgotten")

    def test_it_counts_what_was_left(
        self, registry: Registry, later: Callable[[float], None]
    ) -> None:
        name = "".join(new(registry))
        for _ in range(3):
            mailbox_of(registry, name).put(envelope())
        gc.collect()
        later(1)
        left: list[int] = []
        wait_until(lambda: (left.append(registry.sweep()), not len(registry))[1], "the end")
        assert sum(left) == 3

    def test_group_expiry_ends_a_silent_one_whoever_holds_it(
        self, later: Callable[[float], None]
    ) -> None:
        registry = make_registry(expiry=0.1, group_expiry=0.3)
        name = new(registry)
        registry.change("group_add", "room", name)
        later(1)
        wait_until(lambda: swept(registry), "it to be forgotten")
        assert len(registry.groups) == 0
        assert name

    def test_a_reborn_channel_is_forgotten_as_well(
        self, registry: Registry, later: Callable[[float], None]
    ) -> None:
        registry.open_mailbox("specific.0-abcdef01!gone")
        later(1)
        wait_until(lambda: swept(registry), "it to be forgotten")

    async def test_a_receive_that_found_its_mailbox_just_before_ends_and_may_open_it_anew(
        self, registry: Registry, later: Callable[[float], None]
    ) -> None:
        name = "".join(new(registry))
        mailbox = mailbox_of(registry, name)
        gc.collect()
        later(1)
        await asyncio.to_thread(wait_until, lambda: swept(registry), "it to be forgotten")
        with pytest.raises(ChannelForgotten):
            await asyncio.wait_for(mailbox.wait(), PATIENCE)
        reborn = registry.open_mailbox(name)
        assert reborn.put(envelope())
        await asyncio.wait_for(reborn.wait(), PATIENCE)

    def test_open_channels(self, registry: Registry) -> None:
        names = [new(registry) for _ in range(3)]
        gone = names.pop()
        del gone
        gc.collect()
        assert [each.channel for each in registry.open_channels()] == names


def envelope() -> Envelope:
    return Envelope(b"\x80", time.monotonic() + 60)


def passes(registry: Registry, seconds: float) -> None:
    """Let time pass, and the registry look for whom to forget."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        registry.sweep()
        time.sleep(0.01)


class TestClose:
    async def test_the_receives_of_all_channels_end_with_the_error(
        self, registry: Registry
    ) -> None:
        names = [registry.new_channel("specific", SERVER) for _ in range(3)]
        receives = [asyncio.create_task(registry.open_mailbox(name).wait()) for name in names]
        await asyncio.sleep(0)
        registry.close(LookupError("closed"))
        done, _ = await asyncio.wait(receives, timeout=PATIENCE)
        assert [str(each.exception()) for each in done] == ["closed"] * 3

    async def test_no_channel_is_opened_later(self, registry: Registry) -> None:
        registry.close(LookupError("closed"))
        with pytest.raises(LookupError):
            registry.new_channel("specific", SERVER)
        with pytest.raises(LookupError):
            registry.open_mailbox("specific.0-abcdef01!forgotten")
        assert len(registry) == 0

    async def test_it_stays_closed_once_it_is_empty(self, registry: Registry) -> None:
        channel = registry.new_channel("specific", SERVER)
        registry.change("group_add", "room", channel)
        registry.close(LookupError("closed"))
        registry.empty()
        assert registry.mailbox(channel) is None
        assert not len(registry)
        assert not len(registry.groups)
        with pytest.raises(LookupError):
            registry.open_mailbox(channel)

    async def test_a_message_that_is_put_while_it_closes_is_refused(
        self, registry: Registry
    ) -> None:
        channel = registry.new_channel("specific", SERVER)
        mailbox = registry.open_mailbox(channel)
        registry.close(LookupError("closed"))
        mailbox.capacity = 1  # as the thread found it that puts a message at this moment
        assert not mailbox.put(Envelope(b"", time.monotonic() + 60))
        assert registry.empty() == 0

    async def test_a_sweep_beside_it_does_not_hide_its_error(self, registry: Registry) -> None:
        channel = registry.new_channel("specific", SERVER)
        mailbox = registry.open_mailbox(channel)
        mailbox.received_by = ChannelName
        registry.close(LookupError("closed"))
        del channel
        registry.sweep()
        assert len(registry) == 0, "the sweep forgot nothing"
        with pytest.raises(LookupError, match="closed"):
            await mailbox.wait()
