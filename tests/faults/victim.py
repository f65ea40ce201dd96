"""A process with tracked channels, which a test kills."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

from tests.faults.asking import DEADLINE

__all__ = ["Victim"]

_REPOSITORY = Path(__file__).parents[2]


class Victim:
    """A process that receives on tracked channels, and what it told of them.

    Attributes:
        positions: By the number of the channel: the position behind its last message.
        got: By the number of the channel: its messages.
    """

    def __init__(self, process: Process, channels: int) -> None:
        assert process.stdout is not None
        self.positions: dict[int, str] = {}
        self.got: dict[int, list[dict[str, Any]]] = {number: [] for number in range(channels)}
        self._process = process
        self._output = process.stdout

    @classmethod
    async def start(cls, config: dict[str, Any], group: str, channels: int) -> Victim:
        """Start a process with so many channels in a group; return when each has a position."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.programs.tracked"),
            *(json.dumps(config), group, str(channels)),
            cwd=_REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        victim = cls(process, channels)
        await victim.tell(channels)
        return victim

    async def tell(self, count: int) -> None:
        """Wait until it has told of so many messages, of all channels together."""
        await asyncio.wait_for(self._read(count), DEADLINE)

    async def kill(self) -> None:
        """Kill it, and read what it had told."""
        self._process.kill()
        # What it had written has reached its reader, but for a line that was cut.
        rest = await asyncio.wait_for(self._output.read(), DEADLINE)
        for line in rest.splitlines(keepends=True):
            if line.endswith(b"\n"):
                self._take(line)
        await self._process.wait()

    async def _read(self, count: int) -> None:
        for _ in range(count):
            self._take(await self._output.readline())

    def _take(self, line: bytes) -> None:
        channel, position, message = json.loads(line)
        self.positions[channel] = position
        if message is not None:
            self.got[channel].append(message)
