"""Keys over the API: made, used, listed, revoked, expired, throttled."""

import hmac
import json
import logging
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from msgspec.structs import replace

from hes.errors import Invalid, StorageUnavailable
from hes.storage.key_records import Keys, NewKey, StoredKey
from hes.web import api_keys
from hes.web.api_keys import ApiKeys, StoredKeys
from hes.web.auth import ALL_SCOPES
from hes.web.key_form import checksum, digest_of, id_in, new_key
from hes.web.key_request import read_key_request
from hes.web.keys import NewKeyView
from hes.web.routes import create_web
from hes.web.throttle import Rates, WrongKeys
from hes.web.views import rfc3339
from tests.web.service import KEY, LEAST, NOWHERE, Service, later, now, open_service, paths_in, problem_in

HOUR_MS = 3_600_000


class Keeper:
    """A storage's keys, with a count of the questions, and away when told so."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.asked: list[str] = []
        self.is_away = False
        self.is_slow = anyio.Event()
        self.is_slow.set()

    async def find(self, key_ids: list[str]) -> dict[str, StoredKey]:
        self.asked.append(" ".join(key_ids))
        await self.is_slow.wait()
        if self.is_away:
            raise StorageUnavailable("away")
        return await self.keys.find(key_ids)

    async def note_uses(self, used_at: dict[str, int]) -> None:
        if self.is_away:
            raise StorageUnavailable("away")
        await self.keys.note_uses(used_at)


class House(Service):
    """A service whose time for keys is in the test's hand: `passed` seconds since it began."""

    passed = 0.0

    def seconds(self) -> float:
        return 1000 + self.passed

    def millis(self) -> int:
        return self.began + round(self.passed * 1000)

    def __init__(self, storage: Any, path: Path) -> None:
        super().__init__(storage, path)
        self.began = now()
        self.keeper = Keeper(storage.keys)
        self.stored = StoredKeys(self.keeper, self.millis, self.seconds, 0.0)  # type: ignore[arg-type]  # what it asks
        self.keys = ApiKeys(self.stored, WrongKeys(self.seconds), KEY)
        self.desk = replace(self.desk, authenticator=self.keys, rates=Rates(self.seconds), clock=self.millis)
        self._app = create_web(self.desk)

    async def make(self, key: str = KEY, **fields: Any) -> dict[str, Any]:
        response = await self.ask("POST", "/v1/keys", key=key, json=fields)
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    async def status(self, key: str, method: str = "GET", path: str = f"/v1/emails/{NOWHERE}") -> int:
        """How the key is answered; 404: it was let in."""
        return (await self.ask(method, path, key=key)).status_code

    async def listed(self, key: str = KEY) -> list[dict[str, Any]]:
        response = await self.ask("GET", "/v1/keys", key=key)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["data"]
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_service(tmp_path / "hes.db") as service:
        yield House(service.storage, service.path)


# --- making one


async def test_a_new_key_is_shown_once_and_works(house: House) -> None:
    response = await house.ask("POST", "/v1/keys", json={"name": "shop"})
    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"/v1/keys/{made['id']}"
    assert response.headers["cache-control"] == "no-store"
    key = made.pop("key")
    assert made == {
        "id": made["id"],
        "name": "shop",
        "project": "default",
        "scopes": ["emails:send", "emails:read"],
        "sender_domains": [],
        "rate_per_second": None,
        "test": False,
        "prefix": f"hes_live_{made['id']}",
        "created_at": made["created_at"],
        "expires_at": None,
        "revoked_at": None,
        "last_used_at": None,
    }
    assert key.startswith(f"{made['prefix']}_")
    assert await house.listed() == [made]
    assert (await house.send(key=key)).status_code == 202


async def test_a_key_is_as_it_was_asked_for(house: House) -> None:
    fields: dict[str, Any] = {
        "name": "Kasse 日本",
        "scopes": ["emails:read", "admin", "emails:read"],
        "sender_domains": ["Example.com", "müller.de", "example.com"],
        "rate_per_second": 2,
        "expires_at": "2099-01-31T13:00:00+01:00",
        "test": True,
        "project": "shop-1",
    }
    made = await house.make(**fields)
    assert {name: made[name] for name in fields} == fields | {
        "scopes": ["emails:read", "admin"],
        "sender_domains": ["example.com", "xn--mller-kva.de"],
        "expires_at": "2099-01-31T12:00:00.000Z",
    }
    assert made["key"].startswith(f"hes_test_{made['id']}_")
    principal = await house.stored.look_up(made["id"], digest_of(made["key"].encode()))
    assert principal is not None
    assert (principal.key_id, principal.project, principal.test) == (made["id"], "shop-1", True)
    assert (sorted(principal.scopes), principal.rate_per_second) == (["admin", "emails:read"], 2.0)
    assert principal.sender_domains == ("example.com", "xn--mller-kva.de")


async def test_nulls_are_as_good_as_nothing_where_there_may_be_nothing(house: House) -> None:
    made = await house.make(rate_per_second=None, expires_at=None, project=None)
    assert (made["rate_per_second"], made["expires_at"], made["project"]) == (None, None, "default")


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"name": 1}, ["name"]),
        ({"name": None}, ["name"]),
        ({"name": "x" * 101}, ["name"]),
        ({"name": "a\x00b"}, ["name"]),
        ({"name": "a\nb"}, ["name"]),
        ({"scopes": []}, ["scopes"]),
        ({"scopes": "admin"}, ["scopes"]),
        ({"scopes": ["emails:send", "root"]}, ["scopes"]),
        ({"scopes": None}, ["scopes"]),
        ({"sender_domains": ["example.com", "a@example.com"]}, ["sender_domains[1]"]),
        ({"sender_domains": ["", "-", "a b.com", "ex\x00ample.com"]}, [f"sender_domains[{n}]" for n in range(4)]),
        ({"sender_domains": ["a.example.com"] * 101}, ["sender_domains"]),
        ({"sender_domains": "example.com"}, ["sender_domains"]),
        ({"sender_domains": ["\u212aey.com"]}, ["sender_domains[0]"]),
        ({"rate_per_second": 0}, ["rate_per_second"]),
        ({"rate_per_second": -1}, ["rate_per_second"]),
        ({"rate_per_second": 10**9}, ["rate_per_second"]),
        ({"rate_per_second": "1"}, ["rate_per_second"]),
        ({"rate_per_second": True}, ["rate_per_second"]),
        ({"expires_at": "2020-01-01T00:00:00Z"}, ["expires_at"]),
        ({"expires_at": "2099-01-01T00:00:00"}, ["expires_at"]),
        ({"expires_at": "2099-01-01"}, ["expires_at"]),
        ({"expires_at": 4_000_000_000}, ["expires_at"]),
        ({"expires_at": "2098-01-01T00:00:00Z\0"}, ["expires_at"]),
        ({"expires_at": "2097-01-01T00:00:00\0Z"}, ["expires_at"]),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, ["expires_at"]),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, ["expires_at"]),
        ({"test": "yes"}, ["test"]),
        ({"test": 1}, ["test"]),
        ({"project": ""}, ["project"]),
        ({"project": "Shop"}, ["project"]),
        ({"project": "shop\n"}, ["project"]),
        ({"project": "../x"}, ["project"]),
        ({"project": "a" * 64}, ["project"]),
        ({"scopes": 1, "test": 1, "name": 1}, ["name", "scopes", "test"]),
        # S5: what is not for the caller to say
        ({"id": "x"}, ["id"]),
        ({"key": "k", "secret_hash": "x", "created_at": "x"}, ["key", "secret_hash", "created_at"]),
        ({"revoked_at": None, "prefix": "hes"}, ["revoked_at", "prefix"]),
        ({"last_used_at": None, "tenant_id": "A", "scope": "admin"}, ["last_used_at", "tenant_id", "scope"]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], paths: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        read_key_request(json.dumps(fields).encode(), now())
    assert [error.path for error in caught.value.errors] == paths


async def test_what_is_wrong_makes_no_key(house: House) -> None:
    """S5."""
    wrong = {"scopes": ["admin"], "id": "x", "revoked_at": None}
    assert paths_in(await house.ask("POST", "/v1/keys", json=wrong)) == ["id", "revoked_at"]
    assert paths_in(await house.ask("POST", "/v1/keys", json={"scopes": ["root"]})) == ["scopes"]
    assert house.count_rows()["api_keys"] == 0


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"{", 400), (b'{"name": "\\ud800"}', 400), (b'{"rate_per_second": 1e999}', 400), (b"[]", 422)],
)
async def test_a_body_that_is_no_object_is_refused(house: House, content: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    problem_in(await house.ask("POST", "/v1/keys", content=content, headers=headers), status)
    problem_in(await house.ask("POST", "/v1/keys", content=b"{}"), 415)
    problem_in(await house.ask("POST", "/v1/keys?project=x", json={}), 422)


# --- pages


async def test_keys_come_page_by_page_newest_first(house: House) -> None:
    ids = [(await house.make(name=str(n)))["id"] for n in range(5)]
    first = (await house.ask("GET", "/v1/keys?limit=2")).json()
    assert [key["id"] for key in first["data"]] == ids[:2:-1]
    await house.make()
    second = (await house.ask("GET", f"/v1/keys?limit=2&cursor={first['next_cursor']}")).json()
    assert [key["id"] for key in second["data"]] == ids[2:0:-1]
    third = (await house.ask("GET", f"/v1/keys?limit=2&cursor={second['next_cursor']}")).json()
    assert ([key["id"] for key in third["data"]], third["next_cursor"]) == (ids[:1], None)


async def test_without_a_limit_a_page_has_fifty(house: House) -> None:
    for _ in range(51):
        await house.make()
    page = (await house.ask("GET", "/v1/keys")).json()
    assert len(page["data"]) == 50
    assert page["next_cursor"] is not None
    assert (await house.ask("GET", "/v1/keys?limit=51")).json()["next_cursor"] is None


async def test_a_wrong_parameter_of_the_list_is_named(house: House) -> None:
    assert paths_in(await house.ask("GET", "/v1/keys?limit=0&cursor=x")) == ["limit", "cursor"]
    assert paths_in(await house.ask("GET", "/v1/keys?name=x")) == ["name"]


# --- what a key looks like


def test_a_key_has_160_random_bits_and_ends_in_a_checksum() -> None:
    keys = {new_key(NOWHERE, test=False) for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        kind, environment, key_id, secret = key.split("_")
        assert (kind, environment, key_id, len(secret)) == ("hes", "live", NOWHERE, 33)
        assert secret.isalnum()
        assert key[-6:] == checksum(key[:-6])
        assert id_in(key.encode()) == NOWHERE
    assert 62**27 > 2**160


def test_the_checksum_is_what_scanners_count() -> None:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in checksum("hes_live_x_y"):
        number = number * 62 + digits.index(digit)
    assert number == zlib.crc32(b"hes_live_x_y")


@pytest.mark.parametrize("key", [b"", b"x", b"hes_live_", b"hes_live_x_y", b"hes_prod_" + NOWHERE.encode() + b"_x"])
def test_what_holds_no_id_has_none(key: bytes) -> None:
    assert id_in(key) == ""


async def test_a_key_is_not_refused_for_its_shape(house: House) -> None:
    """Only its hash counts: a key without a checksum, made by an older or newer HES, is let in."""
    odd = f"hes_live_{NOWHERE}_short"
    digest = digest_of(odd.encode())
    await house.storage.keys.create(
        NewKey(id=NOWHERE, project="default", name="", digest=digest, scopes=("emails:read", "from:the-future")), "test"
    )
    assert await house.status(odd) == 404
    assert await house.status(odd, "GET", "/v1/keys") == 403


# --- who may


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES - {"admin"}))
async def test_without_the_scope_admin_it_is_403(house: House, scope: str) -> None:
    """S11."""
    weak = await house.make(scopes=[scope])
    for method, path in (("POST", ""), ("GET", ""), ("DELETE", f"/{weak['id']}")):
        response = await house.ask(method, f"/v1/keys{path}", key=weak["key"])
        assert problem_in(response, 403)["detail"] == "This key lacks the scope `admin`."
    assert len(await house.listed()) == 1


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("GET", ""), ("DELETE", f"/{NOWHERE}")])
async def test_without_a_key_it_is_401(house: House, method: str, path: str) -> None:
    problem_in(await house.ask(method, f"/v1/keys{path}", key=None), 401)


async def test_admin_holds_no_other_scope(house: House) -> None:
    admin = await house.make(scopes=["admin"])
    assert await house.status(admin["key"]) == 403
    assert (await house.send(key=admin["key"])).status_code == 403
    assert await house.status(admin["key"], "GET", "/v1/providers") == 403


async def test_an_admin_of_default_has_all_projects_in_hand(house: House) -> None:
    ours, theirs = await house.make(), await house.make(project="shop")
    assert [key["id"] for key in await house.listed()] == [theirs["id"], ours["id"]]
    assert (await house.ask("DELETE", f"/v1/keys/{theirs['id']}")).status_code == 200


async def test_an_admin_of_another_project_has_only_its_own(house: House) -> None:
    """S1."""
    ours = await house.make()
    admin = (await house.make(project="shop", scopes=["admin"]))["key"]
    made = [await house.make(admin), await house.make(admin, project="shop")]
    assert {key["project"] for key in made} == {"shop"}
    for project in ("default", "other"):
        problem_in(await house.ask("POST", "/v1/keys", key=admin, json={"project": project}), 403)
    assert {key["project"] for key in await house.listed(admin)} == {"shop"}
    details = set()
    for key_id in (ours["id"], NOWHERE):
        problem = problem_in(await house.ask("DELETE", f"/v1/keys/{key_id}", key=admin), 404)
        details.add(problem["detail"].replace(key_id, "ID"))
    assert len(details) == 1, "somebody else's is told from none by nothing"
    assert await house.status(ours["key"]) == 404


@pytest.mark.parametrize(
    ("admin", "wanted"),
    [
        ({"project": "shop"}, {"scopes": ["providers"]}),
        ({"test": True}, {}),
        ({"sender_domains": ["example.com"]}, {"sender_domains": ["example.com", "example.net"]}),
        ({"rate_per_second": 5}, {"rate_per_second": 5.5}),
        ({"expires_at": "2099-01-31T12:00:00Z"}, {"expires_at": "2099-01-31T12:00:00.001Z"}),
    ],
)
async def test_nobody_makes_a_key_that_reaches_further(
    house: House, admin: dict[str, Any], wanted: dict[str, Any]
) -> None:
    key = (await house.make(scopes=["admin"], **admin))["key"]
    problem_in(await house.ask("POST", "/v1/keys", key=key, json=wanted), 403)
    assert len(await house.listed()) == 1
    own = {name: value for name, value in admin.items() if name != "project"}
    assert (await house.make(key, **own))["scopes"] == ["emails:send", "emails:read"]


BOUND: dict[str, Any] = {
    "sender_domains": ["example.com", "example.net"],
    "rate_per_second": 5.0,
    "expires_at": "2099-01-31T12:00:00.000Z",
}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"sender_domains": [], "rate_per_second": None, "expires_at": None},
        {"sender_domains": ["example.net"]},
        {"rate_per_second": 0.5},
        {"expires_at": "2098-12-31T12:00:00.000Z"},
    ],
)
async def test_what_is_not_asked_for_is_inherited_and_shown(house: House, asked: dict[str, Any]) -> None:
    key = (await house.make(scopes=["admin"], **BOUND))["key"]
    made = await house.make(key, **asked)
    expected = BOUND | {name: value for name, value in asked.items() if value}
    assert {name: made[name] for name in BOUND} == expected
    assert (await house.send(LEAST | {"from": "a@example.org"}, key=made["key"])).status_code == 403
    [listed] = [one for one in await house.listed() if one["id"] == made["id"]]
    assert {name: listed[name] for name in BOUND} == expected


async def test_a_test_admin_has_no_live_key_in_hand(house: House) -> None:
    live, test = await house.make(), await house.make(test=True)
    admin = (await house.make(scopes=["admin"], test=True))["key"]
    problem = problem_in(await house.ask("DELETE", f"/v1/keys/{live['id']}", key=admin), 403)
    assert problem["detail"] == "A test key can revoke test keys only."
    assert {one["test"] for one in await house.listed(admin)} == {True}
    assert (await house.ask("DELETE", f"/v1/keys/{test['id']}", key=admin)).status_code == 200
    assert await house.status(live["key"]) == 404
    theirs = await house.make(project="shop")
    of_shop = (await house.make(scopes=["admin"], test=True, project="other"))["key"]
    problem_in(await house.ask("DELETE", f"/v1/keys/{theirs['id']}", key=of_shop), 404)


async def test_a_projects_emails_are_its_own(house: House) -> None:
    """S1, with keys."""
    ours, theirs = await house.make(), await house.make(project="shop")
    sent = await house.send(key=theirs["key"])
    path = f"/v1/emails/{sent.json()['id']}"
    assert await house.status(theirs["key"], path=path) == 200
    for method, verb in (("GET", ""), ("POST", "/cancel")):
        assert await house.status(ours["key"], method, path + verb) == 404
    assert (await house.ask("POST", f"{path}/resolve", key=ours["key"], json={"decision": "sent"})).status_code == 404


async def test_an_idempotency_key_is_the_projects_own(house: House) -> None:
    """S23."""
    keys = [(await house.make(project=project))["key"] for project in ("a", "b", "a")]
    sent = [await house.send(key=key, headers={"Idempotency-Key": "1"}) for key in keys]
    first, other, again = [response.json()["id"] for response in sent]
    assert first == again != other


async def test_a_key_sends_from_its_domains_only(house: House) -> None:
    key = (await house.make(sender_domains=["Example.com"]))["key"]
    assert (await house.send(key=key)).status_code == 202
    problem_in(await house.send(LEAST | {"from": "a@example.net"}, key=key), 403)
    problem_in(await house.send(LEAST | {"from": "a@sub.example.com"}, key=key), 403)


# --- revoked, expired


async def test_a_revoked_key_is_refused_and_revoking_again_is_the_same(house: House) -> None:
    made = await house.make()
    assert await house.status(made["key"]) == 404
    first = await house.ask("DELETE", f"/v1/keys/{made['id']}")
    assert first.status_code == 200
    assert first.json()["revoked_at"].endswith("Z")
    again = await house.ask("DELETE", f"/v1/keys/{made['id']}", json={})
    assert (again.status_code, again.json()["revoked_at"]) == (200, first.json()["revoked_at"])
    house.passed += api_keys.STALE_SECONDS
    response = await house.ask("GET", f"/v1/emails/{NOWHERE}", key=made["key"])
    assert problem_in(response, 401)["detail"] == "This key was revoked."
    assert "key" not in (await house.listed())[0]


@pytest.mark.parametrize("key_id", [NOWHERE, "bootstrap", "x", "%00", "..%2f", "' OR 1=1--", "0" * 5_000])
async def test_what_is_no_key_is_404(house: House, key_id: str) -> None:
    problem_in(await house.ask("DELETE", f"/v1/keys/{key_id}"), 404)


async def test_old_and_new_keys_overlap_until_the_old_one_goes(house: House) -> None:
    old, new = await house.make(), await house.make()
    assert [await house.status(one["key"]) for one in (old, new)] == [404, 404]
    await house.ask("DELETE", f"/v1/keys/{old['id']}")
    house.passed += 3
    assert [await house.status(one["key"]) for one in (old, new)] == [401, 404]


async def test_an_expired_key_is_refused_at_once_though_it_was_just_used(house: House) -> None:
    made = await house.make(expires_at=rfc3339(house.millis() + HOUR_MS))
    house.passed += 3599.9
    assert await house.status(made["key"]) == 404
    house.passed += 0.1
    response = await house.ask("GET", f"/v1/emails/{NOWHERE}", key=made["key"])
    assert problem_in(response, 401)["detail"] == "This key has expired."
    assert response.headers["www-authenticate"]


# --- what it costs


async def test_a_key_in_use_asks_no_storage(house: House) -> None:
    key = (await house.make())["key"]
    for _ in range(20):
        assert await house.status(key) == 404
    assert len(house.keeper.asked) == 1
    house.passed += api_keys.RENEW_SECONDS
    for _ in range(20):
        assert await house.status(key) == 404
    assert len(house.keeper.asked) == 2


async def test_while_one_asks_again_the_others_go_on(house: House) -> None:
    key = (await house.make())["key"]
    await house.status(key)
    house.passed += api_keys.RENEW_SECONDS
    house.keeper.is_slow = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.status, key)
        with anyio.fail_after(10):
            while len(house.keeper.asked) < 2:
                await anyio.lowlevel.checkpoint()
        assert await house.status(key) == 404
        house.keeper.is_slow.set()
    assert len(house.keeper.asked) == 2


async def test_without_the_storage_a_key_is_good_for_two_seconds_at_most(house: House) -> None:
    key = (await house.make())["key"]
    await house.status(key)
    house.keeper.is_away = True
    house.passed += api_keys.RENEW_SECONDS
    assert [await house.status(key) for _ in range(2)] == [503, 404]
    house.passed = api_keys.STALE_SECONDS
    assert [await house.status(key) for _ in range(3)] == [503] * 3
    house.keeper.is_away = False
    assert await house.status(key) == 404
    assert await house.status(KEY) == 404


async def test_a_wrong_key_costs_the_same_whatever_is_wrong(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4: a known id with a wrong secret takes the same way as an unknown one, also when the key is in use."""
    made = await house.make()
    await house.status(made["key"])
    steps: list[str] = []

    def counting(word: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            steps.append(word)
            return function(*args)

        return counted

    monkeypatch.setattr(api_keys, "digest_of", counting("hash", digest_of))
    monkeypatch.setattr(hmac, "compare_digest", counting("compare", hmac.compare_digest))
    seen = []
    for wrong in (made["key"][:-1] + "!", made["key"].replace(made["id"], NOWHERE), "nonsense", KEY + "x"):
        before = len(house.keeper.asked)
        assert await house.status(wrong) == 401
        seen.append([*steps, len(house.keeper.asked) - before])
        steps.clear()
    assert seen == [["hash", "compare", "compare", "compare", 1]] * 4


async def test_of_basics_two_only_the_key_is_looked_up_once_it_is_in_use(house: House) -> None:
    key = (await house.make())["key"]
    for _ in range(3):
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=house._app),  # type: ignore[arg-type]
            auth=("api", key),
        ) as client:
            assert (await client.get(f"http://hes/v1/emails/{NOWHERE}")).status_code == 404
    assert len(house.keeper.asked) == 2


async def test_no_more_keys_are_remembered_than_fit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MOST_KEYS", 2)
    keys = [(await house.make())["key"] for _ in range(4)]
    assert [await house.status(key) for key in keys * 2] == [404] * 8
    assert len(house.stored._known) == 2


async def test_when_a_key_was_used_is_written_down_in_a_batch(house: House) -> None:
    one, two = await house.make(), await house.make()
    for _ in range(3):
        house.passed += 0.5
        await house.status(one["key"])
    assert [key["last_used_at"] for key in await house.listed()] == [None, None]
    house.keeper.is_away = True
    await house.stored.write_uses()
    house.keeper.is_away = False
    await house.status(two["key"])
    await house.stored.write_uses()
    used = {key["id"]: key["last_used_at"] for key in await house.listed()}
    assert used[one["id"]] == used[two["id"]] == rfc3339(house.began + 1500)


# --- throttled


async def test_a_hundred_wrong_keys_are_throttled(house: House) -> None:
    """S3."""
    wrong = [await house.status(new_key(NOWHERE, test=False)) for _ in range(100)]
    assert wrong == [401] * 50 + [429] * 50
    response = await house.ask("GET", f"/v1/emails/{NOWHERE}", key="wrong")
    assert problem_in(response, 429)["type"] == "urn:hes:problem:too-many"
    assert response.headers["retry-after"] == "1"
    house.passed += 1
    assert [await house.status("wrong") for _ in range(2)] == [401, 429]
    problem_in(await house.ask("GET", f"/v1/emails/{NOWHERE}", key=None), 401)


async def test_good_keys_from_the_same_address_go_on_working(house: House) -> None:
    used = (await house.make())["key"]
    assert await house.status(used) == 404
    for _ in range(60):
        await house.status("wrong")
    house.passed += 0.9
    assert await house.status("wrong") == 429
    assert [await house.status(key) for key in (used, KEY)] == [404, 404]
    house.passed += 0.9  # not enough for a wrong one, but the good one must be asked for again
    assert await house.status(used) == 404


async def test_a_good_key_that_was_not_used_yet_is_let_in_whatever_comes_from_its_address(house: House) -> None:
    """A NAT, or a proxy that is not named: who begins late must not be locked out."""
    live, test = await house.make(), await house.make(test=True)
    assert {await house.status("wrong") for _ in range(60)} == {401, 429}
    assert [await house.status(made["key"]) for made in (live, test)] == [404, 404]
    for wrong in (live["key"][:-1] + "!", live["key"].replace(live["id"], NOWHERE), "nonsense"):
        answer = await house.ask("GET", f"/v1/emails/{NOWHERE}", key=wrong)
        assert problem_in(answer, 429)["detail"] == "Too many wrong keys came from this address."


async def test_throttled_keys_are_looked_up_together(house: House) -> None:
    made = await house.make()
    for _ in range(50):
        await house.status("wrong")
    house.keeper.asked.clear()
    statuses: list[int] = []

    async def use(key: str) -> None:
        statuses.append(await house.status(key))

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(use, new_key(f"{n:08}{NOWHERE[8:]}", test=False))
        tasks.start_soon(use, made["key"])
    assert sorted(statuses) == [404] + [429] * 100
    assert len(house.keeper.asked) < 5, "each about all that came meanwhile"
    assert sum(len(ids.split()) for ids in house.keeper.asked) == 101


async def test_without_the_storage_nobody_is_called_wrong(house: House) -> None:
    for _ in range(50):
        await house.status("wrong")
    house.keeper.is_away = True
    statuses: list[int] = []

    async def use() -> None:
        statuses.append(await house.status("wrong"))

    async with anyio.create_task_group() as tasks:
        for _ in range(9):
            tasks.start_soon(use)
    assert statuses == [503] * 9
    house.keeper.is_away = False
    assert await house.status("wrong") == 429


async def test_a_revoked_key_goes_on_working_for_nobody(house: House) -> None:
    """What was good once is throttled like all once it was refused."""
    made = await house.make()
    await house.status(made["key"])
    await house.ask("DELETE", f"/v1/keys/{made['id']}")
    house.passed += 3
    assert [await house.status(made["key"]) for _ in range(52)] == [401] * 50 + [429] * 2


async def test_a_key_keeps_to_its_rate(house: House) -> None:
    key, other = [(await house.make(rate_per_second=2))["key"] for _ in range(2)]
    assert [(await house.send(key=key)).status_code for _ in range(3)] == [202, 202, 429]
    response = await house.send(key=key)
    assert problem_in(response, 429)["detail"] == "This key may send 2 emails a second; each recipient counts as one."
    assert response.headers["retry-after"] == "1"
    assert await house.status(key) == 404, "reading is no sending"
    assert (await house.send(key=other)).status_code == 202
    house.passed += 0.5
    assert [(await house.send(key=key)).status_code for _ in range(2)] == [202, 429]
    assert house.count_rows()["emails"] == 4


MANY = {"to": ["a@example.org", "b@example.org"], "cc": "c@example.org", "bcc": ["d@example.org", "A@example.org"]}
"""Four recipients: who is named twice gets one copy."""


@pytest.mark.parametrize(
    ("path", "bodies", "copies"),
    [
        ("/v1/emails", [MANY], 4),
        ("/v1/emails/batch", [{}, {}, {}], 3),
        ("/v1/emails/batch", [MANY, {}, {"to": "nobody"}, {"draft": True}], 5),
    ],
)
async def test_each_recipient_counts(house: House, path: str, bodies: list[dict[str, object]], copies: int) -> None:
    key = (await house.make(rate_per_second=2))["key"]
    emails = [LEAST | fields for fields in bodies]
    body = emails[0] if path == "/v1/emails" else {"emails": emails}
    assert (await house.ask("POST", path, key=key, json=body)).status_code == 202
    house.passed += (copies - 2 + 1) / 2 - 0.01
    assert (await house.send(key=key)).status_code == 429
    house.passed += 0.02
    assert (await house.send(key=key)).status_code == 202


@pytest.mark.parametrize("fields", [{"draft": True}, {"send_at": later(hours=1)}], ids=["draft", "scheduled"])
async def test_each_recipient_counts_when_it_is_sent_by_its_id(house: House, fields: dict[str, object]) -> None:
    key = (await house.make(rate_per_second=2))["key"]
    email_id = (await house.send(LEAST | MANY | fields)).json()["id"]
    assert await house.status(key, "POST", f"/v1/emails/{email_id}/send") == 202
    house.passed += 1.49
    assert (await house.send(key=key)).status_code == 429
    house.passed += 0.02
    assert (await house.send(key=key)).status_code == 202


async def test_what_sends_nothing_spends_nothing_of_it(house: House) -> None:
    key = (await house.make(rate_per_second=1, sender_domains=["example.com"]))["key"]
    for wrong in ({"from": "a@example.org"}, {"to": "nobody"}, {"draft": True}):
        assert (await house.send(LEAST | wrong, key=key)).status_code in {201, 403, 422}
    assert await house.status(key, "POST", f"/v1/emails/{NOWHERE}/send") == 404
    assert (await house.send(key=key)).status_code == 202


async def test_a_repeat_under_its_idempotency_key_costs_nothing_and_is_never_too_many(house: House) -> None:
    key = (await house.make(rate_per_second=1))["key"]
    many = LEAST | {"to": [f"ann{n}@example.org" for n in range(20)]}
    headers = {"Idempotency-Key": "order-7"}
    first = await house.send(many, key=key, headers=headers)
    for _ in range(2):
        again = await house.send(many, key=key, headers=headers)
        assert (again.status_code, again.json()) == (202, first.json())
    assert (await house.send(key=key)).status_code == 429
    house.passed += 20.01
    assert (await house.send(many, key=key, headers=headers)).json() == first.json()
    assert (await house.send(key=key)).status_code == 202


# --- nowhere to be seen


async def test_a_key_is_nowhere_but_in_the_one_answer(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """S2, I9: not in the database, not in the log, not in any other answer."""
    caplog.set_level(logging.DEBUG)
    made = await house.make(name="canary")
    secret = made["key"].rpartition("_")[2]
    assert await house.status(made["key"]) == 404
    assert await house.status(made["key"] + "x") == 401
    await house.ask("DELETE", f"/v1/keys/{made['id']}")
    await house.stored.write_uses()
    on_disk = b"".join(path.read_bytes() for path in house.path.parent.iterdir() if path.is_file())
    assert b"canary" in on_disk
    assert secret.encode() not in on_disk
    assert secret[:20].encode() not in on_disk
    assert secret not in caplog.text
    assert secret not in repr([vars(house.stored), vars(house.keys), await house.listed()])
    assert secret not in repr(NewKeyView(**made))
