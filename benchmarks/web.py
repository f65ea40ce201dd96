"""Daphne processes that serve the smallest project with websockets, and clients that cost little.

Every path of the project is a room. A client speaks as much of RFC 6455 as text messages of up to
64 KiB need, so that thousands of them do not slow what they measure; they are the channels of the
port ``Websockets``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil

from tests.support.counting import Inbox

from .servers import Skipped, program
from .workers import PortSpec

_SPEC = "BENCHMARK_LAYER"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_FINAL = _MASKED = 0x80
_AT_A_TIME = 20
_FILES_BESIDE = 200
_GIVEN_UP_AFTER = 2.0


@contextlib.contextmanager
def serving(spec: PortSpec, count: int) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Run daphne processes with a channel layer; yields them by port."""
    told = {each.name: getattr(spec, each.name) for each in fields(PortSpec)}
    command = [sys.executable, "-m", "daphne", "-v", "0", "--websocket_connect_timeout", "60"]
    command += ["-b", "127.0.0.1", f"{__name__}:application", "-p"]
    where = {"cwd": Path(__file__).parent.parent, "env": {**os.environ, _SPEC: json.dumps(told)}}
    with contextlib.ExitStack() as stack:
        yield dict(stack.enter_context(program(command, 30.0, **where)) for _ in range(count))


def allow_files(count: int) -> None:
    """Let this process and its children open a socket for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < count + _FILES_BESIDE:
        raise Skipped(f"{count} more open files are needed, and the system allows {hard}")
    if 0 <= soft < count + _FILES_BESIDE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + _FILES_BESIDE, hard))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time that a process has used, user and system."""
    return sum(psutil.Process(process.pid).cpu_times()[:2])


class Client:
    """A connection, open; ``take`` gets each text message. A zero mask is allowed: there is no
    proxy in between that could be fooled.

    Attributes:
        lost: Whether the connection ended although nobody asked for it.
    """

    def __init__(self, reader: Any, writer: Any, take: Callable[[bytes], None]) -> None:
        self.lost = False
        self._reader, self._writer, self._take = reader, writer, take
        self._reading = asyncio.create_task(self._read())

    def send(self, text: bytes, kind: int = _TEXT) -> None:
        """Send a text message of less than 64 KiB."""
        size = len(text)
        length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        head = bytes((_FINAL | kind, _MASKED | length[0])) + length[1:]
        self._writer.write(head + bytes(4) + text)

    def end(self) -> None:
        """Say goodbye and close."""
        self._reading.cancel()
        self.send((1000).to_bytes(2, "big"), _CLOSE)
        self._writer.close()

    async def _read(self) -> None:
        read = self._reader.readexactly
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, size = await read(2)
                if size == 126:
                    size = int.from_bytes(await read(2), "big")
                payload = await read(size)
                if kind & 0x0F == _TEXT:
                    self._take(payload)
                elif kind & 0x0F == _PING:
                    self.send(payload, _PONG)
        self.lost = True


async def connect(
    port: int, path: str, take: Callable[[bytes], None], protocols: Sequence[str] = ()
) -> Client:
    """Connect to 127.0.0.1, within 60 s; ConnectionError if the server refuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    offer = f"Sec-WebSocket-Protocol: {', '.join(protocols)}\r\n" if protocols else ""
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60.0)
    if b" 101 " not in answer.splitlines()[0]:
        raise ConnectionError(f"the server answered {answer.splitlines()[0].decode()}")
    return Client(reader, writer, take)


class Websockets:
    """A port of clients: client ``i`` is in room ``i // members``, on the servers in turn.

    A room's messages are sent by one client of it, of all servers in turn.
    """

    def __init__(self, ports: Sequence[int], members: int) -> None:
        self._ports = ports
        self._members = members
        self._clients: list[Client] = []
        self._inboxes: Sequence[Inbox] = []
        # Of a sender that waits for its own message: the message's number, and what is set then.
        self._awaited: dict[int, tuple[int, asyncio.Event]] = {}

    async def new_channels(self, count: int) -> list[str]:
        allow_files(count)
        free = asyncio.Semaphore(_AT_A_TIME)

        async def one(index: int) -> Client:
            async with free:
                port, path = self._ports[index % len(self._ports)], f"/{index // self._members}"
                return await connect(port, path, lambda text: self._take(index, text))

        self._clients = await asyncio.gather(*map(one, range(count)))
        return [str(index) for index in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        self._inboxes = list(inboxes.values())

    async def send(self, room: str, message: Mapping[str, Any]) -> None:
        client = self._clients[self._sender(room)]
        if client.lost:
            raise ConnectionError("a websocket was closed")
        client.send(json.dumps(message).encode())

    async def converse(self, room: str, message: Mapping[str, Any]) -> None:
        """Send, and return when the message came back, or seems to be lost."""
        came = asyncio.Event()
        self._awaited[self._sender(room)] = message["n"], came
        # A timer costs less than wait_for, and is part of what is measured.
        giving_up = asyncio.get_running_loop().call_later(_GIVEN_UP_AFTER, came.set)
        await self.send(room, message)
        await came.wait()
        giving_up.cancel()

    async def close(self) -> None:
        for client in self._clients:
            client.end()

    def _sender(self, room: str) -> int:
        return int(room) * self._members + int(room) % len(self._ports)

    def _take(self, index: int, text: bytes) -> None:
        message = json.loads(text)
        self._inboxes[index].take(message)
        if index in self._awaited and self._awaited[index][0] == message["n"]:
            self._awaited.pop(index)[1].set()


def _project() -> Any:
    """Set Django up and return the project's application; in daphne's process only."""
    import django
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter
    from django.conf import settings

    from .recovering import SECRET_KEY, by_path

    spec = PortSpec(**json.loads(os.environ[_SPEC]))
    spec.find()  # before Channels imports it from elsewhere
    layers = {"default": {"BACKEND": spec.backend, "CONFIG": spec.config}}
    settings.configure(CHANNEL_LAYERS=layers, SECRET_KEY=SECRET_KEY)
    django.setup()

    class Room(AsyncWebsocketConsumer):  # type: ignore[misc]
        """Passes what a browser says to everybody in the room."""

        async def connect(self) -> None:
            self.room = self.scope["path"].strip("/")
            await self.channel_layer.group_add(self.room, self.channel_name)
            # The handshake ends here: who is connected is a member.
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(self.room, self.channel_name)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            message = {"type": "room.message", "text": text_data}
            await self.channel_layer.group_send(self.room, message)

        async def room_message(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

        async def chat_message(self, event: dict[str, Any]) -> None:
            # What another process says; a record of a stream says it in its value.
            said = event.get("value", event)
            await self.send(text_data=json.dumps({name: said[name] for name in "snt"}))

    return ProtocolTypeRouter({"websocket": by_path(Room, spec.backend)})


if _SPEC in os.environ:
    application = _project()
