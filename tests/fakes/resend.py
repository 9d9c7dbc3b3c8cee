"""A fake Resend: POST /emails with the vendor's own rules and words. `python -m tests.fakes.resend --help`.

Idempotency is by the book: within 24 hours the same key and body get the first answer, and nothing is sent again; the
same key with another body is a 409, and so is a key whose first request is not done yet. Only an accepted request uses
up its key (that is not documented, but seen). What Resend does silently is done silently: an email with an attachment
whose name and type disagree is accepted and never goes out (`dropped`); the Message-ID is replaced.
"""

import base64
import binascii
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import getaddresses
from typing import Any

import msgspec
from msgspec import Struct

from tests.fakes.faults import Copy, FakeServer, Said, Seen, arguments, now, serve

KEY = "re_test-key"
PATH = "/emails"
KEPT_SECONDS = 24 * 3600
OTHER_BODY = "This idempotency key was used within the last 24 hours, with another request body."
IN_FLIGHT = "There is another request in progress with the same idempotency key."

_WORD = re.compile(r"[A-Za-z0-9_-]{1,256}")
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+")
_DISAGREE = {(".txt", "text/csv"), (".csv", "text/plain"), (".txt", "application/pdf")}
"""Some of the pairs that get an email dropped; which ones there are is not documented."""

Problem = tuple[int, str, str]


class _Remembered(Struct, frozen=True):
    """What a key was used for."""

    at: float
    body: bytes
    said: Said


class ResendRules:
    """What Resend checks. `verified_domains` None: every sender's domain is verified."""

    def __init__(
        self,
        keys: Iterable[str] = (KEY,),
        *,
        verified_domains: Iterable[str] | None = None,
        gives_message_id: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = set(keys)
        self.verified_domains = None if verified_domains is None else set(verified_domains)
        self.gives_message_id = gives_message_id
        self.clock = clock
        self.requests_per_second: int | None = None
        self.out_of: str | None = None
        """`daily_quota` or `monthly_quota`, once it is used up."""
        self.takes_seconds = 0.0
        """For how long after its arrival a request counts as in progress."""
        self.dropped: list[Copy] = []
        self._numbers = itertools.count(1)
        self._remembered: dict[str, _Remembered] = {}
        self._second = (0, 0)

    def error(self, status: int, message: str | None = None, name: str | None = None) -> Said:
        usual = {401: "missing_api_key", 403: "invalid_api_key", 404: "not_found", 405: "method_not_allowed"}
        usual |= {429: "rate_limit_exceeded", 451: "security_error", 500: "internal_server_error"}
        body = {
            "statusCode": status,
            "name": name or usual.get(status, "validation_error" if status < 500 else "application_error"),
            "message": message or f"fake error {status}",
        }
        return Said(status, msgspec.json.encode(body), {"Content-Type": "application/json"})

    def judge(self, seen: Seen) -> tuple[Said, Copy | None]:
        refusal = self._refusal(seen)
        if refusal is not None:
            return refusal, None
        key = seen.headers.get("Idempotency-Key")
        first = self._remembered.get(key or "")
        if first is not None and self.clock() - first.at < KEPT_SECONDS:
            return self._again(first, seen.body), None
        mail = _read(seen.body)
        if isinstance(mail, tuple):
            status, name, message = mail
            return self.error(status, message, name), None
        domain = getaddresses([mail["from"]])[0][1].rpartition("@")[2].lower()
        if self.verified_domains is not None and domain not in self.verified_domains:
            return self.error(403, f"The {domain} domain is not verified.", "validation_error"), None
        number = next(self._numbers)
        said = Said(
            200,
            msgspec.json.encode({"id": f"fake-{number}" if self.gives_message_id else None}),
            {"Content-Type": "application/json"},
        )
        if key is not None:
            self._remembered[key] = _Remembered(self.clock(), seen.body, said)
        copy = _copy(mail, f"<fake-{number}@email.resend.example>")
        if any(_disagrees(file) for file in mail.get("attachments", [])):
            self.dropped.append(copy)
            return said, None
        return said, copy

    def _again(self, first: _Remembered, body: bytes) -> Said:
        if self.clock() - first.at < self.takes_seconds:
            return self.error(409, IN_FLIGHT, "concurrent_idempotent_requests")
        if body != first.body:
            return self.error(409, OTHER_BODY, "invalid_idempotent_request")
        return first.said

    def _refusal(self, seen: Seen) -> Said | None:
        """What is decided before the body is looked at."""
        given = seen.headers.get("Authorization", "")
        if not given:
            return self.error(401, "Missing API Key", "missing_api_key")
        if given not in {f"Bearer {key}" for key in self.keys}:
            return self.error(403, "API key is invalid", "invalid_api_key")
        if self._is_too_fast():
            said = self.error(429, "Too many requests. Please wait a second.", "rate_limit_exceeded")
            limits = {"ratelimit-limit": str(self.requests_per_second), "ratelimit-remaining": "0"}
            return Said(429, said.body, said.headers | limits | {"ratelimit-reset": "1", "retry-after": "1"})
        if seen.path != PATH:
            return self.error(404, "The requested endpoint does not exist.", "not_found")
        if seen.method != "POST":
            return self.error(405, "This endpoint does not support this method.", "method_not_allowed")
        if self.out_of is not None:
            return self.error(429, f"You have reached your {self.out_of}.", f"{self.out_of}_exceeded")
        if len(seen.body) > 40 * 1024 * 1024:
            return self.error(413, "The email is too large.")
        if not 1 <= len(seen.headers.get("Idempotency-Key", "-")) <= 256:
            return self.error(400, "The key must be between 1-256 chars.", "invalid_idempotency_key")
        return None

    def _is_too_fast(self) -> bool:
        second, count = int(self.clock()), 1
        if self._second[0] == second:
            count = self._second[1] + 1
        self._second = (second, count)
        return self.requests_per_second is not None and count > self.requests_per_second


def fake_resend(
    rules: ResendRules | None = None, *, rng: random.Random | None = None, latency_seconds: float = 0.0
) -> FakeServer:
    return FakeServer(rules or ResendRules(), rng=rng, latency_seconds=latency_seconds)


def _read(body: bytes) -> dict[str, Any] | Problem:
    """Resend names only the first problem."""
    try:
        mail: dict[str, Any] = msgspec.json.decode(body)
        return next(_problems(mail), mail)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError, KeyError):
        return 422, "validation_error", "The request body is not what was expected."


def _many(value: Any) -> list[str]:
    """Address fields are one text or several."""
    return [value] if isinstance(value, str) else list(value or [])


def _copy(mail: dict[str, Any], message_id: str) -> Copy:
    tags = {tag["name"]: tag["value"] for tag in mail.get("tags", [])}
    everybody = [address for name in ("to", "cc", "bcc") for address in _many(mail.get(name))]
    headers = {name: value for name, value in mail.get("headers", {}).items() if name.lower() != "message-id"}
    return Copy(
        hes_id=tags.get("hes_id", ""),
        hes_attempt=tags.get("hes_attempt", ""),
        at=now(),
        envelope=tuple(address for _, address in getaddresses(everybody)),
        content=mail | {"headers": headers | {"Message-ID": message_id}},
    )


def _disagrees(file: dict[str, Any]) -> bool:
    return any(file["filename"].endswith(ending) and file.get("content_type") == kind for ending, kind in _DISAGREE)


def _problems(mail: dict[str, Any]) -> Iterator[Problem]:
    for name in ("from", "to", "subject"):
        if not mail.get(name):
            yield 422, "missing_required_field", f"Missing `{name}` field."
    if not (mail.get("html") or mail.get("text")):
        yield 422, "missing_required_field", "Missing `html` or `text` field."
    sender = mail["from"]
    if sender.startswith("=?"):
        yield 451, "security_error", "The email payload contain invalid characters."
    if not _is_mailbox(sender):
        yield 422, "invalid_from_address", "Invalid `from` field."
    for name in ("to", "cc", "bcc", "reply_to"):
        addresses = _many(mail.get(name))
        if not all(_is_mailbox(address) for address in addresses):
            yield 422, "validation_error", f"Invalid `{name}` field. The email address needs to follow the format."
        if len(addresses) > 50:
            yield 422, "validation_error", f"The `{name}` field must not have more than 50 items."
    for tag in mail.get("tags", []):
        if not (_WORD.fullmatch(tag["name"]) and _WORD.fullmatch(tag["value"])):
            yield 422, "validation_error", "Tags should only contain ASCII letters, numbers, underscores, or dashes."
    for name, value in mail.get("headers", {}).items():
        if not (isinstance(value, str) and name.isascii() and value.isascii()):
            yield 422, "validation_error", f"Invalid header {name}."
    for file in mail.get("attachments", []):
        yield from _attachment_problems(file)


def _is_mailbox(text: str) -> bool:
    """`Name <address>` or an address; a name in quotes is refused, which RFC 5322 would want for a comma."""
    name, bracket, rest = text.rpartition("<")
    address = rest.removesuffix(">") if bracket else text
    if (bracket and not rest.endswith(">")) or re.search(r'[()<>\[\]:;@\\,"]', name):
        return False
    return address.isascii() and bool(_ADDRESS.fullmatch(address))


def _attachment_problems(file: dict[str, Any]) -> Iterator[Problem]:
    if not file.get("filename"):
        yield 422, "invalid_attachment", "Attachments must have a filename."
    if not file.get("content") and not file.get("path"):
        yield 422, "invalid_attachment", "Attachments must have either a `content` or `path`."
    try:
        base64.b64decode(file.get("content", ""), validate=True)
    except binascii.Error:
        yield 422, "invalid_attachment", "The content of an attachment must be base64."
    if len(file.get("content_id", "")) > 127:
        yield 422, "invalid_attachment", "The content_id must be less than 128 characters."


if __name__ == "__main__":
    parser = arguments("A fake Resend on loopback.")
    parser.add_argument("--keys", nargs="*", default=[KEY])
    parser.add_argument("--verified-domains", nargs="*")
    parser.add_argument("--requests-per-second", type=int)
    given = parser.parse_args()
    rules = ResendRules(given.keys, verified_domains=given.verified_domains)
    rules.requests_per_second = given.requests_per_second
    serve(rules, given)
