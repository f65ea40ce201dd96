"""Processes that use layers: started, talked to, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["RemoteLayer", "run_program"]

_REPOSITORY = Path(__file__).parents[2]
_TIMEOUT = 60.0


async def run_program(name: str, *arguments: str, timeout: float = _TIMEOUT) -> None:
    """Run a program of ``tests.support.programs`` to its end.

    Raises:
        AssertionError: It did not end in time or with status 0; with what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(name),
        *arguments,
        cwd=_REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), timeout)
    except asyncio.TimeoutError:
        process.kill()
        said, _ = await process.communicate()
        raise AssertionError(f"{name} did not end in {timeout:g} s:\n{said.decode()}") from None
    assert process.returncode == 0, f"{name}: status {process.returncode}\n{said.decode()}"


class RemoteLayer:
    """A layer in a process of its own, a context manager.

    Args:
        config: Its CONFIG keywords.
    """

    def __init__(self, **config: Any) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None

    async def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of the layer there and return what it returns.

        Raises:
            RuntimeError: It raised there.
            TimeoutError: There was no answer in 60 s.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([method, arguments, keywords]).encode() + b"\n")
        await process.stdin.drain()
        line = await asyncio.wait_for(process.stdout.readline(), _TIMEOUT)
        assert line, f"the process ended with {process.returncode} instead of answering {method}"
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Stop its time (SIGSTOP); returns once all its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> RemoteLayer:  # noqa: PYI034 (Self is new in 3.11)
        self._process = await asyncio.create_subprocess_exec(
            *_command("remote"),
            json.dumps(self._config),
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _TIMEOUT)
        except asyncio.TimeoutError:
            await self.kill()
            raise


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.support.programs.{name}"]
