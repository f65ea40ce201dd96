"""The project of docs/quickstart.md, taken from the page's text and run as the page says."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.pages import files_of

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "quickstart.md").read_text()
BACKEND = "kafka_layer.layer.KafkaChannelLayer"

START_TIMEOUT = 60.0
MESSAGE_TIMEOUT = 30.0


def commands_of(page: str) -> list[list[str]]:
    """Return the commands that start daphne, in their order."""
    return [
        shlex.split(line) for line in re.findall(r"^python (-m daphne .*)$", page, re.MULTILINE)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the page's files, and nothing else."""
    for name, text in files_of(PAGE).items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def without_a_broker() -> Iterator[subprocess.Popen[str]]:
    """The page's script, which gives up after seconds, while other tests go on."""
    with subprocess.Popen(
        [sys.executable, "-c", files_of(PAGE)["send.py"]],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@asynccontextmanager
async def daphne(project: Path, command: list[str], **environment: str) -> AsyncIterator[int]:
    """Run a server by the page's command, on a port that is free; gives the port."""
    if "--port" in command:
        at = command.index("--port")
        command = command[:at] + command[at + 2 :]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command[:2],
        "--port",
        "0",
        *command[2:],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    log: list[str] = []
    reading: asyncio.Task[None] | None = None
    try:
        port = await asyncio.wait_for(port_of(process, log), START_TIMEOUT)
        # Else the pipe fills, and the server stands still.
        reading = asyncio.create_task(read_on(process, log))
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), START_TIMEOUT)
        if reading is not None:
            await reading
        # Shown where the test fails.
        sys.stderr.write("".join(log))


async def port_of(process: Process, log: list[str]) -> int:
    """Read daphne's log until it says where it listens."""
    assert process.stderr is not None
    async for line in process.stderr:
        log.append(line.decode())
        if found := re.search(r"Listening on TCP address \S+:(\d+)", log[-1]):
            return int(found[1])
    raise AssertionError(f"daphne ended with {await process.wait()} before it listened")


async def read_on(process: Process, log: list[str]) -> None:
    """Read the rest of the log."""
    assert process.stderr is not None
    async for line in process.stderr:
        log.append(line.decode())


def websocket(port: int) -> connect:
    """A client, from the page that the same server gave."""
    return connect(
        f"ws://127.0.0.1:{port}/chat/",
        origin=f"http://127.0.0.1:{port}",
        open_timeout=MESSAGE_TIMEOUT,
        # A client that nobody reads from for a while is no dead one.
        ping_interval=None,
    )


async def heard_by(client: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(client.recv(), MESSAGE_TIMEOUT)


def test_the_page_has_three_files_and_a_script() -> None:
    assert list(files_of(PAGE)) == ["project.py", "consumers.py", "chat.html", "send.py"]
    assert len(commands_of(PAGE)) == 2


async def test_a_message_comes_to_everybody_on_both_servers(
    project: Path, kafka: str, prefix: str, without_a_broker: subprocess.Popen[str]
) -> None:
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_PREFIX": prefix}
    one, other = commands_of(PAGE)

    async with (
        daphne(project, one, **environment) as first,
        daphne(project, other, **environment) as second,
        websocket(first) as alice,
        websocket(second) as bob,
    ):
        await alice.send("Hello, Bob <b>")

        assert await heard_by(bob) == "Hello, Bob <b>"
        assert await heard_by(alice) == "Hello, Bob <b>"

        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "send.py"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            check=True,
            timeout=START_TIMEOUT,
        )

        assert await heard_by(bob) == "Hello from a script"


@pytest.mark.slow
async def test_without_a_broker_it_works_in_one_process(
    project: Path, without_a_broker: subprocess.Popen[str]
) -> None:
    settings = (project / "project.py").read_text()
    assert BACKEND in settings
    in_memory = re.search(r"Set `BACKEND` to `([\w.]+)`\.", PAGE)
    assert in_memory
    (project / "project.py").write_text(settings.replace(BACKEND, in_memory[1]))

    async with (
        daphne(project, commands_of(PAGE)[0]) as port,
        websocket(port) as alice,
        websocket(port) as bob,
    ):
        answer = await asyncio.to_thread(
            urlopen, f"http://127.0.0.1:{port}/", timeout=MESSAGE_TIMEOUT
        )
        with answer:
            page = answer.read().decode()
        await alice.send("hi")

        assert await heard_by(bob) == "hi"

    # The page talks to the websocket.
    assert page.rstrip("\n") == files_of(PAGE)["chat.html"].rstrip("\n")
    assert "/chat/" in page


@pytest.mark.slow
def test_the_script_fails_where_there_is_no_broker(without_a_broker: subprocess.Popen[str]) -> None:
    _, said = without_a_broker.communicate(timeout=START_TIMEOUT)

    assert without_a_broker.returncode == 1
    assert "ProduceFailed: The broker did not take a record" in said
