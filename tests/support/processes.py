"""Processes that use layers: started, talked to, ended.

The number of a process that has ended and was waited for may be another's within minutes, as may
that of its group. So nothing here sends a signal to a number of which that is not excluded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

__all__ = ["RemoteLayer", "end_of", "process_group", "run_program", "status_of"]

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


@contextlib.contextmanager
def process_group(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own; all that is left of it is killed at the end.

    ``end_of`` and ``status_of`` tell how it ended. ``wait`` and ``poll`` would free its number.

    Args:
        command: The program and its arguments.
        options: Those of ``subprocess.Popen``.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status_of(process: subprocess.Popen[bytes]) -> int | None:
    """Return the status that a child ended with, None while it runs; it is not waited for."""
    told = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if told is None:
        return None
    return told.si_status if told.si_code == os.CLD_EXITED else -told.si_status


def end_of(process: subprocess.Popen[bytes], timeout: float = _TIMEOUT) -> int:
    """Return the status that a child ends with; it is not waited for.

    Raises:
        TimeoutError: It did not end in time.
    """
    wait_until(lambda: status_of(process) is not None, f"the end of {process.args}", timeout)
    status = status_of(process)
    assert status is not None
    return status


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
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

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
