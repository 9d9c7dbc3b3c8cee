"""The way in: an email's way begins here, in `send_email`."""

from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from hes.errors import Forbidden
from hes.model import Email, EmailId
from hes.storage.records import Accepted, IdempotencyKey, NewEmail, Waiting
from hes.telemetry.telemetry import traceparent
from hes.web.auth import Principal, authorize
from hes.web.body import Submission, check_email
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.email_request import EmailRequest
from hes.web.requests import read_body, read_idempotency_key, read_query, require_json
from hes.web.shape import decode
from hes.web.views import AcceptedView, accepted_view


@post(
    "/emails",
    operation_id="sendEmail",
    summary="Send one email",
    description="Answered once the email is on disk. With an `Idempotency-Key` the same request may be made again.",
    status_code=202,
    response_description="The email is on disk",
    responses={
        201: ResponseSpec(AcceptedView, description="The draft is on disk", generate_examples=False),
        **problems(400, 401, 403, 408, 409, 413, 415, 422, 503),
    },
)
async def send_email(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> Response[AcceptedView]:
    """Accept one email: on disk first, then answered."""
    principal = await authorize(desk.authenticator, request, "emails:send")
    read_query(request.scope["query_string"])
    key = read_idempotency_key(request.headers.getall("idempotency-key", []))
    require_json(request.headers)
    with desk.hold_body(request, principal) as charge:
        raw = await read_body(request, desk.body_seconds, charge)
        submission = check_submission(desk, principal, decode(raw))
        new = new_email(desk, principal, submission, EmailId(desk.new_id()), key)
        cost = 0 if submission.is_draft else submission.recipient_count

        async def accept() -> Accepted:
            accepted = await desk.storage.accept(new)
            if accepted.id != new.email.id:  # the same request was answered before
                desk.rates.give_back(principal, cost)
            return accepted

        spending = desk.rates.spend(principal, cost)
        accepted = await desk.backlog.take_in(
            principal.reach, new.key, Waiting(1, len(raw)), spending, accept, Accepted
        )
    desk.wake()
    return Response(
        accepted_view(accepted),
        status_code=201 if submission.is_draft else 202,
        headers={"Location": f"/v1/emails/{accepted.id}"},
    )


def check_submission(desk: Desk, principal: Principal, asked: EmailRequest) -> Submission:
    """One email, checked for who hands it in. Raises: InvalidEmail, Forbidden."""
    submission = check_email(
        asked,
        provider_names=desk.provider_names,
        attempt_timeout_limit=desk.attempt_timeout_limit,
        now=desk.clock(),
        outbox_only=desk.outbox_only,
    )
    if principal.sender_domains and submission.sender.domain not in principal.sender_domains:
        raise Forbidden("This key may not send from that domain.")
    return submission


def new_email(
    desk: Desk, principal: Principal, submission: Submission, email_id: EmailId, key: str | None = None
) -> NewEmail:
    """What storage takes: the content as it will be sent, and how it is to be sent."""
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
        trace=traceparent(),
    )
    return NewEmail(
        email=email,
        on_doubt=submission.on_doubt or desk.on_doubt,
        expires_in=submission.expires_in or desk.expires_in,
        attempt_timeout=submission.attempt_timeout or 0.0,
        own_providers=submission.providers,
        reference=submission.reference,
        stream=submission.stream,
        send_at=submission.send_at,
        is_draft=submission.is_draft,
        is_test=principal.test,
        written_by=principal.key_id,
        key=IdempotencyKey(key, submission.request_hash) if key is not None else None,
    )
