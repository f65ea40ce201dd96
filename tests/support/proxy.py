"""A TCP proxy between clients and a broker, to cut and to slow their network."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Proxy"]

_HOST = "127.0.0.1"
_CHUNK = 65536


class _Alive:
    """Whether anything passes on the connections that share this."""

    here = True


class Proxy:
    """Forwards connections from a port that the kernel chose; runs in a thread of its own.

    Use it as a context manager. The methods may be called from any thread.

    Attributes:
        port: Where it listens, on the loopback interface.
        target: The port it forwards to; set it before the first connection.
        delay: Seconds by which every chunk of at most 64 KiB is held up, one after another.
    """

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.delay = 0.0
        self._is_cut = False
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._alive = _Alive()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """End all connections, and every new one at once, until :meth:`mend`."""
        self._loop.call_soon_threadsafe(self._cut)

    def stall(self) -> None:
        """Let nothing through and close nothing, until :meth:`mend`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def strand(self) -> None:
        """Let nothing through on the present connections, for ever, and close none of them.

        New ones work: so it is when a host or a firewall on the way forgets connections.
        """
        self._loop.call_soon_threadsafe(self._strand)

    def mend(self) -> None:
        """Forward again."""
        self._is_cut = False
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, _HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        everything = asyncio.all_tasks(self._loop)
        for task in everything:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*everything, return_exceptions=True))
        self._loop.close()

    def _cut(self) -> None:
        self._is_cut = True
        for task in self._connections:
            task.cancel()

    def _strand(self) -> None:
        self._alive.here = False
        self._alive = _Alive()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._is_cut:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # it was cut, or one of both ends went away
        finally:
            self._connections.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(_HOST, self.target)
        alive = self._alive
        ways = [
            asyncio.ensure_future(self._forward(reader, far_writer, alive)),
            asyncio.ensure_future(self._forward(far_reader, writer, alive)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await way
            far_writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, alive: _Alive
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flowing.wait()
            if alive.here:
                writer.write(chunk)
                await writer.drain()
