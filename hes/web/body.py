"""One email's JSON body: decoded, checked, and turned into a `Submission`. No I/O, no Litestar.

Two steps. *Shape*: msgspec decodes into `EmailRequest` and names the first field of a wrong type (known weakness; only
unknown top-level fields are all named). *Meaning*: every field is looked at, and all that are wrong are named at once.
A body that no JSON reader could take is `Unreadable` (400), everything else about it `InvalidEmail` (422).

A message of a `FieldError` says what the field must be and never repeats its value: errors are logged, values are not.
The sender's right to its domain, quotas and suppressions are not decided here.
"""

import hashlib
import mimetypes
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import email_validator
import msgspec
from email_validator import EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from msgspec import Struct, field

from hes.errors import FieldError, InvalidEmail, Unreadable
from hes.model import Address, Attachment, OnDoubt

MAX_RECIPIENTS = 1_000
MAX_REPLY_TO = 100
MAX_HEADERS = 100
MAX_ATTACHMENTS = 100
MAX_TAGS = 20
MAX_ADDRESS = 254
"""Octets (RFC 3696, erratum 1690)."""
MAX_NAME = 255
MAX_LINE = 998
"""Characters of a subject and of a header's value (RFC 5322, section 2.1.1)."""
MAX_ERRORS = 100
"""How many wrong fields are named at once."""

NOT_BUILT = ("draft", "send_at", "template", "variables", "raw", "priority", "store_content")
"""Known fields without effect yet: any use is refused, never ignored. Building one deletes its name here."""


class Mailbox(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An address as an object; the other form is a string, `ann@example.com` or `Ann <ann@example.com>`."""

    email: str
    name: str | None = None


class AttachedFile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One attachment. `content` is base64 as in RFC 4648, section 4: padded, without line breaks."""

    filename: str
    content: bytes
    content_type: str | None = None
    """`type/subtype`; missing: guessed from the file name, else `application/octet-stream`."""
    content_id: str | None = None


Mailboxes = str | Mailbox | list[str | Mailbox]


class EmailRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The body of `POST /v1/emails`, before its meaning is checked. `null` is the same as a missing field."""

    sender: str | Mailbox | None = field(name="from", default=None)
    to: Mailboxes | None = None
    cc: Mailboxes | None = None
    bcc: Mailboxes | None = None
    reply_to: Mailboxes | None = None
    subject: str | None = None
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] | None = None
    attachments: list[AttachedFile] | None = None
    tags: dict[str, str] | None = None
    reference: str | None = None
    stream: str | None = None
    on_doubt: OnDoubt | None = None
    expires_in: int | None = None
    attempt_timeout: float | None = None
    providers: list[str] | None = None
    draft: bool | None = None
    send_at: str | None = None
    template: str | None = None
    variables: dict[str, Any] | None = None
    raw: str | None = None
    priority: Literal["high", "normal", "low"] | None = None
    store_content: bool | None = None


class Submission(Struct, frozen=True, kw_only=True):
    """An email that HES can take: all values checked and normalised."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    """Nobody is named twice over the three kinds, letter case aside."""
    reply_to: tuple[Address, ...]
    subject: str
    text: str | None
    html: str | None
    headers: dict[str, str]
    attachments: tuple[Attachment, ...]
    tags: dict[str, str]
    reference: str | None
    stream: str
    on_doubt: OnDoubt | None
    expires_in: int | None
    attempt_timeout: float | None
    providers: tuple[str, ...]
    request_hash: bytes
    """SHA-256 of what was asked for; key order, white space and how a string was escaped do not change it."""


def read_email(
    raw: bytes, *, provider_names: Collection[str], attempt_timeout_limit: float, outbox_only: bool = False
) -> Submission:
    """Decode and check the body of one email.

    `attempt_timeout_limit`: seconds, what lease and grace period leave. `outbox_only`: nothing leaves this machine, so
    `user@localhost` and names reserved for tests are fine.
    Raises: Unreadable, InvalidEmail, and nothing else whatever the bytes are.
    """
    request = _decode(raw)
    errors = _Errors()
    for name in NOT_BUILT:
        if getattr(request, name) is not None:
            errors.add(name, "is not built yet")
    sender = _read_sender(request.sender, errors, outbox_only=outbox_only)
    to, cc, bcc = _read_recipients(request, errors, outbox_only=outbox_only)
    reply_to = _read_reply_to(request.reply_to, errors, outbox_only=outbox_only)
    subject = _read_subject(request.subject, errors)
    text, html = _read_bodies(request, errors)
    headers = _read_headers(request.headers, errors) if request.headers else {}
    attachments = _read_attachments(request.attachments, errors) if request.attachments else ()
    tags = _read_tags(request.tags, errors) if request.tags else {}
    _check_labels(request, errors)
    _check_times(request, attempt_timeout_limit, errors)
    providers = _read_providers(request.providers, provider_names, errors)
    if errors or sender is None:
        raise errors.refusal()
    return Submission(
        sender=sender,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        subject=subject,
        text=text,
        html=html,
        headers=headers,
        attachments=attachments,
        tags=tags,
        reference=request.reference,
        stream="default" if request.stream is None else request.stream,
        on_doubt=request.on_doubt,
        expires_in=request.expires_in,
        attempt_timeout=request.attempt_timeout,
        providers=providers,
        request_hash=hashlib.sha256(_CANONICAL.encode(request)).digest(),
    )


def read_idempotency_key(values: Sequence[str]) -> str | None:
    """The one value of all `Idempotency-Key` header lines, 1 to 255 visible ASCII characters; None: no such header.

    Raises: Unreadable (400) if it is malformed or there are several.
    """
    if not values:
        return None
    if len(values) > 1:
        raise Unreadable("There is more than one `Idempotency-Key` header.")
    if not _VISIBLE.fullmatch(values[0]):
        raise Unreadable("`Idempotency-Key` must be 1 to 255 visible ASCII characters.")
    return values[0]


_VISIBLE = re.compile(r"[!-~]{1,255}")
# Keys of objects sorted; the fields of a struct come in their own order; what is left at its default is left out, so a
# field that a later version adds does not change the hash of requests without it.
_CANONICAL = msgspec.json.Encoder(order="deterministic")


class _Errors(list[FieldError]):
    """The wrong fields so far, at most `MAX_ERRORS`."""

    def add(self, path: str, message: str) -> None:
        if len(self) < MAX_ERRORS:
            self.append(FieldError(path, message))

    def refusal(self) -> InvalidEmail:
        first = self[0]
        rest = "" if len(self) == 1 else f" ({len(self) - 1} more in `errors`)"
        subject = f"`{first.path}`" if first.path else "The body"
        return InvalidEmail(f"{subject} {first.message}.{rest}", self)


# --- shape -----------------------------------------------------------------------------------------------------------

_DECODER = msgspec.json.Decoder(EmailRequest)
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
FIELDS = tuple(f.encode_name for f in msgspec.structs.fields(EmailRequest))
_MANY_COMMAS = 100_000
_FEW_COMMAS = 1_000


def _decode(raw: bytes) -> EmailRequest:
    try:
        if raw.count(b",") > _MANY_COMMAS:
            _refuse_long_lists(raw)
        return _DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong_shape(raw, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(raw, error) from None


class _Lists(Struct):
    """The fields that may hold many values, undecoded."""

    to: msgspec.Raw = msgspec.Raw()
    cc: msgspec.Raw = msgspec.Raw()
    bcc: msgspec.Raw = msgspec.Raw()
    reply_to: msgspec.Raw = msgspec.Raw()
    headers: msgspec.Raw = msgspec.Raw()
    attachments: msgspec.Raw = msgspec.Raw()
    tags: msgspec.Raw = msgspec.Raw()
    providers: msgspec.Raw = msgspec.Raw()
    variables: msgspec.Raw = msgspec.Raw()


def _refuse_long_lists(raw: bytes) -> None:
    """Keep 30 MB of `"a","a",…` from becoming ten times as much memory: no list that fits has so many commas."""
    lists = msgspec.json.decode(raw, type=_Lists)
    for name in _Lists.__struct_fields__:
        if bytes(getattr(lists, name)).count(b",") > _MANY_COMMAS:
            raise InvalidEmail(f"`{name}` holds far too many values.", [FieldError(name, "holds far too many values")])


def _unreadable(raw: bytes, error: Exception) -> Unreadable:
    if not raw.strip():
        return Unreadable("The body is empty; it must be a JSON object.")
    if isinstance(error, RecursionError):
        return Unreadable("The body is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return Unreadable("The body is not UTF-8.")
    return Unreadable(f"The body is not JSON: {str(error).removeprefix('JSON is malformed: ')}.")


_PLACE = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_SIMPLE_KEY = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def _wrong_shape(raw: bytes, text: str) -> Unreadable | InvalidEmail:
    """What msgspec's `Expected ..., got ... - at `$.to[2]`` means to the caller."""
    try:
        _SYNTAX.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _unreadable(raw, error)
    placed = _PLACE.fullmatch(text)
    what, path = placed.groups() if placed else (text, "")
    path = path.removesuffix("[...]")
    if what.endswith("out of range") and not what.startswith("Object"):
        return Unreadable("The body holds a number that is out of range.", [FieldError(path, "is out of range")])
    errors = _Errors()
    if missing := _MISSING.fullmatch(what):
        errors.add(_below(path, missing[1]), "is required")
    elif unknown := _UNKNOWN.fullmatch(what):
        for name in _unknown_fields(raw, unknown[1]) if not path else [unknown[1]]:
            errors.add(_below(path, name), _unknown_field(path, name))
    elif what.startswith("Invalid base64"):
        errors.add(path, "must be base64, padded and without line breaks")
    else:
        errors.add(path, f"must be {_expected(path)}")
    return errors.refusal()


def _below(path: str, key: str) -> str:
    """The path of a key; the path of its parent if the key is nothing to show."""
    return f"{path}.{key}".lstrip(".") if _SIMPLE_KEY.fullmatch(key) else path


def _unknown_fields(raw: bytes, first: str) -> list[str]:
    """All unknown fields of the top level, not only the first that msgspec names; of a body with many only that one."""
    if raw.count(b",") > _FEW_COMMAS:
        return [first]
    try:
        return [name for name in _TOP_LEVEL.decode(raw) if name not in FIELDS] or [first]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [first]


_MAILBOX = 'a string or an object {"email", "name"}'
_MAILBOXES = 'a string, an object {"email", "name"}, or a list of them'
_STRINGS = "an object of string to string"
_EXPECTED = {
    "": "a JSON object",
    "from": _MAILBOX,
    "to": _MAILBOXES,
    "cc": _MAILBOXES,
    "bcc": _MAILBOXES,
    "reply_to": _MAILBOXES,
    "headers": _STRINGS,
    "attachments": 'a list of objects {"filename", "content", "content_type", "content_id"}',
    "tags": f'{_STRINGS}, as in {{"kind": "welcome"}}',
    "on_doubt": '"resend", "hold" or "wait"',
    "expires_in": "a whole number of seconds",
    "attempt_timeout": "a number of seconds",
    "providers": "a list of provider names",
    "draft": "true or false",
    "variables": "an object",
    "priority": '"high", "normal" or "low"',
    "store_content": "true or false",
}
_ITEM = re.compile(r"(to|cc|bcc|reply_to|attachments|providers)\[\d+\]")


def _expected(path: str) -> str:
    if item := _ITEM.fullmatch(path):
        kind = item[1]
        return {"attachments": "an object", "providers": "a string"}.get(kind, _MAILBOX)
    return _EXPECTED.get(path, "a string")


def _squeezed(name: str) -> str:
    """`replyTo`, `Reply-To` and `reply_to` are one word."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spellings(table: Mapping[str, str], own: Iterable[str]) -> dict[str, str]:
    """Each foreign word to what it is called here; and our own words, however they are written."""
    words = {word: f"`{ours}`" for ours, theirs in table.items() for word in theirs.split()}
    return words | {_squeezed(name): f"`{name}`" for name in own}


_EMAIL_WORDS = _spellings(
    {
        "send_at": "scheduledat scheduled scheduledfor deliverat deliverytime odeliverytime sendafter delay",
        "reply_to": "replytolist replytoaddress replytoaddresses replytos",
        "from": "fromemail fromname fromaddress fromemailaddress sender source",
        "to": "personalizations recipients recipient toemail toaddress toaddresses destination destinations",
        "html": "htmlbody htmlcontent htmlpart bodyhtml htmltext amphtml",
        "text": "textbody textcontent textpart bodytext plaintext plain plainbody",
        "subject": "subjectline title",
        "tags": "tag metadata categories category customargs customvariables emailtags",
        "headers": "header customheaders",
        "attachments": "attachment files file inlinedattachments",
        "template": "templateid templatename templatealias templateuuid",
        "variables": "templatemodel templatedata dynamictemplatedata substitutions mergevars globalmergevars params",
        "stream": "messagestream messagestreamid",
        "expires_in": "expiresat expires expiry ttl",
        "attempt_timeout": "timeout",
        "reference": "referenceid externalid clientreference customid",
        "raw": "mime rawmessage eml",
    },
    FIELDS,
) | {
    "body": "`text` or `html`",
    "content": "`text` or `html`",
    "message": "`text` or `html`",
    "idempotencykey": "the header `Idempotency-Key`",
}
_MAILBOX_WORDS = _spellings({"email": "address mail emailaddress"}, ("email", "name"))
_FILE_WORDS = _spellings(
    {
        "content_type": "type contenttype mimetype mime",
        "filename": "name file",
        "content": "data base64content rawcontent body",
        "content_id": "cid inlineid contentid",
    },
    ("filename", "content", "content_type", "content_id"),
)


def _unknown_field(path: str, name: str) -> str:
    if not path:
        words, whole = _EMAIL_WORDS, "an email"
    elif path.startswith("attachments"):
        words, whole = _FILE_WORDS, "an attachment"
    else:
        words, whole = _MAILBOX_WORDS, "an address"
    ours = words.get(_squeezed(name))
    label = "" if _SIMPLE_KEY.fullmatch(name) else "has a field that "
    return f"{label}is not a field of {whole}" + (f"; HES calls it {ours}" if ours else "")


# --- addresses -------------------------------------------------------------------------------------------------------

# What could end a line somewhere on the way: CR and LF, everything else that `str.splitlines` splits at, NUL, and the
# other control characters except the tab.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_NO_CONTROL = "must not hold line breaks or control characters"
_PLAIN_ADDRESS = re.compile(r"([\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*)@([A-Za-z0-9.-]+)", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PHRASE = re.compile(r'[^"<>@,;:()\[\]\\]*')
_ROLES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)
_MAX_LOCAL = 64
_MAX_ADDRESS_TEXT = MAX_ADDRESS + 2 * MAX_NAME + 8


_RESERVED = frozenset(email_validator.SPECIAL_USE_DOMAIN_NAMES)
_STAND_IN = ".example.com"


class AddressError(ValueError):
    """Says what is wrong, as the end of a sentence that begins with the field's name; the address is not in it."""


def parse_address(text: str, *, outbox_only: bool = False) -> Address:
    """`ann@example.com` or `Ann <ann@example.com>`, with one meaning only.

    A name that holds an RFC 5322 special other than the full stop must be quoted. Raises: AddressError.
    """
    if len(text) > _MAX_ADDRESS_TEXT:
        raise AddressError("is too long for an address")
    text = text.strip(" \t")
    if not text.endswith(">"):
        return Address(parse_bare_address(text, outbox_only=outbox_only))
    head, bracket, bare = text[:-1].rpartition("<")
    head = head.strip(" \t")
    if quoted := _QUOTED.fullmatch(head):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif bracket and _PHRASE.fullmatch(head):
        name = head
    else:
        raise AddressError('must be one address; quote a name with special characters or use {"email", "name"}')
    if complaint := _bad_name(name):
        raise AddressError(complaint)
    return Address(parse_bare_address(bare, outbox_only=outbox_only), name.strip() or None)


def parse_bare_address(text: str, *, outbox_only: bool = False) -> str:
    """The normalised form of an address without a name: its domain in ASCII and lower case. Raises: AddressError.

    Exactly what email-validator accepts and makes of it (test_body.py compares the two), less encoded words, which
    some programs decode inside an address. What most addresses look like is checked here and only their domain, once,
    by the package: 2 us instead of 60.
    """
    if len(text) > MAX_ADDRESS:
        raise AddressError(f"is longer than {MAX_ADDRESS} characters")
    if _CONTROL.search(text):
        raise AddressError(_NO_CONTROL)
    if "=?" in text:
        raise AddressError('must not hold "=?", which begins an encoded word')
    plain = _PLAIN_ADDRESS.fullmatch(text)
    if plain is None:
        local, domain = _validate(text, outbox_only=outbox_only)
        return f"{local}@{domain}"
    local, domain = plain.groups()
    domain = _ascii_domain(domain.lower(), outbox_only=outbox_only)
    if len(local) > _MAX_LOCAL:
        raise AddressError(f"has more than {_MAX_LOCAL} characters before the @-sign")
    return f"{local.lower() if local.lower() in _ROLES else local}@{domain}"


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str, *, outbox_only: bool) -> str:
    return _validate(f"x@{domain}", outbox_only=outbox_only)[1]


def _validate(text: str, *, outbox_only: bool) -> tuple[str, str]:
    """Local part and ASCII domain by email-validator, for any address of at most `MAX_ADDRESS` characters."""
    top = text.lower().replace("@", ".").rpartition(".")[2]
    # A reserved name is judged as if it stood below an ordinary one.
    stand_in = _STAND_IN if outbox_only and top in _RESERVED else ""
    try:
        found = validate_email(text + stand_in, check_deliverability=False, strict=True)
    except EmailNotValidError as error:
        if re.search(r"[,;]", text):
            raise AddressError("must be one address; several go into a list") from None
        reason = re.sub(r" *\([^)]*\)", "", str(error)).rstrip(".")  # in brackets there may be parts of the address
        raise AddressError(f"is not a valid address: {reason}") from None
    return found.local_part or "", found.ascii_domain.removesuffix(stand_in)


def _bad_name(name: str) -> str | None:
    if len(name) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} characters"
    return _NO_CONTROL if _CONTROL.search(name) else None


def _read_sender(value: str | Mailbox | None, errors: _Errors, *, outbox_only: bool) -> Address | None:
    if value is None:
        errors.add("from", "is required")
        return None
    return _read_mailbox("from", value, errors, outbox_only=outbox_only)


def _read_recipients(
    request: EmailRequest, errors: _Errors, *, outbox_only: bool
) -> tuple[tuple[Address, ...], tuple[Address, ...], tuple[Address, ...]]:
    """`to`, `cc`, `bcc`. Who is named twice is kept once, where first: SendGrid refuses repeated recipients."""
    count = _count(request.to) + _count(request.cc) + _count(request.bcc)
    if count > MAX_RECIPIENTS:
        errors.add("to", f"has, together with `cc` and `bcc`, more than {MAX_RECIPIENTS} recipients")
        return (), (), ()
    if not count:
        errors.add("to", "is required: an email needs a recipient in `to`, `cc` or `bcc`")
    seen: set[str] = set()
    to = _read_list("to", request.to, seen, errors, outbox_only=outbox_only)
    cc = _read_list("cc", request.cc, seen, errors, outbox_only=outbox_only)
    bcc = _read_list("bcc", request.bcc, seen, errors, outbox_only=outbox_only)
    return to, cc, bcc


def _read_reply_to(value: Mailboxes | None, errors: _Errors, *, outbox_only: bool) -> tuple[Address, ...]:
    if _count(value) > MAX_REPLY_TO:
        errors.add("reply_to", f"has more than {MAX_REPLY_TO} addresses")
        return ()
    return _read_list("reply_to", value, set(), errors, outbox_only=outbox_only)


def _count(value: Mailboxes | None) -> int:
    if value is None:
        return 0
    return len(value) if isinstance(value, list) else 1


def _read_list(
    path: str, value: Mailboxes | None, seen: set[str], errors: _Errors, *, outbox_only: bool
) -> tuple[Address, ...]:
    """The addresses of one field that are not in `seen` yet."""
    if value is None:
        return ()
    items = [(f"{path}[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
    found = []
    for item_path, item in items:
        address = _read_mailbox(item_path, item, errors, outbox_only=outbox_only)
        if address is not None and (key := address.email.lower()) not in seen:
            seen.add(key)
            found.append(address)
    return tuple(found)


def _read_mailbox(path: str, value: str | Mailbox, errors: _Errors, *, outbox_only: bool) -> Address | None:
    if isinstance(value, str):
        try:
            return parse_address(value, outbox_only=outbox_only)
        except AddressError as error:
            errors.add(path, str(error))
            return None
    name = value.name or ""
    if complaint := _bad_name(name):
        errors.add(f"{path}.name", complaint)
    try:
        return Address(parse_bare_address(value.email, outbox_only=outbox_only), name.strip() or None)
    except AddressError as error:
        errors.add(f"{path}.email", str(error))
        return None


# --- the other fields ------------------------------------------------------------------------------------------------

_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_OURS = {"from", "to", "cc", "bcc", "subject", "reply-to"}
_RESERVED_HEADERS = {
    "date",
    "message-id",
    "sender",
    "return-path",
    "received",
    "dkim-signature",
    "mime-version",
}
_FILE_NAME = re.compile("[^\x00-\x1f\x7f\x85\u2028\u2029/\\\\]{1,255}")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_CONTENT_ID = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~@-]{1,255}")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIME_TYPES = mimetypes.MimeTypes(filenames=())  # the table that Python carries, the same on every machine


def _read_subject(subject: str | None, errors: _Errors) -> str:
    """Legal without, but SendGrid refuses an email with an empty subject, so failover could not promise it."""
    if subject is None:
        errors.add("subject", "is required")
        return ""
    _check_line("subject", subject, MAX_LINE, errors)
    return subject


def _check_line(path: str, value: str, limit: int, errors: _Errors) -> None:
    if len(value) > limit:
        errors.add(path, f"must not have more than {limit:,} characters")
    elif _CONTROL.search(value):
        errors.add(path, _NO_CONTROL)
    elif not value or value.isspace():
        errors.add(path, "must not be empty")


def _read_bodies(request: EmailRequest, errors: _Errors) -> tuple[str | None, str | None]:
    """`text` and `html`; an empty one is none."""
    for path, value in (("text", request.text), ("html", request.html)):
        if value and "\x00" in value:
            errors.add(path, "must not hold NUL characters")
    text, html = request.text or None, request.html or None
    if text is None and html is None and request.template is None and request.raw is None:
        errors.add("text", "is required, or `html`: at least one of them must not be empty")
    return text, html


def _read_headers(headers: dict[str, str], errors: _Errors) -> dict[str, str]:
    if len(headers) > MAX_HEADERS:
        errors.add("headers", f"must not have more than {MAX_HEADERS} entries")
        return {}
    seen: set[str] = set()
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            errors.add("headers", "has a name that is not 1 to 76 printable ASCII characters without a colon or space")
            continue
        path, lower = f"headers.{name}", name.lower()
        if lower in _OURS:
            errors.add(path, f"is made by HES; use the field `{lower.replace('-', '_')}`")
        elif lower in _RESERVED_HEADERS or lower.startswith("content-"):
            errors.add(path, "is made by HES or the provider and can't be set")
        elif lower in seen:
            errors.add(path, "stands there twice, in different letter case")
        seen.add(lower)
        _check_line(path, value, MAX_LINE, errors)
    return headers


def _read_attachments(files: list[AttachedFile], errors: _Errors) -> tuple[Attachment, ...]:
    if len(files) > MAX_ATTACHMENTS:
        errors.add("attachments", f"must not have more than {MAX_ATTACHMENTS} entries")
        return ()
    content_ids: set[str] = set()
    return tuple(_read_file(f"attachments[{i}]", file, content_ids, errors) for i, file in enumerate(files))


def _read_file(path: str, file: AttachedFile, content_ids: set[str], errors: _Errors) -> Attachment:
    """One attachment. No parameters in the content type: SendGrid refuses a semicolon there."""
    if not _FILE_NAME.fullmatch(file.filename) or file.filename.isspace():
        errors.add(f"{path}.filename", "must be 1 to 255 characters, without slashes and control characters")
    if not file.content:
        errors.add(f"{path}.content", "must not be empty: some providers refuse empty files")
    content_type = file.content_type
    if content_type is None:
        content_type = _MIME_TYPES.guess_type(f"x/{file.filename}")[0] or "application/octet-stream"
    elif not _CONTENT_TYPE.fullmatch(content_type) or content_type.lower().startswith("multipart/"):
        errors.add(f"{path}.content_type", "must be `type/subtype`, without parameters, and not multipart")
    if (content_id := file.content_id) is not None:
        if not _CONTENT_ID.fullmatch(content_id):
            errors.add(f"{path}.content_id", "must be 1 to 255 characters as in an address, without `<` and `>`")
        elif content_id in content_ids:
            errors.add(f"{path}.content_id", "is already used by another attachment")
        content_ids.add(content_id)
    return Attachment(file.filename, file.content, content_type, content_id)


def _read_tags(tags: dict[str, str], errors: _Errors) -> dict[str, str]:
    if len(tags) > MAX_TAGS:
        errors.add("tags", f"must not have more than {MAX_TAGS} entries")
        return {}
    for key, value in tags.items():
        if not _LABEL.fullmatch(key):
            errors.add("tags", "has a key that is not 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        elif key.lower().startswith("hes_"):
            errors.add(f"tags.{key}", "must not begin with `hes_`: those are for HES itself")
        else:
            _check_line(f"tags.{key}", value, 256, errors)
    return tags


def _check_labels(request: EmailRequest, errors: _Errors) -> None:
    if request.reference is not None:
        _check_line("reference", request.reference, 255, errors)
    if request.stream is not None and not _LABEL.fullmatch(request.stream):
        errors.add("stream", "must be 1 to 64 of the characters A-Z a-z 0-9 _ . -")


def _check_times(request: EmailRequest, attempt_timeout_limit: float, errors: _Errors) -> None:
    if request.expires_in is not None and not 10 <= request.expires_in <= 31_536_000:
        errors.add("expires_in", "must be 10 to 31,536,000 seconds")
    if request.attempt_timeout is not None and not 1 <= request.attempt_timeout <= attempt_timeout_limit:
        errors.add("attempt_timeout", f"must be 1 to {attempt_timeout_limit:g} seconds, so that a lease outlasts it")


def _read_providers(names: list[str] | None, known: Collection[str], errors: _Errors) -> tuple[str, ...]:
    if names is None:
        return ()
    if not 0 < len(names) <= len(known):
        errors.add("providers", "must name at least one provider, and each at most once")
        return ()
    for i, name in enumerate(names):
        if name not in known:
            errors.add(f"providers[{i}]", "is not the name of a configured provider")
        elif name in names[:i]:
            errors.add(f"providers[{i}]", "is named twice")
    return tuple(names)
