"""What holds for every answer of a served HES, whoever makes it: a handler, the router, or the server beneath."""

from pathlib import Path

import anyio
import httpx
from anyio import EndOfStream

from tests.faults.server import KEY, PATIENCE_SECONDS, cold
from tests.web.service import problem_in

POST_HOOK = "POST /hooks/none HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def get(target: str, *headers: str) -> str:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])


ASKED = {
    "an answer": (get("/v1/emails", f"Authorization: Bearer {KEY}"), 200),
    "a problem": (get("/v1/emails"), 401),
    "no such path": (get("/nothing"), 404),
    "another method": ("PUT /v1/emails HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    "health": (get("/health/live"), 200),
    "metrics": (get("/metrics"), 200),
    "a hook": (POST_HOOK, 404),
    "the docs page": (get("/docs"), 200),
    "its script": (get("/docs/start.js"), 200),
    "the document": (get("/openapi.json"), 200),
    "a head that is too large": (get("/", "a: " + "x" * 70_000), 431),
    "no HTTP": ("what is this\r\n\r\n", 400),
    "two slashes": (get("//v1/emails"), 400),
}


async def ask(port: int, request: str) -> str:
    """The head of the answer."""
    with anyio.fail_after(PATIENCE_SECONDS):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request.encode())
            found = b""
            while b"\r\n\r\n" not in found:
                try:
                    found += await stream.receive()
                except (EndOfStream, anyio.BrokenResourceError):
                    break
    return found.partition(b"\r\n\r\n")[0].decode()


BAD = {
    "no HTTP": "what is this\r\n\r\n",
    "another protocol": get("/", "Connection: Upgrade", "Upgrade: websocket"),
    "lengths that differ": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no key": get("/v1/emails"),
    "a wrong key": get("/v1/emails", "Authorization: Bearer hes_live_x"),
    "no events": "POST /hooks/mailgun HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
}


async def test_bad_requests_don_t_fill_the_disk(tmp_path: Path) -> None:
    """Also of whoever goes away in the middle of an answer: what that makes of the log depends on who is quicker."""
    async with cold(tmp_path, providers="mailgun://k@default/mg.example.com?webhook_secret=s") as hes:
        await hes.ready()
        port = httpx.URL(hes.url).port or 0
        before = len(hes.log())
        for request in BAD.values():
            for _ in range(20):
                await ask(port, request)
        for _ in range(50):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(get("/docs/swagger-ui-bundle.js").replace("close", "keep-alive").encode() * 5)
        await ask(port, get("/health/live"))
        lines = [line["event"] for line in hes.log()[before:]]
    assert len(lines) == len(set(lines)) < 10, lines


async def test_browsers_are_told_to_guess_no_type(tmp_path: Path) -> None:
    async with cold(tmp_path, metrics="on") as hes:
        await hes.ready()
        for what, (request, status) in ASKED.items():
            head = await ask(httpx.URL(hes.url).port or 0, request)
            assert head.startswith(f"HTTP/1.1 {status} "), (what, head)
            assert head.lower().count("x-content-type-options: nosniff") == 1, (what, head)


async def test_a_path_has_one_spelling(tmp_path: Path) -> None:
    """The router takes `//v1/emails` for `/v1/emails`, which a proxy's rules may not."""
    async with cold(tmp_path) as hes, httpx.AsyncClient(trust_env=False) as http:
        await hes.ready()
        for path in ("//v1/emails", "/%2Fv1/emails", "/v1//emails", "//", "//evil.example/", "/health//live"):
            answer = await http.get(f"{hes.url}{path}", headers={"Authorization": f"Bearer {KEY}"})
            assert "two slashes" in problem_in(answer, 400)["detail"], path
