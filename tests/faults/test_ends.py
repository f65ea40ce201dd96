"""Processes that end while they send: what was accepted is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.traffic import Inbox, Tally, tally
from tests.support.kafka import RealBroker
from tests.support.layers import PARTITIONS, Layers
from tests.support.serving import serving
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

REPOSITORY = Path(__file__).parents[2]


def config_of(make_layer: Layers) -> dict[str, Any]:
    return {
        **make_layer.backend.config,
        "prefix": make_layer.prefix,
        "default_partitions": PARTITIONS,
    }


class Daphne:
    """A daphne process that sends from its first request on.

    Args:
        config: CONFIG of its layer.
        folder: Where it may write.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self._diary = folder / "accepted"
        self._log = folder / "daphne.log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self._log.open("wb") as log:
            self._port = listener.getsockname()[1]
            application = "tests.support.programs.sending_application:application"
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daphne", "--fd", str(listener.fileno()), application],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    "LAYER_CONFIG": json.dumps(config),
                    "LAYER_DIARY": str(self._diary),
                },
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )

    @property
    def accepted(self) -> list[int]:
        """The numbers of the messages whose sends returned."""
        return list(map(int, self._diary.read_text().split())) if self._diary.exists() else []

    def begin(self) -> None:
        """Make the first request, as soon as it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/", timeout=5) as page:
                    return bool(page.status == 200)
            except OSError:
                return False

        wait_until(answers, "daphne to answer", 2 * PATIENCE)


@contextlib.contextmanager
def daphne(config: dict[str, Any], folder: Path) -> Iterator[Daphne]:
    server = Daphne(config, folder)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


async def test_sigterm_to_daphne_while_it_sends(
    broker: RealBroker, make_layer: Layers, tmp_path: Path
) -> None:
    inbox = await Inbox.opened(make_layer(), "room")
    with daphne(config_of(make_layer), tmp_path) as server:
        await asyncio.to_thread(server.begin)
        await wait_until_async(lambda: len(inbox.arrived) >= 100, "100 messages")
        # While the broker stands still everything waits in daphne's queue.
        broker.freeze()
        try:
            waiting = len(server.accepted) + 100
            await wait_until_async(lambda: len(server.accepted) >= waiting, "100 more sends")
            assert len(inbox.arrived) < waiting - 50
            server.process.send_signal(signal.SIGTERM)
        finally:
            broker.thaw()
        status = await asyncio.to_thread(server.process.wait, 2 * PATIENCE)
        accepted = server.accepted
    assert status in (0, -signal.SIGTERM)
    await inbox.has("group", accepted[-1])
    await inbox.close()
    received = inbox.numbers("group")
    # It may have ended between the return of its last send and the note of it.
    assert len(received) - len(accepted) in (0, 1)
    assert tally(accepted, received) == Tally(len(accepted), 0, 0, 0)


async def test_sigterm_to_a_server_while_the_broker_is_away_for_two_seconds(
    broker: RealBroker, make_layer: Layers, tmp_path: Path
) -> None:
    inbox = await Inbox.opened(make_layer(), "room")

    def serve() -> None:
        with serving("uvicorn", "foreign", config_of(make_layer), tmp_path) as served:
            broker.freeze()
            thaw = threading.Timer(2, broker.thaw)
            try:
                served.ask("send")
                thaw.start()
                served.end()
            finally:
                thaw.cancel()
                broker.thaw()

    await asyncio.to_thread(serve)
    await wait_until_async(lambda: len(inbox.arrived) >= 300, "what was sent")
    await inbox.close()
    assert [message["n"] for _, message in inbox.arrived] == list(range(300))
