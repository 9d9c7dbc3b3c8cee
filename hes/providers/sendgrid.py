"""SendGrid, Web API v3: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send (read 2026-11-24).

One personalization per email. There is no idempotency key; our ids travel as custom args, which come back flattened
into the fields of each event, and in the logs (`hes.providers.sendgrid_hook`, `sendgrid_records`). Not settled by the
documentation, so `in_doubt`: any 2xx but 202 (200 is the sandbox's answer, and we never ask for the sandbox), 3xx, 408,
5xx, and a 400 or 503 that is not in SendGrid's own error shape (somebody in between may have made it, and then it says
nothing about the email, or nothing at all).
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
from msgspec import Struct

from hes.errors import ConfigError
from hes.headers import header_text, may_be_decoded, quoted
from hes.model import Address, Answer, Attachment, AttemptId, Clock, Email, Millis, Outcome, Scope
from hes.provider_settings import ProviderSettings
from hes.providers import sendgrid_records
from hes.providers.finding import Doubt, Finding, Found
from hes.providers.provider import Support
from hes.providers.rendering import labels, rendered, variables
from hes.providers.transport import NoReply, Reply, Transport, clean_id, retry_after, seconds_until, shorten

MAX_RECIPIENTS = 1000
MAX_REQUEST_BYTES = 30 * 1024 * 1024
MAX_CUSTOM_ARGS_BYTES = 10_000
MAX_CATEGORIES = 10
MAX_CATEGORY_CHARS = 255  # and "Categories can not contain non-ASCII characters."

_BASE_URL = "https://api.sendgrid.com"
_PATH = "/v3/mail/send"
_OWN_HEADERS = frozenset({"x-sg-id", "x-sg-eid"})
"""What SendGrid forbids besides the headers that HES refuses from everybody."""

_HIDES = re.compile(
    r"(hes|sg|tag|marketing_campaign)_.*|email|timestamp|event|category|reason|status|response|attempt|type|tls"
    r"|cert_err|useragent|ip|url|url_offset|smtp-id|asm_group_id|send_at|pool|newsletter|bounce_classification",
    re.IGNORECASE | re.DOTALL,
)
"""Custom args come back among an event's own fields: keys that would hide one of those, or one of our ids."""

_NO_TRACKING = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
    "ganalytics": {"enable": False},  # it rewrites links too
}


class SendGrid:
    """One SendGrid account. EU subusers need the base URL `https://api.eu.sendgrid.com`."""

    kind = "sendgrid"
    support = Support(
        max_recipients=MAX_RECIPIENTS,
        max_request_bytes=MAX_REQUEST_BYTES,
        tags=f"custom args, and up to {MAX_CATEGORIES} categories `key:value`",
        own_message_id=True,
        finds_out="events; its logs, by recipient and time, then custom args",
    )
    render_version = 2
    look_up_seconds = sendgrid_records.KEPT_SECONDS

    def __init__(
        self,
        *,
        name: str,
        api_key: Callable[[], str],
        clock: Clock,
        base_url: str = _BASE_URL,
        max_in_flight: int = 64,
        connect_timeout_seconds: float = 2.0,
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._clock = clock
        self._transport = Transport(
            base_url, max_in_flight=max_in_flight, connect_timeout_seconds=connect_timeout_seconds
        )

    @classmethod
    def of(cls, settings: ProviderSettings, clock: Clock) -> Self:
        if settings.api_key is None:
            raise ConfigError(f"provider {settings.name}: api_key is missing. Example: api_key = env:SENDGRID_KEY")
        return cls(
            name=settings.name,
            api_key=settings.api_key.reveal,
            clock=clock,
            base_url=settings.base_url or _BASE_URL,
            max_in_flight=settings.max_in_flight,
            connect_timeout_seconds=settings.connect_timeout,
        )

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        body = rendered(build_body, email, attempt_id)
        if isinstance(body, Answer):
            return body
        key = self._api_key()  # for each call: it may stand in a file that changes
        if not _can_stand_in_a_header(key):
            return Answer(outcome=Outcome.REFUSED, detail="the API key can't stand in a header")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        reply = await self._transport.post(_PATH, body, headers, timeout_seconds)
        if isinstance(reply, NoReply):
            return Answer(outcome=reply.outcome, detail=reply.detail)
        return read_answer(reply, self._clock(), secrets=(key,))

    async def look_up(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        key = self._api_key()
        if not _can_stand_in_a_header(key):
            return Finding(found=Found.UNAVAILABLE, detail="the API key can't stand in a header")
        return await sendgrid_records.look_up(self._transport, key, doubt, self._clock(), timeout_seconds)

    async def aclose(self) -> None:
        await self._transport.aclose()


def _can_stand_in_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable()


def build_body(email: Email, attempt_id: AttemptId) -> bytes | Answer:
    """The request's bytes, the same for the same email and attempt; or the `declined` that says what can't be said."""
    to, cc, bcc = _once_each(email.to, email.cc, email.bcc)
    custom_args = msgspec.json.encode(variables(email, attempt_id, _HIDES))
    if problem := _problem(email, len(to), len(to) + len(cc) + len(bcc), len(custom_args)):
        return Answer(outcome=Outcome.DECLINED, detail=problem)
    # The args stand inside the personalization: the official schema types the top-level ones as a string.
    personalization: dict[str, Any] = {"to": to, "cc": cc, "bcc": bcc, "custom_args": msgspec.Raw(custom_args)}
    fields: dict[str, Any] = {
        "personalizations": [{key: value for key, value in personalization.items() if value}],
        "from": _mailbox(email.sender),
        "reply_to_list": [_mailbox(address) for address in email.reply_to],
        "subject": email.subject,
        "content": _content(email),
        "headers": {key: header_text(value) for key, value in email.headers.items()} | {"Message-ID": email.message_id},
        "attachments": [_attachment(file) for file in email.attachments],
        "categories": labels(email.tags, most=MAX_CATEGORIES, most_chars=MAX_CATEGORY_CHARS),
        "tracking_settings": _NO_TRACKING,
    }
    body = msgspec.json.encode({key: value for key, value in fields.items() if value})
    if len(body) > MAX_REQUEST_BYTES:
        return Answer(outcome=Outcome.DECLINED, detail="the request is larger than 30 MB")
    return body


def _problem(email: Email, to_count: int, recipient_count: int, args_bytes: int) -> str:
    """What SendGrid would answer 400 to though another provider may take it; "" if nothing."""
    if not to_count:
        return "SendGrid needs a recipient in `to`"
    if recipient_count > MAX_RECIPIENTS:
        return "more than 1,000 recipients"
    if args_bytes > MAX_CUSTOM_ARGS_BYTES:
        return "the tags make more than 10,000 bytes of custom args"
    if not email.subject:
        return "SendGrid needs a subject"
    for name in email.headers:
        if name.lower() in _OWN_HEADERS:
            return f"SendGrid does not let senders set the header {name}"
    for number, file in enumerate(email.attachments, 1):
        if not file.content:
            return f"attachment {number} is empty"
        if ";" in file.content_type:  # "The type cannot contain ';', or CRLF characters."
            return f"SendGrid takes no parameters in a content type (attachment {number})"
    return ""


def _once_each(*groups: Iterable[Address]) -> list[list[dict[str, str]]]:
    """Each address only where it stands first: the same one twice in a personalization is a 400."""
    seen: set[str] = set()
    kept: list[list[dict[str, str]]] = []
    for group in groups:
        kept.append([])
        for address in group:
            folded = address.email.lower()
            if folded not in seen:
                seen.add(folded)
                kept[-1].append(_recipient(address))
    return kept


def _mailbox(address: Address) -> dict[str, str]:
    return {"email": address.email, "name": address.name} if address.name else {"email": address.email}


def _recipient(address: Address) -> dict[str, str]:
    """As a mailbox, but a name with a comma or a semicolon is quoted, and one that may be decoded.

    Unquoted, SendGrid accepts the request, takes what stands before the comma for the address, and drops the email
    (sendgrid-python issues 291 and 578; its own library quotes so too). `from` and `reply_to_list` are not affected.
    """
    name = address.name or ""
    if "," in name or ";" in name or may_be_decoded(name):
        return {"email": address.email, "name": quoted(name)}
    return _mailbox(address)


def _content(email: Email) -> list[dict[str, str]]:
    """Text before HTML, and no empty value: both are a 400 otherwise."""
    parts = (("text/plain", email.text), ("text/html", email.html))
    return [{"type": kind, "value": value} for kind, value in parts if value]


def _attachment(file: Attachment) -> dict[str, Any]:
    built = {"content": file.content, "filename": file.filename, "disposition": "attachment"}  # msgspec writes base64
    if file.content_type:
        built["type"] = file.content_type
    if file.content_id:
        built |= {"disposition": "inline", "content_id": file.content_id}
    return built


class _Error(Struct):
    message: str
    field: Any = None  # the path of a field, or null, or "null"


class _Errors(Struct):
    errors: list[_Error]


_decode_errors = msgspec.json.Decoder(_Errors).decode


def read_answer(reply: Reply, now: Millis, secrets: Iterable[str] = ()) -> Answer:
    """What SendGrid said, in our words."""
    errors = _errors_in(reply.body)
    said = " ".join(error.message for error in errors)
    about_sender = any(str(error.field).partition(".")[0] == "from" for error in errors)
    wait: float | None = None
    scope, quota = Scope.PROVIDER, False
    match reply.status:
        case 202:
            message_id = clean_id(reply.headers.get("X-Message-Id"))
            note = "" if message_id else "accepted, but without a usable X-Message-Id"
            return Answer(outcome=Outcome.ACCEPTED, status_code=202, provider_message_id=message_id, detail=note)
        case 400 if errors:
            outcome = Outcome.REJECTED
        case 401 if "maximum credits exceeded" in said.lower():  # {"errors":[{"message":"Maximum credits exceeded"}]}
            outcome, quota, wait = Outcome.REFUSED, True, _wait(reply, now)
        # "The from address does not match a verified Sender Identity. Mail cannot be sent until this is resolved."
        case 403 if about_sender or "verified sender identity" in said.lower():
            outcome, scope = Outcome.REFUSED, Scope.SENDER_DOMAIN
        # Whoever answers these, SendGrid or something in between, did not take the email.
        case 401 | 403 | 404 | 405 | 406 | 451:
            outcome = Outcome.REFUSED
        case 413:
            outcome = Outcome.DECLINED
        case 429:
            outcome, wait = Outcome.THROTTLED, _wait(reply, now)
        case 503 if errors:
            outcome = Outcome.UNAVAILABLE
        case _:
            outcome = Outcome.IN_DOUBT
    return Answer(
        outcome=outcome,
        status_code=reply.status,
        retry_after_seconds=wait,
        scope=scope,
        quota=quota,
        detail=f"{reply.status}: {shorten(said, secrets) or 'no error in the form that SendGrid uses'}",
    )


def _errors_in(body: bytes) -> list[_Error]:
    """`{"errors":[{"message":"...","field":null,"help":null}],"id":"..."}`; empty if somebody else wrote the body."""
    try:
        return _decode_errors(body).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _wait(reply: Reply, now: Millis) -> float | None:
    """The longer one, where both are given: Retry-After is not documented, X-RateLimit-Reset is (Unix time)."""
    waits = (
        seconds_until(reply.headers.get("X-RateLimit-Reset"), now),
        retry_after(reply.headers.get("Retry-After"), now),
    )
    return max((wait for wait in waits if wait is not None), default=None)
