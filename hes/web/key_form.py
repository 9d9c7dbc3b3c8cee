"""What an API key looks like: `hes_<live|test>_<id>_<secret>`.

The secret is 160 random bits and a checksum over all that stands before it, so that scanners of repositories and logs
can tell a key from what only looks like one. HES itself refuses no key for its shape, only because its hash is not
known: then a change of the shape locks nobody out.
"""

import hashlib
import re
import secrets
import string
import zlib
from typing import Final

SECRET_BITS = 160
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID = re.compile(rb"hes_(?:live|test)_([0-9a-f-]{36})_.*", re.DOTALL)


def new_key(key_id: str, *, test: bool) -> str:
    """A key for that id. It can't be had again."""
    start = f"{prefix(key_id, test=test)}_{_base62(secrets.randbits(SECRET_BITS), 27)}"
    return start + checksum(start)


def prefix(key_id: str, *, test: bool) -> str:
    """What may be shown of a key."""
    return f"hes_{'test' if test else 'live'}_{key_id}"


def checksum(start: str) -> str:
    """The last six characters of a key: the CRC-32 of all before them in base 62."""
    return _base62(zlib.crc32(start.encode()), 6)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. A plain SHA-256 will do: nobody tries out 160 random bits."""
    return hashlib.sha256(key).digest()


def id_in(key: bytes) -> str:
    """Under which id a key may be known; "", which nothing is known under, if it has none."""
    found = _ID.fullmatch(key)
    return found[1].decode() if found else ""


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
