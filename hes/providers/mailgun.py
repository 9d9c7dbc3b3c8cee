"""Mailgun, v3: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages (read 2026-11-24).

There is no idempotency key; the `h:Message-Id` is ours, so its events can be searched by it, and our ids travel as
variables, which come back with each event (`hes.providers.mailgun_records`, `mailgun_hook`). Not settled by the
documentation, so `in_doubt`: any 2xx but 200, a 200 that says neither an id nor "Queued", 3xx, 408, 5xx, and a 400 or
503 that is not in Mailgun's own error shape (see `hes.providers.sendgrid`).

Known weaknesses: recipients can read the variables, in the header X-Mailgun-Variables. An inline image loses its file
name, because Mailgun makes the Content-ID from it. Some mail readers show quotes around a name that has both letters
beyond ASCII and parentheses or the like (django-anymail issue 270).
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
from msgspec import Struct

from hes.errors import ConfigError
from hes.headers import header_text
from hes.model import Answer, Attachment, AttemptId, Clock, Email, Millis, Outcome, Scope
from hes.provider_settings import ProviderSettings
from hes.providers import mailgun_records
from hes.providers.finding import Doubt, Finding, Found
from hes.providers.multipart import Part, multipart
from hes.providers.provider import Support, mailbox
from hes.providers.rendering import labels, rendered, variables
from hes.providers.transport import NoReply, Reply, Transport, clean_id, retry_after, shorten

MAX_RECIPIENTS = 1000
MAX_REQUEST_BYTES = 25 * 1024 * 1024
MAX_OPTIONS_BYTES = 16 * 1024
MAX_TAGS = 10  # "Maximum of 10 tags per individual email message"; an older page says 3
MAX_TAG_CHARS = 128

_BASE_URLS = {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}
_OPTIONS = ("o:", "h:", "v:", "t:")
_HIDES = re.compile(r"(hes|tag)_.*", re.IGNORECASE | re.DOTALL)


class Mailgun:
    """One sending domain of one Mailgun account. In the other region than its own, a domain is not found."""

    kind = "mailgun"
    support = Support(
        max_recipients=MAX_RECIPIENTS,
        max_request_bytes=MAX_REQUEST_BYTES,
        tags=f"variables, and up to {MAX_TAGS} tags `key:value`",
        own_message_id=True,
        finds_out="events; its records, by Message-ID and variables",
    )
    render_version = 2
    look_up_seconds = mailgun_records.KEPT_SECONDS

    def __init__(
        self, *, name: str, api_key: Callable[[], str], domain: str, transport: Transport, clock: Clock
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._path = f"/v3/{domain}"
        self._transport = transport
        self._clock = clock

    @classmethod
    def of(cls, settings: ProviderSettings, clock: Clock) -> Self:
        where = f"provider {settings.name}"
        if settings.api_key is None:
            raise ConfigError(f"{where}: api_key is missing. Example: api_key = env:MAILGUN_KEY")
        if settings.domain is None:
            raise ConfigError(f"{where}: domain is missing. Example: domain = mg.example.com")
        region = settings.region or "us"
        if region not in _BASE_URLS:
            raise ConfigError(f"{where}: region must be us or eu. Example: region = eu")
        transport = Transport(
            settings.base_url or _BASE_URLS[region],
            max_in_flight=settings.max_in_flight,
            connect_timeout_seconds=settings.connect_timeout,
        )
        key = settings.api_key.reveal
        return cls(name=settings.name, api_key=key, domain=settings.domain, transport=transport, clock=clock)

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        body = rendered(build_body, email, attempt_id)
        if isinstance(body, Answer):
            return body
        authorization, secrets = self._credentials()
        headers = {"Authorization": authorization, "Content-Type": body[0]}
        reply = await self._transport.post(f"{self._path}/messages", body[1], headers, timeout_seconds)
        if isinstance(reply, NoReply):
            return Answer(outcome=reply.outcome, detail=reply.detail)
        return read_answer(reply, self._clock(), secrets)

    async def look_up(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        authorization, secrets = self._credentials()
        path = f"{self._path}/events?{mailgun_records.query_for(doubt)}"
        reply = await self._transport.get(path, {"Authorization": authorization}, timeout_seconds)
        if isinstance(reply, NoReply):
            return Finding(found=Found.UNAVAILABLE, detail=reply.detail)
        return mailgun_records.read_finding(reply, doubt, self._clock(), secrets)

    def _credentials(self) -> tuple[str, tuple[str, ...]]:
        """The header, and what of it must not be quoted. For each call: the key may stand in a file that changes."""
        key = self._api_key()
        basic = b64encode(f"api:{key}".encode()).decode()
        return f"Basic {basic}", (key, basic)

    async def aclose(self) -> None:
        await self._transport.aclose()


def build_body(email: Email, attempt_id: AttemptId) -> tuple[str, bytes] | Answer:
    """Content-Type and bytes, the same for the same email and attempt; or the `declined` that says what can't be."""
    values = _values(email, attempt_id)
    options_bytes = sum(len(part.name.encode()) + len(part.content) for part in values if part.name[:2] in _OPTIONS)
    if problem := _problem(email, options_bytes):
        return Answer(outcome=Outcome.DECLINED, detail=problem)
    # The prefix, since the attempt's id itself is one of the values.
    content_type, body = multipart([*values, *_files(email)], f"hes-{attempt_id}")
    if len(body) > MAX_REQUEST_BYTES:
        return Answer(outcome=Outcome.DECLINED, detail="the request is larger than 25 MB")
    return content_type, body


def _problem(email: Email, options_bytes: int) -> str:
    """What Mailgun would refuse or spoil though another provider may take it; "" if nothing."""
    if not email.to:
        return "Mailgun needs a recipient in `to`"
    if len(email.to) + len(email.cc) + len(email.bcc) > MAX_RECIPIENTS:
        return "more than 1,000 recipients"
    if not email.subject:
        return "Mailgun needs a subject"
    # It makes invalid headers of such addresses; others still get the email, but this From is often not deliverable
    # (django-anymail's documentation, "Non-ASCII mailboxes"), and nobody could answer to this Reply-To.
    if not all(address.email.isascii() for address in (email.sender, *email.reply_to)):
        return "Mailgun takes no address beyond ASCII in `from` and `reply_to`"
    for name in email.headers:
        if not name.isascii():
            return f"Mailgun takes header names in ASCII only, not {name}"
        if name.lower().startswith("x-mailgun-"):  # X-Mailgun-Drop-Message, X-Mailgun-Variables, ...
            return f"Mailgun takes the header {name} for an order to itself"
    for number, file in enumerate(email.attachments, 1):
        if not file.filename:
            return f"attachment {number} has no file name, without which Mailgun drops it"
        if _is_inline(email, file) and re.search(r"[/\\]", file.content_id or ""):
            return f"the content id of attachment {number} must serve as a file name, so without slashes"
    if options_bytes > MAX_OPTIONS_BYTES:
        return "headers and tags make more than 16 KB of options"
    return ""


def _values(email: Email, attempt_id: AttemptId) -> list[Part]:
    """All but the files. Mailgun takes a repeated name for a list, and drops duplicate recipients by itself."""
    pairs = [
        ("from", mailbox(email.sender)),
        *(("to", mailbox(address)) for address in email.to),
        *(("cc", mailbox(address)) for address in email.cc),
        *(("bcc", mailbox(address)) for address in email.bcc),
        ("subject", email.subject),
        ("text", email.text),
        ("html", email.html),
        ("h:Message-Id", email.message_id),
        ("h:Reply-To", ", ".join(mailbox(address) for address in email.reply_to)),
        *((f"v:{key}", value) for key, value in variables(email, attempt_id, _HIDES).items()),
        *(("o:tag", label) for label in labels(email.tags, most=MAX_TAGS, most_chars=MAX_TAG_CHARS)),
        ("o:tracking", "no"),
        ("o:tracking-clicks", "no"),
        ("o:tracking-opens", "no"),
    ]
    headers = ((f"h:{name}", header_text(value)) for name, value in email.headers.items())
    return [Part(name, value.encode()) for name, value in (*pairs, *headers) if value]


def _files(email: Email) -> list[Part]:
    return [
        Part("inline", file.content, file.content_id, file.content_type)
        if _is_inline(email, file)
        else Part("attachment", file.content, file.filename, file.content_type)
        for file in email.attachments
    ]


def _is_inline(email: Email, file: Attachment) -> bool:
    """Without HTML to show it in, an image is better off as a file that keeps its name."""
    return bool(file.content_id and email.html)


class _Said(Struct):
    message: str = ""
    id: Any = None


_decode = msgspec.json.Decoder(_Said).decode

# What Mailgun says of requests that break its own limits, though nothing is wrong with the email.
_LIMIT = re.compile(r"too many recipients|limited to 16|too large")
_ABOUT_EMAIL = re.compile(r"parameter is missing|not a valid address|need at least one of|header name")
_DOMAIN = re.compile(r"unverified|not verified|domain not found")
# "... limit exceeded, try again after 120 seconds", or "... after Mon, 25 Aug 2025 07:00:31 UTC". Looked for in so many
# characters at the end: over a long text it would take the square of its length.
_AGAIN_CHARS = 200
_AGAIN = re.compile(r"try again after (.+?)(?: seconds?)?\.?\s*$", re.IGNORECASE)


def read_answer(reply: Reply, now: Millis, secrets: Iterable[str] = ()) -> Answer:
    """What Mailgun said, in our words. Its errors have no codes, only text, and the same text at several statuses."""
    own = _own(reply.body)
    said = own.message or _bare_text(reply.body)
    text = said.lower()
    wait: float | None = None
    scope = Scope.PROVIDER
    match reply.status:
        case 200 if own.message.startswith("Queued") or (own.id and isinstance(own.id, str)):
            message_id = clean_id(own.id) if isinstance(own.id, str) else None
            note = "" if message_id else "accepted, but without a usable id"
            return Answer(outcome=Outcome.ACCEPTED, status_code=200, provider_message_id=message_id, detail=note)
        case 400 if "sandbox subdomains" in text:  # a 403 at other times
            outcome = Outcome.REFUSED
        case 400 if _LIMIT.search(text):
            outcome = Outcome.DECLINED
        case 400 if own.message or _ABOUT_EMAIL.search(text):
            outcome = Outcome.REJECTED
        # In a 403: "Domain ... is not allowed to send: The domain is unverified and requires DNS configuration."
        case 403 | 404 if _DOMAIN.search(text):
            outcome, scope = Outcome.REFUSED, Scope.SENDER_DOMAIN
        # Whoever answers these, Mailgun or something in between, did not take the email. A 401 is the bare "Forbidden".
        case 401 | 402 | 403 | 404:
            outcome = Outcome.REFUSED
        case 413:
            outcome = Outcome.DECLINED
        # A 403's words again: "Domain ... is not allowed to send: recipient limit exceeded, ..." The 420 is not
        # documented (mailgun-java issue 50, Ghost issue 15725).
        case 420 | 429 if reply.status == 429 or "limit exceeded" in text:
            outcome, wait = Outcome.THROTTLED, _wait(said, reply, now)
        case 503 if own.message:
            outcome = Outcome.UNAVAILABLE
        case _:
            outcome = Outcome.IN_DOUBT
    detail = f"{reply.status}: {shorten(said, secrets) or 'no answer in the form that Mailgun uses'}"
    return Answer(outcome=outcome, status_code=reply.status, retry_after_seconds=wait, scope=scope, detail=detail)


def _own(body: bytes) -> _Said:
    """`{"message":"...","id":"..."}`; empty if somebody else wrote the body."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()


def _bare_text(body: bytes) -> str:
    """An error without JSON, which Mailgun has too; "" for HTML, JSON of another shape and bytes."""
    try:
        text = body.decode().strip().strip('"')
    except UnicodeDecodeError:
        return ""
    return "" if text.startswith(("<", "{", "[")) else text


def _wait(said: str, reply: Reply, now: Millis) -> float | None:
    """The longer one, where both are given: the text says seconds or a date, Retry-After is not documented."""
    again = _AGAIN.search(said[-_AGAIN_CHARS:])
    waits = (retry_after(again and again[1], now), retry_after(reply.headers.get("Retry-After"), now))
    return max((wait for wait in waits if wait is not None), default=None)
