"""A fake Mailgun: POST /v3/{domain}/messages with the vendor's own rules and words. `python -m tests.fakes.mailgun`.

GET /v3/{domain}/events finds what was taken, `search_lag_seconds` later.

What Mailgun does silently is done silently here too: duplicates and files without a name are dropped, a Message-Id
that is none is replaced, letters beyond ASCII vanish from tags. Where its documentation gives no words, they are made
up, and where it settles nothing (an eleventh tag, an unknown `o:` value), the fake refuses.

Stricter than the vendor: a urlencoded form, which Mailgun takes as long as there are no files, is refused like JSON.
"""

import itertools
import random
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from email.utils import getaddresses
from typing import Any

import msgspec
import multipart  # type: ignore[import-untyped]  # comes with Litestar; framing by somebody else's reading of the RFC
from msgspec import Struct

from tests.fakes.faults import Copy, FakeServer, Said, Seen, arguments, now, serve

KEY = "test-key-mg"
DOMAIN = "mg.example.com"
PATH = f"/v3/{DOMAIN}/messages"
SANDBOX = "Sandbox subdomains are for test purposes only. Please add your own domain or add the address to authorized"
_PREFIXES = ("o:", "h:", "v:", "t:")
_SWITCHES = {"yes", "no", "true", "false"}
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+")
_PARAMETER = re.compile(r'; *(\w+)="((?:[^"\\]|\\.)*)"')


class File(Struct, frozen=True):
    """One attachment or inline image. An inline one's `name` is its Content-ID."""

    name: str
    content_type: str
    content: bytes


class Mail(Struct, frozen=True, kw_only=True):
    """An email as Mailgun understood it."""

    id: str
    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    subject: str
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] = {}
    variables: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    options: dict[str, str] = {}
    attachments: tuple[File, ...] = ()
    inline: tuple[File, ...] = ()


class Form(Struct):
    """The parts of a request, by name. Files without a name are not here any more."""

    values: dict[str, list[str]]
    files: dict[str, list[File]]

    def first(self, name: str) -> str | None:
        return self.values.get(name, [None])[0]

    def starting(self, prefix: str) -> dict[str, str]:
        """The last value of each name with this prefix, by the rest of the name."""
        return {name.removeprefix(prefix): all_[-1] for name, all_ in self.values.items() if name.startswith(prefix)}


class MailgunRules:
    """What Mailgun checks. `not_allowed`: why a domain or the account may not send; then the 403 says so."""

    def __init__(
        self,
        keys: Iterable[str] = (KEY,),
        *,
        domains: Iterable[str] = (DOMAIN,),
        gives_message_id: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = set(keys)
        self.sending_keys: set[str] = set()
        """Those of `keys` that can do nothing but send."""
        self.domains = set(domains)
        self.gives_message_id = gives_message_id
        self.not_allowed = ""
        self.limit_exceeded = False
        self.sandbox_status: int | None = None
        self.search_lag_seconds = 0.0
        self.searches_left: int | None = None
        """How many searches are answered until there are too many."""
        self.events: list[dict[str, Any]] = []
        self._clock = clock
        self._numbers = itertools.count(1)

    def error(self, status: int, message: str | None = None) -> Said:
        if status == 401 and message is None:
            return Said(401, b"Forbidden", {"Content-Type": "text/plain"})
        body = msgspec.json.encode({"message": message or f"fake error {status}"})
        return Said(status, body, {"Content-Type": "application/json"})

    def judge(self, seen: Seen) -> tuple[Said, Copy | None]:
        if re.fullmatch(r"/v3/[^/]+/events", seen.path):
            return self._search(seen), None
        refusal = self._refusal(seen)
        if refusal is not None:
            return refusal, None
        form = read_form(seen)
        if form is None:
            return self.error(400, "from parameter is missing"), None  # nothing that it could read
        for problem in _problems(form):
            return self.error(400, problem), None  # Mailgun names only the first
        if self.sandbox_status is not None:
            return self.error(self.sandbox_status, SANDBOX), None
        mail = _mail(form, seen.path.split("/")[2], next(self._numbers))
        body = {"id": mail.id, "message": "Queued. Thank you."}
        if not self.gives_message_id:
            del body["id"]
        said = Said(200, msgspec.json.encode(body), {"Content-Type": "application/json"})
        self.events += (self._accepted(mail, recipient) for recipient in _copy(mail).envelope)
        return said, None if form.first("o:testmode") == "yes" else _copy(mail)

    def _accepted(self, mail: Mail, recipient: str) -> dict[str, Any]:
        return {
            "event": "accepted",
            "id": f"event-{len(self.events)}",
            "timestamp": self._clock(),
            "recipient": recipient,
            "message": {"headers": {"message-id": mail.id.strip("<>"), "to": recipient, "subject": mail.subject}},
            "user-variables": mail.variables,
            "tags": list(mail.tags),
        }

    def _search(self, seen: Seen) -> Said:
        """Only the filters that HES uses; a range without an end must say which way it is sorted."""
        if not self._knows(seen, self.keys - self.sending_keys):
            return self.error(401)
        if seen.path.split("/")[2] not in self.domains:
            return self.error(404, "Domain not found")
        if self.searches_left == 0:
            return self.error(429, "Too many requests")
        if self.searches_left is not None:
            self.searches_left -= 1
        limit = int(seen.query.get("limit", "100"))
        if seen.query.get("ascending") != "yes" or not seen.query.keys() <= {
            "message-id",
            "begin",
            "ascending",
            "limit",
        }:
            return self.error(400, "the fake knows no such search")
        if limit > 300:
            return self.error(400, "limit must not be greater than 300")
        found = [
            event
            for event in sorted(self.events, key=lambda event: float(event["timestamp"]))
            if event["message"]["headers"]["message-id"] == seen.query.get("message-id")
            and event["timestamp"] >= float(seen.query.get("begin", "0"))
            and event["timestamp"] + self.search_lag_seconds <= self._clock()
        ]
        body = {"items": found[:limit], "paging": {"next": "https://api.mailgun.net/next"}}
        return Said(200, msgspec.json.encode(body), {"Content-Type": "application/json"})

    @staticmethod
    def _knows(seen: Seen, keys: Iterable[str]) -> bool:
        given = seen.headers.get("Authorization", "")
        return given in {"Basic " + b64encode(f"api:{key}".encode()).decode() for key in keys}

    def _refusal(self, seen: Seen) -> Said | None:
        """What is decided before the form is looked at."""
        if not self._knows(seen, self.keys):
            return self.error(401)
        match = re.fullmatch(r"/v3/([^/]+)/messages", seen.path)
        if match is None:
            return self.error(404, "404 page not found")
        if seen.method != "POST":
            return self.error(405, "method not allowed")
        if match[1] not in self.domains:
            return self.error(404, f"Domain not found: {match[1]}")
        if self.not_allowed:
            return self.error(403, f"Domain {match[1]} is not allowed to send: {self.not_allowed}")
        if self.limit_exceeded:
            text = "account-requests-per-sec limit exceeded, try again after 120 seconds"
            return self.error(429, f"Domain {match[1]} is not allowed to send: {text}")
        if len(seen.body) > 25 * 1024 * 1024:
            return self.error(413, "Request body is too large")
        return None


def fake_mailgun(
    rules: MailgunRules | None = None, *, rng: random.Random | None = None, latency_seconds: float = 0.0
) -> FakeServer:
    return FakeServer(rules or MailgunRules(), rng=rng, latency_seconds=latency_seconds)


def read_form(seen: Seen) -> Form | None:
    """None if it is no `multipart/form-data`."""
    kind, options = multipart.parse_options_header(seen.headers.get("Content-Type", ""))
    if kind != "multipart/form-data" or "boundary" not in options:
        return None
    form = Form({}, {})
    try:
        for head, content in _parts(seen.body, options["boundary"]):
            parameters = {key: re.sub(r"\\(.)", r"\1", value) for key, value in _PARAMETER.findall(head[0])}
            name = parameters["name"]
            if name not in {"attachment", "inline"}:
                form.values.setdefault(name, []).append(content.decode())
            elif parameters.get("filename"):
                form.files.setdefault(name, []).append(File(parameters["filename"], head[1], content))
    except (multipart.MultipartError, UnicodeDecodeError, KeyError):
        return None
    return form


def _parts(body: bytes, boundary: str) -> Iterator[tuple[tuple[str, str], bytes]]:
    """Content-Disposition and Content-Type of each part, and its content."""
    head, content = ("", ""), bytearray()
    with multipart.PushMultipartParser(boundary, strict=True, max_segment_count=10_000) as parser:
        for event in parser.parse(body):
            if event is None:
                yield head, bytes(content)
            elif isinstance(event, (bytes, bytearray)):
                content += event
            else:
                head = (event.header("Content-Disposition", ""), event.header("Content-Type", ""))
                content = bytearray()


def _problems(form: Form) -> Iterator[str]:
    for name in ("from", "to", "subject"):
        if not form.first(name) and not form.first("template"):
            yield f"{name} parameter is missing"
    for name in ("from", "to", "cc", "bcc"):
        addresses = [address for _, address in getaddresses(form.values.get(name, []))]
        if not all(_ADDRESS.fullmatch(address) for address in addresses):
            yield f"{name} parameter is not a valid address. please check documentation"
    if not any(form.first(name) for name in ("text", "html", "amp-html", "template")):
        yield "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified"
    if form.first("html") and form.first("template"):
        yield "Only one parameters 'html' or 'template' is allowed."
    if len(_envelope(form)) > 1000:
        yield "too many recipients"
    options = [(name, value) for name, all_ in form.values.items() for value in all_ if name[:2] in _PREFIXES]
    if sum(len(name.encode()) + len(value.encode()) for name, value in options) > 16 * 1024:
        yield "Send options (parameters starting with o:, h:, v:, or t:) are limited to 16KB total"
    for name, value in options:
        if name.startswith("h:") and not name.isascii():
            yield f"header name {name[2:]} must be ASCII"
        if name in {"o:tracking", "o:tracking-clicks"} and value not in _SWITCHES | {"htmlonly"}:
            yield f"{name} parameter is not valid"
        if name in {"o:tracking-opens", "o:dkim", "o:require-tls"} and value not in _SWITCHES:
            yield f"{name} parameter is not valid"
    if len(form.values.get("o:tag", [])) > 10:
        yield "at most 10 tags are allowed"


def _envelope(form: Form) -> tuple[str, ...]:
    """Each recipient once."""
    found = getaddresses([value for name in ("to", "cc", "bcc") for value in form.values.get(name, [])])
    return tuple({address.lower(): address for _, address in reversed(found)}.values())[::-1]


def _mail(form: Form, domain: str, number: int) -> Mail:
    headers = form.starting("h:")
    own_id = next((headers.pop(name) for name in list(headers) if name.lower() == "message-id"), "")
    tags = (re.sub(r"[^\x00-\x7f]", "", tag) for tag in form.values.get("o:tag", []))
    return Mail(
        id=own_id if re.fullmatch(r"<[^@\s<>]+@[^@\s<>]+>", own_id) else f"<fake-{number}@{domain}>",
        sender=form.first("from") or "",
        to=tuple(form.values.get("to", [])),
        cc=tuple(form.values.get("cc", [])),
        bcc=tuple(form.values.get("bcc", [])),
        subject=form.first("subject") or "",
        text=form.first("text"),
        html=form.first("html"),
        headers=headers,
        variables=form.starting("v:"),
        tags=tuple(tag for tag in tags if tag),
        options={name: value for name, value in form.starting("o:").items() if name != "tag"},
        attachments=tuple(form.files.get("attachment", [])),
        inline=tuple(form.files.get("inline", [])),
    )


def _copy(mail: Mail) -> Copy:
    everybody = Form({"to": list(mail.to), "cc": list(mail.cc), "bcc": list(mail.bcc)}, {})
    return Copy(
        hes_id=mail.variables.get("hes_id", ""),
        hes_attempt=mail.variables.get("hes_attempt", ""),
        at=now(),
        envelope=_envelope(everybody),
        content=mail,
    )


if __name__ == "__main__":
    parser = arguments("A fake Mailgun on loopback.")
    parser.add_argument("--keys", nargs="*", default=[KEY])
    parser.add_argument("--domains", nargs="*", default=[DOMAIN])
    given = parser.parse_args()
    serve(MailgunRules(given.keys, domains=given.domains), given)
