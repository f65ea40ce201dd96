"""``manage.py runworker``: what it refuses, in one line that says how to mend it, and its probe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.management.commands.runworker import Command
from kafka_layer.management.probe import Address, Health, HealthProbe
from kafka_layer.worker import OneAtATimeWorker
from tests.support.inspect import server_of
from tests.support.layers import Backend, Layers, memory_backend
from tests.support.waiting import PATIENCE, wait_until_async


@pytest.fixture(scope="session")
def backend() -> Backend:
    return memory_backend()


async def application(scope: Any, receive: Any, send: Any) -> None:
    while True:
        await receive()


@pytest.fixture
def nowhere(settings: Any) -> Iterator[str]:
    """A layer whose broker is away; returns its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{taken.getsockname()[1]}"
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "kafka_layer.layer.KafkaChannelLayer",
                "CONFIG": {"bootstrap_servers": servers},
            }
        }
        settings.ASGI_APPLICATION = f"{__name__}.application"
        yield servers


def run(*arguments: str) -> str:
    """Run the command, which must fail; returns what it says."""
    with pytest.raises(CommandError) as error:
        call_command(Command(), *arguments)
    assert error.value.__cause__ is None
    return str(error.value)


class TestRefusals:
    @pytest.mark.slow
    def test_a_broker_that_is_away_is_named_with_the_mend(
        self, nowhere: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(KafkaChannelLayer, "timings", Timings(start=0.5))
        said = run("jobs")
        assert f"No Kafka broker of {nowhere} answered" in said
        assert "correct bootstrap_servers" in said

    @pytest.mark.parametrize("name", ["bad/name", "with space", "x" * 200])
    def test_a_name_that_is_not_legal_is_told(self, nowhere: str, name: str) -> None:
        assert name in run("jobs", name)

    def test_the_channel_of_one_process_is_no_worker_channel(self, nowhere: str) -> None:
        assert "is no worker channel" in run("specific.1-abcdef12!xyz")

    def test_a_layer_that_is_not_configured_is_told_with_those_that_are(self, nowhere: str) -> None:
        assert (
            run("--layer", "other", "jobs") == "CHANNEL_LAYERS has no layer 'other', but default."
        )

    def test_settings_that_cannot_work_are_told_in_one_line(
        self, settings: Any, nowhere: str
    ) -> None:
        settings.ASGI_APPLICATION = "nowhere.application"
        assert "nowhere" in run("jobs")
        settings.CHANNEL_LAYERS["default"]["CONFIG"] = {"expiry": -1, "bootstrap_servers": "x:1"}
        settings.CHANNEL_LAYERS = dict(settings.CHANNEL_LAYERS)
        assert "expiry" in run("jobs")

    def test_an_address_of_the_probe_that_is_taken_is_told(self, nowhere: str) -> None:
        assert "--health cannot be answered there" in run("--health", nowhere, "jobs")

    @pytest.mark.parametrize("text", ["x", "host:", ":", "70000", "a:b"])
    def test_an_address_of_the_probe_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="neither PORT nor HOST:PORT"):
            Address.parse(text)

    def test_addresses_of_the_probe(self) -> None:
        assert Address.parse("8001") == (None, 8001)
        assert Address.parse("127.0.0.1:8001") == ("127.0.0.1", 8001)
        assert Address.parse("[::1]:8001") == ("::1", 8001)


async def ask(port: int, request: bytes) -> tuple[int, dict[str, Any]]:
    """Ask a probe; returns the status and the body of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


async def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())


class TestProbe:
    async def test_it_is_ready_or_not_and_lives_either_way(self) -> None:
        ready = True
        probe = HealthProbe(Address("127.0.0.1", 0), lambda: Health(ready, {"n": 1}))
        port = await probe.start()
        assert await get(port, "/ready") == (200, {"ready": True, "n": 1})
        ready = False
        assert await get(port, "/ready?verbose") == (503, {"ready": False, "n": 1})
        assert await get(port, "/live") == (200, {"ready": True})
        probe.stop()

    @pytest.mark.parametrize("request_", [b"\r\n\r\n", b"x" * 100_000, b"GET"])
    async def test_a_request_that_is_none_costs_its_connection_alone(self, request_: bytes) -> None:
        probe = HealthProbe(Address("127.0.0.1", 0), lambda: Health(True, {}))
        port = await probe.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        assert (await get(port, "/live"))[0] == 200
        probe.stop()

    async def test_a_worker_is_ready_once_its_channels_are_served(
        self, make_layer: Layers, unused_tcp_port: int
    ) -> None:
        layer: KafkaChannelLayer = make_layer()
        health = Address("127.0.0.1", unused_tcp_port)
        worker = OneAtATimeWorker(application, ["probed"], layer, health=health)
        task = asyncio.create_task(worker.handle())
        mailbox = None

        def served() -> bool:
            nonlocal mailbox
            mailbox = server_of(layer).jobs.mailbox("probed")
            return mailbox is not None and mailbox.receiving

        await wait_until_async(served, "the channel to be served")
        status, body = await get(unused_tcp_port, "/ready")
        assert (status, body["state"], body["in_hand"]) == (200, "connected", 0)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(ConnectionRefusedError):
            await get(unused_tcp_port, "/live")
