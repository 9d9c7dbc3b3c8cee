"""API keys: made, listed, revoked. An admin of `default` has the keys of all projects in hand, others their own."""

import logging
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct
from msgspec.structs import replace

from hes.errors import FieldError, Forbidden
from hes.storage.key_records import NewKey, StoredKey
from hes.web.auth import Principal, authorize
from hes.web.desk import Desk
from hes.web.documents import problems
from hes.web.key_form import digest_of, new_key, prefix
from hes.web.key_request import WantedKey, read_key_request
from hes.web.paging import PARAMETERS, USUAL_IN_PAGE, cursor_behind, read_cursor, read_limit
from hes.web.requests import (
    read_key_id,
    read_nothing,
    read_parameter,
    read_query,
    read_small_body,
    refuse_wrong,
    require_json,
)
from hes.web.views import Time, rfc3339, rfc3339_or_none

_log = logging.getLogger("hes.keys")


class KeyView(Struct, frozen=True, kw_only=True):
    """One key, without what makes it one."""

    id: str
    name: str
    project: str
    scopes: list[str]
    sender_domains: Annotated[list[str], Meta(description="The only domains it may send from; none: any.")]
    rate_per_second: Annotated[
        float | None, Meta(description="Emails a second, at most, each recipient counted; null: no limit.")
    ]
    test: bool
    prefix: Annotated[str, Meta(description="What it begins with, to know it by.")]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Annotated[Time | None, Meta(description="Written down about once a minute.")]


class NewKeyView(KeyView, frozen=True, kw_only=True):
    """A new key. It is shown here and never again."""

    key: str

    def __repr__(self) -> str:
        return f"NewKeyView(id={self.id!r})"


class KeyPage(Struct, frozen=True):
    """Some keys, newest first, revoked and expired ones included; `next_cursor` leads to the older ones."""

    data: list[KeyView]
    next_cursor: str | None


@post(
    "/keys",
    operation_id="createKey",
    summary="Make a key",
    description="The answer holds the key; only its hash is kept, so it can't be had again. `sender_domains`, "
    "`rate_per_second` and `expires_at` that are not given are those of the key that makes it; it can't give more.",
    status_code=201,
    response_description="The key was made",
    responses=problems(400, 401, 403, 408, 413, 415, 422, 503),
)
async def create_key(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> Response[NewKeyView]:
    principal = await authorize(desk.authenticator, request, "admin")
    read_query(request.scope["query_string"])
    require_json(request.headers)
    raw = await read_small_body(request, desk, principal)
    wanted = read_key_request(raw, desk.clock(), outbox_only=desk.outbox_only)
    project = wanted.project or principal.project
    _check_may_give(principal, wanted, project)
    wanted = _inherited(principal, wanted)
    key_id = desk.new_id()
    key = new_key(key_id, test=wanted.test)
    new = NewKey(
        id=key_id,
        project=project,
        name=wanted.name,
        digest=digest_of(key.encode()),
        scopes=wanted.scopes,
        sender_domains=wanted.sender_domains,
        rate_per_second=wanted.rate_per_second,
        expires_at=wanted.expires_at,
        test=wanted.test,
    )
    view = NewKeyView(**_shown(await desk.keys.create(new, principal.key_id)), key=key)
    _log.info("key %s of %s was made by %s: %s", key_id, project, principal.key_id, ", ".join(wanted.scopes))
    headers = {"Location": f"/v1/keys/{key_id}", "Cache-Control": "no-store"}
    return Response(view, status_code=201, headers=headers)


@get(
    "/keys",
    operation_id="listKeys",
    summary="Keys, newest first",
    description="Of the caller's project; for an admin of `default`, of all projects. A test key sees test keys only.",
    response_description="A page of keys",
    responses=problems(401, 403, 422, 503),
)
async def list_keys(request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> KeyPage:
    principal = await authorize(desk.authenticator, request, "admin")
    given = read_query(request.scope["query_string"], *PARAMETERS)
    errors: list[FieldError] = []
    limit = read_parameter(given, "limit", read_limit, errors) or USUAL_IN_PAGE
    before = read_parameter(given, "cursor", read_cursor, errors)
    refuse_wrong(errors)
    found = await desk.keys.page(_projects(principal), limit + 1, before, only_test=principal.test)
    keys = found[:limit]
    return KeyPage([key_view(key) for key in keys], cursor_behind(keys[-1].id) if len(found) > limit else None)


@delete(
    "/keys/{key_id:str}",
    operation_id="revokeKey",
    summary="Revoke a key",
    description="It is refused everywhere within 5 seconds. Revoking again changes nothing and is answered the same. "
    "A test key revokes test keys only.",
    status_code=200,
    response_description="The key, revoked",
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
)
async def revoke_key(key_id: FromPath[str], request: Request[Any, Any, Any], desk: NamedDependency[Desk]) -> KeyView:
    principal = await authorize(desk.authenticator, request, "admin")
    read_query(request.scope["query_string"])
    read_nothing(request.headers, await read_small_body(request, desk, principal))
    id_ = read_key_id(key_id)
    await _check_may_revoke(desk, principal, id_)
    key = await desk.keys.revoke(_projects(principal), id_, principal.key_id)
    _log.info("key %s of %s is revoked, says %s", key.id, key.project, principal.key_id)
    return key_view(key)


def key_view(key: StoredKey) -> KeyView:
    return KeyView(**_shown(key))


def _shown(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "project": key.project,
        "scopes": list(key.scopes),
        "sender_domains": list(key.sender_domains),
        "rate_per_second": key.rate_per_second,
        "test": key.test,
        "prefix": prefix(key.id, test=key.test),
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339_or_none(key.expires_at),
        "revoked_at": rfc3339_or_none(key.revoked_at),
        "last_used_at": rfc3339_or_none(key.last_used_at),
    }


def _projects(principal: Principal) -> str | None:
    """The project whose keys are in its hand; None: all."""
    return None if principal.project == "default" else principal.project


def _check_may_give(principal: Principal, wanted: WantedKey, project: str) -> None:
    """Nobody makes a key that reaches where the own one is kept from. Raises: Forbidden."""
    if _projects(principal) not in {None, project}:
        raise Forbidden("This key can make keys of its own project only.")
    if "providers" in wanted.scopes and _projects(principal) and not principal.allow("providers"):
        raise Forbidden("The scope `providers` reaches into all projects; this key can't give it.")
    if principal.test and not wanted.test:
        raise Forbidden("A test key can make test keys only.")
    if principal.sender_domains and not set(wanted.sender_domains) <= set(principal.sender_domains):
        raise Forbidden("This key can make keys for its own `sender_domains` only.")
    if principal.rate_per_second is not None and (wanted.rate_per_second or 0) > principal.rate_per_second:
        raise Forbidden(
            f"This key can make keys with a `rate_per_second` of at most its own {principal.rate_per_second:g}."
        )
    if principal.expires_at is not None and (wanted.expires_at or 0) > principal.expires_at:
        raise Forbidden(
            f"This key can make keys that expire when it does itself, at the latest: {rfc3339(principal.expires_at)}."
        )


def _inherited(principal: Principal, wanted: WantedKey) -> WantedKey:
    """What was not asked for is as the maker has it."""
    return replace(
        wanted,
        sender_domains=wanted.sender_domains or principal.sender_domains,
        rate_per_second=wanted.rate_per_second or principal.rate_per_second,
        expires_at=wanted.expires_at or principal.expires_at,
    )


async def _check_may_revoke(desk: Desk, principal: Principal, key_id: str) -> None:
    """A test key has no live one in hand. Raises: Forbidden."""
    key = (await desk.keys.find([key_id])).get(key_id) if principal.test else None
    if key is not None and not key.test and _projects(principal) in {None, key.project}:
        raise Forbidden("A test key can revoke test keys only.")
