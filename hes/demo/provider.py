"""A made-up provider for the demo: real HTTP on loopback, as much of a vendor's API as HES needs, and ways to break.

It knows which emails it took (HES's id travels in each request), so that the demo need not take HES's word for it.
"""

import asyncio
import re
import time
from collections import Counter
from enum import Enum, auto
from typing import Self

import msgspec
from aiohttp import web

ANSWER_SECONDS = 0.04
"""About what a provider takes."""
_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Mode(Enum):
    """How it behaves."""

    WORKS = auto()
    FAILS = auto()
    """Answers each request with 503: surely not taken."""
    CUTS = auto()
    """Takes the email, and the connection breaks before the answer: nobody can know."""


class FakeProvider:
    """One vendor. `kind` is `sendgrid` or `mailgun`, in whose words it answers."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.mode = Mode.WORKS
        self.taken: Counter[str] = Counter()
        """Email id -> how often it was taken."""
        self.took_at: list[float] = []
        self.refused: set[str] = set()
        self.cut: set[str] = set()
        self._server = web.Server(self._serve, access_log=None)
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def took_within(self, seconds: float) -> int:
        """How many it took of late."""
        since = time.monotonic() - seconds
        return sum(at >= since for at in self.took_at)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        self._port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._server.shutdown(0.1)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        email_id = _email_id(await request.read())
        await asyncio.sleep(ANSWER_SECONDS)
        if self.mode is Mode.FAILS:
            self.refused.add(email_id)
            return self._answer(503)
        self.taken[email_id] += 1
        self.took_at.append(time.monotonic())
        if self.mode is Mode.CUTS and request.transport is not None:
            self.cut.add(email_id)
            request.transport.abort()
        return self._answer(202 if self.kind == "sendgrid" else 200)

    def _answer(self, status: int) -> web.Response:
        """In the vendor's own form: HES believes a 503 only in that."""
        said: object = {"message": "Queued. Thank you.", "id": f"<{len(self.took_at)}@demo.example>"}
        if status == 503:
            words = "Service unavailable"
            said = {"errors": [{"message": words}]} if self.kind == "sendgrid" else {"message": words}
        headers = {"X-Message-Id": f"demo-{len(self.took_at)}", "Content-Type": "application/json"}
        return web.Response(status=status, body=msgspec.json.encode(said), headers=headers)


def _email_id(body: bytes) -> str:
    """The id behind `hes_id`: in SendGrid's JSON a custom arg, in Mailgun's form a variable."""
    found = _ID.search(body, max(0, body.find(b"hes_id")))
    return found[0].decode() if found else ""
