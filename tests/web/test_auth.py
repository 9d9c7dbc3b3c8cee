"""Who is calling: keys in the Authorization header, scopes, and nothing that gives a key away."""

import base64
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, Request, get
from litestar.datastructures import Headers

from hes.errors import NotAuthenticated
from hes.storage.key_records import Keys, StoredKey
from hes.web.api_keys import ApiKeys, StoredKeys
from hes.web.auth import (
    ALL_SCOPES,
    Authenticator,
    KeyScope,
    Principal,
    authorize,
    read_keys,
)
from hes.web.problems import exception_handlers
from hes.web.throttle import WrongKeys

pytestmark = pytest.mark.anyio

KEY = "bootstrap-key-of-more-than-32-characters"
CHALLENGE = 'Bearer, Basic realm="hes"'


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Limited:
    """Knows everybody, with these scopes."""

    def __init__(self, *scopes: KeyScope) -> None:
        self.principal = Principal(key_id="k", project="p", scopes=frozenset(scopes))

    async def __call__(self, request: Request[Any, Any, Any]) -> Principal:
        return self.principal


class NoStoredKeys:
    """A storage in which there is no key."""

    async def find(self, key_ids: Sequence[str]) -> dict[str, StoredKey]:
        return {}


def bootstrapped(key: str = KEY) -> ApiKeys:
    """Knows the bootstrap key and no other."""
    stored = StoredKeys(cast("Keys", NoStoredKeys()), lambda: 0, lambda: 0.0)
    return ApiKeys(stored, WrongKeys(lambda: 0.0), key)


async def ask(
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
    authenticator: Authenticator | None = None,
    path: str = "/whoami",
) -> httpx.Response:
    @get("/whoami")
    async def whoami(request: Request[Any, Any, Any]) -> str:
        principal = await authorize(authenticator or bootstrapped(), request, "emails:read")
        return f"{principal.key_id} of {principal.project}"

    app = Litestar(
        [whoami],
        exception_handlers=exception_handlers(time.monotonic),
        logging_config=None,
        openapi_config=None,
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://hes") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {KEY}",
        f"bearer {KEY}",
        f"BEARER   {KEY} ",
        basic(KEY, ""),
        basic("", KEY),
        basic(KEY, "x"),
        basic("api", KEY),
        basic(KEY, KEY),
    ],
)
async def test_the_key_is_taken_as_bearer_and_in_both_places_of_basic(value: str) -> None:
    response = await ask({"Authorization": value})
    assert (response.status_code, response.text) == (200, "bootstrap of default")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Token {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}x".encode())],
        [(b"authorization", f"Bearer {KEY[:-1]}".encode())],
        [(b"authorization", f"Bearer {KEY.upper()}".encode())],
        [(b"authorization", f"Bearer {KEY} {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}, Bearer {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"authorization", f"Bearer {KEY}".encode())],
        [(b"authorization", b"Bearer " + b"x" * 10_240)],
        [(b"authorization", f"Bearer {KEY}".encode() + b" " * 10_240 + b"x")],
        [(b"authorization", b"Bearer a\x00b")],
        [(b"authorization", f"Bearer {KEY}\x00".encode())],
        [(b"authorization", "Bearer schlüssel-日本".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", b"Basic")],
        [(b"authorization", b"Basic !!!")],
        [(b"authorization", b"Basic a")],
        [(b"authorization", b"Basic \xff")],
        [(b"authorization", b"Basic Og==")],
        [(b"authorization", basic("user", "wrong").encode())],
        [(b"authorization", b"Basic " + base64.b64encode(b"\xff\x00:\xfe"))],
        [(b"authorization", b"Basic " + base64.b64encode(KEY.encode() + b"x"))],
        [(b"x-api-key", KEY.encode())],
        [(b"cookie", f"api_key={KEY}".encode())],
    ],
)
async def test_anything_else_is_401_with_a_challenge_and_no_echo(headers: list[tuple[bytes, bytes]]) -> None:
    """S3."""
    response = await ask(headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == CHALLENGE
    assert response.json()["type"] == "urn:hes:problem:not-authenticated"
    assert KEY[:8] not in response.text + str(response.headers)
    assert "xxxx" not in response.text


@pytest.mark.parametrize("query", [f"?api_key={KEY}", f"?access_token={KEY}", f"?key={KEY}"])
async def test_a_key_in_the_url_is_never_taken(query: str) -> None:
    response = await ask(path=f"/whoami{query}")
    assert response.status_code == 401
    assert KEY not in response.text


async def test_a_key_that_is_not_ascii_works() -> None:
    key = "schlüssel-der-länger-als-32-zeichen-ist"
    for value in (b"Bearer " + key.encode(), b"Basic " + base64.b64encode(key.encode() + b":")):
        assert (await ask([(b"authorization", value)], bootstrapped(key))).status_code == 200


async def test_a_missing_scope_is_403_and_named() -> None:
    response = await ask(authenticator=Limited("emails:send", "admin"))
    assert response.status_code == 403
    assert response.json()["detail"] == "This key lacks the scope `emails:read`."
    assert (await ask(authenticator=Limited("emails:read"))).text == "k of p"


async def test_the_bootstrap_key_has_all_scopes_of_the_default_project() -> None:
    scope: Any = {"type": "http", "headers": [(b"authorization", f"Bearer {KEY}".encode())]}
    who = await bootstrapped()(Request(scope))
    assert who == Principal(key_id="bootstrap", project="default", scopes=ALL_SCOPES)
    assert (who.sender_domains, who.test) == ((), False)
    assert all(who.allow(scope) for scope in ALL_SCOPES)
    assert len(ALL_SCOPES) == 7


async def test_the_key_itself_is_not_kept() -> None:
    held = bootstrapped()
    assert KEY not in repr(held) + repr(vars(held))


@given(
    st.lists(st.binary(max_size=40) | st.binary(max_size=40).map(base64.b64encode), max_size=2),
    st.sampled_from([b"Bearer ", b"Basic ", b""]),
)
def test_no_header_makes_anything_but_a_401(values: list[bytes], kind: bytes) -> None:
    headers: Any = [(b"authorization", kind + value) for value in values]
    with contextlib.suppress(NotAuthenticated):
        assert all(read_keys(Headers(headers)))
