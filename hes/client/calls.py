"""Every request that the clients make. No I/O."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from hes.client.types import (
    Accepted,
    BatchItem,
    Decision,
    Email,
    EmailPage,
    EmailState,
    Health,
    Key,
    KeyPage,
    Many,
    Provider,
    Time,
)

T = TypeVar("T")


class Call(Struct, Generic[T], frozen=True, kw_only=True):
    """One request whose answer is a T."""

    method: str
    path: str
    """With its query."""
    body: bytes | None = None
    idempotency_key: str | None = None
    version: int | None = None
    """Only if the email still has it."""
    is_repeatable: bool = False
    """Making it twice does no more than making it once."""
    unwrap: bool = False
    """The T is what stands in the answer's `data`."""


def send(email: Mapping[str, Any] | None, fields: Mapping[str, Any], key: str | None) -> Call[Accepted]:
    """`fields` go before what `email` says."""
    return _sending("/v1/emails", {**_named(email or {}), **_named(fields)}, key)


def send_batch(emails: Iterable[Mapping[str, Any]], key: str | None) -> Call[list[BatchItem]]:
    return _sending("/v1/emails/batch", {"emails": [_named(email) for email in emails]}, key, unwrap=True)


def email(
    email_id: str,
    *,
    content: bool = False,
    attempts_cursor: str | None = None,
    events_cursor: str | None = None,
    is_repeatable: bool = False,
) -> Call[Email]:
    include = "content" if content else None
    query = {"include": include, "attempts_cursor": attempts_cursor, "events_cursor": events_cursor}
    return Call(method="GET", path=_with_query(_email(email_id), query), is_repeatable=is_repeatable)


def emails(filters: Mapping[str, Any], cursor: str | None) -> Call[EmailPage]:
    return Call(method="GET", path=_with_query("/v1/emails", {**filters, "cursor": cursor}))


def cancel(email_id: str) -> Call[Email | EmailState]:
    return Call(method="POST", path=f"{_email(email_id)}/cancel")


def resolve(email_id: str, decision: Decision) -> Call[Email]:
    return Call(method="POST", path=f"{_email(email_id)}/resolve", body=_json({"decision": decision}))


def cancel_many(filters: Mapping[str, Any], cursor: str | None) -> Call[Many]:
    return Call(method="POST", path="/v1/emails/cancel", body=_json({"filter": _given({**filters, "cursor": cursor})}))


def resolve_many(decision: Decision, filters: Mapping[str, Any], cursor: str | None) -> Call[Many]:
    body = {"decision": decision, "filter": _given({**filters, "cursor": cursor})}
    return Call(method="POST", path="/v1/emails/resolve", body=_json(body))


def send_again(email_id: str, send_at: Time | None) -> Call[Email | EmailState]:
    body = None if send_at is None else _json({"send_at": send_at})
    return Call(method="POST", path=f"{_email(email_id)}/send", body=body)


def edit(
    email_id: str, changes: Mapping[str, Any] | None, fields: Mapping[str, Any], version: int | None
) -> Call[Email | EmailState]:
    """`fields` go before what `changes` says."""
    body = _json({**_named(changes or {}), **_named(fields)})
    return Call(method="PATCH", path=_email(email_id), body=body, version=version)


def erase(email_id: str) -> Call[None]:
    return Call(method="DELETE", path=_email(email_id))


def providers() -> Call[list[Provider]]:
    return Call(method="GET", path="/v1/providers", unwrap=True)


def turn(name: str, how: str) -> Call[Provider]:
    """`how`: pause, resume, reset."""
    return Call(method="POST", path=f"/v1/providers/{_segment(name)}/{how}")


def keys(limit: int | None, cursor: str | None) -> Call[KeyPage]:
    return Call(method="GET", path=_with_query("/v1/keys", {"limit": limit, "cursor": cursor}))


def create_key(fields: Mapping[str, Any]) -> Call[Key]:
    return Call(method="POST", path="/v1/keys", body=_json(fields))


def revoke_key(key_id: str) -> Call[None]:
    return Call(method="DELETE", path=f"/v1/keys/{_segment(key_id)}")


def health() -> Call[Health]:
    return Call(method="GET", path="/health/ready")


def _sending(path: str, body: Mapping[str, Any], key: str | None, *, unwrap: bool = False) -> Call[Any]:
    """Encoded once: every repeat sends the same bytes with the same key."""
    key = key or str(uuid.uuid4())
    return Call(method="POST", path=path, body=_json(body), idempotency_key=key, is_repeatable=True, unwrap=unwrap)


def _email(email_id: str) -> str:
    return f"/v1/emails/{_segment(email_id)}"


def _with_query(path: str, parameters: Mapping[str, Any]) -> str:
    """None: not given."""
    given = _given(parameters)
    return f"{path}?{urlencode(given)}" if given else path


def _segment(name: str) -> str:
    """One piece of a path. Not an empty one: the path would be that of all emails, or of all keys."""
    if not name:
        raise ValueError("an id or a name must not be empty")
    return quote(name, safe="")


def _given(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Those that say something, as texts."""
    return {name: _text(value) for name, value in _named(parameters).items() if value is not None}


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`from_` is `from`."""
    return {"from" if name == "from_" else name: value for name, value in fields.items()}


def _json(value: object) -> bytes:
    """Bytes become base64, and datetimes RFC 3339."""
    return msgspec.json.encode(value)


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
