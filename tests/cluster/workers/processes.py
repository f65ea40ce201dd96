"""``manage.py runworker`` processes, and what became of the jobs that they were given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka_layer.layer import KafkaChannelLayer
from tests.support.waiting import wait_until

__all__ = [
    "CHANNELS_OWN",
    "OURS",
    "Crew",
    "Diary",
    "Nursery",
    "RunWorker",
    "send_until_all_take_part",
]

OURS = "kafka_layer,channels"
CHANNELS_OWN = "channels,kafka_layer"
"""INSTALLED_APPS, in which the first one that has a runworker wins."""

_REPOSITORY = Path(__file__).parents[3]


class Nursery:
    """Starts workers within milliseconds, as forks of one process; ends when it is closed."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.workers.nursery"],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *request: object) -> Any:
        """Make one of the requests that ``nursery.py`` lists."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with self._asking:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        assert answer, f"the nursery ended instead of answering {request[0]}"
        return json.loads(answer)

    def close(self) -> None:
        """End the process; its workers go on."""
        self._process.communicate()


class _Fork:
    """A worker that a nursery has started; the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery

    def send_signal(self, number: int) -> None:
        self._nursery.ask("signal", self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 60.0) -> int:
        def status() -> tuple[int, ...]:
            found = self._nursery.ask("status", self.pid)
            return () if found is None else (found,)

        (found,) = wait_until(status, f"the end of worker {self.pid}", timeout)
        return found


@dataclass(frozen=True)
class Diary:
    """What workers wrote down.

    Attributes:
        began: How often each job was begun.
        ended: How often each job was ended.
    """

    began: Counter[int]
    ended: Counter[int]


class RunWorker:
    """One runworker process."""

    def __init__(self, process: subprocess.Popen[bytes] | _Fork, folder: Path) -> None:
        self.process = process
        self._diary = folder / f"{process.pid}.diary"
        self._log = folder / f"{process.pid}.log"

    @property
    def diary(self) -> Diary:
        """What it has written down so far."""
        began: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        if self._diary.exists():
            for line in self._diary.read_text().splitlines():
                what, number = line.split()
                (began if what == "began" else ended)[int(number)] += 1
        return Diary(began, ended)

    @property
    def done(self) -> int:
        """How many jobs it has ended."""
        return self._diary.read_bytes().count(b"ended") if self._diary.exists() else 0

    def log(self) -> str:
        """Return what it printed."""
        return Path(self._log).read_text()

    def end(self, number: signal.Signals, timeout: float = 60.0) -> int:
        """Send a signal and return the status it ends with."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


class Crew:
    """The workers of one test; a context manager that ends them.

    Args:
        folder: An empty folder, where they write.
        channels: The worker channels that they listen on.
        config: CONFIG keywords of their layers.
        apps: INSTALLED_APPS.
        nursery: Starts them; None for tests that are about the command: it is started anew.
    """

    def __init__(
        self,
        folder: Path,
        channels: Sequence[str],
        config: Mapping[str, Any],
        apps: str = OURS,
        *,
        nursery: Nursery | None = None,
    ) -> None:
        self.workers: list[RunWorker] = []
        self._nursery = nursery
        self._folder = folder
        self._channels = channels
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.cluster.workers.project.settings",
            "WORKER_APPS": apps,
            "WORKER_CONFIG": json.dumps(config),
            "WORKER_FOLDER": str(folder),
        }

    def __enter__(self) -> Crew:  # noqa: PYI034 (Self is new in 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()

    def add(self) -> RunWorker:
        """Start one more."""
        log = self._folder / "starting.log"
        process: subprocess.Popen[bytes] | _Fork
        arguments = ["runworker", *self._channels]
        if self._nursery is not None:
            pid = self._nursery.ask("start", self._environment, arguments, str(log))
            process = _Fork(self._nursery, pid)
        else:
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "django", *arguments],
                    cwd=_REPOSITORY,
                    env=self._environment,
                    stdout=file,
                    stderr=file,
                )
        log.rename(self._folder / f"{process.pid}.log")
        self.workers.append(RunWorker(process, self._folder))
        return self.workers[-1]

    @property
    def diary(self) -> Diary:
        """What all of them have written down so far."""
        began: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for worker in self.workers:
            diary = worker.diary
            began.update(diary.began)
            ended.update(diary.ended)
        return Diary(began, ended)

    def wait_done(self, jobs: Iterable[int], timeout: float = 100.0, *, but: int = 0) -> Diary:
        """Return what was written once all of ``jobs`` are done.

        Args:
            jobs: Their numbers.
            timeout: Seconds until the wait fails.
            but: How many of them may be missing.
        """
        wanted = set(jobs)

        def done() -> Diary | None:
            if sum(worker.done for worker in self.workers) < len(wanted) - but:
                return None
            diary = self.diary
            return diary if len(wanted - diary.ended.keys()) <= but else None

        try:
            found = wait_until(done, f"{len(wanted)} jobs to be done", timeout, pause=0.1)
        except TimeoutError as error:
            each = {worker.process.pid: worker.done for worker in self.workers}
            logs = "\n".join(worker.log()[-2000:] for worker in self.workers)
            raise AssertionError(f"{error}; done by worker: {each}\n{logs}") from None
        assert found is not None
        return found


CrewOf = Callable[..., Crew]
"""Makes the workers of one test, given the names of their channels."""


async def send_until_all_take_part(layer: KafkaChannelLayer, channel: str, crew: Crew) -> int:
    """Send jobs until each worker has done some; returns how many those were, all of them done."""
    sent = 0
    deadline = time.monotonic() + 80
    while min(worker.done for worker in crew.workers) < 5:
        assert time.monotonic() < deadline, "a worker got no share"
        for number in range(sent, sent + 20):
            await layer.send(channel, {"type": "job", "n": number})
        sent += 20
        crew.wait_done(range(sent))
    return sent
