"""The fake Resend is as strict as the vendor, and remembers keys as the vendor does."""

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.fakes.resend import KEY, PATH, ResendRules, fake_resend

pytestmark = pytest.mark.anyio

Mail = dict[str, Any]


def a_mail() -> Mail:
    return {
        "from": "Shop <shop@example.com>",
        "to": ["Ann <ann@example.org>"],
        "subject": "Receipt",
        "text": "Hi",
        "tags": [{"name": "hes_id", "value": "e1"}, {"name": "hes_attempt", "value": "a1"}],
    }


async def post(url: str, mail: Mail | bytes, key: str | None = KEY, idempotency: str | None = None) -> tuple[int, Any]:
    """Status and body, by a client that knows nothing of HES."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if idempotency is not None:
        headers["Idempotency-Key"] = idempotency
    body = io.BytesIO(mail if isinstance(mail, bytes) else msgspec.json.encode(mail))
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status, msgspec.json.decode(await response.read())


async def ask(mail: Mail | bytes, rules: ResendRules | None = None, **how: Any) -> tuple[int, str]:
    """Status, and the id or the error's name."""
    async with fake_resend(rules) as fake:
        status, body = await post(fake.url + PATH, mail, **how)
        assert len(fake.accepted) == (status == 200)
        if status != 200:
            assert body.keys() == {"statusCode", "name", "message"}
            assert body["statusCode"] == status
        return status, body["id" if status == 200 else "name"]


async def test_a_good_mail_is_taken() -> None:
    async with fake_resend() as fake:
        assert await post(fake.url + PATH, a_mail()) == (200, {"id": "fake-1"})
        (copy,) = fake.accepted
    assert (copy.hes_id, copy.hes_attempt, copy.envelope) == ("e1", "a1", ("ann@example.org",))


async def test_one_address_may_be_a_text() -> None:
    assert await ask(a_mail() | {"to": "ann@example.org"}) == (200, "fake-1")


async def test_the_message_id_is_replaced() -> None:
    async with fake_resend() as fake:
        await post(fake.url + PATH, a_mail() | {"headers": {"message-id": "<ours@x.org>", "X-A": "1"}})
        assert fake.accepted[0].content["headers"] == {"Message-ID": "<fake-1@email.resend.example>", "X-A": "1"}


@pytest.mark.parametrize(("key", "answer"), [(None, (401, "missing_api_key")), ("re_wrong", (403, "invalid_api_key"))])
async def test_credentials_come_first(key: str | None, answer: tuple[int, str]) -> None:
    assert await ask(b"not json", key=key) == answer


async def test_a_domain_that_is_not_verified() -> None:
    assert await ask(a_mail(), ResendRules(verified_domains=["other.org"])) == (403, "validation_error")
    assert (await ask(a_mail(), ResendRules(verified_domains=["example.com"])))[0] == 200


async def test_a_wrong_path() -> None:
    async with fake_resend() as fake:
        status, body = await post(fake.url + "/email", a_mail())
    assert (status, body["name"]) == (404, "not_found")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"from":1}', b'{"from":"a@x.org","to":[7]}'])
async def test_what_is_not_a_mail_at_all(body: bytes) -> None:
    assert (await ask(body))[0] == 422


def change(**fields: Any) -> Callable[[Mail], None]:
    """Set a field; None takes it away."""

    def apply(mail: Mail) -> None:
        for name, value in fields.items():
            mail.pop(name.rstrip("_"), None)
            if value is not None:
                mail[name.rstrip("_")] = value

    return apply


def a_file(**changes: Any) -> list[Mail]:
    return [{"filename": "a.pdf", "content": "UERG"} | changes]


FIFTY_ONE = [f"a{number}@x.org" for number in range(51)]
RULES = {
    "no from": (change(from_=None), 422, "missing_required_field"),
    "bad from": (change(from_="shop"), 422, "invalid_from_address"),
    "quoted from": (change(from_='"Shop, Ltd" <a@x.org>'), 422, "invalid_from_address"),
    "comma in from": (change(from_="Shop, Ltd <a@x.org>"), 422, "invalid_from_address"),
    "encoded from": (change(from_="=?utf-8?q?J=C3=B6rg?= <a@x.org>"), 451, "security_error"),
    "open bracket": (change(from_="Shop <a@x.org"), 422, "invalid_from_address"),
    "no to": (change(to=None), 422, "missing_required_field"),
    "empty to": (change(to=[]), 422, "missing_required_field"),
    "bad to": (change(to=["ann"]), 422, "validation_error"),
    "quoted to": (change(to=['"Doe, Ann" <a@x.org>']), 422, "validation_error"),
    "non-ASCII to": (change(to=["jörg@x.org"]), 422, "validation_error"),
    "bad reply_to": (change(reply_to=["x"]), 422, "validation_error"),
    "51 in to": (change(to=FIFTY_ONE), 422, "validation_error"),
    "51 in cc": (change(cc=FIFTY_ONE), 422, "validation_error"),
    "no subject": (change(subject=None), 422, "missing_required_field"),
    "empty subject": (change(subject=""), 422, "missing_required_field"),
    "no body": (change(text=None), 422, "missing_required_field"),
    "tag letters": (change(tags=[{"name": "a", "value": "b c"}]), 422, "validation_error"),
    "tag name letters": (change(tags=[{"name": "a.b", "value": "b"}]), 422, "validation_error"),
    "long tag": (change(tags=[{"name": "a", "value": "b" * 257}]), 422, "validation_error"),
    "empty tag": (change(tags=[{"name": "a", "value": ""}]), 422, "validation_error"),
    "header not a string": (change(headers={"X-N": 1}), 422, "validation_error"),
    "header beyond ASCII": (change(headers={"X-N": "ü"}), 422, "validation_error"),
    "file without a name": (change(attachments=a_file(filename="")), 422, "invalid_attachment"),
    "file without content": (change(attachments=a_file(content="")), 422, "invalid_attachment"),
    "file not base64": (change(attachments=a_file(content="?")), 422, "invalid_attachment"),
    "long content id": (change(attachments=a_file(content_id="x" * 128)), 422, "invalid_attachment"),
}


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_refuses(rule: str) -> None:
    broken, status, name = RULES[rule]
    mail = a_mail()
    broken(mail)
    assert await ask(mail) == (status, name)


async def test_too_large() -> None:
    assert (await ask(a_mail() | {"text": "x" * 42_000_000}))[0] == 413


async def test_a_file_whose_name_and_type_disagree_is_dropped_in_silence() -> None:
    rules = ResendRules()
    async with fake_resend(rules) as fake:
        mail = a_mail() | {"attachments": a_file(filename="a.txt", content_type="text/csv")}
        assert (await post(fake.url + PATH, mail))[0] == 200
        assert (fake.accepted, [copy.hes_id for copy in rules.dropped]) == ([], ["e1"])


async def test_a_key_is_remembered_for_a_day() -> None:
    now = 1000.0
    async with fake_resend(ResendRules(clock=lambda: now)) as fake:
        for now in (1000.0, 1000.0 + 86_399):  # noqa: B007 - the clock reads it
            assert await post(fake.url + PATH, a_mail(), idempotency="k") == (200, {"id": "fake-1"})
        assert len(fake.accepted) == 1
        now = 1000.0 + 86_400
        assert await post(fake.url + PATH, a_mail(), idempotency="k") == (200, {"id": "fake-2"})
        assert len(fake.accepted) == 2


async def test_a_key_with_another_body_is_a_409() -> None:
    async with fake_resend() as fake:
        await post(fake.url + PATH, a_mail(), idempotency="k")
        status, body = await post(fake.url + PATH, a_mail() | {"subject": "other"}, idempotency="k")
        assert (status, body["name"]) == (409, "invalid_idempotent_request")
        assert len(fake.accepted) == 1


async def test_a_key_in_progress_is_a_409() -> None:
    now = 0.0
    rules = ResendRules(clock=lambda: now)
    rules.takes_seconds = 5
    async with fake_resend(rules) as fake:
        await post(fake.url + PATH, a_mail(), idempotency="k")
        status, body = await post(fake.url + PATH, a_mail(), idempotency="k")
        assert (status, body["name"]) == (409, "concurrent_idempotent_requests")
        now = 5.0
        assert await post(fake.url + PATH, a_mail(), idempotency="k") == (200, {"id": "fake-1"})


async def test_a_refused_request_does_not_use_up_its_key() -> None:
    async with fake_resend() as fake:
        assert (await post(fake.url + PATH, a_mail() | {"subject": ""}, idempotency="k"))[0] == 422
        assert (await post(fake.url + PATH, a_mail(), idempotency="k"))[0] == 200


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_a_key_has_1_to_256_characters(key: str) -> None:
    assert await ask(a_mail(), idempotency=key) == (400, "invalid_idempotency_key")
    assert (await ask(a_mail(), idempotency="k" * 256))[0] == 200


async def test_a_rate_limit_is_per_second() -> None:
    now = 0.0
    rules = ResendRules(clock=lambda: now)
    rules.requests_per_second = 2
    async with fake_resend(rules) as fake:
        assert [(await post(fake.url + PATH, a_mail()))[0] for _ in range(3)] == [200, 200, 429]
        now = 1.0
        assert (await post(fake.url + PATH, a_mail()))[0] == 200


@pytest.mark.parametrize("quota", ["daily_quota", "monthly_quota"])
async def test_a_used_up_quota_is_a_429(quota: str) -> None:
    rules = ResendRules()
    rules.out_of = quota
    assert await ask(a_mail(), rules) == (429, f"{quota}_exceeded")


async def test_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.fakes.resend", "--keys", "k", "--requests-per-second", "1000"]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        assert [await post(url + PATH, a_mail(), "k", "i") for _ in range(2)] == [(200, {"id": "fake-1"})] * 2
        async with aiohttp.ClientSession() as session, session.get(url + "/_counts") as response:
            assert await response.json() == {"e1": 1}
    finally:
        process.terminate()
        assert await process.wait() == 0
