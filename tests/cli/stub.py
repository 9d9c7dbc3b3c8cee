"""A HES that answers as it is told and keeps what it was asked, for endpoints and trouble that no real one shows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import msgspec
from msgspec import Struct

ID = "01890000-0000-7000-8000-000000000001"
ACCEPTED = {"id": ID, "status": "queued", "created_at": "2026-01-31T12:00:00.000Z"}


def an_email(**fields: Any) -> dict[str, Any]:
    """As GET /v1/emails/{id} answers."""
    recipient = {"email": "ann@example.org", "name": "Ann", "kind": "to", "status": "sent", "reason": None}
    known = {
        "id": ID,
        "status": "sent",
        "reason": None,
        "test": False,
        "provider": "mailgun",
        "from": {"email": "shop@example.com", "name": None},
        "subject": "Receipt",
        "tags": {"kind": "receipt"},
        "reference": None,
        "stream": "default",
        "priority": "normal",
        "recipients": [recipient],
        "created_at": "2026-01-31T12:00:00.000Z",
        "send_at": None,
        "expires_at": "2026-02-01T12:00:00.000Z",
        "on_doubt": "resend",
        "version": 1,
        "attempts": [],
        "events": [],
    }
    return known | fields


def an_event(number: int, type_: str, provider: str | None = None, **data: Any) -> dict[str, Any]:
    at = f"2026-01-31T12:00:0{number}.000Z"
    return {"id": f"event-{number}", "type": type_, "at": at, "provider": provider, "recipient": None, "data": data}


class Asked(NamedTuple):
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Told(Struct, frozen=True):
    """One answer."""

    status: int
    body: object = None
    headers: dict[str, str] = {}

    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


class Stub:
    """Gives the answers one after the other, the last one for ever; an exception among them is raised."""

    def __init__(self, *answers: Told | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        """For `httpx.MockTransport`."""
        path = request.url.raw_path.decode()
        told = self.take(Asked(request.method, path, dict(request.headers), request.content))
        return httpx.Response(told.status, content=told.content(), headers=told.headers)

    def take(self, asked: Asked) -> Told:
        self.asked.append(asked)
        told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(told, Exception):
            raise told
        return told


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    """The stub at a URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            told = stub.take(Asked(self.command, self.path, headers, body))
            content = told.content()
            self.send_response(told.status)
            for name, value in {"Content-Length": str(len(content)), **told.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
