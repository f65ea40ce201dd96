"""What a worker process does with jobs: it writes down that it began and that it ended each one."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

_diary = os.open(
    Path(os.environ["WORKER_FOLDER"]) / f"{os.getpid()}.diary",
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
)


def _write(what: str, number: int) -> None:
    # Straight to the kernel, which keeps it when the process is killed.
    os.write(_diary, f"{what} {number}\n".encode())


class Worker(AsyncConsumer):  # type: ignore[misc]
    async def job(self, message: dict[str, Any]) -> None:
        """Do the job; one with a ``gate`` ends when a file of that name is there."""
        _write("began", message["n"])
        gate = message.get("gate")
        while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        _write("ended", message["n"])

    async def blocking(self, message: dict[str, Any]) -> None:
        """Do the job in ``seconds``, for which it blocks the event loop."""
        _write("began", message["n"])
        time.sleep(message["seconds"])  # noqa: ASYNC251
        _write("ended", message["n"])

    async def failing(self, message: dict[str, Any]) -> None:
        _write("began", message["n"])
        raise RuntimeError(f"job {message['n']} fails on purpose")


class SyncWorker(SyncConsumer):  # type: ignore[misc]
    def job(self, message: dict[str, Any]) -> None:
        _write("began", message["n"])
        _write("ended", message["n"])


class _EveryName(dict[str, Any]):
    def __missing__(self, channel: str) -> Any:
        return (SyncWorker if channel.startswith("sync.") else Worker).as_asgi()

    def __contains__(self, channel: object) -> bool:
        return True


application = ProtocolTypeRouter({"channel": ChannelNameRouter(_EveryName())})
