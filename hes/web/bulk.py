"""One word on many emails: those that a filter fits, in small batches, so that nobody waits for a long lock."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from litestar import Request, post
from litestar.di import NamedDependency
from msgspec import Struct
from msgspec.structs import replace

from hes.errors import FieldError, Invalid
from hes.storage.records import ListQuery, Many
from hes.web.auth import Principal, authorize
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.many import FILTERS, read_list_query
from hes.web.paging import cursor_behind
from hes.web.requests import read_object, read_query, read_small_body, require_json, to_decision
from hes.web.shape import below

IN_A_BATCH = 100
IN_A_REQUEST = 10_000
LONGEST_SECONDS = 20.0
"""Of one request; where few fit among very many it ends before it has seen all."""

_Batch = Callable[[ListQuery], Awaitable[Many]]


class ManyView(Struct, frozen=True):
    """How many emails changed, and how many fit but could not; `next_cursor`: there are more, null: these were all."""

    changed: int
    skipped: int
    next_cursor: str | None


@post(
    "/emails/resolve",
    operation_id="resolveEmails",
    summary="Decide about many emails that are held or in doubt",
    description="Those that the `filter` fits; its fields are the list's. 10,000 at most, and for 20 seconds at most: "
    "with `next_cursor` as the filter's `cursor` it goes on. Wants the scopes `emails:send` and `emails:read`.",
    status_code=200,
    response_description="How many there were",
    responses=problems(400, 401, 403, 408, 413, 415, 422, 503),
)
async def resolve_emails(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> ManyView:
    principal = await authorize(desk.authenticator, request, "emails:send", "emails:read")
    body = await _body(desk, request, principal, "decision", "filter")
    decision = to_decision(body.get("decision"))
    query = _read_filter(body)
    try:
        return await _all(
            query, lambda some: desk.emails.resolve_many(principal.reach, some, decision, principal.key_id)
        )
    finally:
        desk.wake()


@post(
    "/emails/cancel",
    operation_id="cancelEmails",
    summary="Cancel many emails that were not handed to a provider",
    description="Those that the `filter` fits; its fields are the list's. 10,000 at most, and for 20 seconds at most: "
    "with `next_cursor` as the filter's `cursor` it goes on.",
    status_code=200,
    response_description="How many there were",
    responses=problems(400, 401, 403, 408, 413, 415, 422, 503),
)
async def cancel_emails(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> ManyView:
    principal = await authorize(desk.authenticator, request, "emails:send")
    query = _read_filter(await _body(desk, request, principal, "filter"))
    return await _all(query, lambda some: desk.emails.cancel_many(principal.reach, some))


async def _body(desk: Desk, request: Request[Any, Any, Any], principal: Principal, *known: str) -> dict[str, Any]:
    read_query(request.scope["query_string"])
    require_json(request.headers)
    return read_object(await read_small_body(request, desk, principal), *known)


def _read_filter(body: dict[str, Any]) -> ListQuery:
    """Raises Invalid. It must be there: who forgets it does not mean all emails."""
    given = body.get("filter")
    if not isinstance(given, dict):
        message = "must be an object of filters; {} fits all emails"
        raise Invalid(f"`filter` {message}.", [FieldError("filter", message)])
    known = [name for name in FILTERS if name != "limit"]
    errors = [FieldError(below("filter", n), "is not a filter here") for n in given if n not in known]
    errors += [FieldError(below("filter", n), "must be a text") for n in known if not isinstance(given.get(n, ""), str)]
    if errors:
        raise Invalid("The filter holds what can't be; `errors` names it.", errors[:100])
    return read_list_query(given)


async def _all(query: ListQuery, do: _Batch) -> ManyView:
    """Batch by batch, each a transaction of its own; what was done stays done if a later one fails."""
    changed = skipped = 0
    query = replace(query, limit=IN_A_BATCH)
    end = anyio.current_time() + LONGEST_SECONDS
    while True:
        some = await do(query)
        changed, skipped = changed + some.changed, skipped + some.skipped
        query = replace(query, before=some.behind)
        if some.behind is None or changed + skipped >= IN_A_REQUEST or anyio.current_time() >= end:
            break
    return ManyView(changed, skipped, cursor_behind(query.before) if query.before is not None else None)
