"""One email's JSON body, checked and turned into a `Submission`. No I/O, no Litestar.

Two steps. *Shape* is `hes.web.shape.decode`'s: one wrong type ends it. *Meaning* is decided here: every field is
looked at, and all that are wrong are named at once, each by what it must be and never with its value.
The sender's right to its domain, quotas and suppressions are not decided here.
"""

import hashlib
import mimetypes
import re
from collections.abc import Collection

import msgspec
from msgspec import Struct

from hes.model import MAX_EXPIRES_IN, MIN_EXPIRES_IN, Address, Attachment, Millis, OnDoubt
from hes.web import header_names
from hes.web.addresses import CONTROL, NO_CONTROL, AddressError, bad_name, parse_address, parse_bare_address
from hes.web.email_request import (
    LABEL,
    MAX_ATTACHMENTS,
    MAX_HEADERS,
    MAX_LINE,
    MAX_RECIPIENTS,
    MAX_REFERENCE,
    MAX_REPLY_TO,
    MAX_TAG,
    MAX_TAGS,
    NOT_BUILT,
    AttachedFile,
    EmailRequest,
    Mailbox,
    Mailboxes,
)
from hes.web.shape import Errors
from hes.web.times import read_send_at

# Keys of objects sorted; the fields of a struct come in their own order; what is left at its default is left out, so a
# field that a later version adds does not change the hash of requests without it.
_CANONICAL = msgspec.json.Encoder(order="deterministic")


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
    send_at: Millis | None
    is_draft: bool
    providers: tuple[str, ...]
    request: EmailRequest
    """What was asked for, as it was decoded."""

    @property
    def recipient_count(self) -> int:
        return len(self.to) + len(self.cc) + len(self.bcc)

    @property
    def request_hash(self) -> bytes:
        """SHA-256 of what was asked for; key order, white space and how a string was escaped do not change it.

        Computed when it is read: of 30 MB it takes a tenth of a second, and only an idempotency key needs it.
        """
        return hashlib.sha256(_CANONICAL.encode(self.request)).digest()


def check_email(
    request: EmailRequest,
    *,
    provider_names: Collection[str],
    attempt_timeout_limit: float,
    now: Millis,
    outbox_only: bool = False,
) -> Submission:
    """Check one email that was decoded.

    `now`: what a time may be a year ahead of. `attempt_timeout_limit`: seconds, what lease and grace period leave.
    `outbox_only`: nothing leaves this machine, so `user@localhost` and names reserved for tests are fine.
    Raises: InvalidEmail, and nothing else whatever the fields hold.
    """
    errors = Errors()
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
    send_at = _read_send_at(request.send_at, now, errors)
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
        send_at=send_at,
        is_draft=bool(request.draft),
        providers=providers,
        request=request,
    )


# --- addresses -------------------------------------------------------------------------------------------------------


def _read_sender(value: str | Mailbox | None, errors: Errors, *, outbox_only: bool) -> Address | None:
    if value is None:
        errors.add("from", "is required")
        return None
    return _read_mailbox("from", value, errors, outbox_only=outbox_only)


def _read_recipients(
    request: EmailRequest, errors: Errors, *, outbox_only: bool
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


def _read_reply_to(value: Mailboxes | None, errors: Errors, *, outbox_only: bool) -> tuple[Address, ...]:
    if _count(value) > MAX_REPLY_TO:
        errors.add("reply_to", f"has more than {MAX_REPLY_TO} addresses")
        return ()
    return _read_list("reply_to", value, set(), errors, outbox_only=outbox_only)


def _count(value: Mailboxes | None) -> int:
    if value is None:
        return 0
    return len(value) if isinstance(value, list) else 1


def _read_list(
    path: str, value: Mailboxes | None, seen: set[str], errors: Errors, *, outbox_only: bool
) -> tuple[Address, ...]:
    """The addresses of one field that are not in `seen` yet."""
    if value is None:
        return ()
    items = [(f"{path}[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else [(path, value)]
    found = []
    for item_path, item in items:
        if errors.are_enough:
            break
        address = _read_mailbox(item_path, item, errors, outbox_only=outbox_only)
        if address is not None and (key := address.email.lower()) not in seen:
            seen.add(key)
            found.append(address)
    return tuple(found)


def _read_mailbox(path: str, value: str | Mailbox, errors: Errors, *, outbox_only: bool) -> Address | None:
    if isinstance(value, str):
        try:
            return parse_address(value, outbox_only=outbox_only)
        except AddressError as error:
            errors.add(path, str(error))
            return None
    name = value.name or ""
    if complaint := bad_name(name):
        errors.add(f"{path}.name", complaint)
    try:
        return Address(parse_bare_address(value.email, outbox_only=outbox_only), name.strip() or None)
    except AddressError as error:
        errors.add(f"{path}.email", str(error))
        return None


# --- the other fields ------------------------------------------------------------------------------------------------

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""What changes the direction of writing (UAX 9): `invoice` U+202E `fdp.exe` is shown as `invoiceexe.pdf`."""
_FILE_NAME = re.compile(rf"[^\x00-\x1f\x7f\x85\u2028\u2029/\\{_BIDI}]{{1,255}}")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_CONTENT_ID = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~@-]{1,255}")
_LABEL = re.compile(LABEL)
_MIME_TYPES = mimetypes.MimeTypes(filenames=())  # the table that Python carries, the same on every machine


def _read_subject(subject: str | None, errors: Errors) -> str:
    """Legal without, but SendGrid refuses an email with an empty subject, so failover could not promise it."""
    if subject is None:
        errors.add("subject", "is required")
        return ""
    _check_line("subject", subject, MAX_LINE, errors)
    return subject


def _check_line(path: str, value: str, limit: int, errors: Errors) -> None:
    if len(value) > limit:
        errors.add(path, f"must not have more than {limit:,} characters")
    elif CONTROL.search(value):
        errors.add(path, NO_CONTROL)
    elif not value or value.isspace():
        errors.add(path, "must not be empty")


def _read_bodies(request: EmailRequest, errors: Errors) -> tuple[str | None, str | None]:
    """`text` and `html`; an empty one is none."""
    for path, value in (("text", request.text), ("html", request.html)):
        if value and "\x00" in value:
            errors.add(path, "must not hold NUL characters")
    text, html = request.text or None, request.html or None
    if text is None and html is None and request.template is None and request.raw is None:
        errors.add("text", "is required, or `html`: at least one of them must not be empty")
    return text, html


def _read_headers(headers: dict[str, str], errors: Errors) -> dict[str, str]:
    if len(headers) > MAX_HEADERS:
        errors.add("headers", f"must not have more than {MAX_HEADERS} entries")
        return {}
    seen: set[str] = set()
    for name, value in headers.items():
        if not header_names.TOKEN.fullmatch(name):
            errors.add("headers", "has a name that is not 1 to 76 letters, digits and !#$%&'*+-.^_`|~")
            continue
        path, lower = f"headers.{name}", name.lower()
        if why := header_names.refusal(name):
            errors.add(path, why)
        elif lower in seen:
            errors.add(path, "stands there twice, in different letter case")
        seen.add(lower)
        _check_line(path, value, MAX_LINE, errors)
    return headers


def _read_attachments(files: list[AttachedFile], errors: Errors) -> tuple[Attachment, ...]:
    if len(files) > MAX_ATTACHMENTS:
        errors.add("attachments", f"must not have more than {MAX_ATTACHMENTS} entries")
        return ()
    content_ids: set[str] = set()
    return tuple(_read_file(f"attachments[{i}]", file, content_ids, errors) for i, file in enumerate(files))


def _read_file(path: str, file: AttachedFile, content_ids: set[str], errors: Errors) -> Attachment:
    """One attachment. No parameters in the content type: SendGrid refuses a semicolon there."""
    if not _FILE_NAME.fullmatch(file.filename) or file.filename.strip() in ("", ".", ".."):
        errors.add(
            f"{path}.filename",
            "must be 1 to 255 characters, without slashes, control characters and those that change the direction of "
            "writing, and not `.` or `..`",
        )
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


def _read_tags(tags: dict[str, str], errors: Errors) -> dict[str, str]:
    if len(tags) > MAX_TAGS:
        errors.add("tags", f"must not have more than {MAX_TAGS} entries")
        return {}
    for key, value in tags.items():
        if not _LABEL.fullmatch(key):
            errors.add("tags", "has a key that is not 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        elif key.lower().startswith("hes_"):
            errors.add(f"tags.{key}", "must not begin with `hes_`: those are for HES itself")
        else:
            _check_line(f"tags.{key}", value, MAX_TAG, errors)
    return tags


def _check_labels(request: EmailRequest, errors: Errors) -> None:
    if request.reference is not None:
        _check_line("reference", request.reference, MAX_REFERENCE, errors)
    if request.stream is not None and not _LABEL.fullmatch(request.stream):
        errors.add("stream", "must be 1 to 64 of the characters A-Z a-z 0-9 _ . -")


def _check_times(request: EmailRequest, attempt_timeout_limit: float, errors: Errors) -> None:
    if request.expires_in is not None and not MIN_EXPIRES_IN <= request.expires_in <= MAX_EXPIRES_IN:
        errors.add("expires_in", f"must be {MIN_EXPIRES_IN} to {MAX_EXPIRES_IN:,} seconds")
    if request.attempt_timeout is not None and not 1 <= request.attempt_timeout <= attempt_timeout_limit:
        errors.add("attempt_timeout", f"must be 1 to {attempt_timeout_limit:g} seconds, so that a lease outlasts it")


def _read_send_at(text: str | None, now: Millis, errors: Errors) -> Millis | None:
    if text is None:
        return None
    try:
        return read_send_at(text, now)
    except ValueError as error:
        errors.add("send_at", str(error))
        return None


def _read_providers(names: list[str] | None, known: Collection[str], errors: Errors) -> tuple[str, ...]:
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
