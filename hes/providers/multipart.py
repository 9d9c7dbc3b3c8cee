"""`multipart/form-data` (RFC 7578), the same bytes for the same parts, for providers that take nothing else.

Why not aiohttp's `FormData`: its boundaries are random, and a replay must have the same bytes.
"""

from collections.abc import Sequence

from msgspec import Struct

from hes.headers import quoted
from hes.mime import free_boundary


class Part(Struct, frozen=True):
    """One value or, with a file name, one file. Names hold no control characters; the content may hold anything."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str = ""


def multipart(parts: Sequence[Part], seed: str) -> tuple[str, bytes]:
    """The Content-Type and the body. `seed`: up to 60 letters, digits and dashes, what the boundary is made from."""
    boundary = free_boundary((part.content for part in parts), seed)
    pieces: list[bytes] = []
    for part in parts:
        pieces += (f"--{boundary}\r\n{_head(part)}\r\n\r\n".encode(), part.content, b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _head(part: Part) -> str:
    """UTF-8 as it is (RFC 7578, sections 4.2 and 5.1: never `filename*`). No charset for values: UTF-8 is assumed.

    Browsers write `%22` for a quote, but RFC 7578 makes nobody decode that: it would stay in the file's name.
    """
    head = f"Content-Disposition: form-data; name={quoted(part.name)}"
    if part.filename is None:
        return head
    kind = part.content_type or "application/octet-stream"
    return f"{head}; filename={quoted(part.filename)}\r\nContent-Type: {kind}"
