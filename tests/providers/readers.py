"""What readers make of an email that was rendered, by other code than what rendered it; the same shape for all."""

import base64
import quopri
import re
from collections.abc import Iterable, Iterator
from email.header import decode_header, make_header
from email.message import Message
from email.parser import HeaderParser
from email.utils import getaddresses, unquote
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hes.model import Address, Attachment, Email
from tests.fakes.mailgun import Mail

Mailboxes = tuple[tuple[str, str], ...]
"""Name, or "", and address."""


class ReadEmail(Struct, frozen=True, kw_only=True):
    """An email as somebody reads it."""

    sender: Mailboxes
    to: Mailboxes
    cc: Mailboxes
    reply_to: Mailboxes
    subject: str
    text: str
    html: str
    headers: dict[str, str]
    files: tuple[Attachment, ...]


def as_written(email: Email) -> ReadEmail:
    """What every reader should see; line ends are one thing however they are written."""
    return ReadEmail(
        sender=_pairs([email.sender]),
        to=_pairs(email.to),
        cc=_pairs(email.cc),
        reply_to=_pairs(email.reply_to),
        subject=email.subject.strip(" \t"),
        text=_one_newline(email.text or ""),
        html=_one_newline(email.html or ""),
        headers={name: value.strip(" \t") for name, value in email.headers.items()},
        files=tuple(replace(file, filename=file.filename.strip()) for file in email.attachments),
    )


def _pairs(addresses: Iterable[Address]) -> Mailboxes:
    return tuple((_one_space(address.name or ""), address.email) for address in addresses)


def _one_space(name: str) -> str:
    """Readers make one space of any white space in a name."""
    return re.sub("[ \t]+", " ", name)


def _one_newline(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


def decoded(text: str) -> str:
    """Encoded words as the text that they stand for (RFC 2047)."""
    return str(make_header(decode_header(text))).strip(" \t")


def mailboxes(*texts: str) -> Mailboxes:
    """What `Name <address>, ...` names."""
    return tuple((_one_space(decoded(name)), address) for name, address in getaddresses(texts))


# --- a message -------------------------------------------------------------------------------------------------------


def read_message(raw: bytes) -> ReadEmail:
    """An email as MIME. It must keep the limits of lines, and no boundary may stand anywhere but at a part's end."""
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    text = raw.decode()
    leaves = list(_leaves(text))
    top = _head(text.partition("\r\n\r\n")[0])
    bodies = {head.get_content_type(): body for head, body in leaves if head.get_filename() is None}
    made = {"from", "to", "cc", "reply-to", "subject", "date", "message-id", "mime-version"}
    ours = {name for name in top if name.lower() in made or name.lower().startswith(("content-", "x-hes-"))}
    return ReadEmail(
        sender=mailboxes(*_all(top, "From")),
        to=mailboxes(*_all(top, "To")),
        cc=mailboxes(*_all(top, "Cc")),
        reply_to=mailboxes(*_all(top, "Reply-To")),
        subject=decoded(_all(top, "Subject")[0]),
        text=_one_newline(bodies.get("text/plain", b"").decode()),
        html=_one_newline(bodies.get("text/html", b"").decode()),
        headers={name: decoded(_all(top, name)[0]) for name in top if name not in ours},
        files=tuple(_file(head, body) for head, body in leaves if head.get_filename() is not None),
    )


def _head(text: str) -> "Message[str, str]":
    return HeaderParser().parsestr(text)


def _all(head: "Message[str, str]", name: str) -> list[str]:
    """Unfolded."""
    return [value.replace("\r\n", "") for value in head.get_all(name, [])]


def _leaves(part: str) -> Iterator[tuple["Message[str, str]", bytes]]:
    text, _, body = part.partition("\r\n\r\n")
    head = _head(text)
    boundary = head.get_boundary()
    if boundary is None:
        yield head, _content(head, body)
        return
    first, *inside, last = f"\r\n{body}".split(f"\r\n--{boundary}")
    assert (first, last.strip()) == ("", "--")
    for piece in inside:
        assert piece.startswith("\r\n"), "the boundary stood in a part's content"
        yield from _leaves(piece[2:])


def _content(head: "Message[str, str]", body: str) -> bytes:
    match head["Content-Transfer-Encoding"]:
        case "base64":
            return base64.b64decode(body, validate=False)
        case "quoted-printable":
            return quopri.decodestring(body.encode())
        case encoding:
            assert encoding == "7bit"
            return body.encode("ascii")


def _file(head: "Message[str, str]", content: bytes) -> Attachment:
    content_id = head.get("Content-ID")
    kind = head["Content-Type"].replace("\r\n", "")
    return Attachment(head.get_filename() or "", content, kind, content_id and content_id.strip("<>"))


# --- what vendors are asked ------------------------------------------------------------------------------------------


def read_sendgrid(mail: dict[str, Any]) -> ReadEmail:
    (person,) = mail["personalizations"]
    bodies = {part["type"]: part["value"] for part in mail["content"]}
    return ReadEmail(
        sender=_objects([mail["from"]]),
        to=_recipients(person["to"]),
        cc=_recipients(person.get("cc", [])),
        reply_to=_objects(mail.get("reply_to_list", [])),
        subject=mail["subject"].strip(" \t"),
        text=_one_newline(bodies.get("text/plain", "")),
        html=_one_newline(bodies.get("text/html", "")),
        headers=_headers(mail),
        files=tuple(
            Attachment(
                file["filename"].strip(), base64.b64decode(file["content"]), file["type"], file.get("content_id")
            )
            for file in mail.get("attachments", [])
        ),
    )


def _objects(found: Iterable[dict[str, str]]) -> Mailboxes:
    return tuple((_one_space(one.get("name", "")), one["email"]) for one in found)


def _recipients(found: Iterable[dict[str, str]]) -> Mailboxes:
    """Names with a comma or the like are quoted."""
    pairs = _objects(found)
    return tuple((unquote(name) if re.search(r"[,;]|=\?", name) else name, address) for name, address in pairs)


def _headers(mail: dict[str, Any]) -> dict[str, str]:
    """All but the Message-ID. A header must be ASCII on one line."""
    assert all(value.isascii() and "\n" not in value for value in mail["headers"].values())
    return {name: decoded(value) for name, value in mail["headers"].items() if name != "Message-ID"}


def read_mailgun(mail: Mail) -> ReadEmail:
    reply_to = {"Reply-To": mail.headers.get("Reply-To", "")}
    custom = {name: value for name, value in mail.headers.items() if name != "Reply-To"}
    return ReadEmail(
        sender=mailboxes(mail.sender),
        to=mailboxes(*mail.to),
        cc=mailboxes(*mail.cc),
        reply_to=mailboxes(*filter(None, reply_to.values())),
        subject=mail.subject.strip(" \t"),
        text=_one_newline(mail.text or ""),
        html=_one_newline(mail.html or ""),
        headers=_headers({"headers": custom}),
        files=(
            *(Attachment(file.name.strip(), file.content, file.content_type) for file in mail.attachments),
            # The Content-ID is made from the name, which is lost.
            *(Attachment("", file.content, file.content_type, file.name) for file in mail.inline),
        ),
    )


def read_resend(mail: dict[str, Any]) -> ReadEmail:
    return ReadEmail(
        sender=mailboxes(mail["from"]),
        to=mailboxes(*mail["to"]),
        cc=mailboxes(*mail.get("cc", [])),
        reply_to=mailboxes(*mail.get("reply_to", [])),
        subject=mail["subject"].strip(" \t"),
        text=_one_newline(mail["text"]),
        html=_one_newline(mail.get("html", "")),
        headers={name: value for name, value in _headers(mail).items() if name != "X-HES-Tags"},
        files=tuple(
            Attachment(
                file["filename"].strip(),
                base64.b64decode(file["content"]),
                file.get("content_type", "application/octet-stream"),
                file.get("content_id"),
            )
            for file in mail.get("attachments", [])
        ),
    )
