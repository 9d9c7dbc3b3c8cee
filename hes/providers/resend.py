"""Resend: https://resend.com/docs/api-reference/emails/send-email (read 2026-11-24).

It has an idempotency key, remembered for 24 hours: the attempt's id goes with every send, so an attempt in doubt can
be asked again without a second email (`replay`). Not settled by the documentation, so `in_doubt`: any 2xx but 200, a
200 without an `id`, 3xx, 408, both kinds of 409, 5xx, and a 400, 422, 451 or 503 that is not in Resend's own error
shape (see `hes.providers.sendgrid`).

Our ids travel as tags, which recipients don't see. Tags of the caller's whose letters Resend's tags can't hold travel
together in the header X-HES-Tags, which recipients can read; events bring both back.

Known weaknesses: opens and clicks are tracked or not by a setting of the domain, which no request can change. The
Message-ID is replaced on the way out (resend-node issue 133). Why not its batch call (100 emails in one): it takes no
attachments and has one idempotency key for all of them, while here each attempt is asked for, and settled, alone.
"""

import json
import mimetypes
import re
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
from msgspec import Struct

from hes.errors import ConfigError
from hes.headers import encoded_words, header_text
from hes.model import Address, Answer, Attachment, AttemptId, Clock, Email, Millis, Outcome, Scope
from hes.provider_settings import ProviderSettings
from hes.providers.finding import Doubt, Finding, Found
from hes.providers.provider import Support
from hes.providers.rendering import rendered, variables
from hes.providers.transport import NoReply, Reply, Transport, clean_id, retry_after, shorten

MAX_RECIPIENTS = 50  # "Max 50" stands at `to`; what is behind it, SES, takes 50 in all
MAX_REQUEST_BYTES = 40 * 1024 * 1024
MAX_CONTENT_ID_CHARS = 127
MAX_TAGS_HEADER_CHARS = 900  # a line of an email ends at 998 (RFC 5322, section 2.1.1)
REPLAY_SECONDS = 20 * 3600  # of the documented 24 hours
TAGS_HEADER = "X-HES-Tags"

_BASE_URL = "https://api.resend.com"
_PATH = "/emails"
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_HIDES = re.compile(r"(hes|tag)_.*", re.IGNORECASE | re.DOTALL)
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]|=\?')  # RFC 5322, section 3.2.3; RFC 2047, section 2
_TYPES = mimetypes.MimeTypes(filenames=())  # Python's own table: the machine's would differ from host to host


class Resend:
    """One Resend team."""

    kind = "resend"
    support = Support(
        max_recipients=MAX_RECIPIENTS,
        max_request_bytes=MAX_REQUEST_BYTES,
        tags="tags; in a header what they can't hold",
        own_message_id=False,
        finds_out="asked again under its key for 20 h; events",
    )
    render_version = 2
    replay_seconds = REPLAY_SECONDS

    def __init__(self, *, name: str, api_key: Callable[[], str], transport: Transport, clock: Clock) -> None:
        self.name = name
        self._api_key = api_key
        self._transport = transport
        self._clock = clock

    @classmethod
    def of(cls, settings: ProviderSettings, clock: Clock) -> Self:
        if settings.api_key is None:
            raise ConfigError(f"provider {settings.name}: api_key is missing. Example: api_key = env:RESEND_KEY")
        transport = Transport(
            settings.base_url or _BASE_URL,
            max_in_flight=settings.max_in_flight,
            connect_timeout_seconds=settings.connect_timeout,
        )
        return cls(name=settings.name, api_key=settings.api_key.reveal, transport=transport, clock=clock)

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        body = rendered(build_body, email, attempt_id)
        if isinstance(body, Answer):
            return body
        key = self._api_key()  # for each call: it may stand in a file that changes
        if not key.isascii() or not key.isprintable():
            return Answer(outcome=Outcome.REFUSED, detail="the API key can't stand in a header")
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Idempotency-Key": attempt_id,
        }
        reply = await self._transport.post(_PATH, body, headers, timeout_seconds)
        if isinstance(reply, NoReply):
            return Answer(outcome=reply.outcome, detail=reply.detail)
        return read_answer(reply, self._clock(), secrets=(key,))

    async def replay(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        """As `Replays` says; provided that the API key is still one of the same team, which remembers the key."""
        if problem := doubt.cannot_replay(self.render_version, REPLAY_SECONDS, self._clock(), timeout_seconds):
            return Finding(found=Found.UNAVAILABLE, detail=problem)
        answer = await self.send(doubt.email, doubt.attempt_id, timeout_seconds)
        return Finding(
            found=Found.ACCEPTED if answer.outcome is Outcome.ACCEPTED else Found.UNAVAILABLE,
            provider_message_id=answer.provider_message_id,
            ask_again_seconds=answer.retry_after_seconds,
            detail=answer.detail,
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


def build_body(email: Email, attempt_id: AttemptId) -> bytes | Answer:
    """The request's bytes, the same for the same email and attempt; or the `declined` that says what can't be said."""
    tags, others = _tags(email, attempt_id)
    if problem := _problem(email, others):
        return Answer(outcome=Outcome.DECLINED, detail=problem)
    headers = {name: header_text(value) for name, value in email.headers.items()} | {"Message-ID": email.message_id}
    if others:
        headers[TAGS_HEADER] = others
    fields: dict[str, Any] = {
        "from": _sender(email.sender),
        "to": [_recipient(address) for address in email.to],
        "cc": [_recipient(address) for address in email.cc],
        "bcc": [_recipient(address) for address in email.bcc],
        "reply_to": [_recipient(address) for address in email.reply_to],
        "subject": email.subject,
        "html": email.html,
        "headers": headers,
        "attachments": [_attachment(file) for file in email.attachments],
        "tags": [{"name": name, "value": value} for name, value in tags.items()],
    }
    # An empty text is said, not left out: Resend would make one from the HTML.
    body = msgspec.json.encode({key: value for key, value in fields.items() if value} | {"text": email.text or ""})
    if len(body) > MAX_REQUEST_BYTES:
        return Answer(outcome=Outcome.DECLINED, detail="the request is larger than 40 MB")
    return body


def _tags(email: Email, attempt_id: AttemptId) -> tuple[dict[str, str], str]:
    """What can be tags, and what can't: a header's value in ASCII, "" if there is nothing.

    JSON with "=" escaped where it might begin an encoded word.
    """
    tags = variables(email, attempt_id, _HIDES)
    others = {key: tags.pop(key) for key in list(tags) if not (_TAG.fullmatch(key) and _TAG.fullmatch(tags[key]))}
    return tags, json.dumps(others).replace("=?", r"\u003d?") if others else ""


def _problem(email: Email, tags_header: str) -> str:
    """What Resend would refuse or spoil though another provider may take it; "" if nothing."""
    everybody = (*email.to, *email.cc, *email.bcc)
    if not email.to:
        return "Resend needs a recipient in `to`"
    if len(everybody) > MAX_RECIPIENTS:
        return "more than 50 recipients"
    if not email.subject:
        return "Resend needs a subject"
    if not all(address.email.isascii() for address in (email.sender, *everybody, *email.reply_to)):
        return "Resend takes no address beyond ASCII"
    if _SPECIALS.search((email.sender.name or "").replace(".", "")):
        return "Resend takes no punctuation like commas, quotes and brackets in the sender's name"
    if len(tags_header) > MAX_TAGS_HEADER_CHARS:
        return "the tags that Resend's own tags can't hold make more than 900 characters"
    if tags_header and TAGS_HEADER.lower() in (name.lower() for name in email.headers):
        return f"the header {TAGS_HEADER} is needed for the tags"
    for number, file in enumerate(email.attachments, 1):
        if not file.content:
            return f"attachment {number} is empty"
        if not file.filename:
            return f"attachment {number} has no file name"
        if len(file.content_id or "") > MAX_CONTENT_ID_CHARS:
            return f"the content id of attachment {number} has more than {MAX_CONTENT_ID_CHARS} characters"
        if _is_misnamed(file):
            return f"the name of attachment {number} does not end as its content type does; Resend would drop the email"
    return ""


def _sender(address: Address) -> str:
    """Neither quoted nor encoded: Resend refuses both in `from` (django-anymail, backends/resend.py)."""
    return f"{address.name} <{address.email}>" if address.name else address.email


def _recipient(address: Address) -> str:
    """An encoded word where RFC 5322 wants quotes, which Resend refuses (the same source)."""
    name = address.name
    if name and (_SPECIALS.search(name) or not name.isascii()):
        name = " ".join(encoded_words(name))
    return f"{name} <{address.email}>" if name else address.email


def _is_misnamed(file: Attachment) -> bool:
    """Resend accepts such an email and silently drops it (django-anymail's page on Resend).

    Which pairs it means is not documented: here, a type whose endings are known, and the ending of another type.
    `text/xml` and `application/xml` are the same.
    """
    given = file.content_type.lower()
    by_name, packed = _TYPES.guess_type(f"x/{file.filename}")
    if _says_nothing(file) or by_name is None or packed or not _TYPES.guess_all_extensions(given):
        return False
    return by_name.partition("/")[2] != given.partition("/")[2]


def _says_nothing(file: Attachment) -> bool:
    return file.content_type.lower() in ("", "application/octet-stream")


def _attachment(file: Attachment) -> dict[str, Any]:
    built: dict[str, Any] = {"filename": file.filename, "content": file.content}  # msgspec writes base64
    if not _says_nothing(file):  # Resend takes it from the name then
        built["content_type"] = file.content_type
    if file.content_id:
        built["content_id"] = file.content_id
    return built


class _Said(Struct):
    """What Resend's answers are made of: `{"id":"..."}`, or `{"statusCode":422,"name":"...","message":"..."}`."""

    id: Any = msgspec.UNSET
    name: str = ""
    message: str = ""


_decode = msgspec.json.Decoder(_Said).decode

_ABOUT_EMAIL = frozenset({"validation_error", "missing_required_field", "invalid_parameter"})
_QUOTA = frozenset({"daily_quota_exceeded", "monthly_quota_exceeded"})


def read_answer(reply: Reply, now: Millis, secrets: Iterable[str] = ()) -> Answer:
    """What Resend said, in our words."""
    own = _own(reply.body)
    wait: float | None = None
    scope, quota = Scope.PROVIDER, False
    match reply.status:
        case 200 if own.id is not msgspec.UNSET:
            message_id = clean_id(own.id) if isinstance(own.id, str) else None
            note = "" if message_id else "accepted, but without a usable id"
            return Answer(outcome=Outcome.ACCEPTED, status_code=200, provider_message_id=message_id, detail=note)
        case 400 | 422 if own.name in _ABOUT_EMAIL:
            outcome = Outcome.REJECTED
        # Not taken, but not by the email's fault, or not surely: `invalid_from_address` is also said of names that
        # others take, `invalid_attachment` of files, and `invalid_idempotency_key` would be our own mistake.
        case 400 | 422 if own.name:
            outcome = Outcome.DECLINED
        # "The example.com domain is not verified", "You can only send testing emails to your own email address"
        case 403 if own.name == "validation_error":
            outcome, scope = Outcome.REFUSED, Scope.SENDER_DOMAIN
        # Whoever answers these, Resend or something in between, did not take the email.
        case 401 | 403 | 404 | 405:
            outcome = Outcome.REFUSED
        case 413:
            outcome = Outcome.DECLINED
        case 429 if own.name in _QUOTA:
            outcome, quota, wait = Outcome.REFUSED, True, _wait(reply, now)
        case 429:
            outcome, wait = Outcome.THROTTLED, _wait(reply, now)
        case 451 if own.name == "security_error":
            outcome = Outcome.DECLINED
        case 503 if own.name:
            outcome = Outcome.UNAVAILABLE
        # A 409 proves that there was a request with this key before (invalid_idempotent_request), or is one right now
        # (concurrent_idempotent_requests), and not that it was accepted.
        case _:
            outcome = Outcome.IN_DOUBT
    said = ": ".join(word for word in (own.name, own.message) if word)
    return Answer(
        outcome=outcome,
        status_code=reply.status,
        retry_after_seconds=wait,
        scope=scope,
        quota=quota,
        detail=f"{reply.status}: {shorten(said, secrets) or 'no answer in the form that Resend uses'}",
    )


def _own(body: bytes) -> _Said:
    """Empty if somebody else wrote the body."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()


def _wait(reply: Reply, now: Millis) -> float | None:
    """The longer one, where both are given; both are seconds."""
    waits = (retry_after(reply.headers.get(name), now) for name in ("Retry-After", "ratelimit-reset"))
    return max((wait for wait in waits if wait is not None), default=None)
