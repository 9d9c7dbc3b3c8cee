"""All routes, and the application that serves them."""

from litestar import Litestar, Router
from litestar.di import Provide

from hes.web.desk import Desk
from hes.web.documents import openapi_config
from hes.web.emails import cancel_email, get_email, resolve_email, send_email
from hes.web.health import is_alive, is_ready
from hes.web.problems import EXCEPTION_HANDLERS

SMALL_BODY_BYTES = 64 * 1024
"""What a request may carry where no email is handed in."""


def create_web(desk: Desk, *, max_body_bytes: int) -> Litestar:
    """The HTTP application. It owns nothing and starts nothing: whoever makes it has all of it running."""
    sending = Router("", route_handlers=[send_email], request_max_body_size=max_body_bytes)
    v1 = Router("/v1", route_handlers=[sending, get_email, cancel_email, resolve_email], tags=["emails"])
    health = Router("", route_handlers=[is_alive, is_ready], tags=["health"])
    return Litestar(
        [v1, health],
        dependencies={"desk": Provide(lambda: desk, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config(),
        request_max_body_size=SMALL_BODY_BYTES,
        logging_config=None,
        debug=False,
    )
