"""One server of the soak, a program: a layer that sends and receives numbered messages.

The first argument says what it is (:class:`Role`, as JSON). Then it reads commands from standard
input, a JSON array a line, and answers each with a line of JSON. What it does it writes down line
by line, so that the file is complete whenever the process dies:

- ``s TO SENDER NUMBER TIME``: a send returned that began at that time,
- ``r CHANNEL TO SENDER NUMBER TIME``: a message arrived,
- ``+ CHANNEL TIME`` and ``- CHANNEL TIME``: a channel is a member from now on, or no longer,
- ``c CHANNEL SECONDS ERROR TIME``: a command to a channel's server took so long; or ``ok``.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from channels.exceptions import ChannelFull

from kafka_layer import signals
from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.layer import KafkaChannelLayer

__all__ = ["ALL", "GROUP", "JOBS", "USER", "Role"]

GROUP = "group"
USER = "user"
ALL = "all"
JOBS = "jobs"
"""Where messages go, and the names of the group, the user and the worker channel alike."""

_CLOSED_WITHIN = 5.0
_COMMANDS_A_SECOND = 4


@dataclass(frozen=True)
class Role:
    """What a server does.

    Attributes:
        name: Its own, which no other process has had.
        config: The layer's CONFIG.
        diary: The file that it writes to.
        receives: Whether it has a channel, in the group and with the user.
        works: Whether it receives jobs.
        commands: Whether it makes channels of other servers members, and takes them out again.
        rate: Turns a second; each sends one message to every address. 0 to send none.
    """

    name: str
    config: dict[str, Any]
    diary: str
    receives: bool = False
    works: bool = False
    commands: bool = False
    rate: float = 0.0


class SoakServer:
    """The layer of this process and its tasks.

    Args:
        role: What it does.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._layer = KafkaChannelLayer(**role.config)
        self._diary = os.open(role.diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._generation = 0
        self._channel = ""
        self._receiving: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []
        self._peers: dict[str, str] = {}
        self._freshest: dict[str, float] = {}
        self._before: Counter[str] = Counter()
        self._refused = 0
        self._longest = 0.0
        self._raised: list[str] = []
        self._signals = Counter[str]()
        _connect_receivers(self._layer, self._signals)

    async def open(self) -> tuple[str, str] | None:
        """Begin to receive; returns a new name for the channel, and its own, if there is one."""
        self._generation += 1
        name = f"{self._role.name}/{self._generation}"
        opened = None
        if self._role.receives:
            self._channel = await self._new_channel()
            await self._layer.group_add(GROUP, self._channel)
            await self._layer.user_add(USER, self._channel)
            self._note(f"+ {name}")
            self._receiving.append(asyncio.create_task(self._receive(name, self._channel)))
            opened = name, self._channel
        if self._role.works:
            self._receiving.append(asyncio.create_task(self._receive(JOBS, JOBS)))
        return opened

    async def restart(self) -> tuple[str, str] | None:
        """Close the layer, while what this process sends goes on, and use it again."""
        if self._role.receives:
            self._note(f"- {self._role.name}/{self._generation}")
        stats = self._layer.stats()
        self._before.update({f"dropped.{name}": n for name, n in stats.dropped.items()})
        self._before.update({f"errors.{name}": n for name, n in stats.errors.items()})
        await self._layer.close()
        if self._receiving:
            _, asleep = await asyncio.wait(self._receiving, timeout=_CLOSED_WITHIN)
            for task in asleep:
                self._raised.append(f"a receive still waited {_CLOSED_WITHIN:g} s after close()")
                task.cancel()
        self._receiving.clear()
        self._freshest.clear()
        return await self.open()

    async def send(self, peers: dict[str, str]) -> None:
        """Send from now on: to the group, the user, all, as a job, and to channels by name."""
        self._peers = peers
        if not self._sending:
            if self._role.rate:
                self._sending.append(asyncio.create_task(self._send()))
            if self._role.commands:
                self._sending.append(asyncio.create_task(self._command()))

    async def stall(self, seconds: float) -> None:
        """Let this event loop stand still."""
        time.sleep(seconds)  # noqa: ASYNC251 (that is the fault)

    async def freshest(self) -> dict[str, float]:
        """Return when the last message that arrived was sent, by address and sender."""
        return self._freshest

    async def stop(self) -> None:
        """End sending."""
        await _end(self._sending)

    async def report(self) -> dict[str, Any]:
        """Return what the layer counted, and what tasks of this program raised."""
        stats = self._layer.stats()
        counts = Counter(self._before)
        counts.update({f"dropped.{name}": n for name, n in stats.dropped.items()})
        counts.update({f"errors.{name}": n for name, n in stats.errors.items()})
        tasks = [*self._receiving, *self._sending]
        raised = [repr(t.exception()) for t in tasks if t.done() and not t.cancelled()]
        return {
            "counts": dict(counts),
            "reconnects": stats.reconnects,
            "queued": stats.queued,
            "refused": self._refused,
            "longest": round(self._longest, 3),
            "signals": dict(self._signals),
            "raised": [*self._raised, *raised],
        }

    async def close(self) -> None:
        """End everything."""
        await self.stop()
        await _end(self._receiving)
        await self._layer.close()

    async def _new_channel(self) -> str:
        """Start the layer; on a broker that has just started it may take more than one attempt."""
        for _ in range(10):
            try:
                return await self._layer.new_channel()
            except BrokerUnavailable as error:
                print(error, file=sys.stderr)
        return await self._layer.new_channel()

    async def _receive(self, name: str, channel: str) -> None:
        generation = self._generation
        while True:
            try:
                message = await self._layer.receive(channel)
            except Exception:
                if generation == self._generation and not _is_closing(self._layer):
                    raise
                return
            self._note(f"r {name} {message['to']} {message['from']} {message['n']}")
            self._freshest[f"{message['to']} {message['from']}"] = message["at"]

    async def _send(self) -> None:
        number = 0
        due = time.monotonic()
        while True:
            await self._send_one(self._layer.group_send, GROUP, GROUP, number)
            await self._send_one(self._layer.user_send, USER, USER, number)
            await self._send_one(lambda _, message: self._layer.all_send(message), ALL, ALL, number)
            await self._send_one(self._layer.send, JOBS, JOBS, number)
            for name, channel in self._peers.items():
                await self._send_one(self._layer.send, channel, name, number)
            number += 1
            due = max(due + 1 / self._role.rate, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())

    async def _send_one(self, send: Any, address: str, to: str, number: int) -> None:
        began = time.monotonic()
        message = {"to": to, "from": self._role.name, "n": number, "at": began}
        try:
            await send(address, message)
        except ChannelFull:
            self._refused += 1
            return
        self._longest = max(self._longest, time.monotonic() - began)
        self._note(f"s {to} {self._role.name} {number}", began)

    async def _command(self) -> None:
        """Make channels of the others members of a group that nobody sends to, and undo it."""
        number = 0
        while True:
            for name, channel in dict(self._peers).items():
                method = self._layer.group_discard if number % 2 else self._layer.group_add
                began, error = time.monotonic(), "ok"
                try:
                    await method("idle", channel)
                except Exception as raised:
                    error = type(raised).__name__
                self._note(f"c {name} {time.monotonic() - began:.3f} {error}", began)
                await asyncio.sleep(1 / _COMMANDS_A_SECOND)
            number += 1
            await asyncio.sleep(0)

    def _note(self, what: str, at: float | None = None) -> None:
        line = f"{what} {time.monotonic() if at is None else at:.4f}\n"
        os.write(self._diary, line.encode())


def _is_closing(layer: KafkaChannelLayer) -> bool:
    """Tell whether the error of a receive is the end of its server."""
    return layer.stats().server is None


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    tasks.clear()


def _connect_receivers(layer: KafkaChannelLayer, counted: Counter[str]) -> None:
    """Connect receivers to the layer's signals that must not disturb it."""

    def slow(**arguments: Any) -> None:
        counted["slow"] += 1
        time.sleep(0.3)

    def raising(**arguments: Any) -> None:
        counted["raising"] += 1
        raise RuntimeError("a receiver of the soak raised")

    async def coroutine(**arguments: Any) -> None:
        counted["coroutine"] += 1
        await asyncio.sleep(0.1)

    def sending(**arguments: Any) -> None:
        counted["sending"] += 1
        with contextlib.suppress(ChannelFull):
            layer.group_send_sync("nobody", {"type": "signal"})

    for signal in (signals.connection_changed, signals.messages_dropped, signals.produce_failed):
        for receiver in (slow, raising, coroutine, sending):
            signal.connect(receiver, weak=False)


async def main() -> None:
    """Do what standard input says until it ends."""
    server = SoakServer(Role(**json.loads(sys.argv[1])))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = json.loads(line)
        answer = await getattr(server, command)(*arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await server.close()


if __name__ == "__main__":
    asyncio.run(main())
