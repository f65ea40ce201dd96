"""A websocket client that costs little, so that thousands of them do not slow what they measure.

It speaks as much of RFC 6455 as text messages of up to 64 KiB need. Its mask is all zeros, which
the protocol allows: there is no proxy in between that could be fooled.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable

__all__ = ["Client", "connect"]

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_FINAL, _MASKED = 0x80, 0x80
_NO_MASK = bytes(4)


class Client(asyncio.Protocol):
    """One connection.

    Args:
        path: Of the request, with the slash.
        take: Called with each text message, as bytes.

    Attributes:
        opened: Done when the handshake is; an exception tells why it is not.
        lost: Whether the connection ended although nobody asked for it.
    """

    def __init__(self, path: str, take: Callable[[bytes], None]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self._path = path
        self._take = take
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._shaken = self._ending = False

    def send(self, text: bytes) -> None:
        """Send a text message of less than 64 KiB."""
        self._write(_TEXT, text)

    def end(self) -> None:
        """Say goodbye and close."""
        self._ending = True
        if self._transport is not None and not self._transport.is_closing():
            self._write(_CLOSE, (1000).to_bytes(2, "big"))
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {self._path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = not self._ending
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed during the handshake"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._shaken:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._finish_handshake(head)
        self._buffer = self._read_frames(buffer)

    def _finish_handshake(self, head: bytes) -> None:
        self._shaken = True
        status = head.split(b"\r\n", 1)[0].decode()
        if self.opened.done():
            return
        if " 101 " in status:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(f"the server answered {status}"))

    def _read_frames(self, buffer: bytes) -> bytes:
        """Take all complete frames; return the rest."""
        at = 0
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1], at + 2
            if length == 126:
                if len(buffer) - at < 4:
                    break
                length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            end = start + length
            if end > len(buffer):
                break
            self._take_frame(buffer[at] & 0x0F, buffer[start:end])
            at = end
        return buffer[at:]

    def _take_frame(self, kind: int, payload: bytes) -> None:
        if kind == _TEXT:
            self._take(payload)
        elif kind == _PING:
            self._write(_PONG, payload)

    def _write(self, kind: int, payload: bytes) -> None:
        assert self._transport is not None
        length = len(payload)
        if length < 126:
            head = bytes((_FINAL | kind, _MASKED | length))
        else:
            head = bytes((_FINAL | kind, _MASKED | 126)) + length.to_bytes(2, "big")
        self._transport.write(head + _NO_MASK + payload)


async def connect(
    port: int, path: str, take: Callable[[bytes], None], timeout: float = 60.0
) -> Client:
    """Connect to 127.0.0.1.

    Args:
        port: The server's.
        path: Of the request, with the slash.
        take: Called with each text message, as bytes.
        timeout: Seconds until the handshake must be done.

    Raises:
        ConnectionError: If the server refuses.
        asyncio.TimeoutError: If it takes too long.
    """
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(path, take), "127.0.0.1", port)
    await asyncio.wait_for(asyncio.shield(client.opened), timeout)
    return client
