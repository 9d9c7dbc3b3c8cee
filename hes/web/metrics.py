"""GET /metrics: what this process measures, as Prometheus reads it. Needs no key: it holds counts and names only."""

from collections.abc import Callable

import anyio.to_thread
from litestar import Response, Router, get

MEDIA_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset."""


def metrics_router(exposition: Callable[[], bytes]) -> Router:
    """The page, not in the API's document. `exposition` runs in a thread."""

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        text = await anyio.to_thread.run_sync(exposition)
        return Response(text, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    return Router("", route_handlers=[metrics], include_in_schema=False)
