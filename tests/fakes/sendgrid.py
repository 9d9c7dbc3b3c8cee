"""A fake SendGrid: POST /v3/mail/send with the vendor's own rules and words. `python -m tests.fakes.sendgrid --help`.

The words of errors are SendGrid's where its error page gives them, shortened. Its order is kept: credentials, then
the sender's identity last, after the content was found valid. What was taken is found in its logs
(`tests.fakes.sendgrid_logs`).
"""

import base64
import binascii
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from tests.fakes.faults import Copy, FakeServer, Said, Seen, arguments, now, serve
from tests.fakes.sendgrid_logs import SendGridLogs

KEY = "SG.test-key"
PATH = "/v3/mail/send"
FORBIDDEN_HEADERS = frozenset({
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding",
    "to", "from", "subject", "reply-to", "cc", "bcc",
})  # fmt: skip
EXAMPLE = 'e.g. {"email": "example@example.com"}'

Problem = tuple[str, str | None]


class SendGridRules:
    """What SendGrid checks. `verified_domains` None: every sender is verified."""

    def __init__(
        self,
        keys: Iterable[str] = (KEY,),
        *,
        keys_without_scope: Iterable[str] = (),
        verified_domains: Iterable[str] | None = None,
        gives_message_id: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = set(keys)
        self.logs = SendGridLogs(clock)
        self.keys_without_scope = set(keys_without_scope)
        self.verified_domains = None if verified_domains is None else set(verified_domains)
        self.gives_message_id = gives_message_id
        self.out_of_credits = False
        self._numbers = itertools.count(1)

    def error(self, status: int, message: str | None = None, field: str | None = None) -> Said:
        return _errors(status, [(message or f"fake error {status}", field)])

    def judge(self, seen: Seen) -> tuple[Said, Copy | None]:
        refusal = self._refusal(seen)
        if refusal is not None:
            return refusal, None
        if seen.path.startswith("/v3/logs"):
            return self.logs.answer(seen), None
        mail: dict[str, Any] = msgspec.json.decode(seen.body)
        message_id = f"fake-{next(self._numbers)}"
        headers = {"X-Message-Id": message_id} if self.gives_message_id else {}
        if mail.get("mail_settings", {}).get("sandbox_mode", {}).get("enable") is True:
            return Said(200, headers=headers), None
        copy = _copy(mail)
        self.logs.add(message_id, copy)
        return Said(202, headers=headers), copy

    def _refusal(self, seen: Seen) -> Said | None:
        key = seen.headers.get("Authorization", "").removeprefix("Bearer ")
        if key in self.keys_without_scope:
            return self.error(403, "access forbidden")
        if key not in self.keys:
            return self.error(401, "The provided authorization grant is invalid, expired, or revoked")
        if seen.path.startswith("/v3/logs"):
            return None
        if self.out_of_credits:
            return self.error(401, "Maximum credits exceeded")
        if seen.path != PATH:
            return self.error(404, "not found")
        if seen.method != "POST":
            return self.error(405, "method not allowed")
        if seen.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self.error(415, "Content-Type should be application/json.")
        if len(seen.body) > 30 * 1024 * 1024:
            return self.error(413, "content too large")
        try:
            mail = msgspec.json.decode(seen.body)
            problems = list(_problems(mail))
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError):
            return self.error(400, "Bad Request")
        if problems:
            return _errors(400, problems)
        domain = mail["from"]["email"].rpartition("@")[2].lower()
        if self.verified_domains is not None and domain not in self.verified_domains:
            return self.error(403, "The from address does not match a verified Sender Identity.", "from")
        return None


def fake_sendgrid(
    rules: SendGridRules | None = None, *, rng: random.Random | None = None, latency_seconds: float = 0.0
) -> FakeServer:
    return FakeServer(rules or SendGridRules(), rng=rng, latency_seconds=latency_seconds)


def _errors(status: int, problems: Iterable[Problem]) -> Said:
    errors = [{"message": message, "field": field, "help": None} for message, field in problems]
    return Said(status, msgspec.json.encode({"errors": errors}), {"Content-Type": "application/json"})


def _recipients(personalization: dict[str, Any]) -> list[str]:
    groups = (personalization.get(group, []) for group in ("to", "cc", "bcc"))
    return [recipient["email"] for group in groups for recipient in group]


def _copy(mail: dict[str, Any]) -> Copy:
    first = mail["personalizations"][0]
    args = first.get("custom_args", {})
    return Copy(
        hes_id=args.get("hes_id", ""),
        hes_attempt=args.get("hes_attempt", ""),
        at=now(),
        envelope=tuple(_recipients(first)),
        content=mail,
    )


def _problems(mail: dict[str, Any]) -> Iterator[Problem]:
    if "@" not in mail.get("from", {}).get("email", ""):
        yield f"The from object must be provided for every email send. {EXAMPLE}", "from.email"
    personalizations = mail.get("personalizations", [])
    if not personalizations:
        yield "You must have at least one personalization.", "personalizations"
    for number, personalization in enumerate(personalizations):
        yield from _personalization_problems(personalization, f"personalizations.{number}")
    if sum(len(_recipients(personalization)) for personalization in personalizations) > 1000:
        yield "There is a limit of 1000 total recipients (to + cc + bcc) per request.", "personalizations"
    if not mail.get("subject"):
        yield "The subject is required.", "subject"
    if "reply_to" in mail and "reply_to_list" in mail:
        yield "Only one of reply_to and reply_to_list may be given.", "reply_to"
    yield from _content_problems(mail.get("content", []))
    for number, attachment in enumerate(mail.get("attachments", [])):
        yield from _attachment_problems(attachment, f"attachments.{number}")
    for name, value in mail.get("headers", {}).items():
        if name.lower() in FORBIDDEN_HEADERS:
            yield "Header can not be one of the reserved keys.", "headers"
        if not isinstance(value, str):
            yield "The header values must be strings.", "headers"
    yield from _category_problems(mail.get("categories", []))
    if not isinstance(mail.get("mail_settings", {}).get("sandbox_mode", {}).get("enable", False), bool):
        yield "The sandbox mode enable param should be a boolean value.", "mail_settings.sandbox_mode.enable"


def _personalization_problems(personalization: dict[str, Any], field: str) -> Iterator[Problem]:
    if not personalization.get("to"):
        yield "The to array is required for all personalization objects.", f"{field}.to"
    addresses = _recipients(personalization)
    if not all("@" in address for address in addresses):
        yield "Does not contain a valid address.", f"{field}.to"
    for address, times in Counter(address.lower() for address in addresses).items():
        if times > 1:
            yield f"Each email address should be unique between to, cc, and bcc. First found: [{address}]", field
    args = personalization.get("custom_args", {})
    if not all(isinstance(value, str) for value in args.values()):
        yield "Bad Request", None  # that is all SendGrid says of it
    if len(msgspec.json.encode(args)) > 10_000:
        yield "The custom_args may not exceed 10,000 bytes.", f"{field}.custom_args"


def _content_problems(content: list[dict[str, Any]]) -> Iterator[Problem]:
    if not content:
        yield "There must be at least one defined content block.", "content"
    order = {"text/plain": 0, "text/html": 1}
    ranks = [order.get(part["type"], 2) for part in content]
    if ranks != sorted(ranks):
        yield "text/plain needs to be first, followed by text/html, followed by any other content.", "content"
    for number, part in enumerate(content):
        if not part.get("value"):
            yield "The content value must be a string at least one character in length.", f"content.{number}.value"


def _attachment_problems(attachment: dict[str, Any], field: str) -> Iterator[Problem]:
    content = attachment.get("content")
    if not content:
        yield "The attachment content must be a string at least one character in length.", f"{field}.content"
    else:
        try:
            base64.b64decode(content, validate=True)
        except binascii.Error:
            yield "The attachment content must be base64 encoded.", f"{field}.content"
    if "filename" not in attachment:
        yield "filename is required.", f"{field}.filename"
    if ";" in attachment.get("type", ""):
        yield "The type cannot contain ';', or CRLF characters.", f"{field}.type"
    disposition = attachment.get("disposition", "attachment")
    if disposition not in {"inline", "attachment"}:
        yield f'The disposition can be either "inline" or "attachment". You provided {disposition}.', field
    if disposition == "inline" and not attachment.get("content_id"):
        yield "The content ID of your attachment must be a string.", f"{field}.content_id"


def _category_problems(categories: list[str]) -> Iterator[Problem]:
    if len(categories) > 10:
        yield f"There is a limit of 10 categories for each email. You provided {len(categories)}.", "categories"
    if len(set(categories)) < len(categories):
        yield "The categories must be a unique list.", "categories"
    for category in categories:
        if len(category) > 255:
            yield "Each category must not be longer than 255 characters.", "categories"
        if not category.isascii():
            yield "Categories can not contain non-ASCII characters.", "categories"


if __name__ == "__main__":
    parser = arguments("A fake SendGrid on loopback.")
    parser.add_argument("--keys", nargs="*", default=[KEY])
    parser.add_argument("--verified-domains", nargs="*")
    given = parser.parse_args()
    serve(SendGridRules(given.keys, verified_domains=given.verified_domains), given)
