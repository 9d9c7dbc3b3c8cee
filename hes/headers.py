"""Text in the headers of an email: RFC 5322, RFC 2047 (beyond ASCII), RFC 2231 (parameters). No I/O.

Whatever is written here is never parsed again. It says to every reader what the caller wrote: text that looks like an
encoded word is encoded itself, or readers would show what it decodes to.
"""

import re
from collections.abc import Iterable, Sequence
from email.header import Header
from urllib.parse import quote

from hes.model import Address

MAX_LINE = 78
"""Characters of a line, if it can be folded (RFC 5322, section 2.1.1)."""
_MAX_WORD = 900
"""What can't be folded stays below 998 characters, its header's name included."""
_MAX_PIECE = 60
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def may_be_decoded(text: str) -> bool:
    """It holds what begins an encoded word: as it stands, some reader would show other text."""
    return "=?" in text


def header_text(value: str) -> str:
    """A header's value in ASCII, on one line."""
    return " ".join(encoded_words(value)) if _must_be_encoded(value) else value


def encoded_words(text: str) -> list[str]:
    """The text as encoded words, which readers show without the spaces between them."""
    return Header(text, "utf-8").encode(linesep="").split(" ")


def _must_be_encoded(value: str) -> bool:
    return not value.isascii() or may_be_decoded(value)


def text_header(name: str, value: str) -> str:
    """A header whose value is text: one or several lines, without the last line end."""
    words = value.strip(" \t").split(" ")
    if _must_be_encoded(value) or any(len(word) > _MAX_WORD for word in words):
        words = encoded_words(value)
    return _folded(name, words)


def address_header(name: str, addresses: Sequence[Address]) -> str:
    """A header that lists mailboxes. Addresses beyond ASCII stand there in Unicode (RFC 6532)."""
    words: list[str] = []
    for address in addresses:
        if words:
            words[-1] += ","
        words += [*_phrase(address.name), f"<{address.email}>"] if address.name else [address.email]
    return _folded(name, words)


def parameter_header(name: str, value: str, parameters: Iterable[tuple[str, str]]) -> str:
    """A header like `Content-Type`: a value, and what is said of it."""
    words = [value]
    for key, text in parameters:
        for piece in _parameter(key, text):
            words[-1] += ";"
            words.append(piece)
    return _folded(name, words)


def _phrase(name: str) -> list[str]:
    """A display name: as it is, in quotes, or encoded; a reader need not decode what stands in quotes, but some do."""
    if _must_be_encoded(name) or "\t" in name:
        return encoded_words(name)
    return [name if _ATOMS.fullmatch(name) else quoted(name)]


def quoted(text: str) -> str:
    """A quoted-string (RFC 5322, section 3.2.4)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _parameter(key: str, text: str) -> list[str]:
    """In quotes, or percent-encoded in pieces that are not too long for a line."""
    if not _must_be_encoded(text):
        return [f"{key}={quoted(text)}"]
    pieces = [""]
    for character in text:
        code = quote(character, safe="")
        if len(pieces[-1]) + len(code) > _MAX_PIECE:
            pieces.append("")
        pieces[-1] += code
    if len(pieces) == 1:
        return [f"{key}*=utf-8''{pieces[0]}"]
    pieces[0] = f"utf-8''{pieces[0]}"
    return [f"{key}*{number}*={piece}" for number, piece in enumerate(pieces)]


def _folded(name: str, words: Iterable[str]) -> str:
    """Lines are broken between words only, and none is blank."""
    lines = [f"{name}:"]
    for word in words:
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > MAX_LINE:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)
