"""One server of the soak, a program: a layer that sends and receives numbered messages.

The first argument says what it is (:class:`Role`, as JSON). Then it reads commands from standard
input, a JSON array a line, and answers each with a line of JSON. What it sends and receives it
writes down line by line, so that the file is complete whenever the process dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from channels.exceptions import ChannelFull

from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.layer import KafkaChannelLayer

__all__ = ["GROUP", "JOBS", "USER", "Role"]

GROUP = "group"
USER = "user"
JOBS = "jobs"
"""Where messages go, and the names of the group, the user and the worker channel alike."""


@dataclass(frozen=True)
class Role:
    """What a server does.

    Attributes:
        name: Its own, which no other process has had.
        config: The layer's CONFIG.
        diary: The file that it writes to.
        receives: Whether it has a channel, in the group and with the user.
        works: Whether it receives jobs.
        rate: Turns a second; each sends one message to every address. 0 to send none.
    """

    name: str
    config: dict[str, Any]
    diary: str
    receives: bool = False
    works: bool = False
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
        self._channel: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: asyncio.Task[None] | None = None
        self._freshest: dict[str, float] = {}
        self._refused = 0
        self._longest = 0.0

    async def open(self) -> str | None:
        """Begin to receive; returns the name of the channel, if there is one."""
        if self._role.receives:
            self._channel = await self._new_channel()
            await self._layer.group_add(GROUP, self._channel)
            await self._layer.user_add(USER, self._channel)
            self._begin(self._receive(self._channel))
        if self._role.works:
            self._begin(self._receive(JOBS))
        return self._channel

    async def send(self, channels: dict[str, str]) -> None:
        """Begin to send: to the group, the user, as a job, and to these channels, by server."""
        self._sending = asyncio.create_task(self._send(channels))

    async def stall(self, seconds: float) -> None:
        """Let this event loop stand still."""
        time.sleep(seconds)  # noqa: ASYNC251 (that is the fault)

    async def freshest(self) -> dict[str, float]:
        """Return when the last message that arrived was sent, by address and sender."""
        return self._freshest

    async def stop(self) -> None:
        """End sending."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def report(self) -> dict[str, Any]:
        """Return what the layer counted, and what tasks of this program raised."""
        stats = self._layer.stats()
        counts = self._layer._server.stats.snapshot()
        tasks = [*self._tasks, *filter(None, [self._sending])]
        raised = [repr(t.exception()) for t in tasks if t.done() and not t.cancelled()]
        return {
            "dropped": dict(stats.dropped),
            "errors": dict(stats.errors),
            "reconnects": stats.reconnects,
            "replaced": {name: n for name, n in counts.items() if name.endswith(".replaced")},
            "queued": stats.queued,
            "refused": self._refused,
            "longest": self._longest,
            "raised": raised,
        }

    async def close(self) -> None:
        """End everything."""
        await self.stop()
        for task in self._tasks:
            task.cancel()
        await self._layer.close()

    async def _new_channel(self) -> str:
        """Start the layer; on a broker that has just started it may take more than one attempt."""
        for _ in range(10):
            try:
                return await self._layer.new_channel()
            except BrokerUnavailable as error:
                print(error, file=sys.stderr)
        return await self._layer.new_channel()

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    async def _receive(self, channel: str) -> None:
        while True:
            message = await self._layer.receive(channel)
            self._note("r", message["to"], message["from"], message["n"])
            self._freshest[f"{message['to']} {message['from']}"] = message["at"]

    async def _send(self, channels: dict[str, str]) -> None:
        number = 0
        due = time.monotonic()
        while True:
            await self._send_one(self._layer.group_send, GROUP, GROUP, number)
            await self._send_one(self._layer.user_send, USER, USER, number)
            await self._send_one(self._layer.send, JOBS, JOBS, number)
            for server, channel in channels.items():
                await self._send_one(self._layer.send, channel, server, number)
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
        self._note("s", to, self._role.name, number)

    def _note(self, what: str, to: str, sender: str, number: int) -> None:
        line = f"{what} {to} {sender} {number} {time.monotonic():.4f}\n"
        os.write(self._diary, line.encode())


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
