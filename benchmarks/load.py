"""Clients that hand emails in: keep-alive connections, each with one request at a time (a closed loop).

Prints one `Result` as JSON. Raw sockets, so that the load costs little beside what it measures.
"""

import argparse
import asyncio
import os
import re
import time
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Result(msgspec.Struct):
    """What was answered."""

    began: float
    ended: float
    """On the monotonic clock."""
    ids: list[str]
    latencies: list[float]
    """Seconds, in order of arrival; one for each id."""
    refused: int
    """Answers that were not 202."""


class _Accepted(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Accepted).decode


def body(number: int) -> bytes:
    """1.3 kB of JSON, a shop's mail with text and HTML."""
    steps = ("Packed", "Handed to the carrier", "On its way", "Out for delivery")
    rows = "".join(f"<tr><td>{step}</td><td style='padding:4px 12px;color:#567'>step</td></tr>" for step in steps)
    text = "Good morning,\n\nyour parcel left our house today and will be with you in two days.\n" * 4
    return msgspec.json.encode(
        {
            "from": {"email": "orders@shop.example.com", "name": "The Shop"},
            "to": [{"email": f"customer-{number}@mail.example.org", "name": "A. Customer"}],
            "subject": f"Parcel {number} is on its way",
            "text": text,
            "html": f"<html><body style='font-family:sans-serif'><h1>On its way</h1><p>{text}</p>"
            f"<table style='border-collapse:collapse'>{rows}</table></body></html>",
            "tags": {"kind": "parcel"},
        }
    )


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, requests: Iterator[bytes], result: Result, pause_seconds: float) -> None:
        self._requests = requests
        self._result = result
        self._pause_seconds = pause_seconds
        self._buffer = b""
        self._asked = 0.0
        self._transport: asyncio.Transport
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass of it
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, content = self._buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or len(content) < (int(length[1]) if length else 0):
            return
        self._buffer = b""
        if head.startswith(b"HTTP/1.1 202 "):
            self._result.latencies.append(time.monotonic() - self._asked)
            self._result.ids.append(_decode(content).id)
        else:
            self._result.refused += 1
        if self._pause_seconds:
            asyncio.get_running_loop().call_later(self._pause_seconds, self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._asked = time.monotonic()
        self._transport.write(request)


def requests(url: str, count: int) -> Iterator[bytes]:
    key = os.environ["HES_API_KEY"]
    head = (
        f"POST /v1/emails HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    for number in range(count):
        content = body(number)
        yield b"%s%d\r\n\r\n%s" % (head, len(content), content)


async def run(url: str, count: int, connections: int, pause_seconds: float) -> Result:
    made = iter(list(requests(url, count)))
    result = Result(time.monotonic(), 0.0, [], [], 0)
    host, _, port = urlsplit(url).netloc.partition(":")
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: Connection(made, result, pause_seconds), host, int(port)))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for connection in opened))
    result.ended = time.monotonic()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hand emails in to HES; the key is HES_API_KEY.")
    parser.add_argument("url")
    parser.add_argument("--emails", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--pause-ms", type=float, default=0, help="what each connection waits after an answer")
    given = parser.parse_args()
    done = uvloop.run(run(given.url, given.emails, given.connections, given.pause_ms / 1000))
    print(msgspec.json.encode(done).decode())
