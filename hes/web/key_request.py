"""The body of `POST /v1/keys`: what a new key shall be, each wrong field told by name."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from hes.errors import FieldError, Invalid
from hes.model import Millis
from hes.web.addresses import CONTROL, NO_CONTROL, AddressError, ChangedAddressError, parse_bare_address
from hes.web.auth import KeyScope
from hes.web.requests import read_object
from hes.web.shape import MAX_ERRORS

Domain = Annotated[str, Meta(max_length=253)]
Moment = Annotated[datetime, Meta(tz=True)]
Rate = Annotated[float, Meta(ge=0.001, le=1_000_000)]
Project = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]


class KeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new key shall be."""

    name: Annotated[str, Meta(max_length=100, description="For people.")] = ""
    scopes: Annotated[tuple[KeyScope, ...], Meta(min_length=1, description="What it may do.")] = (
        "emails:send",
        "emails:read",
    )
    sender_domains: Annotated[
        tuple[Domain, ...],
        Meta(max_length=100, description="The only domains it may send from; none: those of the key that makes it."),
    ] = ()
    rate_per_second: Annotated[
        Rate | None,
        Meta(description="Emails a second, at most, each recipient counted; null: as the key that makes it."),
    ] = None
    expires_at: Annotated[
        Moment | None, Meta(description="Refused from then on; null: when the key that makes it is.")
    ] = None
    test: Annotated[bool, Meta(description="What it sends goes to the outbox only.")] = False
    project: Annotated[
        Project | None,
        Meta(
            description="Whose emails it sees; null: the caller's. Made on first use. Another one: from `default` only."
        ),
    ] = None


class WantedKey(Struct, frozen=True, kw_only=True):
    """A `KeyRequest` that was checked."""

    name: str
    scopes: tuple[KeyScope, ...]
    sender_domains: tuple[str, ...]
    rate_per_second: float | None
    expires_at: Millis | None
    test: bool
    project: str | None


_MUST_BE = {
    "name": "a string of at most 100 characters",
    "scopes": "a list of scopes, at least one of: " + ", ".join(KeyScope.__args__),  # type: ignore[attr-defined]
    "sender_domains": "a list of at most 100 domains",
    "rate_per_second": "a number from 0.001 to 1000000",
    "expires_at": "a time with its zone, as in 2027-01-31T12:00:00Z",
    "test": "true or false",
    "project": "1 to 63 of a-z, 0-9, full stop, hyphen and underscore, the first a letter or digit",
}


def read_key_request(raw: bytes, now: Millis, *, outbox_only: bool = False) -> WantedKey:
    """Raises: Unreadable, Invalid."""
    found = read_object(raw, *_MUST_BE)
    errors: list[FieldError] = []
    values: dict[str, Any] = {field.name: field.default for field in fields(KeyRequest)}
    for field in fields(KeyRequest):
        if field.name in found:
            try:
                values[field.name] = msgspec.convert(found[field.name], field.type)
            except msgspec.ValidationError:
                errors.append(FieldError(field.name, f"must be {_MUST_BE[field.name]}"))
    errors += [FieldError(name, NO_CONTROL) for name in ("name", "project") if CONTROL.search(values[name] or "")]
    values["scopes"] = tuple(dict.fromkeys(values["scopes"]))
    values["sender_domains"] = _domains(values["sender_domains"], errors, outbox_only=outbox_only)
    values["expires_at"] = _future(values["expires_at"], now, errors)
    if errors:
        raise Invalid("The body holds fields that are not acceptable; `errors` names them.", errors[:MAX_ERRORS])
    return WantedKey(**values)


def _domains(given: tuple[str, ...], errors: list[FieldError], *, outbox_only: bool) -> tuple[str, ...]:
    """As the domains of addresses are written inside HES, so that they compare."""
    domains: dict[str, None] = {}
    for at, domain in enumerate(given):
        try:
            domains[parse_bare_address(f"x@{domain}", outbox_only=outbox_only).rpartition("@")[2]] = None
        except ChangedAddressError as error:
            errors.append(FieldError(f"sender_domains[{at}]", str(error)))
        except AddressError:
            errors.append(FieldError(f"sender_domains[{at}]", "must be a domain, as in example.com"))
    return tuple(domains)


_END_OF_TIME = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""Later times may not be written in UTC."""


def _future(at: datetime | None, now: Millis, errors: list[FieldError]) -> Millis | None:
    if at is None:
        return None
    millis = int(at.timestamp() * 1000)
    if not now < millis < _END_OF_TIME:
        errors.append(FieldError("expires_at", "must be in the future, before the year 9999"))
    return millis
