"""Is it alive, and should it get traffic. HEAD is answered as well: many balancers and monitors ask so."""

import logging

from litestar import get, head
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency

from hes.errors import StorageUnavailable, Unready
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.views import Health

_log = logging.getLogger("hes.web")

NO_KEY: list[dict[str, list[str]]] = [{}]
"""As OpenAPI says it. An empty list would mean the same, but Litestar leaves that out."""
NEVER_CACHED = [ResponseHeader(name="Cache-Control", value="no-store")]


@get(
    "/health/live",
    operation_id="isAlive",
    summary="The process answers",
    security=NO_KEY,
    response_description="It does",
    response_headers=NEVER_CACHED,
)
async def is_alive() -> Health:
    return Health("alive")


@get(
    "/health/ready",
    operation_id="isReady",
    summary="The storage answers, its schema fits, and the process is not stopping",
    security=NO_KEY,
    response_description="Send traffic here",
    response_headers=NEVER_CACHED,
    responses=problems(503),
)
async def is_ready(desk: NamedDependency[Desk]) -> Health:
    await _check(desk)
    return Health("ready")


@head("/health/live", include_in_schema=False, response_headers=NEVER_CACHED)
async def is_alive_by_head() -> None:
    return


@head("/health/ready", include_in_schema=False, response_headers=NEVER_CACHED)
async def is_ready_by_head(desk: NamedDependency[Desk]) -> None:
    await _check(desk)


async def _check(desk: Desk) -> None:
    if desk.readiness.is_stopping:
        raise Unready("HES is stopping")
    try:
        await desk.storage.check()
    except StorageUnavailable as error:
        _log.warning("not ready: %s", error)
        raise Unready(str(error)) from error
