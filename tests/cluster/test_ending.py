"""Servers that are told to end by SIGTERM: what was sent last is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import EmbeddedBroker
from tests.support.layers import next_messages
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
APPLICATION = "tests.support.programs.ending_application:application"
COUNT = 300
START_SECONDS = 60.0
END_SECONDS = 60.0

ADDRESS = "127.0.0.1:{port}"

SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}"],
    "gunicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", ADDRESS],
    "hypercorn": ["hypercorn", "-b", ADDRESS],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}"],
    "daphne": ["daphne", "-p", "{port}"],
}
"""The command of each server, without the application."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def request(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
            return bool(page.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def serving(
    server: str, ending: str, broker: EmbeddedBroker, prefix: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process of its own, until it answered a request."""
    port = free_port()
    command = [word.format(port=port) for word in SERVERS[server]]
    # Nothing would leave the queue by itself before the process ends.
    config = broker.config(prefix=prefix, producer_config={"linger.ms": 30_000})
    environment = {**os.environ, "LAYER_CONFIG": json.dumps(config), "LAYER_ENDING": ending}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, APPLICATION],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            return request(port)

        wait_until(answers, f"{server} to answer", START_SECONDS)
        yield process
    finally:
        # Its workers, too, if it left any.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def reader_in(broker: EmbeddedBroker, prefix: str) -> tuple[KafkaChannelLayer, str]:
    reader = KafkaChannelLayer(**broker.config(prefix=prefix, capacity=10_000))
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    return reader, channel


def end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(END_SECONDS)


EXPECTED = [{"kind": "group", "n": number} for number in range(COUNT)]


@pytest.mark.parametrize("server", [name for name in SERVERS if name != "daphne"])
async def test_what_is_sent_in_the_lifespan_shutdown_arrives(
    server: str, embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    reader, channel = await reader_in(embedded, prefix)
    log = tmp_path / "log"
    with serving(server, "closing", embedded, prefix, log) as process:
        await asyncio.to_thread(end, process)
    try:
        assert await next_messages(reader, channel, COUNT, 20) == EXPECTED, log.read_text()
    finally:
        await reader.close()


@pytest.mark.parametrize("server", SERVERS)
async def test_what_was_sent_before_the_end_arrives_without_a_lifespan_of_the_application(
    server: str, embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    reader, channel = await reader_in(embedded, prefix)
    log = tmp_path / "log"
    with serving(server, "foreign", embedded, prefix, log) as process:
        await asyncio.to_thread(end, process)
    try:
        assert await next_messages(reader, channel, COUNT, 20) == EXPECTED, log.read_text()
    finally:
        await reader.close()


async def test_a_program_without_a_handler_of_its_own(
    embedded: EmbeddedBroker, prefix: str
) -> None:
    reader, channel = await reader_in(embedded, prefix)
    config = embedded.config(prefix=prefix, producer_config={"linger.ms": 30_000})
    program = "tests.support.programs.terminated"
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", program, json.dumps(config), "room", str(COUNT)], cwd=REPOSITORY
    )
    try:
        status = await asyncio.to_thread(process.wait, END_SECONDS)
    finally:
        process.kill()
    # It ends as a process does that was told to.
    assert status == -signal.SIGTERM
    assert await next_messages(reader, channel, COUNT, 20) == EXPECTED
    await reader.close()
