"""A provider that costs next to nothing: POST /v3/mail/send is 202 after a while, and each `hes_id` is counted.

The first line of stdout is its URL. GET /counts: how often each id came, and when the last new one did. Ends when its
stdin does, so that it never outlives who started it.
"""

import argparse
import asyncio
import re
import sys
import time
from typing import cast

import httptools
import msgspec
import uvloop

HES_ID = re.compile(rb'"hes_id": *"([^"]+)"')


class Counts(msgspec.Struct):
    """What came."""

    times: dict[str, int] = {}
    last_new: float = 0.0
    """On the monotonic clock, which is one for all processes of the machine."""


class Connection(asyncio.Protocol):
    """One connection; requests on it come one by one."""

    def __init__(self, counts: Counts, latency_seconds: float) -> None:
        self._counts = counts
        self._latency_seconds = latency_seconds
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body = bytes(self._body)
        self._body.clear()
        if self._url == b"/v3/mail/send":
            self._count(body)
            asyncio.get_running_loop().call_later(
                self._latency_seconds,
                self._transport.write,
                b"HTTP/1.1 202 Accepted\r\nX-Message-Id: bench\r\nContent-Length: 0\r\n\r\n",
            )
        else:
            counts = msgspec.json.encode(self._counts)
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(counts) + counts)

    def _count(self, body: bytes) -> None:
        found = HES_ID.search(body)
        email_id = found[1].decode() if found else ""
        times = self._counts.times.get(email_id, 0)
        self._counts.times[email_id] = times + 1
        if not times:
            self._counts.last_new = time.monotonic()


async def serve(latency_seconds: float) -> None:
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counts, latency_seconds), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A sink that answers like SendGrid.")
    parser.add_argument("--latency-ms", type=float, default=30)
    uvloop.run(serve(parser.parse_args().latency_ms / 1000))
