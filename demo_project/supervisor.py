"""The demo's worker processes: started, watched, restarted and stopped together.

Web workers share one port, job workers listen on a worker channel, and one process writes the
prices of the board.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent

START_TIMEOUT = 60.0
"""Seconds that all workers together have to answer for the first time."""
STOP_TIMEOUT = 4.0
"""Seconds that a worker has to end before it is killed."""
STABLE_AFTER = 10.0
"""Seconds after which a worker counts as started well, and is restarted without delay."""
MAX_RESTART_DELAY = 10.0

# Linux deals new connections out evenly to all sockets that listen on a port (measured: a
# burst of 100 over three workers came to 29, 37 and 34). With one socket that all inherit,
# whoever wakes first takes the most (36, 4 and 60), but it works on every system, where
# SO_REUSEPORT may mean that the newest socket gets all.
_SOCKET_EACH = sys.platform == "linux"


class WorkerFailed(Exception):
    """The workers could not be started; `str()` of it says why."""


class SharedPort:
    """A TCP port, reserved for as long as this object is open, on which workers listen.

    Args:
        host: IPv4 address or name to bind to.
        port: 0 lets the system choose.

    Raises:
        OSError: The port is taken, or the address is not one of this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        # Without SO_REUSEPORT, so that a port on which another demo listens counts as taken.
        with _bound_socket(host, port, share=False) as probe:
            self.host, self.port = probe.getsockname()
        self._reservation = _bound_socket(self.host, self.port, share=_SOCKET_EACH)
        # Workers that share this socket share the flag, and dup() would set it back for all:
        # each accept() in vain would then block a worker.
        self._reservation.setblocking(False)

    def worker_socket(self) -> socket.socket:
        """Return a bound socket for one worker to listen on. The caller closes it."""
        if _SOCKET_EACH:
            return _bound_socket(self.host, self.port, share=True)
        return self._reservation.dup()

    def close(self) -> None:
        self._reservation.close()


def _bound_socket(host: str, port: int, *, share: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


class WorkerPool:
    """Worker processes, each restarted when it ends by itself.

    All methods belong to one event loop.

    Args:
        port: Where the web workers listen.
        count: How many web workers; they are called worker-1, worker-2, …
        job_count: How many job workers; they are called job-1, job-2, …
        environment: What the workers' environment has besides this process's own.
        report: Called with a worker's name and one line that it printed or that is about it.
        access_log: Whether workers print a line for each request.
    """

    def __init__(
        self,
        port: SharedPort,
        count: int,
        job_count: int,
        environment: Mapping[str, str],
        report: Callable[[str, str], None],
        *,
        access_log: bool = False,
    ) -> None:
        self.web_names = [f"worker-{number}" for number in range(1, count + 1)]
        self.job_names = [f"job-{number}" for number in range(1, job_count + 1)]
        self._port = port
        self._environment = environment
        self._report = report
        self._access_log = access_log
        self._processes: dict[str, Process] = {}
        self._all_answered = False
        self._stopping = False
        # The workers read this pipe, and nobody writes: it ends when this process does.
        self._lifeline, self._lifeline_end = os.pipe()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Run the workers until `stop`, and call `on_ready` once all web workers answer.

        Job workers are not waited for: their jobs wait for them. Nor is the market: boards show its
        prices when they come.

        Raises:
            WorkerFailed: A worker ended or did not answer before all were ready.
        """
        await asyncio.gather(
            self._wait_until_all_answer(on_ready),
            *(self._keep_running(name, self._start_web) for name in self.web_names),
            *(self._keep_running(name, self._start_jobs) for name in self.job_names),
            self._keep_running("market-1", self._start_market),
        )

    async def stop(self) -> None:
        """End all workers; after STOP_TIMEOUT seconds, by force."""
        self._stopping = True
        running = [p for p in self._processes.values() if p.returncode is None]
        for process in running:
            process.terminate()
        ends = [asyncio.ensure_future(process.wait()) for process in running]
        if ends:
            await asyncio.wait(ends, timeout=STOP_TIMEOUT)
        for process in running:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*ends)
        os.close(self._lifeline_end)
        os.close(self._lifeline)

    async def _keep_running(self, name: str, start: Callable[[str], Awaitable[Process]]) -> None:
        delay = 0.0
        while not self._stopping:
            started = time.monotonic()
            process = self._processes[name] = await start(name)
            assert process.stdout is not None
            async for line in process.stdout:
                self._report(name, line.decode(errors="replace").rstrip())
            ending = _describe_exit(await process.wait())
            if self._stopping:
                return
            if not self._all_answered:
                raise WorkerFailed(f"{name} {ending} before it was ready.")
            lived = time.monotonic() - started
            delay = 0.0 if lived > STABLE_AFTER else min(max(0.5, 2 * delay), MAX_RESTART_DELAY)
            self._report(name, f"{ending}; starting it again")
            await asyncio.sleep(delay)

    async def _start_web(self, name: str) -> Process:
        with self._port.worker_socket() as listener:
            access_log = ["--access-log"] if self._access_log else []
            return await self._start(name, "web", *access_log, fd=listener.fileno())

    async def _start_jobs(self, name: str) -> Process:
        return await self._start(name, "jobs")

    async def _start_market(self, name: str) -> Process:
        return await self._start(name, "market")

    async def _start(self, name: str, *kind: str, fd: int | None = None) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo_project.worker", "--parent-pipe", str(self._lifeline)),
            *kind,
            *([] if fd is None else ["--fd", str(fd)]),
            cwd=PROJECT_ROOT,
            env={**os.environ, **self._environment, "DEMO_WORKER": name},
            pass_fds=[self._lifeline] if fd is None else [self._lifeline, fd],
            # Ctrl-C reaches this process alone, which then ends the workers in order.
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1024 * 1024,
        )

    async def _wait_until_all_answer(self, on_ready: Callable[[], None]) -> None:
        """Ask until each worker was among those that answered: the system deals them out."""
        deadline = time.monotonic() + START_TIMEOUT
        silent = set(self.web_names)
        trouble = "no connection"
        while silent:
            if time.monotonic() > deadline:
                raise WorkerFailed(
                    f"{', '.join(sorted(silent))} did not answer within {START_TIMEOUT:.0f} s "
                    f"({trouble})."
                )
            try:
                answer = await asyncio.to_thread(_ask_health, self._port)
            except (OSError, http.client.HTTPException, ValueError) as error:
                trouble = str(error) or type(error).__name__
            else:
                if answer["status"] == "ok":
                    silent.discard(answer["worker"])
                    continue
                trouble = answer.get("reason", answer["status"])
            await asyncio.sleep(0.05)
        self._all_answered = True
        on_ready()


def _ask_health(port: SharedPort) -> dict[str, str]:
    """Return what a worker, whichever the system picks, says about itself."""
    host = "127.0.0.1" if port.host == "0.0.0.0" else port.host
    connection = http.client.HTTPConnection(host, port.port, timeout=5)
    try:
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        answer: dict[str, str] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
