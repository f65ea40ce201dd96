"""A schema registry for tests: Confluent's REST protocol, as far as codecs use it, over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["SchemaRegistry", "running_registry"]


class SchemaRegistry:
    """A registry on a loopback port, which can be taken away and come back on the same one.

    Attributes:
        url: Where it is, also while it is away.
        asked: The method and path of each request so far.
        answers_nothing: While True a request gets no answer, as from a host that hangs.
        status: While set, the HTTP status of each answer, such as 503 or 401.
        fails_on: While set, what begins with this path is answered with 503.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers_nothing = False
        self.status: int | None = None
        self.fails_on: str | None = None
        self._schemas: dict[int, dict[str, Any]] = {}
        self._subjects: dict[str, list[int]] = {}
        self._let_go = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.come_back()
        self.url = f"http://127.0.0.1:{self._port}"

    def register(
        self,
        subject: str,
        schema: str,
        kind: str = "AVRO",
        references: Sequence[dict[str, Any]] = (),
    ) -> int:
        """Add a version of a subject, and return the id of its schema.

        Args:
            subject: ``TOPIC-value`` or ``TOPIC-key``.
            schema: The schema's text; for PROTOBUF the base64 of a FileDescriptorProto, as clients
                register it and ask for it.
            kind: ``AVRO``, ``JSON`` or ``PROTOBUF``.
            references: Schemas that it names, each with ``name``, ``subject`` and ``version``.
        """
        body = {"schema": schema, "schemaType": kind, "references": list(references)}
        known = [number for number, each in self._schemas.items() if each == body]
        number = known[0] if known else len(self._schemas) + 1
        self._schemas[number] = body
        self._subjects.setdefault(subject, []).append(number)
        return number

    def go_away(self) -> None:
        """Refuse connections until it comes back; requests that hang end."""
        server, self._server = self._server, None
        self._let_go.set()
        if server is not None:
            server.shutdown()
            server.server_close()

    def come_back(self) -> None:
        """Answer again, on the same port."""
        self._let_go.clear()
        server = _Server(("127.0.0.1", self._port), _Requests)
        server.registry = self
        self._port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body for one request."""
        self.asked.append(f"{method} {path}")
        if self.answers_nothing:
            self._let_go.wait(30)
        fails = self.fails_on is not None and path.startswith(self.fails_on)
        status = 503 if fails else self.status
        if status is not None:
            return status, {"error_code": status, "message": "as the test says"}
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["schemas", "ids", number] if method == "GET":
                schema = self._schemas.get(int(number))
                return (200, schema) if schema else _unknown(40403, "Schema not found")
            case ["subjects", subject, "versions", version] if method == "GET":
                return self._version(subject, version)
            case ["subjects", subject, "versions"] if method == "POST":
                kind = body.get("schemaType", "AVRO")
                return 200, {"id": self.register(subject, body["schema"], kind)}
        return 404, {"error_code": 404, "message": f"no such path: {path}"}

    def _version(self, subject: str, version: str) -> tuple[int, dict[str, Any]]:
        ids = self._subjects.get(subject)
        if ids is None:
            return _unknown(40401, f"Subject '{subject}' not found.")
        number = len(ids) if version == "latest" else int(version)
        if not 0 < number <= len(ids):
            return _unknown(40402, f"Version {version} not found.")
        found = {"subject": subject, "version": number, "id": ids[number - 1]}
        return 200, {**found, **self._schemas[ids[number - 1]]}


def _unknown(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return 404, {"error_code": code, "message": message}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: SchemaRegistry


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Of an idle connection, so that no thread of a server that went away answers on.
    timeout = 10

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        registry: SchemaRegistry = self.server.registry  # type: ignore[attr-defined]
        status, answer = registry.answer(self.command, urlsplit(self.path).path, body)
        data = json.dumps(answer).encode()
        with contextlib.suppress(OSError):  # the client may have given up
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running_registry() -> Iterator[SchemaRegistry]:
    """Yield an empty registry, and end it."""
    registry = SchemaRegistry()
    try:
        yield registry
    finally:
        registry.go_away()
