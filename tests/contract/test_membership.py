"""Groups and users of channels that another server owns: add and remove, twice, of a non-member."""

from __future__ import annotations

from typing import Literal

import pytest

from kafka_layer.exceptions import GroupAckTimeout
from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.cluster import MESSAGE, Client, Cluster, inboxes
from tests.support.layers import Layers, Servers

Kind = Literal["group", "user"]


@pytest.fixture(params=[2, 3], ids=["two-servers", "three-servers"])
def cluster(request: pytest.FixtureRequest, servers: Servers) -> Cluster:
    """Two servers, and in a second run three."""
    return Cluster(servers[: request.param])


@pytest.fixture(params=["group", "user"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


async def add(server: KafkaChannelLayer, kind: Kind, client: Client) -> None:
    await (server.group_add if kind == "group" else server.user_add)("name", client.channel)


async def discard(server: KafkaChannelLayer, kind: Kind, client: Client) -> None:
    await (server.group_discard if kind == "group" else server.user_discard)("name", client.channel)


async def send_and_settle(cluster: Cluster, sender: KafkaChannelLayer, kind: Kind) -> None:
    if kind == "group":
        await sender.group_send("name", MESSAGE)
        await cluster.settle(sender, groups=["name"])
    else:
        await sender.user_send("name", MESSAGE)
        await cluster.settle(sender, users=["name"])


async def test_add_from_another_server(cluster: Cluster, kind: Kind) -> None:
    client, stranger = await cluster.connect(0), await cluster.connect(0)
    await add(cluster[1], kind, client)
    for sender in cluster.servers:
        await send_and_settle(cluster, sender, kind)
        assert await inboxes(client, stranger) == [[MESSAGE], []]


async def test_remove_from_another_server(cluster: Cluster, kind: Kind) -> None:
    leaves, stays = await cluster.connect(0), await cluster.connect(0)
    await add(leaves.layer, kind, leaves)
    await add(stays.layer, kind, stays)
    await send_and_settle(cluster, cluster[1], kind)
    assert await inboxes(leaves, stays) == [[MESSAGE], [MESSAGE]]
    await discard(cluster[1], kind, leaves)
    await send_and_settle(cluster, cluster[-1], kind)
    assert await inboxes(leaves, stays) == [[], [MESSAGE]]


async def test_one_server_adds_and_another_removes(cluster: Cluster, kind: Kind) -> None:
    client = await cluster.connect(0)
    for adds, removes in ((1, -1), (-1, 0), (0, 1)):
        await add(cluster[adds], kind, client)
        await send_and_settle(cluster, cluster[removes], kind)
        assert await client.inbox() == [MESSAGE]
        await discard(cluster[removes], kind, client)
        await send_and_settle(cluster, cluster[adds], kind)
        assert await client.inbox() == []


async def test_who_is_added_twice_gets_it_once(cluster: Cluster, kind: Kind) -> None:
    client = await cluster.connect(0)
    await add(cluster[0], kind, client)
    await add(cluster[0], kind, client)
    await add(cluster[1], kind, client)
    await add(cluster[-1], kind, client)
    await send_and_settle(cluster, cluster[1], kind)
    assert await client.inbox() == [MESSAGE]


async def test_who_was_added_twice_is_removed_once(cluster: Cluster, kind: Kind) -> None:
    client = await cluster.connect(0)
    await add(cluster[0], kind, client)
    await add(cluster[1], kind, client)
    await discard(cluster[1], kind, client)
    await send_and_settle(cluster, cluster[1], kind)
    assert await client.inbox() == []


async def test_removing_twice_changes_nothing(cluster: Cluster, kind: Kind) -> None:
    leaves, stays = await cluster.connect(0), await cluster.connect(0)
    await add(cluster[1], kind, leaves)
    await add(cluster[1], kind, stays)
    for server in (cluster[1], cluster[0], cluster[-1], cluster[1]):
        await discard(server, kind, leaves)
    await send_and_settle(cluster, cluster[1], kind)
    assert await inboxes(leaves, stays) == [[], [MESSAGE]]


async def test_removing_a_non_member_changes_nothing(cluster: Cluster, kind: Kind) -> None:
    stranger, member = await cluster.connect(0), await cluster.connect(0)
    await discard(cluster[0], kind, stranger)
    await discard(cluster[1], kind, stranger)
    await add(cluster[1], kind, member)
    await discard(cluster[1], kind, stranger)
    await send_and_settle(cluster, cluster[1], kind)
    assert await inboxes(stranger, member) == [[], [MESSAGE]]
    await add(cluster[1], kind, stranger)
    await send_and_settle(cluster, cluster[1], kind)
    assert await inboxes(stranger, member) == [[MESSAGE], [MESSAGE]]


async def test_adding_a_channel_that_its_server_does_not_have(
    make_layer: Layers, kind: Kind
) -> None:
    cluster = Cluster([make_layer() for _ in range(2)])
    client = await cluster.connect(0)
    made_up = Client(cluster[0], client.channel[:-4] + "0000")
    await add(cluster[1], kind, made_up)
    stats = cluster[0].stats()
    assert stats.groups == stats.users == 0


async def test_a_name_of_no_server(cluster: Cluster, kind: Kind) -> None:
    with pytest.raises(ValueError, match="names no server"):
        await add(cluster[0], kind, Client(cluster[0], "specific!nobody"))
    with pytest.raises(ValueError, match="worker channel"):
        await add(cluster[0], kind, Client(cluster[0], "worker"))


async def test_groups_and_users_of_one_channel_are_apart(cluster: Cluster) -> None:
    client = await cluster.connect(0)
    await cluster[1].group_add("name", client.channel)
    await cluster[1].user_add("name", client.channel)
    await cluster[1].user_discard("name", client.channel)
    await cluster[1].user_send("name", {"to": "the user"})
    await cluster[1].group_send("name", {"to": "the group"})
    await cluster.settle(cluster[1], groups=["name"], users=["name"])
    assert await client.inbox() == [{"to": "the group"}]


async def test_a_restarted_server_is_not_asked_for_what_it_owned_before(
    make_layer: Layers,
) -> None:
    asker, hasty, owner = make_layer(), make_layer(ack_timeout=0.3), make_layer()
    before = await owner.new_channel()
    await asker.group_add("room", before)
    await owner.close()
    after = Client(owner, await owner.new_channel())
    with pytest.raises(GroupAckTimeout):
        await hasty.group_add("room", before)
    await asker.group_add("room", after.channel)
    await asker.group_send("room", MESSAGE)
    assert await after.next() == MESSAGE
