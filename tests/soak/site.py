"""All that the soak breaks: a broker behind a proxy, and server processes that use it."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from kafka_layer.wire.topics import Topic, WorkTopic
from tests.support.kafka import RealBroker
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

from .server import ALL, GROUP, JOBS, USER, Role

__all__ = ["PARTITIONS", "TOPICS", "Process", "Site", "running"]

PREFIX = "soak"
PARTITIONS = 4
EXPIRY = 90
"""Seconds; longer than any outage here, so that all that is accepted must arrive."""

TOPICS = [*(each.value for each in Topic), WorkTopic(JOBS).value]
"""Of the layer, without its prefix."""

_ANSWER = 60.0
_SETTLE = 90.0
_REPOSITORY = Path(__file__).parents[2]


class Process:
    """One server process, seen from outside.

    Args:
        role: What it does.
        log: The file that gets what it prints.
    """

    def __init__(self, role: Role, log: Path) -> None:
        self.role = role
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.server", json.dumps(asdict(role))],
                cwd=_REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for the soak, which ends them in its order
            )
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, command: str, *arguments: Any) -> None:
        """Give it a command; :meth:`answer` must follow."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the command that was given.

        Raises:
            RuntimeError: There was none, or the process has ended.
        """
        try:
            line = self._lines.get(timeout=_ANSWER)
        except queue.Empty:
            raise RuntimeError(f"{self.role.name} gave no answer in {_ANSWER} s") from None
        if not line:
            raise RuntimeError(f"{self.role.name} ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, command: str, *arguments: Any) -> Any:
        """Give it a command and return the answer."""
        self.begin(command, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it close its layer and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


class Site:
    """The broker, the proxy and the processes; what faults do is done to it.

    Args:
        broker: Runs.
        proxy: In front of it.
        folder: Where processes write.
        rate: Turns a second of each process that sends.

    Attributes:
        receivers: Processes that receive and send; none of them dies.
        senders: Processes that only send.
        workers: Processes that receive jobs.
        commander: The process that gives commands to the receivers' servers.
        killed: What those that were killed had counted just before, by name.
    """

    def __init__(self, broker: RealBroker, proxy: Proxy, folder: Path, rate: float) -> None:
        self.broker = broker
        self.proxy = proxy
        self.folder = folder
        self.receivers: list[Process] = []
        self.senders: list[Process] = []
        self.workers: list[Process] = []
        self.commander: Process | None = None
        self.killed: dict[str, dict[str, Any]] = {}
        self._rate = rate
        self._channels: dict[str, tuple[str, str]] = {}

    def open(self, receivers: int, senders: int, workers: int) -> None:
        """Start the processes, and sending once all that receive are ready."""
        self.receivers = [
            self._start(f"r{number}", receives=True, rate=self._rate)
            for number in range(1, receivers + 1)
        ]
        self.workers = [self._start(f"w{number}", works=True) for number in range(1, workers + 1)]
        self.senders = [
            self._start(f"s{number}", rate=self._rate) for number in range(1, senders + 1)
        ]
        self.commander = self._start("c1", commands=True)
        for each in (*self.receivers, *self.workers):
            each.begin("open")
        self._channels = {each.role.name: each.answer() for each in self.receivers}
        for each in self.workers:
            each.answer()
        self._tell()

    @property
    def everybody(self) -> list[Process]:
        """All processes that run."""
        commander = [self.commander] if self.commander is not None else []
        return [*self.receivers, *self.senders, *self.workers, *commander]

    def replace(self, crew: list[Process], number: int) -> None:
        """Kill one of ``senders`` or ``workers`` and start another one in its place."""
        old = crew[number % len(crew)]
        self.killed[old.role.name] = old.ask("report")
        old.kill()
        role = old.role
        stem, _, generation = role.name.partition(".")
        name = f"{stem}.{int(generation or 1) + 1}"
        new = self._start(name, works=role.works, rate=role.rate)
        new.ask("open")
        crew[number % len(crew)] = new
        self._tell()

    def restart(self, process: Process) -> None:
        """Let a process close its layer and use it again; the others learn its new channel."""
        opened = process.ask("restart")
        if opened:
            self._channels[process.role.name] = opened
            self._tell()

    def add_partition(self, topic: str) -> None:
        """Raise the number of partitions of one of the layer's topics by one."""
        admin, name = self._admin(), f"{PREFIX}-{topic}"

        def add() -> None:
            present = len(admin.list_topics(name, timeout=20).topics[name].partitions)
            admin.create_partitions([NewPartitions(name, present + 1)])[name].result(20)

        retried(add)

    def delete_topic(self, topic: str) -> None:
        """Delete one of the layer's topics; the layers make it anew."""
        admin, name = self._admin(), f"{PREFIX}-{topic}"
        retried(lambda: admin.delete_topics([name])[name].result(20))

    def settle(self, since: float) -> float:
        """Wait until messages of every sender, sent after ``since``, have arrived everywhere.

        Returns:
            The seconds that it took.

        Raises:
            TimeoutError: They did not.
        """
        began = time.monotonic()
        wait_until(
            lambda: self._arrived(since),
            "messages sent after the fault to arrive everywhere",
            _SETTLE,
            pause=0.3,
        )
        return time.monotonic() - began

    def finish(self) -> dict[str, dict[str, Any]]:
        """End sending, wait until nothing is on its way, and return what each server counted."""
        self.settle(time.monotonic())
        for each in self.everybody:
            each.ask("stop")
        wait_until(
            lambda: not any(each.ask("report")["queued"] for each in self.everybody),
            "all queues of producers to be empty",
            _SETTLE,
            pause=0.3,
        )
        self._wait_until_still()
        reports = {each.role.name: each.ask("report") for each in self.everybody}
        self.close()
        return reports

    def close(self) -> None:
        """End all processes."""
        for each in self.everybody:
            each.close()
        self.receivers, self.senders, self.workers, self.commander = [], [], [], None

    def diaries(self) -> Iterator[tuple[str, str]]:
        """Return what all processes ever wrote down: the name of one and a line of it."""
        for path in self.folder.glob("*.diary"):
            with path.open() as file:
                for line in file:
                    if line.endswith("\n"):  # the last one of a process that was killed may not
                        yield path.stem, line

    def _tell(self) -> None:
        """Let all send to the channels that there are."""
        peers = dict(self._channels.values())
        for each in self.everybody:
            each.ask("send", peers)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.bootstrap_servers})

    def _start(self, name: str, **what: Any) -> Process:
        config = {
            "bootstrap_servers": f"127.0.0.1:{self.proxy.port}",
            "prefix": PREFIX,
            "expiry": EXPIRY,
            "default_partitions": PARTITIONS,
        }
        role = Role(name, config, str(self.folder / f"{name}.diary"), **what)
        return Process(role, self.folder / f"{name}.log")

    def _arrived(self, since: float) -> bool:
        everybody = (*self.receivers, *self.workers)
        for each in everybody:
            each.begin("freshest")
        found = {each.role.name: each.answer() for each in everybody}
        jobs = [found[each.role.name] for each in self.workers]
        for sender in (*self.receivers, *self.senders):
            if max(each.get(f"{JOBS} {sender.role.name}", 0.0) for each in jobs) < since:
                return False
            for receiver in self.receivers:
                name = receiver.role.name
                to_it = (GROUP, USER, ALL, self._channels[name][0])
                ways = (f"{to} {sender.role.name}" for to in to_it)
                if any(found[name].get(way, 0.0) < since for way in ways):
                    return False
        return True

    def _wait_until_still(self) -> None:
        """Wait until nobody has received anything for two seconds."""
        last: tuple[float, int] = (time.monotonic(), -1)

        def still() -> bool:
            nonlocal last
            size = sum(path.stat().st_size for path in self.folder.glob("*.diary"))
            if size != last[1]:
                last = time.monotonic(), size
            return time.monotonic() - last[0] > 2.0

        wait_until(still, "receivers to have nothing to do", _SETTLE, pause=0.2)


@contextlib.contextmanager
def running(folder: Path, rate: float) -> Iterator[Site]:
    """Start a broker behind a proxy, for as long as the context lasts."""
    with Proxy() as proxy:
        advertised = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"}
        with RealBroker(advertised) as broker:
            proxy.target = int(broker.bootstrap_servers.rsplit(":", 1)[1])
            site = Site(broker, proxy, folder, rate)
            try:
                yield site
            finally:
                site.close()


def retried(function: Callable[[], None]) -> None:
    """Do something that a broker which just came back may refuse for a moment."""

    def done() -> bool:
        try:
            function()
        except KafkaException:
            return False
        return True

    wait_until(done, "the broker to do it", 30.0, pause=0.5)
