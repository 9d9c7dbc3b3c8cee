"""All routes, and the application that serves them."""

import time
from collections.abc import Callable, Iterator
from functools import cache

import msgspec
from litestar import HttpMethod, Litestar, Router, route
from litestar.di import Provide
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

from hes.web.bulk import cancel_emails, resolve_emails
from hes.web.desk import Desk
from hes.web.docs import docs_router
from hes.web.documents import describe
from hes.web.email import cancel_email, edit_email, erase_email, get_email, resolve_email, send_again
from hes.web.emails import send_email
from hes.web.health import is_alive, is_alive_by_head, is_ready, is_ready_by_head
from hes.web.hooks import HOOK_BODY_BYTES, take_events
from hes.web.keys import create_key, list_keys, revoke_key
from hes.web.many import list_emails, send_batch
from hes.web.metrics import metrics_router
from hes.web.problems import exception_handlers
from hes.web.providers import list_providers, pause_provider, reset_provider, resume_provider

HANDING_IN = (send_email, send_batch, send_again, take_events)
"""What takes emails or events, all by POST."""
SMALL_BODY_BYTES = 64 * 1024
"""What a request may carry where no email is handed in."""


def create_web(
    desk: Desk, *, docs: bool = True, metrics: Callable[[], bytes] | None = None, only_health: bool = False
) -> Litestar:
    """The HTTP application. It owns nothing and starts nothing: whoever makes it has all of it running.

    `docs`: the docs page and the document that it shows. `metrics`: makes the text of /metrics. `only_health`: for a
    process that sends and does not accept.
    """
    documents: list[ControllerRouterHandler] = [openapi_json, docs_router()] if docs else []
    measured = [metrics_router(metrics)] if metrics is not None else []
    return Litestar(
        [_health(), *measured] if only_health else [*_routers(desk.max_body_bytes), *documents, *measured],
        dependencies={"desk": Provide(lambda: desk, sync_to_thread=False)},
        exception_handlers=exception_handlers(time.monotonic),
        openapi_config=None,  # its routes would take every unknown path with a single segment; see `openapi_json`
        request_max_body_size=SMALL_BODY_BYTES,
        logging_config=None,
        debug=False,
    )


def answers(web: Litestar) -> Iterator[tuple[str, str, int]]:
    """Method, route and status of each answer to whoever hands in emails or events."""
    documented = {one.fn: {one.status_code, *(one.responses or ()), 500} for one in HANDING_IN}
    for one in web.routes:
        for handler in one.route_handlers if isinstance(one, HTTPRoute) else ():
            yield from (("POST", one.path_format, status) for status in documented.get(handler.fn, ()))


def _routers(max_body_bytes: int) -> list[Router]:
    sending = Router("", route_handlers=[send_email, send_batch, edit_email], request_max_body_size=max_body_bytes)
    v1 = Router(
        "/v1",
        route_handlers=[
            sending,
            list_emails,
            get_email,
            send_again,
            cancel_email,
            resolve_email,
            resolve_emails,
            cancel_emails,
            erase_email,
        ],
        tags=["emails"],
    )
    providers = Router(
        "/v1", route_handlers=[list_providers, pause_provider, resume_provider, reset_provider], tags=["providers"]
    )
    keys = Router("/v1", route_handlers=[create_key, list_keys, revoke_key], tags=["keys"])
    hooks = Router("/hooks", route_handlers=[take_events], request_max_body_size=HOOK_BODY_BYTES, tags=["events"])
    return [*(_without_options(router) for router in (v1, providers, keys, hooks)), _health()]


def _health() -> Router:
    handlers = [is_alive, is_ready, is_alive_by_head, is_ready_by_head]
    return _without_options(Router("", route_handlers=handlers, tags=["health"]))


def _without_options(router: Router) -> Router:
    """The application makes its own answers to OPTIONS; those of routers name only the method registered first."""
    for one in router.routes:
        if isinstance(one, HTTPRoute):
            one.route_handlers = [h for h in one.route_handlers if h.http_methods != {HttpMethod.OPTIONS}]
    return router


@route("/openapi.json", http_method=[HttpMethod.GET, HttpMethod.HEAD], media_type="application/json")
async def openapi_json() -> bytes:
    return _document()


@cache
def _document() -> bytes:
    """The same for every application: no setting changes what the API is."""
    return msgspec.json.encode(describe(_routers(SMALL_BODY_BYTES), ["desk"]))
