"""The demo as its users have it: `manage.py demo` in a process, and people with browsers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.cookiejar
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar, final

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from tests.support.waiting import PATIENCE, wait_until

# What happens beside the conversation: a test that is not about it need not expect it.
AMBIENT = frozenset({"joined", "left", "here", "typing", "worker"})
# Connections are dealt out by chance. That one of three workers gets none of so many has a
# chance of 3 * (2/3) ** 80, about one in 10 ** 14.
MOST_CONNECTIONS = 80

PROJECT_ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
STOP_SECONDS = 20.0
"""In which a demo ends, with all of its processes: usually in one, and on a machine that stands
still for a while in the 4 s after which it kills its workers, and some more."""

T = TypeVar("T")


@final
class Demo:
    """A running `manage.py demo` on a free port.

    Args:
        workers: How many web workers it is told to start.
        kafka: The bootstrap servers of a broker, on which it gets topics of its own; None has
            the demo start a broker.
        options: More arguments of the command.

    Attributes:
        workers: The names of its web workers.
        prefix: The first part of its topics' names.
    """

    def __init__(self, *options: str, workers: int = 3, kafka: str | None = None) -> None:
        # The tests run with settings of their own.
        elsewhere = {"KAFKA_BOOTSTRAP_SERVERS", "DJANGO_SETTINGS_MODULE"}
        environment = {k: v for k, v in os.environ.items() if k not in elsewhere}
        self.prefix = environment["DEMO_PREFIX"] = f"demo-{secrets.token_hex(4)}"
        if kafka is not None:
            environment["KAFKA_BOOTSTRAP_SERVERS"] = kafka
        self.workers = {f"worker-{number}" for number in range(1, workers + 1)}
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "manage.py", "demo"),
                *("--workers", str(workers), "--port", "0", *options),
            ],
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_lines, name="demo-output", daemon=True)
        self._reader.start()

    def __enter__(self) -> Demo:
        wait_until(
            lambda: self._address() or self._process.poll() is not None,
            "the demo to print its address or to end",
            START_TIMEOUT,
        )
        if self._address() is None:
            raise RuntimeError("The demo did not start:\n" + self.output)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if exc is not None:
            sys.stderr.write(self.output)  # pytest shows it with the failure

    @property
    def address(self) -> str:
        """Like `http://127.0.0.1:12345`."""
        address = self._address()
        assert address is not None, "the demo has no address yet"
        return address

    @property
    def port(self) -> int:
        port = urllib.parse.urlsplit(self.address).port
        assert port is not None
        return port

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def own_broker(self) -> str:
        """The address of the broker that it started."""
        match = re.search(r"^Started a broker of its own at (\S+),", self.output, re.MULTILINE)
        assert match is not None, "the demo started no broker"
        return match[1]

    @property
    def staff_token(self) -> str:
        """What it printed for those who may announce and post."""
        match = re.search(r"/announce/\?token=(\S+)$", self.output, re.MULTILINE)
        assert match is not None, "the demo printed no token"
        return urllib.parse.unquote(match[1])

    def worker_pids(self, worker: str) -> list[int]:
        """Return the process ids that this worker had, the present one last."""
        line = rf"^{worker} \| (?:listening|waiting for jobs) \(pid (\d+)\)$"
        found = re.findall(line, self.output, re.MULTILINE)
        return [int(pid) for pid in found]

    def kill(self, worker: str) -> int:
        """Kill a worker, and return its process id.

        The last of the process that ends is its port: until :meth:`wait_until_gone`, a connection
        may reach it still, and be reset.
        """
        pid = self.worker_pids(worker)[-1]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_gone(self, pid: int) -> None:
        """Wait until nothing is left of a killed worker."""
        wait_until(lambda: not psutil.pid_exists(pid), f"the process {pid} to be gone")

    def wait_until_back(self, worker: str, pid: int) -> None:
        """Wait until a worker listens again whose process was killed."""
        wait_until(
            lambda: self.worker_pids(worker)[-1] != pid, f"{worker} to listen again", START_TIMEOUT
        )

    def stop(self) -> None:
        """End it by Ctrl-C, if it runs still."""
        if self._process.poll() is None:
            assert self.end(signal.SIGINT) < STOP_SECONDS

    def end(self, signum: signal.Signals, timeout: float = PATIENCE) -> float:
        """Send the signal, and return after how many seconds all of its processes were gone."""
        demo = psutil.Process(self._process.pid)
        family = [demo, *demo.children(recursive=True)]
        started = time.monotonic()
        self._process.send_signal(signum)
        self._process.wait(timeout)  # which also reaps it
        wait_until(
            lambda: not any(is_alive(process) for process in family),
            f"the {len(family)} processes of the demo to be gone",
            timeout,
        )
        seconds = time.monotonic() - started
        self._reader.join(timeout)
        return seconds

    @property
    def exit_code(self) -> int | None:
        """What the command exited with; None while it runs."""
        return self._process.poll()

    def _address(self) -> str | None:
        match = re.search(r"^The chat is at (http://[\d.:]+)/", self.output, re.MULTILINE)
        return match and match[1]

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())


def is_alive(process: psutil.Process) -> bool:
    """Return whether it runs: a zombie, which its new parent is slow to reap, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Ticket:
    """What a browser has after its user joined: an address for the websocket, and cookies."""

    socket: str
    origin: str
    cookies: str

    @property
    def page(self) -> str:
        """The address of the page that opens the websocket."""
        return self.socket.replace("ws:", "http:").replace("/ws/", "/")

    def named(self, tab: str) -> Ticket:
        """Return a ticket for a page that calls itself `tab`."""
        name = urllib.parse.quote(tab)
        return dataclasses.replace(self, socket=f"{self.socket}&tab={name}")


def join(address: str, name: str, room: str) -> Ticket:
    """Fill in the form of the first page, as a browser of its own does."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
    )
    form = browser.open(f"{address}/", timeout=PATIENCE).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token is not None, "the form has no CSRF token"
    answers = {"name": name, "room": room, "csrfmiddlewaretoken": token[1]}
    data = urllib.parse.urlencode(answers).encode()
    with browser.open(f"{address}/", data=data, timeout=PATIENCE) as response:
        page = re.search(r'<script id="page"[^>]*>(.*?)</script>', response.read().decode())
    assert page is not None, "joining did not lead to a room"
    return Ticket(
        socket=address.replace("http:", "ws:") + json.loads(page[1])["socket"],
        origin=address,
        cookies="; ".join(f"{cookie.name}={cookie.value}" for cookie in jar),
    )


class Client:
    """A page: a person's open websocket in a room.

    Attributes:
        worker: The worker it is connected to.
        person: {"id", "name"}.
        connection: What the room calls this page.
    """

    _opened: ClassVar[list[Client]] = []

    def __init__(self, websocket: ClientConnection, name: str) -> None:
        self.websocket = websocket
        self.name = name
        self.worker = ""
        self.person: Mapping[str, str] = {}
        self.connection = ""

    @classmethod
    async def join(cls, address: str, name: str, room: str, *, on: str | None = None) -> Client:
        """Join the room in a browser of one's own, on a certain worker if that matters."""
        return await cls.tab(await asyncio.to_thread(join, address, name, room), name, on=on)

    @classmethod
    async def tab(cls, ticket: Ticket, name: str, *, on: str | None = None) -> Client:
        """Open a page in a browser that joined, and wait for the welcome."""
        for _ in range(MOST_CONNECTIONS):
            client = await cls.open(ticket, name)
            welcome = await client.receive("welcome")
            client.worker, client.connection = welcome["worker"], welcome["connection"]
            client.person = welcome["you"]
            if on in (None, client.worker):
                return client
            await client.close()
        raise TimeoutError(f"{MOST_CONNECTIONS} connections, and none led to {on}")

    @classmethod
    async def open(cls, ticket: Ticket, name: str = "", *offers: str) -> Client:
        """Open the websocket, with these subprotocols on offer, and wait for nothing."""
        headers = {"Cookie": ticket.cookies}
        websocket = await connect(
            ticket.socket,
            origin=ticket.origin,
            additional_headers=headers,
            subprotocols=offers or None,
            proxy=None,
            # A client that nobody reads from for a while is no dead one.
            ping_interval=None,
            # Nor does it stop reading, or it would not see the end of its connection.
            max_queue=None,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
        )
        client = cls(websocket, name)
        cls._opened.append(client)
        return client

    async def send(self, frame: object) -> None:
        await self.websocket.send(json.dumps(frame))

    async def say(self, text: str) -> None:
        await self.send({"type": "say", "text": text})

    async def say_to(self, person: Mapping[str, str], text: str) -> None:
        await self.send({"type": "direct", "to": dict(person), "text": text})

    async def receive(self, kind: str, timeout: float = PATIENCE) -> Mapping[str, Any]:
        """Return the next frame, which has to be of this type, whatever happens beside it."""
        what = f"{self.name} on {self.worker or 'a worker'} to receive a {kind}"
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            frame = json.loads(await within(self.websocket.recv(), what, left))
            if frame["type"] == kind:
                return frame
            assert frame["type"] in AMBIENT, f"{what}, and it was {frame}"

    async def next_of(self, *kinds: str) -> Mapping[str, Any]:
        """Return the next frame of one of these types, and drop what comes before it."""
        while True:
            what = f"{self.name} on {self.worker} to receive one of {kinds}"
            frame = json.loads(await within(self.websocket.recv(), what))
            if frame["type"] in kinds:
                return frame

    async def frames_until(self, kind: str, text: str) -> list[Mapping[str, Any]]:
        """Return all frames before the one of this type that has this text."""
        frames: list[Mapping[str, Any]] = []
        while True:
            what = f"{self.name} on {self.worker} to receive the {kind} {text!r}"
            frame = json.loads(await within(self.websocket.recv(), what))
            if frame["type"] == kind and frame["text"] == text:
                return frames
            frames.append(frame)

    async def hear(self, count: int) -> list[str]:
        """Return the texts of the next `count` messages."""
        return [(await self.receive("message"))["text"] for _ in range(count)]

    async def answer_to(self, command: str, timeout: float = PATIENCE) -> Mapping[str, Any]:
        """Return what a job answers to a command, when that and the command were received.

        They come from two processes, and so in any order.
        """
        frames = [await self.receive("message", timeout) for _ in range(2)]
        said, answer = sorted(frames, key=lambda frame: "answers" in frame)
        assert said["text"] == answer["answers"]["command"] == command
        return answer

    async def lose(self) -> None:
        """Return when the other side has ended the connection, whatever it sent before."""

        async def read_to_the_end() -> None:
            with contextlib.suppress(ConnectionClosedError):
                async for _ in self.websocket:
                    pass

        await within(read_to_the_end(), f"the connection of {self.name} to {self.worker} to end")

    async def close(self) -> None:
        await self.websocket.close()

    @classmethod
    def forget_all(cls) -> None:
        """Forget the pages that were opened so far."""
        cls._opened.clear()

    @classmethod
    async def close_all(cls) -> None:
        """Close what was opened: else the demo counts it as a page until it is collected."""
        opened, cls._opened[:] = list(cls._opened), []
        # Those of a test whose loop has ended end with it.
        await asyncio.gather(*(client.close() for client in opened), return_exceptions=True)


def post(address: str, cookies: str, **fields: str) -> int:
    """Return the status that an answered form gets."""
    data = urllib.parse.urlencode(fields).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(address, data, {"Cookie": cookies})
        with opener.open(request, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def csrf_token(cookies: str) -> str:
    token = re.search(r"demo_csrf=(\w+)", cookies)
    assert token is not None
    return token[1]


async def stays_connected(client: Client) -> bool:
    """Return whether the connection lives for longer than an order takes to end its worker."""
    try:
        await asyncio.wait_for(client.websocket.wait_closed(), 1.0)
    except asyncio.TimeoutError:
        return True
    return False


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario in an event loop of its own, and close the pages that it opened."""

    async def play_and_leave() -> None:
        # The pages of other tests went with their event loops.
        Client.forget_all()
        try:
            await scenario
        finally:
            await Client.close_all()

    asyncio.run(play_and_leave())


async def within(awaitable: Awaitable[T], what: str, timeout: float = PATIENCE) -> T:
    """Await something for at most `timeout` seconds; the error says what was awaited."""
    try:
        return await asyncio.wait_for(awaitable, timeout)
    except asyncio.TimeoutError as error:  # the cause may be a wait inside this one
        raise TimeoutError(f"Waited {timeout:g} s for {what}") from error
