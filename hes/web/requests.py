"""Reading of requests that are not emails, and what all bodies have in common."""

from typing import TypeVar

import msgspec
from litestar.datastructures import Headers
from msgspec import Struct

from hes.errors import FieldError, Invalid, Unreadable, UnsupportedType
from hes.model import Decision

T = TypeVar("T")


class ResolveRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decides: it was `sent`, it shall be sent again (`resend`), or it has `failed`."""

    decision: Decision


def require_json(headers: Headers) -> None:
    """Raises: UnsupportedType unless the body is JSON, and not compressed."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedType("the body must be JSON, with `Content-Type: application/json`")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedType("compressed bodies are not taken; send it without `Content-Encoding`")


def read_resolve(raw: bytes) -> ResolveRequest:
    """Raises: Unreadable, Invalid."""
    try:
        return msgspec.json.decode(raw, type=ResolveRequest)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        detail = 'the body must be {"decision": "sent"}, "resend" or "failed"'
        raise Invalid(detail, [FieldError(place.rstrip("`"), text)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("the body is not JSON") from None
