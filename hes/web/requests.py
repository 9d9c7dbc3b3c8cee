"""Reading of what is not an email: headers, queries, ids in the path, small bodies."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import anyio
import msgspec
from litestar import Request
from litestar.datastructures import Headers
from msgspec import Struct

from hes.errors import FieldError, Invalid, NotFound, TooSlow, Unreadable, UnsupportedType
from hes.model import Decision, EmailId, Millis
from hes.web.auth import Principal
from hes.web.desk import Desk
from hes.web.memory_budget import Charge
from hes.web.shape import MAX_ERRORS, below, unreadable
from hes.web.times import read_send_at

T = TypeVar("T")


class SendRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """When to send it: RFC 3339, at most a year ahead. Missing: now, or for a draft when it says itself."""

    send_at: str | None = None


class ResolveRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decides: it was `sent`, it shall be sent again (`resend`), or it has `failed`."""

    decision: Decision


class ResolveManyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The decision about all that the filter fits. Its fields are the list's, as texts; {} fits all."""

    decision: Decision
    filter: dict[str, str]


class CancelManyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which emails: the filter's fields are the list's, as texts; {} fits all."""

    filter: dict[str, str]


def require_json(headers: Headers) -> None:
    """Raises: UnsupportedType unless the body is JSON in UTF-8, and not compressed."""
    media_type, *parameters = headers.get("content-type", "").split(";")
    if media_type.strip().lower() != "application/json":
        raise UnsupportedType("The body must be JSON, with `Content-Type: application/json`.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedType("JSON is UTF-8 (RFC 8259, section 8.1): no other `charset` is taken.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedType("Compressed bodies are not taken; send it without `Content-Encoding`.")


async def read_body(request: Request[Any, Any, Any], seconds: float, charge: Charge) -> bytes:
    """The whole body, which has so many seconds to come, however slowly.

    `charge`: is told how many bytes came, before they are kept. Not what was announced: to announce costs nothing.
    Raises: TooSlow, and what `charge` raises.
    """
    parts = []
    try:
        with anyio.fail_after(seconds):
            async for part in request.stream():
                charge(len(part))
                parts.append(part)
    except TimeoutError:
        raise TooSlow(f"The body did not come within {seconds:g} seconds.") from None
    return b"".join(parts)


async def read_small_body(request: Request[Any, Any, Any], desk: Desk, principal: Principal) -> bytes:
    """Likewise one that is not kept: what it asks for takes no memory to speak of."""
    with desk.hold_body(request, principal) as charge:
        return await read_body(request, desk.body_seconds, charge)


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


def read_email_id(text: str) -> EmailId:
    """An id out of the path. What no id can look like is not found, and no storage is asked. Raises: NotFound."""
    if not is_id(text):
        raise NotFound("There is no such email.")
    return EmailId(text)


def is_id(text: str) -> bool:
    """Whether it looks like one."""
    return _ID.fullmatch(text) is not None


def read_send_request(headers: Headers, raw: bytes, now: Millis) -> Millis | None:
    """The body of a send, if there is one: another time. Raises: UnsupportedType, Unreadable, Invalid."""
    if not raw:
        return None
    require_json(headers)
    text = read_object(raw, "send_at").get("send_at")
    return None if text is None else check_send_at(text, now)


def check_send_at(text: object, now: Millis) -> Millis:
    """When it is to be sent. Raises: Invalid."""
    try:
        return read_send_at(text if isinstance(text, str) else "", now)
    except ValueError as error:
        raise Invalid(f"`send_at` {error}.", [FieldError("send_at", str(error))]) from None


def read_if_match(values: Sequence[str]) -> int | None:
    """The version in `If-Match: "4"` (RFC 9110, section 13.1.1); None: any. Raises: Unreadable."""
    if not values or values == ["*"]:
        return None
    match = _VERSION.fullmatch(values[0].strip())
    if len(values) > 1 or match is None:
        raise Unreadable('`If-Match` must be one version, as the `ETag` has it: `If-Match: "4"`.')
    return int(match[1])


def read_key_id(text: str) -> str:
    """Likewise for a key. Raises: NotFound."""
    if not is_id(text):
        raise NotFound("There is no such key.")
    return text


def read_query(query: bytes, *known: str) -> dict[str, str]:
    """The parameters of a query string, each at most once.

    One that is not known is refused, and not ignored: a filter that has no effect would answer another question than
    the one asked. Raises: Invalid, naming all that are wrong.
    """
    if not query:
        return {}
    errors = []
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            errors.append(FieldError(below("", name), "is not a parameter here"))
        elif name in found:
            errors.append(FieldError(name, "stands there more than once"))
        else:
            found[name] = value
    if errors:
        raise Invalid("The query holds what is not taken here; `errors` names it.", errors[:MAX_ERRORS])
    return found


def read_parameter(given: dict[str, str], name: str, reader: Callable[[str], T], errors: list[FieldError]) -> T | None:
    """What `reader` makes of it; None: it was not given, or it is wrong and among the errors now.

    `reader`: raises ValueError with what is wrong, for people.
    """
    if name not in given:
        return None
    try:
        return reader(given[name])
    except ValueError as error:
        errors.append(FieldError(name, str(error)))
        return None


def refuse_wrong(errors: list[FieldError]) -> None:
    """Raises: Invalid, if there are parameters that are wrong."""
    if errors:
        raise Invalid("The query holds what can't be; `errors` names it.", errors)


def read_resolve(raw: bytes) -> Decision:
    """The body of a resolve. Raises: Unreadable, Invalid."""
    return to_decision(read_object(raw, "decision").get("decision"))


def to_decision(decision: Any) -> Decision:
    """Raises: Invalid."""
    if decision not in list(Decision):
        message = 'must be "sent", "resend" or "failed"'
        raise Invalid(f"`decision` {message}.", [FieldError("decision", message)])
    return Decision(decision)


def read_nothing(headers: Headers, raw: bytes) -> None:
    """The body of a request that needs none: empty, or an object without fields.

    Raises: UnsupportedType, Unreadable, Invalid.
    """
    if raw:
        require_json(headers)
        read_object(raw)


def read_object(raw: bytes, *known: str) -> dict[str, Any]:
    """A JSON object with no other fields than these. Raises: Unreadable, Invalid."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(raw, error) from None
    if not isinstance(found, dict):
        raise Invalid("The body must be a JSON object.", [FieldError("", "must be a JSON object")])
    if unknown := [name for name in found if name not in known]:
        errors = [FieldError(below("", name), "is not a field here") for name in unknown[:MAX_ERRORS]]
        raise Invalid("The body holds fields that are not taken here; `errors` names them.", errors)
    return found


_VISIBLE = re.compile(r"[!-~]{1,255}")
_VERSION = re.compile(r'(?:W/)?"?([0-9]{1,9})"?')
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
