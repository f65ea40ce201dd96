"""Servers that people use, each in a process of its own: asked, reloaded, ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.ports import kept_port
from tests.support.processes import end_of, process_group, status_of
from tests.support.waiting import wait_until

__all__ = ["SERVERS", "Serving", "missing", "serving"]

_REPOSITORY = Path(__file__).parents[2]
_PROGRAM = "tests.support.programs.ending_application"
_ASGI, _WSGI = f"{_PROGRAM}:application", f"{_PROGRAM}:wsgi"
_ADDRESS = "127.0.0.1:{port}"
_UVICORN = ["uvicorn", "--port", "{port}"]
_GUNICORN = ["gunicorn", "-b", _ADDRESS]
_RUNSERVER = ["django", "runserver", _ADDRESS]
_DEADLINE = 60.0
# Seconds between two requests: each costs more than a look at something in memory.
_PAUSE = 0.05
# More than the second between two looks of Django's reloader.
_CHANGE_SECONDS = 1.5

SERVERS: Mapping[str, Sequence[str]] = {
    "uvicorn": [*_UVICORN, _ASGI],
    "uvicorn, reloading": [*_UVICORN, "--reload", "--reload-dir", "{folder}", _ASGI],
    "gunicorn, uvicorn's worker": [*_GUNICORN, "-k", "uvicorn_worker.UvicornWorker", _ASGI],
    "gunicorn, its own worker": [*_GUNICORN, _WSGI],
    "gunicorn, its ASGI worker": [*_GUNICORN, "-k", "asgi", _ASGI],
    "hypercorn": ["hypercorn", "-b", _ADDRESS, _ASGI],
    "hypercorn, reloading": ["hypercorn", "-b", _ADDRESS, "--reload", _ASGI],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", _ASGI],
    "daphne": ["daphne", "-p", "{port}", _ASGI],
    "runserver": _RUNSERVER,
    "runserver of daphne": _RUNSERVER,
    "runserver, not reloading": [*_RUNSERVER, "--noreload"],
    # By itself it reloads at SIGTERM, and older versions run no thread between requests; with
    # --die-on-term it ends in the middle of a request.
    "uWSGI": [
        *("uwsgi", "--http-socket", _ADDRESS, "--enable-threads", "--master", "--need-app"),
        *("--hook-master-start", "unix_signal:15 gracefully_kill_them_all", "--module", _WSGI),
    ],
}  # fmt: skip
"""The command of each server: a module of Python, or a program beside it."""


def missing(server: str) -> bool:
    """Tell whether a server is not installed here."""
    program = _command(server, 0, Path())[0]
    return program != sys.executable and not Path(program).exists()


class Serving:
    """A server that runs.

    Args:
        process: The process that was started; it may have workers.
        port: Where it listens.
        folder: Where a change makes a server reload that watches files.
        log: What it says.
        watches: Whether it reloads where a file changed, and not at SIGHUP.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        port: int,
        folder: Path,
        log: Path,
        watches: bool,
    ) -> None:
        self.process = process
        self._port = port
        self._folder = folder
        self._log = log
        self._watches = watches

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def ask(self, path: str) -> int:
        """Make a request; returns the id of the process that answered it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=30) as page:
            return int(page.read())

    def answers(self, path: str = "") -> int:
        """Return what a request would, or 0 if there is no answer.

        Raises:
            AssertionError: It has ended; the error has what it said.
        """
        assert status_of(self.process) is None, self.log
        try:
            return self.ask(path)
        except OSError:
            return 0

    def reload(self) -> None:
        """Have it reload, in its own way; returns once another process answers for good."""
        before, next_change = self.ask(""), 0.0
        old = psutil.Process(before)
        watched = self._folder / "watched_by_reloaders.py"

        def reloaded() -> bool:
            nonlocal next_change
            answering, now = self.answers(), time.monotonic()
            if answering == before and now >= next_change:
                # Again: a reloader may see a file for the first time after it was changed.
                next_change = now + _CHANGE_SECONDS if self._watches else math.inf
                if self._watches:
                    watched.write_text(f"changed = {now}\n")
                else:
                    self.process.send_signal(signal.SIGHUP)
            # Both may answer for a while.
            return answering not in (0, before) and not old.is_running()

        wait_until(reloaded, "another process", _DEADLINE, pause=_PAUSE)

    def end(self, number: int = signal.SIGTERM, to: int | None = None) -> int:
        """Send a signal, to the process that was started if no other is named; wait for its end.

        Returns:
            The status of the process that was started.
        """
        os.kill(self.process.pid if to is None else to, number)
        return end_of(self.process)


@contextlib.contextmanager
def serving(server: str, ending: str, config: Mapping[str, Any], folder: Path) -> Iterator[Serving]:
    """Run a server in a process of its own, until it has answered a request.

    Args:
        server: One of ``SERVERS``.
        ending: What ``tests/support/programs/ending_application.py`` says.
        config: CONFIG of its layer.
        folder: An empty one.
    """
    with kept_port() as port:
        (folder / "watched_by_reloaders.py").write_text("")
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.support.programs.ending_site",
            "LAYER_CONFIG": json.dumps(config),
            "LAYER_ENDING": ending,
            "LAYER_SITE": "daphne" if "daphne" in server else "",
            "PYTHONPATH": f"{_REPOSITORY}:{folder}",
        }
        log = folder / "log"
        with (
            log.open("wb") as output,
            process_group(
                _command(server, port, folder),
                cwd=_REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            watches = "reloading" in server or "runserver" in server
            served = Serving(process, port, folder, log, watches)
            wait_until(served.answers, f"{server} to answer", _DEADLINE, pause=_PAUSE)
            yield served


def _command(server: str, port: int, folder: Path) -> list[str]:
    program, *arguments = SERVERS[server]
    start = [sys.executable, "-m", program]
    if program == "uwsgi":
        start = [str(Path(sys.executable).with_name(program)), "--home", sys.prefix]
    return [*start, *(word.format(port=port, folder=folder) for word in arguments)]
