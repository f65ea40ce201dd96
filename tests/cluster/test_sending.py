"""Who gets a message, on two and on three servers, and who does not.

The scenarios are those of SignalR's specification tests for scaled-out servers and of the
integration tests of SignalR.Kafka; each is checked for what every single client received.
"""

from __future__ import annotations

import gc

from tests.cluster.cluster import MESSAGE, Cluster, inboxes
from tests.support.inspect import server_of
from tests.support.layers import Layers, stats_of
from tests.support.waiting import wait_until_async


class TestOneAndSeveral:
    async def test_invoke_one_on_another_server(self, cluster: Cluster) -> None:
        target, *others = await cluster.connect_each(2)
        sender = cluster[-1]
        await sender.send(target.channel, MESSAGE)
        await cluster.settle(sender)
        assert await inboxes(target, *others) == [[MESSAGE], *[[] for _ in others]]

    async def test_invoke_one_of_this_server_does_not_use_the_backplane(
        self, cluster: Cluster
    ) -> None:
        target, *others = await cluster.connect_each()
        sent = cluster[0].stats().sent_by_kind.get("channel")
        await cluster[0].send(target.channel, MESSAGE)
        assert await target.inbox() == [MESSAGE]
        assert cluster[0].stats().sent_by_kind.get("channel") == sent
        await cluster.settle(cluster[0])
        assert await inboxes(target, *others) == [[] for _ in cluster.servers]

    async def test_invoke_several_on_all_servers(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each(3)
        chosen, rest = clients[::2], clients[1::2]
        await cluster[0].send_many([each.channel for each in chosen], MESSAGE)
        await cluster.settle(cluster[0])
        assert await inboxes(*chosen) == [[MESSAGE] for _ in chosen]
        assert await inboxes(*rest) == [[] for _ in rest]

    async def test_a_request_and_its_answer_across_servers(self, cluster: Cluster) -> None:
        client = await cluster.connect(0)
        askers = [await cluster.connect(server) for server in range(1, len(cluster))]
        for number, asker in enumerate(askers):
            await asker.layer.send(client.channel, {"reply_to": asker.channel, "n": number})
        for _ in askers:
            request = await client.next()
            await client.layer.send(request["reply_to"], {"answer": request["n"] * 10})
        for number, asker in enumerate(askers):
            assert await asker.next() == {"answer": number * 10}

    async def test_a_channel_that_does_not_exist(self, cluster: Cluster) -> None:
        client = await cluster.connect(0)
        await cluster[1].send(client.channel[:-4] + "0000", MESSAGE)
        await cluster[1].send("specific.0-deadbeef!nobody", MESSAGE)
        await cluster.settle(cluster[1])
        assert await client.inbox() == []
        assert stats_of(cluster[1])["failed"] == 0


class TestAll:
    async def test_invoke_all(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each(2)
        for sender in cluster.servers:
            await sender.all_send(MESSAGE)
            await cluster.settle(sender)
            assert await inboxes(*clients) == [[MESSAGE] for _ in clients]

    async def test_invoke_all_except(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each(2)
        left_out, rest = clients[::2], clients[1::2]
        await cluster[0].all_send(MESSAGE, exclude={each.channel for each in left_out})
        await cluster.settle(cluster[0])
        assert await inboxes(*left_out) == [[] for _ in left_out]
        assert await inboxes(*rest) == [[MESSAGE] for _ in rest]

    async def test_invoke_all_from_a_server_without_clients(self, cluster: Cluster) -> None:
        clients = [await cluster.connect(server) for server in range(len(cluster) - 1)]
        await cluster[-1].all_send(MESSAGE)
        await cluster.settle(cluster[-1])
        assert await inboxes(*clients) == [[MESSAGE] for _ in clients]

    async def test_invoke_all_reaches_members_and_users_once(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each(group="room", user="ann")
        await clients[0].layer.group_add("other", clients[0].channel)
        await cluster[0].all_send(MESSAGE)
        await cluster.settle(cluster[0])
        assert await inboxes(*clients) == [[MESSAGE] for _ in clients]


class TestGroups:
    async def test_invoke_group(self, cluster: Cluster) -> None:
        members = await cluster.connect_each(2, group="room")
        strangers = [*await cluster.connect_each(), *await cluster.connect_each(group="other")]
        await cluster[0].group_send("room", MESSAGE)
        await cluster.settle(cluster[0], groups=["room"])
        assert await inboxes(*members) == [[MESSAGE] for _ in members]
        assert await inboxes(*strangers) == [[] for _ in strangers]

    async def test_invoke_group_from_a_server_without_members(self, cluster: Cluster) -> None:
        member, stranger = await cluster.connect(0, "room"), await cluster.connect(1)
        await cluster[-1].group_send("room", MESSAGE)
        await cluster.settle(cluster[-1], groups=["room"])
        assert await inboxes(member, stranger) == [[MESSAGE], []]

    async def test_invoke_group_without_members(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each()
        await cluster[0].group_send("nobody", MESSAGE)
        await cluster.settle(cluster[0], groups=["nobody"])
        assert await inboxes(*clients) == [[] for _ in clients]

    async def test_invoke_groups(self, cluster: Cluster) -> None:
        ones = await cluster.connect_each(group="one")
        twos = await cluster.connect_each(group="two")
        threes = await cluster.connect_each(group="three")
        await cluster[0].group_send_many(["one", "two"], MESSAGE)
        await cluster.settle(cluster[0], groups=["one", "two", "three"])
        assert await inboxes(*ones, *twos) == [[MESSAGE] for _ in ones + twos]
        assert await inboxes(*threes) == [[] for _ in threes]

    async def test_who_is_in_two_of_the_groups_gets_it_twice(self, cluster: Cluster) -> None:
        both = await cluster.connect(1, group="one")
        await both.layer.group_add("two", both.channel)
        await cluster[0].group_send_many(["one", "two"], MESSAGE)
        await cluster.settle(cluster[0], groups=["one", "two"])
        assert await both.inbox() == [MESSAGE, MESSAGE]

    async def test_invoke_group_except(self, cluster: Cluster) -> None:
        members = await cluster.connect_each(2, group="room")
        left_out, rest = members[1::2], members[::2]
        await cluster[0].group_send("room", MESSAGE, exclude=[each.channel for each in left_out])
        await cluster.settle(cluster[0], groups=["room"])
        assert await inboxes(*left_out) == [[] for _ in left_out]
        assert await inboxes(*rest) == [[MESSAGE] for _ in rest]

    async def test_invoke_groups_except(self, cluster: Cluster) -> None:
        ones = await cluster.connect_each(group="one")
        twos = await cluster.connect_each(group="two")
        left_out = [ones[0], twos[-1]]
        names = [each.channel for each in left_out]
        await cluster[0].group_send_many(["one", "two"], MESSAGE, exclude=names)
        await cluster.settle(cluster[0], groups=["one", "two"])
        for each in ones + twos:
            assert await each.inbox() == ([] if each in left_out else [MESSAGE])

    async def test_others_in_group(self, cluster: Cluster) -> None:
        members = await cluster.connect_each(2, group="room")
        for sender in members:
            await sender.layer.group_send("room", MESSAGE, exclude=[sender.channel])
            await cluster.settle(sender.layer, groups=["room"])
            for each in members:
                assert await each.inbox() == ([] if each is sender else [MESSAGE])

    async def test_a_member_that_does_not_take_its_messages_costs_the_others_nothing(
        self, make_layer: Layers
    ) -> None:
        cluster = Cluster([make_layer(capacity=2) for _ in range(2)])
        stuck, alive = [await cluster.connect(1, "room") for _ in range(2)]
        for number in range(10):
            await cluster[0].group_send("room", {"n": number})
        assert [(await alive.next())["n"] for _ in range(10)] == list(range(10))
        assert stats_of(cluster[1])["dropped.full"] > 0
        await cluster[0].group_send("room", MESSAGE)
        assert await alive.next() == MESSAGE
        assert [(await stuck.next())["n"] for _ in range(2)] == [0, 1]


class TestUsers:
    async def test_invoke_user(self, cluster: Cluster) -> None:
        anns, bobs = await cluster.connect_each(user="ann"), await cluster.connect_each(user="bob")
        await cluster[0].user_send("ann", MESSAGE)
        await cluster.settle(cluster[0], users=["ann", "bob"])
        assert await inboxes(*anns) == [[MESSAGE] for _ in anns]
        assert await inboxes(*bobs) == [[] for _ in bobs]

    async def test_two_connections_of_one_user_on_two_servers(self, cluster: Cluster) -> None:
        phone, laptop = await cluster.connect(0, user=7), await cluster.connect(1, user=7)
        other = await cluster.connect(1, user=8)
        for sender in cluster.servers:
            await sender.user_send(7, MESSAGE)
            await cluster.settle(sender, users=[7, 8])
            assert await inboxes(phone, laptop, other) == [[MESSAGE], [MESSAGE], []]

    async def test_two_connections_of_one_user_on_one_server(self, cluster: Cluster) -> None:
        tabs = [await cluster.connect(1, user="ann") for _ in range(2)]
        await cluster[0].user_send("ann", MESSAGE)
        await cluster.settle(cluster[0], users=["ann"])
        assert await inboxes(*tabs) == [[MESSAGE], [MESSAGE]]

    async def test_a_user_is_still_reached_after_one_connection_left(
        self, cluster: Cluster
    ) -> None:
        phone, laptop, tab = [await cluster.connect(n, user="ann") for n in (0, 1, 1)]
        for leaving, rest in ((laptop, [phone, tab]), (phone, [tab])):
            await leaving.layer.user_discard("ann", leaving.channel)
            await cluster[0].user_send("ann", MESSAGE)
            await cluster.settle(cluster[0], users=["ann"])
            assert await leaving.inbox() == []
            assert await inboxes(*rest) == [[MESSAGE] for _ in rest]

    async def test_invoke_users(self, cluster: Cluster) -> None:
        clients = {user: await cluster.connect_each(user=user) for user in ("ann", "bob", 3)}
        await cluster[0].user_send_many(["ann", 3], MESSAGE)
        await cluster.settle(cluster[0], users=["ann", "bob", 3])
        for user, its in clients.items():
            assert await inboxes(*its) == [[] if user == "bob" else [MESSAGE] for _ in its]

    async def test_invoke_user_except(self, cluster: Cluster) -> None:
        this, *others = await cluster.connect_each(2, user="ann")
        await this.layer.user_send("ann", MESSAGE, exclude=[this.channel])
        await cluster.settle(this.layer, users=["ann"])
        assert await inboxes(this, *others) == [[], *[[MESSAGE] for _ in others]]

    async def test_a_user_who_is_not_connected(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each(user="ann")
        await cluster[0].user_send("bob", MESSAGE)
        await cluster.settle(cluster[0], users=["bob"])
        assert await inboxes(*clients) == [[] for _ in clients]


class TestDisconnected:
    """A channel whose consumer ended: nobody holds its name and nobody receives on it."""

    async def test_invoke_all_does_not_reach_it(self, cluster: Cluster) -> None:
        clients = await cluster.connect_each()
        gone = str(clients.pop(1).channel)
        gc.collect()
        await cluster[0].all_send(MESSAGE)
        await cluster.settle(cluster[0])
        assert await inboxes(*clients) == [[MESSAGE] for _ in clients]
        assert _left_in(cluster, 1, gone) == 0

    async def test_it_leaves_its_groups_and_its_user(self, make_layer: Layers) -> None:
        cluster = Cluster([make_layer() for _ in range(3)])
        clients = await cluster.connect_each(group="room", user="ann")
        # Only then it is forgotten with its name: else a receive by its plain name might follow.
        await clients[1].inbox()
        gone = str(clients.pop(1).channel)
        gc.collect()
        registry = server_of(cluster[1]).registry
        await wait_until_async(lambda: registry.mailbox(gone) is None, "it to be forgotten")
        assert len(registry.groups) == len(registry.users) == 0
        await cluster[0].group_send("room", MESSAGE)
        await cluster[0].user_send("ann", MESSAGE)
        await cluster[0].send(gone, MESSAGE)
        await cluster.settle(cluster[0], groups=["room"], users=["ann"])
        assert _left_in(cluster, 1, gone) == 0
        for each in clients:
            assert await each.inbox() == [MESSAGE, MESSAGE]

    async def test_a_server_that_closed_gets_nothing_and_disturbs_nobody(
        self, cluster: Cluster
    ) -> None:
        stays, leaves = await cluster.connect(0, "room"), await cluster.connect(1, "room")
        await cluster[1].close()
        await cluster[0].group_send("room", MESSAGE)
        await cluster[0].send(leaves.channel, MESSAGE)
        await cluster[0].all_send(MESSAGE)
        del cluster.servers[1]
        await cluster.settle(cluster[0], groups=["room"])
        assert await stays.inbox() == [MESSAGE, MESSAGE]


def _left_in(cluster: Cluster, server: int, channel: str) -> int:
    mailbox = server_of(cluster[server]).registry.mailbox(channel)
    return 0 if mailbox is None else len(mailbox)
