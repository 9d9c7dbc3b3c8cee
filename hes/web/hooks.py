"""Providers' events come in here. The way in is the signature: there is no key."""

import logging
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from hes.errors import ConfigError, NotFound, Overloaded
from hes.web.auth import has_become_known
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.health import NO_KEY
from hes.web.requests import read_body

HOOK_BODY_BYTES = 4 * 1024 * 1024
"""Of one POST. SendGrid's are the largest: some thousands of events."""

_log = logging.getLogger("hes.hooks")


class EventsView(Struct, frozen=True):
    """How many of the events were new."""

    new: int


@post(
    "/{provider_name:str}",
    operation_id="takeEvents",
    summary="A provider tells what became of emails",
    description="As the provider's webhook sends it, signed with `webhook_secret`. Answered once it is on disk.",
    status_code=200,
    security=NO_KEY,
    response_description="The events are on disk",
    responses=problems(400, 401, 404, 408, 413, 503, needs_key=False),
)
async def take_events(
    provider_name: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> EventsView:
    hook = desk.hooks.get(provider_name)
    if hook is None:
        raise NotFound("There is no provider of that name whose events are taken; it needs a webhook_secret.")
    hook.check_headers(request.headers)
    with desk.hold_events(request) as charge:
        raw = await read_body(request, desk.events_seconds, charge)
        try:
            told = hook.read_events(request.headers, raw, desk.clock())
        except ConfigError as error:
            _log.error("provider %s: %s", provider_name, error)
            raise Overloaded("HES can't check events of this provider as it is configured") from None
        has_become_known(request)
        taken = await desk.inbox.take(provider_name, told)
    if taken.waiting:
        _log.info("%d events of %s wait for the email that they are about", taken.waiting, provider_name)
    return EventsView(taken.new)
