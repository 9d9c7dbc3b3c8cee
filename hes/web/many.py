"""Emails in numbers: the list, and many handed in by one request."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from msgspec import UNSET, Struct, UnsetType

from hes.errors import FieldError, Forbidden, Invalid
from hes.model import EmailId, Reason, Status
from hes.storage.records import BatchItem, IdempotencyKey, ListQuery, NewEmail, Waiting
from hes.web.addresses import as_stored
from hes.web.auth import Principal, authorize
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.emails import check_submission, new_email
from hes.web.held_answers import HeldAnswer, HeldAnswers
from hes.web.paging import PARAMETERS, USUAL_IN_PAGE, cursor_behind, read_cursor, read_limit
from hes.web.problems import Problem, problem_of
from hes.web.requests import read_body, read_idempotency_key, read_parameter, read_query, refuse_wrong, require_json
from hes.web.shape import Errors, decode, unreadable
from hes.web.times import read_time
from hes.web.views import EmailSummary, Time, accepted_view, email_summary

MOST_IN_BATCH = 1000
LONGEST_TURN_SECONDS = 0.01
"""Of checking, before others get theirs; one email may take a bit longer."""

_TEXTS = ("to", "from", "tag", "reference", "provider")
FILTERS = ("status", "reason", *_TEXTS, "created_after", "created_before", *PARAMETERS)


class EmailPage(Struct, frozen=True):
    """Some emails, newest first; `next_cursor` leads to the older ones, null: there are none.

    Of a filter that fits few among very many a page may hold fewer than `limit`, or none, and there may be more.
    """

    data: list[EmailSummary]
    next_cursor: str | None


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 1,000 emails. Good ones are accepted though others are bad."""

    emails: list[msgspec.Raw]


class BatchItemView(Struct, frozen=True, omit_defaults=True):
    """What became of one of them: as the answer to a single send, or the problem with it."""

    id: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    created_at: Time | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchView(Struct, frozen=True):
    """One result for each email, in their order."""

    data: list[BatchItemView]


@get(
    "/emails",
    operation_id="listEmails",
    summary="Emails, newest first",
    middleware=[HeldAnswers()],
    response_description="A page of emails",
    responses=problems(401, 403, 422, 503),
)
async def list_emails(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> Response[EmailPage]:
    principal = await authorize(desk.authenticator, request, "emails:read")
    page = await desk.emails.list(principal.reach, read_list_query(read_query(request.scope["query_string"], *FILTERS)))
    next_cursor = cursor_behind(page.behind) if page.behind is not None else None
    view = EmailPage([email_summary(one) for one in page.emails], next_cursor)
    return HeldAnswer(desk, request, principal).of(view)


def read_list_query(given: dict[str, str]) -> ListQuery:
    """Raises Invalid, naming each parameter that is wrong."""
    errors: list[FieldError] = []

    def read(name: str, reader: Callable[[str], Any]) -> Any:
        return read_parameter(given, name, reader, errors)

    query = ListQuery(
        status=read("status", _one_of(Status)),
        reason=read("reason", _one_of(Reason)),
        to=read("to", as_stored),
        sender=read("from", as_stored),
        tag=given.get("tag"),
        reference=given.get("reference"),
        provider=given.get("provider"),
        created_after=read("created_after", read_time),
        created_before=read("created_before", read_time),
        limit=read("limit", read_limit) or USUAL_IN_PAGE,
        before=read("cursor", read_cursor),
    )
    errors += [FieldError(name, "must not be empty or hold NUL") for name in _TEXTS if _is_bad(given.get(name))]
    refuse_wrong(errors)
    return query


def _is_bad(text: str | None) -> bool:
    return text is not None and (not text or "\x00" in text)


def _one_of(words: type[Status | Reason]) -> Callable[[str], Status | Reason]:
    def read(text: str) -> Status | Reason:
        if text not in list(words):
            raise ValueError(f"must be one of {', '.join(words)}")
        return words(text)

    return read


@post(
    "/emails/batch",
    operation_id="sendBatch",
    summary="Send up to 1,000 emails by one request",
    description="One transaction for all that are good; one result for each, in order. If none is good: 422.",
    status_code=202,
    response_description="The results",
    responses=problems(400, 401, 403, 408, 409, 413, 415, 422, 503),
)
async def send_batch(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> Response[BatchView]:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    key = read_idempotency_key(request.headers.getall("idempotency-key", []))
    require_json(request.headers)
    with desk.hold_body(request, principal) as charge:
        raw = await read_body(request, desk.body_seconds, charge)
        items = await _read_items(desk, principal, _read_batch(raw))
        if not any(isinstance(item, NewEmail) for item in items):
            raise Invalid("None of these emails can be taken; `errors` names the fields.", _all_errors(items))
        of_key = IdempotencyKey(key, hashlib.sha256(raw).digest()) if key is not None else None
        load = Waiting(sum(isinstance(item, NewEmail) for item in items), len(raw))
        cost = sum(_recipients_to_send(item) for item in items)
        handed_in = {item.email.id for item in items if isinstance(item, NewEmail)}

        async def accept() -> list[BatchItem]:
            results = await desk.emails.accept_batch(principal.reach, items, of_key)
            if not {one.accepted.id for one in results if one.accepted} <= handed_in:  # answered before
                desk.rates.give_back(principal, cost)
            return results

        results = await desk.backlog.take_in(
            principal.reach,
            of_key,
            load,
            desk.rates.spend(principal, cost),
            accept,
            list[BatchItem],
        )
    desk.wake()
    return Response(BatchView([_item_view(result) for result in results]), status_code=202)


def _read_batch(raw: bytes) -> list[msgspec.Raw]:
    """Raises: Unreadable, Invalid."""
    try:
        emails = msgspec.json.decode(raw, type=BatchRequest).emails
    except msgspec.ValidationError as error:
        message = 'must be {"emails": [...]}'
        raise Invalid(f"The body {message}.", [FieldError("", message)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(raw, error) from None
    if not 1 <= len(emails) <= MOST_IN_BATCH:
        message = f"must hold 1 to {MOST_IN_BATCH:,} emails"
        raise Invalid(f"`emails` {message}.", [FieldError("emails", message)])
    return emails


async def _read_items(desk: Desk, principal: Principal, emails: list[msgspec.Raw]) -> list[NewEmail | BatchItem]:
    """Others get their turn in between: a million recipients take seconds."""
    items = []
    resumed_at = time.monotonic()
    for one in emails:
        items.append(_item(desk, principal, one))
        if time.monotonic() - resumed_at > LONGEST_TURN_SECONDS:
            await anyio.lowlevel.checkpoint()
            resumed_at = time.monotonic()
    return items


def _item(desk: Desk, principal: Principal, raw: msgspec.Raw) -> NewEmail | BatchItem:
    try:
        submission = check_submission(desk, principal, decode(bytes(raw)))
    except (Invalid, Forbidden) as error:
        return BatchItem(problem=msgspec.to_builtins(problem_of(error)))
    return new_email(desk, principal, submission, EmailId(desk.new_id()))


def _recipients_to_send(item: NewEmail | BatchItem) -> int:
    """How many get it without another word of the caller's: of a draft nobody does."""
    if isinstance(item, BatchItem) or item.is_draft:
        return 0
    return len(item.email.to) + len(item.email.cc) + len(item.email.bcc)


def _all_errors(items: list[NewEmail | BatchItem]) -> list[FieldError]:
    """As in `emails[2].to`; the first ones."""
    found = Errors()
    for n, item in enumerate(items):
        problem = item.problem if isinstance(item, BatchItem) else None
        for error in (problem or {}).get("errors") or [{"path": "", "message": (problem or {}).get("detail", "")}]:
            path = f"emails[{n}].{error['path']}" if error["path"] else f"emails[{n}]"
            found.add(path, error["message"])
        if found.are_enough:
            break
    return found


def _item_view(item: BatchItem) -> BatchItemView:
    if item.accepted is None:
        return BatchItemView(problem=msgspec.convert(item.problem, Problem))
    view = accepted_view(item.accepted)
    return BatchItemView(view.id, view.status, view.created_at)
