"""Each address has one spelling. The router takes several slashes for one, and a proxy in front may not."""

from typing import Any

import msgspec

from hes.errors import Unreadable
from hes.telemetry.telemetry import App
from hes.web.problems import MEDIA_TYPE, problem_of

_DETAIL = "The path holds two slashes in a row; HES takes one between two parts."


def strict_paths(app: App) -> App:
    """The application; paths with two slashes in a row, however they are written, are answered 400."""

    async def strict(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "//" in scope["path"]:
            await _refuse(send)
        else:
            await app(scope, receive, send)

    return strict


async def _refuse(send: Any) -> None:
    problem = problem_of(Unreadable(_DETAIL))
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
