"""An email as MIME (RFC 5322, RFC 2045 to 2047, RFC 2387), for whoever takes messages whole.

Why not the standard library's `EmailMessage`: it parses headers while it writes them, and fails at what it can't parse;
with a file of type `message/delivery-status` too. Here headers are text (`hes.headers`), and files are base64 whatever
their type.

Known weakness: files of type `message/rfc822` should not be base64 (RFC 2046, section 5.2.1); they arrive byte by byte
that way, and mail readers cope with it.
"""

import binascii
import re
from base64 import encodebytes
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

from msgspec import Struct

from hes.headers import address_header, parameter_header, text_header
from hes.model import Attachment, AttemptId, Email

RENDER_VERSION = 2
MAX_LINE_BYTES = 998
_LINE_END = re.compile("\r\n|\r")


def render(email: Email, attempt_id: AttemptId) -> bytes:
    """The message with CRLF line ends, the same bytes for the same email and attempt; bcc is not in it.

    `multipart/alternative` for text and HTML, `related` around HTML with inline images, `mixed` around attachments.
    Our ids travel as `X-HES-Id` and `X-HES-Attempt`.
    """
    lists = (("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to))
    heads = [
        address_header("From", [email.sender]),
        *(address_header(name, addresses) for name, addresses in lists if addresses),
        text_header("Subject", email.subject),
        text_header("Date", format_datetime(datetime.fromtimestamp(email.date // 1000, tz=UTC))),
        text_header("Message-ID", email.message_id),
        *(text_header(name, value) for name, value in email.headers.items()),
        text_header("X-HES-Id", email.id),
        text_header("X-HES-Attempt", attempt_id),
        "MIME-Version: 1.0",
    ]
    content = _content(email)
    message = _Part([*heads, *content.heads], content.body).written()
    return message if message.endswith(b"\r\n") else message + b"\r\n"


def free_boundary(contents: Iterable[bytes], seed: str) -> str:
    """The first of `seed`, `seed-1`, ... that occurs in no content (RFC 2046, section 5.1.1: it must not)."""
    contents = list(contents)
    boundary, number = seed, 0
    while any(boundary.encode() in content for content in contents):
        number += 1
        boundary = f"{seed}-{number}"
    return boundary


class _Part(Struct, frozen=True):
    """A part of a message, or all of it."""

    heads: list[str]
    body: bytes

    def written(self) -> bytes:
        return "\r\n".join([*self.heads, "", ""]).encode() + self.body


def _content(email: Email) -> _Part:
    seed = f"=_hes_{email.id}"
    inline = [file for file in email.attachments if file.content_id is not None and email.html]
    attached = [file for file in email.attachments if file not in inline]
    bodies: list[_Part] = []
    if email.text is not None:
        bodies.append(_text(email.text, "text/plain"))
    if email.html is not None:
        html = _text(email.html, "text/html")
        bodies.append(_multipart("related", [html, *map(_image, inline)], seed) if inline else html)
    content = bodies[0] if len(bodies) == 1 else _multipart("alternative", bodies, seed)
    return _multipart("mixed", [content, *map(_file, attached)], seed) if attached else content


def _multipart(subtype: str, parts: Sequence[_Part], seed: str) -> _Part:
    """The boundaries of the parts inside count as their content, so each level gets one of its own."""
    contents = [part.written() for part in parts]
    boundary = free_boundary(contents, seed)
    pieces = (f"--{boundary}\r\n".encode() + content + b"\r\n" for content in contents)
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    return _Part([parameter_header("Content-Type", f"multipart/{subtype}", [("boundary", boundary)])], body)


def _text(text: str, kind: str) -> _Part:
    """As it is if it is ASCII in short lines, else in whatever encoding is shorter."""
    lines = _LINE_END.sub("\n", text)
    raw = lines.replace("\n", "\r\n").encode()
    if raw.isascii() and all(len(line) <= MAX_LINE_BYTES for line in raw.split(b"\r\n")):
        encoding, body = "7bit", raw
    else:
        printable = binascii.b2a_qp(lines.encode(), istext=True).replace(b"\n", b"\r\n")
        encoding, body = min(
            ("quoted-printable", printable), ("base64", _base64(raw)), key=lambda encoded: len(encoded[1])
        )
    return _Part([parameter_header("Content-Type", kind, [("charset", "utf-8")]), _encoded_as(encoding)], body)


def _file(file: Attachment, disposition: str = "attachment") -> _Part:
    heads = [
        parameter_header("Content-Type", file.content_type or "application/octet-stream", []),
        _encoded_as("base64"),
        parameter_header("Content-Disposition", disposition, [("filename", file.filename)]),
    ]
    return _Part(heads, _base64(file.content))


def _image(file: Attachment) -> _Part:
    part = _file(file, "inline")
    return _Part([*part.heads, f"Content-ID: <{file.content_id}>"], part.body)


def _base64(content: bytes) -> bytes:
    return encodebytes(content).replace(b"\n", b"\r\n")


def _encoded_as(encoding: str) -> str:
    return f"Content-Transfer-Encoding: {encoding}"
