"""`multipart/form-data` (RFC 7578), the same bytes for the same parts, for providers that take nothing else.

Why not aiohttp's `FormData`: its boundaries are random, and a replay must have the same bytes.
"""

from collections.abc import Sequence

from msgspec import Struct


class Part(Struct, frozen=True):
    """One value or, with a file name, one file. Names hold no control characters; the content may hold anything."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str = ""


def multipart(parts: Sequence[Part], seed: str) -> tuple[str, bytes]:
    """The Content-Type and the body. `seed`: up to 60 letters, digits and dashes, what the boundary is made from."""
    boundary = _boundary(parts, seed)
    pieces: list[bytes] = []
    for part in parts:
        pieces += (f"--{boundary}\r\n{_head(part)}\r\n\r\n".encode(), part.content, b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _boundary(parts: Sequence[Part], seed: str) -> str:
    """The first of `seed`, `seed-1`, ... that occurs in no part (RFC 2046, section 5.1.1: it must not)."""
    boundary, number = seed, 0
    while any(boundary.encode() in part.content for part in parts):
        number += 1
        boundary = f"{seed}-{number}"
    return boundary


def _head(part: Part) -> str:
    """UTF-8 as it is (RFC 7578, sections 4.2 and 5.1: never `filename*`). No charset for values: UTF-8 is assumed."""
    head = f"Content-Disposition: form-data; name={_quoted(part.name)}"
    if part.filename is None:
        return head
    kind = part.content_type or "application/octet-stream"
    return f"{head}; filename={_quoted(part.filename)}\r\nContent-Type: {kind}"


def _quoted(value: str) -> str:
    """A quoted-string (RFC 2045, section 5.1).

    Browsers write `%22` for a quote, but RFC 7578 makes nobody decode that: it would stay in the file's name.
    """
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
