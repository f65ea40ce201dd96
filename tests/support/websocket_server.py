"""A websocket server whose side of each connection a test plays, and a page that connects to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

import kafka_layer
from tests.support.waiting import PATIENCE

__all__ = ["PlayedServer", "Side"]

_CLIENT = Path(kafka_layer.__file__).parent / "static/kafka_layer/socket.js"
_PAGES: Mapping[str, tuple[str, bytes]] = {
    "/": ("text/html", b'<!doctype html><script type="module" src="/socket.js"></script>'),
    "/socket.js": ("text/javascript", _CLIENT.read_bytes()),
    "/favicon.ico": ("image/png", b""),
    "/later": ("text/plain", b""),
}


class Side:
    """The server's side of one connection.

    Attributes:
        offered: The subprotocols that the browser offered.
    """

    def __init__(self, connection: ServerConnection) -> None:
        self.offered = list(_offered(connection))
        self._connection = connection
        self._ended = threading.Event()

    def send(self, *frames: str | bytes) -> None:
        for frame in frames:
            self._connection.send(frame)

    def receive(self, timeout: float = PATIENCE) -> str | bytes:
        return self._connection.recv(timeout)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._connection.close(code, reason)
        self._ended.set()

    def break_off(self) -> None:
        """End the connection as a server does that is killed."""
        self._connection.socket.close()
        self._ended.set()

    def wait(self) -> None:
        """Serve it until the test or the browser ends it."""
        while not self._ended.wait(0.05):
            if self._connection.protocol.state.name == "CLOSED":
                return


class PlayedServer:
    """Serves the page with the browser client at ``address``, and websockets at the same port.

    Attributes:
        address: Like ``http://127.0.0.1:12345``.
        speaks: The subprotocol that it chooses.
        open: Whether it takes connections.
        later: When it is set, the page's request for ``/later`` is answered.
    """

    def __init__(self) -> None:
        self.speaks = "kafka-layer.v1"
        self.open = True
        self.later = threading.Event()
        self._sides: queue.Queue[Side] = queue.Queue()
        self._server = serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._process,
            select_subprotocol=lambda _, offered: self.speaks,
        )
        self.address = "http://{}:{}".format(*self._server.socket.getsockname())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def accept(self, timeout: float = PATIENCE) -> Side:
        """Return the next connection.

        Raises:
            TimeoutError: None came in time.
        """
        try:
            return self._sides.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"Waited {timeout:g} s for a browser to connect") from None

    def __enter__(self) -> PlayedServer:  # noqa: PYI034 (Self is new in 3.11)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" not in request.headers:
            kind, body = _PAGES[request.path]
            if request.path == "/later":
                self.later.wait(PATIENCE)
            headers = {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            return Response(200, "OK", Headers(headers), body)
        return None if self.open else connection.respond(503, "Closed.")

    def _serve(self, connection: ServerConnection) -> None:
        side = Side(connection)
        self._sides.put(side)
        try:
            side.wait()
        except ConnectionClosed:
            return


def _offered(connection: ServerConnection) -> Sequence[Any]:
    assert connection.request is not None
    header = connection.request.headers.get("Sec-WebSocket-Protocol", "")
    return [each.strip() for each in header.split(",") if each]
