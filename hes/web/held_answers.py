"""Answers that may be large count against a budget, from before they are read out of the storage until they are sent.

A handler's own `with` ends before its answer is sent. So the routes of such answers have `HeldAnswers` around them.
Sent means: the server took all of it, which it does no faster than the caller reads.
"""

from contextlib import ExitStack
from typing import Any, TypeVar, cast

import msgspec
from litestar import MediaType, Request, Response
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from hes.web.auth import Principal
from hes.web.desk import Desk

View = TypeVar("View", bound=Struct)

_KEY = "hes_until_sent"


class HeldAnswers(ASGIMiddleware):
    """Around the handlers of a route: what they hold is let go when their answer was sent, or given up."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        with ExitStack() as until_sent:
            scope[_KEY] = until_sent  # type: ignore[literal-required]  # a key of ours
            await next_app(scope, receive, send)


class HeldAnswer:
    """One answer, which counts as so many bytes before it is made, and then as what it is made of."""

    def __init__(self, desk: Desk, request: Request[Any, Any, Any], principal: Principal, count: int = 0) -> None:
        """Raises: Overloaded."""
        until_sent: ExitStack = request.scope[_KEY]  # type: ignore[literal-required]  # a key of ours
        self._charge = until_sent.enter_context(desk.answers.hold(*desk.owners(request, principal), count=count))
        self._held = count

    def of(self, view: View, headers: dict[str, str] | None = None) -> Response[View]:
        """Raises: Overloaded."""
        encoded = msgspec.json.encode(view)
        self._charge(max(0, len(encoded) - self._held))
        # Litestar would have encoded it, and nobody would know how long it is before it is sent.
        return Response(cast("View", encoded), headers=headers, media_type=MediaType.JSON)
