"""Websockets that keep their positions, as kafka_layer's browser client does, and come back.

At the end: channels that do so without websockets, through the layer's own methods.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.counting import Inbox

from . import web
from .workers import Context

RECOVERING = "/recovering-"
"""How the paths of rooms begin whose clients keep their positions."""

GREETING = "/greeting-"
"""How the paths of rooms begin that send each such client ``MISSED`` messages when it comes."""

MISSED = 20
"""About so many messages are missed by each client."""

SUBPROTOCOL = "kafka-layer.v1"
"""What those clients offer; written out, because no contender's package is imported here."""

SECRET_KEY = "it signs positions"
"""Django's, of all processes."""

_AT_A_TIME = 20
_TOLD_AFTER = 60.0


class ComeBack(NamedTuple):
    """How clients came back: seconds from the first question to the last verdict, seconds of each
    from its question to its verdict, how many messages were replayed, and why some were not.
    """

    took: float
    seconds: Sequence[float]
    replayed: int
    reasons: Mapping[str, int]


class RecoveringClient:
    """A browser: its position, and what it got over all of its connections."""

    def __init__(self, path: str) -> None:
        self.inbox = Inbox()
        self._path = path
        self._connection: web.Client | None = None
        # The position that the server told last, and the highest offset of each lane.
        self._position = ""
        self._places: dict[str, int] = {}
        # The verdict; where none is asked for, empty once the first position came.
        self._told: asyncio.Future[dict[str, Any]] | None = None

    async def connect(self, port: int) -> tuple[float, dict[str, Any]]:
        """Connect with the position, if there is one; return how long it took, and the verdict."""
        began = time.monotonic()
        protocols = [SUBPROTOCOL]
        if self._position:
            places = [f"{lane}.{offset}" for lane, offset in self._places.items()]
            whole = "~".join([self._position, *places])
            protocols.append(f"{SUBPROTOCOL.partition('.')[0]}.position.{whole}")
        self._told = asyncio.get_running_loop().create_future()
        self._connection = await web.connect(port, self._path, self._take, protocols)
        verdict = await asyncio.wait_for(self._told, _TOLD_AFTER)
        return time.monotonic() - began, verdict

    def end(self) -> None:
        if self._connection is not None:
            self._connection.end()

    def _take(self, text: bytes) -> None:
        frame = json.loads(text)
        if "d" in frame:
            self.inbox.take(frame["d"])
        if "p" in frame:
            lane, _, offset = frame["p"].rpartition(".")
            self._places[lane] = max(int(offset), self._places.get(lane, 0))
        elif "t" in frame:
            # The places stay: the last message may be one that its server still has in hand.
            self._position = frame["t"]
        # The verdict comes before the position.
        if ("r" in frame or "t" in frame) and self._told is not None and not self._told.done():
            self._told.set_result(frame.get("r", {}))


class RecoveringSockets:
    """A port of such clients: client ``i`` is in room ``i // members`` of one server."""

    def __init__(self, port: int, members: int) -> None:
        self._port = port
        self._members = members
        self._clients: list[RecoveringClient] = []

    async def new_channels(self, count: int) -> list[str]:
        self._clients = await self._connected(self._port, RECOVERING, count)
        return [str(index) for index in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        for client, inbox in zip(self._clients, inboxes.values(), strict=True):
            client.inbox = inbox

    async def first_connections(self, port: int, rooms: str, count: int) -> float:
        """Connect clients without a position, and end them; return how long connecting took.

        Their rooms are ``RECOVERING``, or ``GREETING``: then that includes what they are sent.
        """
        began = time.monotonic()
        clients = await self._connected(port, rooms, count)
        took = time.monotonic() - began
        for each in clients:
            each.end()
        return took

    async def come_back(self, port: int) -> ComeBack:
        """Let all clients connect again, to another server."""
        free = asyncio.Semaphore(_AT_A_TIME)

        async def one(client: RecoveringClient) -> tuple[float, dict[str, Any]]:
            async with free:
                return await client.connect(port)

        began = time.monotonic()
        came = await asyncio.gather(*map(one, self._clients))
        took = time.monotonic() - began
        reasons = Counter(str(verdict["reason"]) for _, verdict in came if not verdict["recovered"])
        replayed = sum(verdict["count"] for _, verdict in came)
        return ComeBack(took, [seconds for seconds, _ in came], replayed, reasons)

    async def close(self) -> None:
        for client in self._clients:
            client.end()

    async def _connected(self, port: int, rooms: str, count: int) -> list[RecoveringClient]:
        web.allow_files(count)
        free = asyncio.Semaphore(_AT_A_TIME)
        clients = [RecoveringClient(f"{rooms}{n // self._members}") for n in range(count)]

        async def one(client: RecoveringClient) -> None:
            async with free:
                await client.connect(port)

        await asyncio.gather(*map(one, clients))
        return clients


async def first_connections(context: Context, port: int, rooms: str, count: int) -> float:
    """Do what ``RecoveringSockets.first_connections`` does."""
    took: float = await context.port.first_connections(port, rooms, count)
    return took


async def come_back(context: Context, port: int) -> ComeBack:
    """Do what ``RecoveringSockets.come_back`` does."""
    found: ComeBack = await context.port.come_back(port)
    return found


def by_path(room: Any, backend: str) -> Any:
    """Return the application that serves rooms of all kinds, where the layer is ours."""
    plain = room.as_asgi()
    # The processes of other layers load nothing of this package.
    if not backend.startswith("kafka_layer."):
        return plain
    try:
        from kafka_layer.consumers import AsyncRecoveryConsumerMixin
    except ImportError:  # an older version
        return plain

    class RecoveringRoom(AsyncRecoveryConsumerMixin, room):  # type: ignore[misc]
        """The same room, for clients that come back for what they missed."""

    class GreetingRoom(RecoveringRoom):
        """Sends who comes as much as those get who missed something."""

        async def connect(self) -> None:
            await super().connect()
            for number in range(MISSED):
                await self.chat_message({"s": 0, "n": number, "t": time.monotonic()})

    kinds = {RECOVERING: RecoveringRoom.as_asgi(), GREETING: GreetingRoom.as_asgi()}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        rooms, _, _ = scope["path"].rpartition("-")
        await kinds.get(f"{rooms}-", plain)(scope, receive, send)

    return application


async def keep_positions(context: Context, groups: Sequence[str]) -> list[str]:
    """Track each opened channel, as the member of a group of its own, and listen; returns the
    positions before all messages.
    """
    layer = _signing_layer(context)
    for channel, group in zip(context.inboxes, groups, strict=True):
        layer.track(channel)
        await layer.group_add(group, channel)
    positions = [layer.position(channel) for channel in context.inboxes]
    await context.port.listen(context.inboxes)
    return positions


async def read_bare(context: Context, since: float) -> int:
    """Return how many messages groups were sent since a time, after a bare consumer has read them:
    the least that a recovery from the log takes.
    """
    from .floor import read_log

    config = context.port.layer.config
    topic = f"{config.prefix}-send-group"
    return await asyncio.to_thread(read_log, config.bootstrap_servers, topic, since)


async def recover(
    context: Context,
    groups: Sequence[str],
    positions: Sequence[str],
    count: int,
    within: float | None,
) -> tuple[ComeBack, list[Inbox]]:
    """Recover so many new channels, members of the groups in turn.

    They ask evenly within so many seconds, 0 for the same moment; one after another if it is None.
    Returns how they came back, and what each got.
    """
    layer = _signing_layer(context)
    channels = [await layer.new_channel() for _ in range(count)]
    for number, channel in enumerate(channels):
        layer.track(channel)
        await layer.group_add(groups[number % len(groups)], channel)

    async def one(number: int) -> tuple[float, Any]:
        if within:
            await asyncio.sleep(within * number / count)
        began = time.monotonic()
        recovery = await layer.recover(channels[number], positions[number % len(groups)])
        return time.monotonic() - began, recovery

    began = time.monotonic()
    if within is None:
        came = [await one(number) for number in range(count)]
    else:
        came = await asyncio.gather(*map(one, range(count)))
    took = time.monotonic() - began
    inboxes = [Inbox() for _ in came]
    for inbox, (_, recovery) in zip(inboxes, came, strict=True):
        for message in recovery.messages:
            inbox.take(message)
    reasons = Counter(recovery.reason for _, recovery in came if not recovery.recovered)
    replayed = sum(each.received for each in inboxes)
    return ComeBack(took, [seconds for seconds, _ in came], replayed, reasons), inboxes


async def follow(context: Context, group: str) -> None:
    """Open a tracked channel in a group, which nobody reads."""
    layer = _signing_layer(context)
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add(group, channel)
    context.inboxes[channel] = Inbox()


async def read_on(context: Context) -> None:
    """Read the channel that was opened last."""
    channel, inbox = list(context.inboxes.items())[-1]
    await context.port.listen({channel: inbox})


def _signing_layer(context: Context) -> Any:
    """Return the layer, in a process that signs positions."""
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY=SECRET_KEY)
    return context.port.layer
