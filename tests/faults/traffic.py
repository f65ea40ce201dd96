"""Numbered messages through layers while something fails, and the count of what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from channels.exceptions import ChannelFull

from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.layer import KafkaChannelLayer
from tests.support.counting import Tally, tally
from tests.support.layers import stats_of
from tests.support.waiting import PATIENCE, wait_until_async

__all__ = [
    "NO_BLOCKING",
    "Inbox",
    "Stream",
    "Tally",
    "answers_at",
    "figure",
    "send_large",
    "tally",
]

NO_BLOCKING = 5.0
"""Seconds that a send may take on a machine that is busy with a broker's start."""


@dataclass
class Inbox:
    """Receives all that comes to one channel, and notes when, until it is closed.

    Attributes:
        layer: The receiving server.
        channel: The channel.
        arrived: ``time.monotonic()`` and the message.
    """

    layer: KafkaChannelLayer
    channel: str
    arrived: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _seen: set[tuple[str, int]] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None

    @classmethod
    async def opened(cls, layer: KafkaChannelLayer, *groups: str) -> Inbox:
        """Open a channel, add it to groups, and receive on it from now on."""
        inbox = cls(layer, await layer.new_channel())
        for group in groups:
            await layer.group_add(group, inbox.channel)
        inbox.begin()
        return inbox

    def begin(self) -> None:
        """Receive from now on."""
        self._task = asyncio.create_task(self._receive())

    def numbers(self, kind: str) -> list[int]:
        """The numbers of a kind of messages, in the order of their arrival."""
        return [message["n"] for _, message in self.arrived if message["kind"] == kind]

    async def has(self, kind: str, number: int, timeout: float = PATIENCE) -> None:
        """Return when a number has arrived, and so all that can still arrive before it."""

        what = f"{kind} {number} on {self.channel}; counted: {stats_of(self.layer)}"
        await wait_until_async(lambda: (kind, number) in self._seen, what, timeout)

    async def close(self) -> None:
        """Stop receiving."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _receive(self) -> None:
        while True:
            try:
                message = await self.layer.receive(self.channel)
            except BrokerUnavailable:
                # A first use, while a broker that stood still finds its controller again.
                continue
            self.arrived.append((time.monotonic(), message))
            self._seen.add((message.get("kind", ""), message["n"]))


class Stream:
    """Sends numbered messages at a steady pace from a thread, so that no test slows it down.

    Each turn sends one message to the group and one to each channel.

    Args:
        layer: The sending server.
        group: Where the messages of the kind ``group`` go.
        inboxes: Where the messages of the kind ``direct`` go.
        rate: Turns a second.

    Attributes:
        accepted: The numbers whose sends all returned.
        refused: Sends that raised ``ChannelFull``.
        longest: Seconds that the longest call took.
        errors: What else sends raised.
    """

    _running: ClassVar[set[Stream]] = set()

    def __init__(
        self, layer: KafkaChannelLayer, group: str, inboxes: Sequence[Inbox], rate: float = 50
    ) -> None:
        self.accepted: list[int] = []
        self.refused = 0
        self.longest = 0.0
        self.errors: list[Exception] = []
        self._layer = layer
        self._group = group
        self._channels = [inbox.channel for inbox in inboxes]
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._running.add(self)
        self._thread.start()

    async def goes_on(self, turns: int, timeout: float = 60.0) -> None:
        """Return when so many more turns were accepted."""
        goal = len(self.accepted) + turns
        await wait_until_async(
            lambda: len(self.accepted) >= goal or self.errors, f"{turns} more sends", timeout
        )
        assert not self.errors, self.errors

    async def stop(self) -> int:
        """End, and return the last number."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 30)
        assert not self._thread.is_alive(), "a send did not return in 30 s"
        self._running.discard(self)
        assert not self.errors, self.errors
        return self.accepted[-1]

    @classmethod
    def end_all(cls) -> None:
        """End those of a test that failed: a send after their layer's close would start it anew."""
        running = list(cls._running)
        cls._running.clear()
        for each in running:
            each._stop.set()
        for each in running:
            each._thread.join(30)

    async def settled(self, inboxes: Sequence[Inbox], timeout: float = PATIENCE) -> None:
        """Stop, and return when the last message of each kind has arrived everywhere."""
        last = await self.stop()
        for inbox in inboxes:
            await inbox.has("group", last, timeout)
            await inbox.has("direct", last, timeout)

    def tallies(self, inboxes: Sequence[Inbox]) -> list[Tally]:
        """What became of the messages of each kind at each inbox."""
        return [
            tally(self.accepted, inbox.numbers(kind))
            for inbox in inboxes
            for kind in ("group", "direct")
        ]

    def _run(self) -> None:
        number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self._timed(self._layer.group_send_sync, self._group, "group", number)
                for channel in self._channels:
                    self._timed(self._layer.send_sync, channel, "direct", number)
                self.accepted.append(number)
            except ChannelFull:
                self.refused += 1
            except Exception as error:
                self.errors.append(error)
                return
            number += 1
            # After a standstill the pace is the same: so many turns take so many seconds at least.
            due = max(due + self._pause, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _timed(
        self, send: Callable[[str, dict[str, Any]], object], name: str, kind: str, number: int
    ) -> None:
        started = time.monotonic()
        send(name, {"kind": kind, "n": number})
        self.longest = max(self.longest, time.monotonic() - started)


async def send_large(layer: KafkaChannelLayer, channel: str, count: int) -> list[int]:
    """Send messages of 3 kB; returns the numbers of those that were accepted."""
    accepted = []
    for number in range(count):
        try:
            await layer.send(channel, {"kind": "large", "n": number, "padding": b"x" * 3000})
            accepted.append(number)
        except ChannelFull:
            pass
    return accepted


def figure(text: str) -> None:
    """Show what was measured; ``pytest -s`` lets it through."""
    print(f"\n{text}")  # noqa: T201


@contextlib.contextmanager
def answers_at(servers: str) -> Iterator[list[float]]:
    """Watch a port from a thread; the list gets ``time.monotonic()`` of its first answer."""
    host, port = servers.rsplit(":", 1)
    answered: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() and not answered:
            with socket.socket() as client:
                client.settimeout(1)
                if client.connect_ex((host, int(port))) == 0:
                    answered.append(time.monotonic())
            stop.wait(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join()
