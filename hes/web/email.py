"""One email: what became of it, and what people do with it."""

from functools import partial
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from hes.errors import FieldError, Forbidden, TooLarge, WrongState, WrongVersion
from hes.model import EmailId, EventType, Status
from hes.storage.records import StoredEmail, Waiting
from hes.web.auth import Principal, authorize
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.draft import Changes, edited, read_changes
from hes.web.emails import check_submission, new_email
from hes.web.held_answers import HeldAnswer, HeldAnswers
from hes.web.paging import read_cursor, read_number
from hes.web.requests import (
    read_body,
    read_email_id,
    read_if_match,
    read_nothing,
    read_parameter,
    read_query,
    read_resolve,
    read_send_request,
    read_small_body,
    refuse_wrong,
    require_json,
)
from hes.web.views import EmailState, EmailView, email_state, email_view


@get(
    "/emails/{email_id:str}",
    operation_id="getEmail",
    summary="One email with its attempts and its timeline",
    description="Oldest first. Of more than 500 attempts, or entries of the timeline, these are the newest, and "
    "`next_attempts_cursor` and `next_events_cursor` lead to the older ones. An entry with `not_kept` in its `data` "
    "says that so many of its kind that came after it are not kept.",
    middleware=[HeldAnswers()],
    response_description="The email",
    responses=problems(401, 403, 404, 422, 503),
)
async def get_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> Response[EmailView]:
    principal = await authorize(desk.authenticator, request, "emails:read")
    given = read_query(request.scope["query_string"], "include", "attempts_cursor", "events_cursor")
    errors: list[FieldError] = []
    with_content = read_parameter(given, "include", _read_include, errors) or False
    attempts_before = read_parameter(given, "attempts_cursor", read_number, errors)
    events_before = read_parameter(given, "events_cursor", read_cursor, errors)
    refuse_wrong(errors)
    read = partial(
        desk.storage.read,
        principal.reach,
        read_email_id(email_id),
        attempts_before=attempts_before,
        events_before=events_before,
    )
    stored = await read()
    if with_content:
        answer = HeldAnswer(desk, request, principal, stored.delivery.size_bytes)
        stored = await read(with_content=True)
    else:
        answer = HeldAnswer(desk, request, principal)
    return answer.of(email_view(stored, with_content=with_content), _version_of(stored))


def _read_include(text: str) -> bool:
    if text != "content":
        raise ValueError("must be `content`")
    return True


async def _answer(
    desk: Desk, principal: Principal, email_id: EmailId, status_code: int = 200
) -> Response[EmailView | EmailState]:
    """What became of it; all of it only to whom may read."""
    stored = await desk.storage.read(principal.reach, email_id)
    view = email_view(stored) if principal.allow("emails:read") else email_state(stored)
    return Response(view, status_code=status_code, headers=_version_of(stored))


def _version_of(stored: StoredEmail) -> dict[str, str]:
    """For `If-Match`."""
    return {"ETag": f'"{stored.delivery.version}"'}


_OF_A_DRAFT = {EventType.CREATED, EventType.CANCELLED}


def _check_is_own_draft(principal: Principal, stored: StoredEmail) -> None:
    """Whoever may say where another's draft goes can read it. Raises Forbidden.

    A draft that nobody knows the writer of is another's. One that was cancelled is a draft still: nobody has said that
    it is to be sent. What is none goes where its writer said.
    """
    status = stored.delivery.status
    was_sent = not all(event.type in _OF_A_DRAFT for _, event in stored.events)
    is_draft = status is Status.DRAFT or (status is Status.CANCELLED and not was_sent)
    if is_draft and stored.written_by != principal.key_id and not principal.allow("emails:read"):
        raise Forbidden("Another key wrote this draft: to edit or send it, this one lacks the scope `emails:read`.")


@post(
    "/emails/{email_id:str}/cancel",
    operation_id="cancelEmail",
    summary="Cancel an email that was not handed to a provider",
    description="Cancelling again changes nothing and is answered the same. Without the scope `emails:read` the answer "
    "is the short one.",
    status_code=200,
    response_description="The email, cancelled",
    responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503),
)
async def cancel_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> Response[EmailView | EmailState]:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    read_nothing(request.headers, await read_small_body(request, desk, principal))
    id_ = read_email_id(email_id)
    await desk.storage.cancel(principal.reach, id_)
    return await _answer(desk, principal, id_)


@post(
    "/emails/{email_id:str}/resolve",
    operation_id="resolveEmail",
    summary="Decide about an email that is held or in doubt",
    description="`sent`: it arrived. `resend`: send it again, even if it may arrive twice. `failed`: give it up. "
    "Wants the scopes `emails:send` and `emails:read`.",
    status_code=200,
    response_description="The email, as it stands after the decision",
    responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503),
)
async def resolve_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> Response[EmailView]:
    principal = await authorize(desk.authenticator, request, "emails:send", "emails:read")
    read_query(request.scope["query_string"])
    require_json(request.headers)
    decision = read_resolve(await read_small_body(request, desk, principal))
    id_ = read_email_id(email_id)
    await desk.storage.resolve(principal.reach, id_, decision, principal.key_id)
    desk.wake()
    stored = await desk.storage.read(principal.reach, id_)
    return Response(email_view(stored), headers=_version_of(stored))


@post(
    "/emails/{email_id:str}/send",
    operation_id="sendEmailAgain",
    summary="Send a draft, a scheduled email now, or once more what failed or was cancelled",
    description="With `send_at`: then, and not now. Not while a provider may have taken it already. Another key's "
    "draft wants the scope `emails:read` as well; without it the answer is the short one.",
    status_code=202,
    response_description="The email, as it stands now",
    responses=problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503),
)
async def send_again(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> Response[EmailView | EmailState]:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    send_at = read_send_request(request.headers, await read_small_body(request, desk, principal), desk.clock())
    id_ = read_email_id(email_id)
    stored = await desk.storage.read(principal.reach, id_)
    _check_is_own_draft(principal, stored)
    delivery = stored.delivery
    is_at_rest = delivery.status in {Status.FAILED, Status.CANCELLED}  # all others are counted already
    load = Waiting(1, delivery.size_bytes) if is_at_rest else Waiting()
    spending = desk.rates.spend(principal, len(stored.recipients))
    with spending, desk.backlog.room(load, principal.project, is_held=True):
        await desk.storage.send(principal.reach, id_, send_at)
    desk.wake()
    return await _answer(desk, principal, id_, 202)


@patch(
    "/emails/{email_id:str}",
    operation_id="editEmail",
    summary="Edit a draft, or give a scheduled email another time",
    description="Of a draft any field: what is not named stays, `null` takes a field away, and the whole is checked "
    "as a new email is. Of a scheduled email `send_at` and nothing else. `If-Match` with the `ETag` of an earlier "
    "answer: only if nothing changed since then. Another key's draft wants the scope `emails:read` as well; without it "
    "the answer is the short one.",
    response_description="The email, as it stands now",
    responses=problems(400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 503),
)
async def edit_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> Response[EmailView | EmailState]:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    version = read_if_match(request.headers.getall("if-match", []))
    require_json(request.headers)
    id_ = read_email_id(email_id)
    with desk.hold_body(request, principal) as charge:
        changes = read_changes(await read_body(request, desk.body_seconds, charge), desk.clock())
        while not await _is_changed(desk, request, principal, id_, changes, version):
            pass  # somebody else changed it meanwhile: theirs first, then this
    desk.wake()
    return await _answer(desk, principal, id_)


async def _is_changed(
    desk: Desk,
    request: Request[Any, Any, Any],
    principal: Principal,
    email_id: EmailId,
    changes: Changes,
    version: int | None,
) -> bool:
    """False: it is another one by now than the one that was read, and the caller does not mind which one it is."""
    stored = await desk.storage.read(principal.reach, email_id)
    _check_is_own_draft(principal, stored)
    delivery = stored.delivery
    if delivery.status is not Status.DRAFT:
        await desk.emails.reschedule(principal.reach, email_id, changes.to_what_is_scheduled(delivery.status), version)
        return True
    with desk.hold_body(request, principal, delivery.size_bytes):
        stored = await desk.storage.read(principal.reach, email_id, with_content=True)
        _check_is_own_draft(principal, stored)  # another may have written it meanwhile
        if stored.email is None:
            raise WrongState("the content of this email was erased, so it can't be edited")
        asked = edited(stored, stored.email, changes)
        submission = check_submission(desk, principal, asked)
        if len(msgspec.json.encode(asked)) > desk.max_body_bytes:
            raise TooLarge("The email would be larger than what is taken here.")
        new = new_email(desk, principal, submission, email_id)
        grows = Waiting(0, max(0, len(msgspec.json.encode(new.email)) - stored.delivery.size_bytes))
        try:
            with desk.backlog.room(grows, principal.project):
                await desk.emails.edit(principal.reach, new, stored.delivery.version if version is None else version)
        except WrongVersion:
            if version is not None:
                raise
            return False
    return True


@delete(
    "/emails/{email_id:str}",
    operation_id="eraseEmail",
    summary="Erase content and addresses",
    description="What became of it stays. Erasing again changes nothing. Not while it may still be sent. Wants the "
    "scopes `emails:send` and `emails:read`.",
    status_code=204,
    response_description="Erased",
    responses=problems(401, 403, 404, 409, 422, 503),
)
async def erase_email(email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> None:
    principal = await authorize(desk.authenticator, request, "emails:send", "emails:read")
    read_query(request.scope["query_string"])
    id_ = read_email_id(email_id)
    await desk.emails.erase(principal.reach, id_)
    await desk.forget(id_)
