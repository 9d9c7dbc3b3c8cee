"""Emails: the way in, and what became of them. An email's way begins here, in `send_email`."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from hes.errors import FieldError, Forbidden, Invalid
from hes.model import Email, EmailId
from hes.storage.records import IdempotencyKey, NewEmail
from hes.web.auth import Principal, authorize
from hes.web.body import Submission, read_email
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.requests import (
    body_bytes,
    read_email_id,
    read_idempotency_key,
    read_nothing,
    read_query,
    read_resolve,
    require_json,
)
from hes.web.views import AcceptedView, EmailView, accepted_view, email_view


@post(
    "/emails",
    operation_id="sendEmail",
    summary="Send one email",
    description="Answered once the email is on disk. With an `Idempotency-Key` the same request may be made again.",
    status_code=202,
    response_description="The email is on disk",
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def send_email(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> Response[AcceptedView]:
    """Accept one email: on disk first, then answered."""
    principal = await authorize(desk.authenticator, request, "emails:send")
    desk.rates.spend(principal)
    read_query(request.scope["query_string"])
    key = read_idempotency_key(request.headers.getall("idempotency-key", []))
    require_json(request.headers)
    with desk.bodies.hold(body_bytes(request.headers, desk.max_body_bytes)):
        submission = read_email(
            await request.body(),
            provider_names=desk.provider_names,
            attempt_timeout_limit=desk.attempt_timeout_limit,
            outbox_only=desk.outbox_only,
        )
        if principal.sender_domains and submission.sender.domain not in principal.sender_domains:
            raise Forbidden("This key may not send from that domain.")
        accepted = await desk.storage.accept(new_email(desk, principal, submission, key))
    desk.wake()
    return Response(accepted_view(accepted), status_code=202, headers={"Location": f"/v1/emails/{accepted.id}"})


def new_email(desk: Desk, principal: Principal, submission: Submission, key: str | None) -> NewEmail:
    """What storage takes: the content as it will be sent, and how it is to be sent."""
    email_id = EmailId(desk.new_id())
    domain = submission.sender.domain
    email = Email(
        id=email_id,
        project=principal.project,
        message_id=f"<hes-{email_id}@{domain}>",
        date=desk.clock(),
        sender=submission.sender,
        to=submission.to,
        cc=submission.cc,
        bcc=submission.bcc,
        reply_to=submission.reply_to,
        subject=submission.subject,
        text=submission.text,
        html=submission.html,
        headers=submission.headers,
        attachments=submission.attachments,
        tags=submission.tags,
    )
    return NewEmail(
        email=email,
        on_doubt=submission.on_doubt or desk.on_doubt,
        expires_in=submission.expires_in or desk.expires_in,
        attempt_timeout=submission.attempt_timeout or 0.0,
        own_providers=submission.providers,
        reference=submission.reference,
        stream=submission.stream,
        key=IdempotencyKey(key, submission.request_hash) if key is not None else None,
    )


@get(
    "/emails/{email_id:str}",
    operation_id="getEmail",
    summary="One email with its attempts and its timeline",
    response_description="The email",
    responses=problems(401, 403, 404, 422, 503),
)
async def get_email(email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> EmailView:
    principal = await authorize(desk.authenticator, request, "emails:read")
    include = read_query(request.scope["query_string"], "include").get("include")
    if include not in {None, "content"}:
        raise Invalid("`include` takes only `content`.", [FieldError("include", "must be `content`")])
    with_content = include == "content"
    stored = await desk.storage.read(principal.project, read_email_id(email_id), with_content=with_content)
    return email_view(stored, with_content=with_content)


@post(
    "/emails/{email_id:str}/cancel",
    operation_id="cancelEmail",
    summary="Cancel an email that was not handed to a provider",
    description="Cancelling again changes nothing and is answered the same.",
    status_code=200,
    response_description="The email, cancelled",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def cancel_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> EmailView:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    read_nothing(request.headers, await request.body())
    id_ = read_email_id(email_id)
    await desk.storage.cancel(principal.project, id_)
    return email_view(await desk.storage.read(principal.project, id_))


@post(
    "/emails/{email_id:str}/resolve",
    operation_id="resolveEmail",
    summary="Decide about an email that is held or in doubt",
    description="`sent`: it arrived. `resend`: send it again, even if it may arrive twice. `failed`: give it up.",
    status_code=200,
    response_description="The email, as it stands after the decision",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def resolve_email(
    email_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]
) -> EmailView:
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    require_json(request.headers)
    decision = read_resolve(await request.body())
    id_ = read_email_id(email_id)
    await desk.storage.resolve(principal.project, id_, decision, principal.key_id)
    desk.wake()
    return email_view(await desk.storage.read(principal.project, id_))
