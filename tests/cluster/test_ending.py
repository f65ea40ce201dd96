"""Servers that reload and end: what was sent last is delivered, where that is promised."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kafka_layer.testing import EmbeddedBroker
from tests.support.layers import next_messages
from tests.support.patience import PatientLayer
from tests.support.processes import end_of, process_group
from tests.support.serving import missing, serving
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
COUNT = 300
END_SECONDS = 60.0

# The server, the application, how often each of its processes sends all, whether it reloads.
KEPT = [
    ("uvicorn", "foreign", 1, False),
    ("uvicorn, reloading", "closing", 2, True),
    ("gunicorn, uvicorn's worker", "closing", 2, True),
    ("gunicorn, its own worker", "bare", 1, True),
    ("gunicorn, its ASGI worker", "bare", 2, True),
    ("hypercorn", "bare", 2, False),
    ("hypercorn, reloading", "closing", 2, True),
    ("granian", "bare", 2, False),
    ("granian", "closing", 2, True),
    ("daphne", "bare", 1, False),
    ("runserver", "bare", 1, True),
    ("runserver of daphne", "foreign", 1, False),
    ("runserver, not reloading", "handled", 1, False),
    ("uWSGI", "bare", 1, True),
]

# The server, the application.
LOST = [
    ("uvicorn", "bare"),
    ("gunicorn, uvicorn's worker", "bare"),
    ("runserver", "bare"),
    ("runserver, not reloading", "bare"),
]


class Room:
    """A group whose member receives what servers send to it.

    Args:
        broker: Carries it.
        prefix: That of the topics.
    """

    def __init__(self, broker: EmbeddedBroker, prefix: str) -> None:
        # They live until all processes have ended.
        config = {"prefix": prefix, "expiry": 600}
        # Nothing of a server would leave its queue by itself before its process ends.
        self.config = broker.config(**config, producer_config={"linger.ms": 300_000})
        self.reader = PatientLayer(**broker.config(**config, capacity=10_000))

    async def open(self) -> None:
        self._channel = await self.reader.new_channel()
        await self.reader.group_add("room", self._channel)

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """Receive so many messages."""
        return await next_messages(self.reader, self._channel, count)

    async def rest(self) -> list[dict[str, Any]]:
        """Receive what has come so far."""
        await self.reader.group_send("room", {"type": "the end"})
        found: list[dict[str, Any]] = []
        while (message := (await self.messages(1))[0]) != {"type": "the end"}:
            found.append(message)
        return found


@pytest_asyncio.fixture
async def room(embedded: EmbeddedBroker, prefix: str) -> AsyncIterator[Room]:
    room = Room(embedded, prefix)
    await room.open()
    yield room
    await room.reader.close()


@pytest.mark.parametrize(("server", "ending", "times", "reloads"), KEPT)
async def test_what_was_sent_before_a_reload_and_before_sigterm_arrives(
    server: str, ending: str, times: int, reloads: bool, room: Room, tmp_path: Path
) -> None:
    if missing(server):
        pytest.skip(f"{server} is not installed")

    def serve() -> tuple[list[int], str]:
        with serving(server, ending, room.config, tmp_path) as served:
            processes = [served.ask("send")]
            if reloads:
                served.reload()
                processes.append(served.ask("send"))
            # Django's autoreloader kills its child where the signal is for the parent.
            served.end(to=processes[-1] if "runserver" in server else None)
            return processes, served.log

    processes, log = await asyncio.to_thread(serve)
    try:
        received = await room.messages(COUNT * times * len(processes))
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{log}") from error
    assert numbers_by_sender(received) == {
        process: list(range(COUNT)) * times for process in processes
    }


def numbers_by_sender(received: list[dict[str, Any]]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for message in received:
        found[message["by"]].append(message["n"])
    return found


@pytest.mark.parametrize(("server", "ending"), LOST)
async def test_what_the_docs_say_is_lost_is_lost(
    server: str, ending: str, room: Room, tmp_path: Path
) -> None:
    """Where that is better by now, the docs can promise it."""

    def serve() -> None:
        with serving(server, ending, room.config, tmp_path) as served:
            served.ask("send")
            if "uvicorn" in server:
                wait_until(
                    lambda: "kafka_layer.asgi.closing(application)" in served.log,
                    "the log to tell of it",
                )
            served.end()

    await asyncio.to_thread(serve)
    assert await room.rest() == []


async def test_a_crash_loses_what_no_send_waited_for(room: Room, tmp_path: Path) -> None:
    """With ``await_produce`` what was sent is written, also where SIGKILL follows."""
    waiting = {**room.config, "await_produce": True, "producer_config": {}}

    def serve(name: str, config: dict[str, Any]) -> int:
        folder = tmp_path / name
        folder.mkdir()
        with serving("uvicorn", "foreign", config, folder) as served:
            process = served.ask("send")
            served.end(signal.SIGKILL)
        return process

    _, process = await asyncio.gather(
        asyncio.to_thread(serve, "queued", room.config),
        asyncio.to_thread(serve, "written", waiting),
    )
    assert numbers_by_sender(await room.rest()) == {process: list(range(COUNT))}


@contextlib.contextmanager
def tasks(
    program: Sequence[str], config: dict[str, Any], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a task queue, until it is killed at the end if it has not ended before."""
    environment = {
        **os.environ,
        "LAYER_CONFIG": json.dumps(config),
        "LAYER_FOLDER": str(folder),
    }
    with (
        (folder / "log").open("wb") as log,
        process_group(
            [sys.executable, "-m", *program],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        yield process


def run_celery(config: dict[str, Any], folder: Path) -> None:
    """Let a worker of Celery do one task, and end it by SIGTERM."""
    from celery import Celery

    application = "tests.support.programs.ending_celery"
    worker = ["worker", "-P", "prefork", "-c", "1", "--without-gossip", "--without-mingle"]
    queue = {"data_folder_in": str(folder), "data_folder_out": str(folder)}
    client = Celery(
        broker="filesystem://",
        broker_transport_options={**queue, "control_folder": str(folder)},
    )
    client.send_task("send")
    client.close()
    with tasks(["celery", "-A", application, *worker], config, folder) as process:
        wait_until((folder / "sent").exists, "the task to be done", END_SECONDS)
        process.terminate()
        assert end_of(process) == 0, (folder / "log").read_text()


def run_rq(config: dict[str, Any], folder: Path) -> None:
    """Let a worker of RQ do one job, and end it by SIGTERM."""
    from redis import Redis, exceptions
    from rq import Queue

    socket = str(folder / "redis")
    options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(folder)]
    worker = ["rq.cli", "worker", "--url", f"unix://{socket}"]

    def listens() -> bool:
        with contextlib.suppress(exceptions.ConnectionError):
            return bool(redis.ping())
        return False

    with (
        subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server,
        Redis(unix_socket_path=socket) as redis,
    ):
        try:
            wait_until(listens, "redis-server to listen")
            with tasks(worker, config, folder) as process:
                job = Queue(connection=redis).enqueue("tests.support.programs.ending_tasks.job")
                wait_until(lambda: job.is_finished, "the job to be done", END_SECONDS)
                process.terminate()
                assert end_of(process) == 0, (folder / "log").read_text()
        finally:
            server.kill()


@pytest.mark.parametrize("run", [run_celery, run_rq])
async def test_a_task_queue_loses_what_a_task_sent_unless_the_layer_is_closed(
    run: Callable[[dict[str, Any], Path], None], room: Room, tmp_path: Path
) -> None:
    """As docs/deployment.md says: by a signal of Celery's, or in each job of RQ."""
    pytest.importorskip(run.__name__.removeprefix("run_"))
    if run is run_rq and shutil.which("redis-server") is None:
        pytest.skip("RQ needs redis-server")
    await asyncio.to_thread(run, room.config, tmp_path)
    assert numbers_by_sender(await room.rest()) == {"closed": list(range(COUNT))}


# As the first process of a container: the kernel keeps it from signals that it does not handle.
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.mark.parametrize(
    ("where", "ends_with"),
    [([], -signal.SIGTERM), (CONTAINER, 128 + signal.SIGTERM)],
    ids=["a process", "the first process of a container"],
)
async def test_a_program_without_a_handler_of_its_own(
    where: list[str], ends_with: int, room: Room
) -> None:
    if where and subprocess.run([*where, "true"], check=False).returncode:  # noqa: ASYNC221
        pytest.skip("this user may not make a namespace of processes")
    program = "tests.support.programs.terminated"
    process = subprocess.Popen(  # noqa: ASYNC220
        [*where, sys.executable, "-m", program, json.dumps(room.config), "room", str(COUNT)],
        cwd=REPOSITORY,
    )
    try:
        status = await asyncio.to_thread(process.wait, END_SECONDS)
    finally:
        process.kill()
    # It ends as a process does that was told to.
    assert status == ends_with
    assert await room.messages(COUNT) == [{"kind": "group", "n": number} for number in range(COUNT)]
