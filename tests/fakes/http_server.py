"""A real HTTP server on the loopback interface that stands in for a service, and fails where a test wants it to.

A fake derives from FakeServer, keeps the service's state and answers `handle`. A fault hits the n-th request, before
the fake has seen it or after it has carried it out: the second is what makes clients believe that a write did not
happen.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

#: How long a server that "times out" keeps a client waiting at most; clients under test give up far earlier.
_HANG_SECONDS = 30.0
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str  # decoded segments are the fake's business: this is as it was sent, without the query
    query: dict[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def mutating(self) -> bool:
        """Whether it may change something at the service."""
        return self.method not in _READING


@dataclass(frozen=True)
class Response:
    """What the fake answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request.

    Attributes:
        kind: `status`: an error instead of the answer. `reset`: the connection is reset. `hang`: no answer comes.
            `truncate`: the answer stops in the middle.
        after: Whether the request was carried out all the same.
        status: For `status`.
        headers: For `status`.
    """

    kind: Literal["status", "reset", "hang", "truncate"]
    after: bool = False
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = f"{self.status}{'+' if self.headers else ''}" if self.kind == "status" else self.kind
        return f"{what} {'after' if self.after else 'before'}"


#: Every kind of fault a push has to survive, before and after the request was carried out.
FAULTS: tuple[Fault, ...] = tuple(
    fault
    for after in (False, True)
    for fault in (
        Fault("status", after, 429),
        Fault("status", after, 429, {"Retry-After": "0"}),
        Fault("status", after, 500),
        Fault("status", after, 503),
        Fault("reset", after),
        Fault("hang", after),
        Fault("truncate", after),
    )
    if after or fault.kind != "truncate"
)


class FakeServer:
    """Base of the fakes; use as a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bytes_received = 0
        self.lock = threading.RLock()  # requests are handled one after the other, as if by one transaction each
        self._faults: dict[int, Fault] = {}
        self._counter = itertools.count()
        self._stopping = threading.Event()
        self._hooks: dict[int, Callable[[], None]] = {}

    def handle(self, request: Request) -> Response:
        """Carries out a request."""
        raise NotImplementedError

    def fail(self, number: int, *faults: Fault) -> None:
        """The `number`-th request from the start of the server (0, 1, ...), and those after it, meet these faults."""
        for offset, fault in enumerate(faults):
            self._faults[number + offset] = fault

    def before(self, number: int, hook: Callable[[], None]) -> None:
        """Runs something, such as a rival, just before the `number`-th request is handled."""
        self._hooks[number] = hook

    @property
    def num_requests(self) -> int:
        return len(self.requests)

    @property
    def mutations(self) -> list[Request]:
        return [request for request in self.requests if request.mutating]

    def __enter__(self) -> FakeServer:
        fake = self

        class Handler(_Handler):
            server_fake = fake

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """Such as `http://127.0.0.1:1234`, without a slash at the end."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def _next(self, request: Request) -> tuple[Fault | None, Callable[[], None] | None]:
        with self.lock:
            number = next(self._counter)
            self.requests.append(request)
            self.bytes_received += len(request.body)
            return self._faults.pop(number, None), self._hooks.pop(number, None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what these servers are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or clients that keep a connection wait 40 ms for each answer
    server_fake: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        fake = self.server_fake
        request = self._read()
        fault, hook = fake._next(request)
        if hook is not None:
            hook()
        if fault is not None and not fault.after:
            self._fail(fault, Response())
            return
        with fake.lock:
            response = fake.handle(request)
        if fault is not None:
            self._fail(fault, response)
        else:
            self._answer(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _read(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(headers.get("content-length", 0)))
        parsed = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        return Request(self.command, path, parsed, headers, body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, response: Response, only: int | None = None) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status not in (204, 304):
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD" and response.status not in (204, 304):
            self.wfile.write(response.body[:only])

    def _fail(self, fault: Fault, response: Response) -> None:
        if fault.kind == "status":
            error = {"error": {"code": fault.status, "message": "injected by the test"}}
            self._answer(Response.of_json(error, fault.status, fault.headers))
            return
        self.close_connection = True
        if fault.kind == "hang":
            self._wait_until_the_client_has_gone()
        elif fault.kind == "truncate":
            if not response.body or response.status in (204, 304) or self.command == "HEAD":
                return  # nothing to cut: the connection just ends without an answer
            self._answer(response, only=max(len(response.body) // 2, 1) if len(response.body) > 1 else 0)
        else:
            # With lingering switched on and no time to linger, closing sends a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _wait_until_the_client_has_gone(self) -> None:
        self.connection.settimeout(0.05)
        for _ in range(int(_HANG_SECONDS / 0.05)):
            if self.server_fake._stopping.is_set():
                return
            with contextlib.suppress(TimeoutError, socket.timeout):
                if not self.connection.recv(1):
                    return
