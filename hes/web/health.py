"""Is it alive, and should it get traffic."""

from litestar import get
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from msgspec import Struct

from hes.errors import StorageUnavailable
from hes.web.desk import Desk
from hes.web.documents import problems

NEVER_CACHED = [ResponseHeader(name="Cache-Control", value="no-store")]


class Health(Struct, frozen=True):
    """The answer of both."""

    status: str


@get(
    "/health/live",
    operation_id="isAlive",
    summary="The process answers",
    security=[],
    response_headers=NEVER_CACHED,
)
async def is_alive() -> Health:
    return Health("alive")


@get(
    "/health/ready",
    operation_id="isReady",
    summary="The storage answers, its schema fits, and the process is not stopping",
    security=[],
    response_headers=NEVER_CACHED,
    responses=problems(503),
)
async def is_ready(desk: NamedDependency[Desk]) -> Health:
    if desk.readiness.is_stopping:
        raise StorageUnavailable("this process is stopping")
    await desk.storage.check()
    return Health("ready")
