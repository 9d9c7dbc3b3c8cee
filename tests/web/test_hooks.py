"""POST /hooks/{name}: whose word is taken, and what is answered. The signatures have tests at the providers."""

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from hes.app import make_hooks
from hes.errors import ConfigError, NotAuthenticated, StorageUnavailable
from hes.settings import load
from hes.storage.inbox import Taken
from hes.told import Told
from hes.web.desk import Hook
from hes.web.hooks import HOOK_BODY_BYTES
from tests.fakes.hooks import Post
from tests.web.service import HOOKS, MAILGUN_HOOK, Service, problem_in

pytestmark = pytest.mark.anyio

EVENT = {
    "event": "delivered",
    "id": "ev1",
    "timestamp": 1_700_000_000,
    "recipient": "ann@example.org",
    "user-variables": {"hes_id": "e1", "hes_attempt": "a1"},
}


def signed(token: str = "t" * 50, **event: Any) -> Post:
    return MAILGUN_HOOK.post(EVENT | event, int(time.time()), token)


async def post(hes: Service, posted: Post, name: str = "one", **more: Any) -> Any:
    headers, body = posted
    return await hes.ask("POST", f"/hooks/{name}", key=None, headers=headers, content=body, **more)


async def test_events_are_answered_once_they_are_on_disk(hes: Service) -> None:
    answer = await post(hes, signed())
    assert (answer.status_code, answer.json()) == (200, {"new": 1})
    assert hes.count_rows()["provider_events"] == 2, "the event, and what its signature is good for once"


async def test_a_repetition_is_answered_the_same_and_counts_for_nothing(hes: Service) -> None:
    await post(hes, signed())
    answer = await post(hes, signed(token="u" * 50))
    assert (answer.status_code, answer.json()) == (200, {"new": 0})


async def test_another_event_under_a_used_signature_counts_for_nothing(hes: Service) -> None:
    await post(hes, signed())
    before = hes.count_rows()
    answer = await post(hes, signed(id="ev2", event="complained"))
    assert (answer.status_code, answer.json()) == (200, {"new": 0})
    assert hes.count_rows() == before


TWO_OF_ONE_KEY = """
[[providers]]
name = "two"
kind = "mailgun"
domain = "b.example.com"
api_key = "k"
webhook_secret = "file:b.key"
[[providers]]
name = "one"
kind = "mailgun"
domain = "a.example.com"
api_key = "k"
webhook_secret = "file:a.key"
"""


@pytest.fixture
def hooks(tmp_path: Path) -> Mapping[str, Hook]:
    """Of two providers at one account: Mailgun has one signing key for all its domains."""
    for name in ("a.key", "b.key"):
        (tmp_path / name).write_text(MAILGUN_HOOK.secret)
    (tmp_path / "hes.toml").write_text(TWO_OF_ONE_KEY)
    return make_hooks(load({}, {}, tmp_path))


async def test_a_used_signature_is_used_for_every_provider_of_its_key(
    hes: Service, hooks: Mapping[str, Hook], tmp_path: Path
) -> None:
    """Who saw one POST could send another event under its token to the other address of the same account."""
    desk = {"hooks": hooks}
    assert (await post(hes, signed(), desk=desk)).json() == {"new": 1}
    before = hes.count_rows()
    forged = signed(id="ev2", event="complained")
    assert (await post(hes, forged, name="two", desk=desk)).json() == {"new": 0}
    (tmp_path / "a.key").write_text("key-of-the-webhooks-from-now-on")
    problem_in(await post(hes, forged, desk=desk), 401)
    assert (await post(hes, forged, name="two", desk=desk)).json() == {"new": 0}, "also while the key is being changed"
    assert hes.count_rows() == before


async def test_an_event_counts_once_for_all_providers_of_one_key_whichever_address_it_comes_to(
    hes: Service, hooks: Mapping[str, Hook]
) -> None:
    """A webhook of the whole account posts what is about both to one address, or each event to both."""
    email_id = await hes.sent()
    attempt_id = (await hes.read(email_id))["attempts"][0]["id"]
    ours = {"user-variables": {"hes_id": email_id, "hes_attempt": attempt_id}}
    for n, (name, new) in enumerate((("two", 1), ("one", 0), ("two", 0))):
        answer = await post(hes, signed(token=f"{n}" * 50, **ours), name=name, desk={"hooks": hooks})
        assert answer.json() == {"new": new}
        email = await hes.read(email_id)
        assert (email["status"], [e["provider"] for e in email["events"] if e["type"] == "delivered"]) == (
            "delivered",
            ["one"],
        )


async def test_a_type_that_is_not_known_is_answered_the_same(hes: Service) -> None:
    assert (await post(hes, signed(event="hatched"))).status_code == 200


async def test_a_wrong_signature_is_a_401_and_nothing_is_kept(hes: Service) -> None:
    headers, body = signed()
    answer = await post(hes, (headers, body.replace(b'"signature":"', b'"signature":"0')))
    problem_in(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Signature"
    assert hes.count_rows()["provider_events"] == 0


async def test_without_its_header_the_body_is_not_even_read(hes: Service) -> None:
    def check(headers: Mapping[str, str]) -> None:
        if "signature" not in headers:
            raise NotAuthenticated("The signature is missing.")

    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{}")
        yield b"{}"

    hooks = {"hooks": {"one": Hook(HOOKS["one"].read_events, check)}}
    problem_in(await hes.ask("POST", "/hooks/one", key=None, content=body(), desk=hooks), 401)
    assert not read
    headers, signed_body = signed()
    assert (await post(hes, (headers | {"Signature": "x"}, signed_body), desk=hooks)).status_code == 200


async def test_the_bodies_of_one_address_leave_room_for_others(hes: Service) -> None:
    """And small ones of its own."""
    unfinished = b" " * (HOOK_BODY_BYTES // 2)
    large = (headers := signed()[0], unfinished + signed()[1])

    async def body() -> AsyncIterator[bytes]:
        yield unfinished
        await anyio.sleep_forever()

    statuses: list[int] = []

    async def begin() -> None:
        answer = await hes.ask("POST", "/hooks/one", key=None, headers=headers, content=body())
        statuses.append(answer.status_code)

    from_elsewhere = {"client_name": lambda _: "elsewhere"}
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(begin)
        await anyio.wait_all_tasks_blocked()
        assert statuses == [503] * 4
        problem_in(await post(hes, large), 503)
        assert (await post(hes, signed())).status_code == 200
        assert (await post(hes, large, desk=from_elsewhere)).status_code == 200
        tasks.cancel_scope.cancel()


async def test_what_is_no_event_is_a_400(hes: Service) -> None:
    problem_in(await post(hes, ({}, b"{")), 400)


@pytest.mark.parametrize("name", ["two", "nobody", "%00"])
async def test_a_provider_whose_events_are_not_taken_is_a_404(hes: Service, name: str) -> None:
    problem_in(await post(hes, signed(), name), 404)


async def test_a_body_that_is_too_large_is_a_413(hes: Service) -> None:
    problem_in(await post(hes, ({}, b" " * (HOOK_BODY_BYTES + 1))), 413)


async def test_while_the_storage_is_away_the_provider_shall_come_again(hes: Service) -> None:
    class Away:
        async def take(self, provider: str, told: Told) -> Taken:
            raise StorageUnavailable(f"away for {provider}: {len(told.events)}")

    answer = await post(hes, signed(), desk={"inbox": Away()})
    assert "Retry-After" in answer.headers
    problem_in(answer, 503)


async def test_a_secret_that_can_be_none_is_no_fault_of_the_providers(hes: Service) -> None:
    def read(*_: object) -> Told:
        raise ConfigError("webhook_secret is none")

    problem_in(await post(hes, signed(), desk={"hooks": {"one": Hook(read)}}), 503)
