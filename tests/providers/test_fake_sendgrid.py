"""The fake SendGrid is as strict as the vendor, and its faults strike where they should."""

import asyncio
import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.fakes.sendgrid import KEY, PATH, SendGridRules, fake_sendgrid

pytestmark = pytest.mark.anyio

Mail = dict[str, Any]


def a_mail() -> Mail:
    return {
        "personalizations": [
            {"to": [{"email": "ann@example.org"}], "custom_args": {"hes_id": "e1", "hes_attempt": "a1"}}
        ],
        "from": {"email": "shop@example.com"},
        "subject": "Receipt",
        "content": [{"type": "text/plain", "value": "Hi"}],
    }


async def post(
    url: str, mail: Mail | bytes, key: str | None = KEY, content_type: str = "application/json"
) -> tuple[int, Any, str | None]:
    """Status, body and X-Message-Id, by a client that knows nothing of HES."""
    headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {key}"} if key else {})
    body = io.BytesIO(mail if isinstance(mail, bytes) else msgspec.json.encode(mail))
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        raw = await response.read()
        return response.status, msgspec.json.decode(raw) if raw else None, response.headers.get("X-Message-Id")


async def ask(mail: Mail | bytes, rules: SendGridRules | None = None, **how: Any) -> tuple[int, Any]:
    async with fake_sendgrid(rules) as fake:
        status, body, _ = await post(fake.url + PATH, mail, **how)
        assert len(fake.accepted) == (status == 202)
        return status, body


async def test_a_good_mail_is_taken_with_an_empty_202() -> None:
    async with fake_sendgrid() as fake:
        assert await post(fake.url + PATH, a_mail()) == (202, None, "fake-1")
        (copy,) = fake.accepted
    assert (copy.hes_id, copy.hes_attempt, copy.envelope) == ("e1", "a1", ("ann@example.org",))
    assert copy.content == a_mail()


async def test_the_message_id_can_be_missing() -> None:
    async with fake_sendgrid(SendGridRules(gives_message_id=False)) as fake:
        assert await post(fake.url + PATH, a_mail()) == (202, None, None)


async def test_the_sandbox_takes_nothing_and_says_200() -> None:
    assert await ask(a_mail() | {"mail_settings": {"sandbox_mode": {"enable": True}}}) == (200, None)


@pytest.mark.parametrize("key", [None, "SG.wrong", ""])
async def test_credentials_come_first(key: str | None) -> None:
    status, body = await ask(b"not json", key=key)
    assert status == 401
    assert body["errors"][0].keys() == {"message", "field", "help"}


async def test_a_key_without_the_scope() -> None:
    assert (await ask(a_mail(), SendGridRules(keys_without_scope=[KEY])))[0] == 403


async def test_used_up_credits_are_a_401() -> None:
    rules = SendGridRules()
    rules.out_of_credits = True
    status, body = await ask(a_mail(), rules)
    assert (status, body["errors"][0]["message"]) == (401, "Maximum credits exceeded")


async def test_an_unverified_sender() -> None:
    status, body = await ask(a_mail(), SendGridRules(verified_domains=["other.org"]))
    assert (status, body["errors"][0]["field"]) == (403, "from")


async def test_a_wrong_content_type() -> None:
    assert (await ask(a_mail(), content_type="text/plain"))[0] == 415


@pytest.mark.parametrize("path", ["/v3/mail", "/mail/send"])
async def test_a_wrong_path(path: str) -> None:
    async with fake_sendgrid() as fake:
        assert (await post(fake.url + path, a_mail()))[0] == 404


async def test_too_large() -> None:
    mail = a_mail() | {"attachments": [{"content": "A" * 31_500_000, "filename": "a"}]}
    assert (await ask(msgspec.json.encode(mail)))[0] == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"from":1}', b'{"personalizations":[7]}'])
async def test_what_is_not_a_mail_at_all(body: bytes) -> None:
    assert (await ask(body))[0] == 400


def change(path: str, value: Any) -> Callable[[Mail], None]:
    """Set what `path` names, as in `from.email`; None takes it away."""

    def apply(mail: Mail) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = mail
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return apply


PERSON = "personalizations.0"
MANY = [{"email": f"a{number}@x.org"} for number in range(1001)]
RULES = {
    "no from": change("from", None),
    "bad from": change("from.email", "shop"),
    "no personalizations": change("personalizations", None),
    "empty personalizations": change("personalizations", []),
    "no to": change(f"{PERSON}.to", None),
    "empty to": change(f"{PERSON}.to", []),
    "bad address": change(f"{PERSON}.to.0.email", "ann"),
    "duplicate address": change(f"{PERSON}.bcc", [{"email": "Ann@Example.org"}]),
    "too many recipients": change(f"{PERSON}.to", MANY),
    "custom args not strings": change(f"{PERSON}.custom_args", {"n": 1}),
    "custom args too large": change(f"{PERSON}.custom_args", {"n": "x" * 10_000}),
    "no subject": change("subject", None),
    "empty subject": change("subject", ""),
    "no content": change("content", None),
    "empty content": change("content", []),
    "empty content value": change("content.0.value", ""),
    "html before text": change("content", [{"type": "text/html", "value": "x"}, {"type": "text/plain", "value": "x"}]),
    "both reply-tos": lambda mail: mail.update(reply_to={"email": "a@x.org"}, reply_to_list=[{"email": "a@x.org"}]),
    "reserved header": change("headers", {"Reply-To": "x"}),
    "header not a string": change("headers", {"X-N": 1}),
    "too many categories": change("categories", [str(number) for number in range(11)]),
    "category too long": change("categories", ["x" * 256]),
    "category not ASCII": change("categories", ["ü"]),
    "category twice": change("categories", ["a", "a"]),
    "attachment without content": change("attachments", [{"filename": "a"}]),
    "attachment without name": change("attachments", [{"content": "QQ=="}]),
    "attachment not base64": change("attachments", [{"content": "Q", "filename": "a"}]),
    "attachment type with parameters": change("attachments", [{"content": "QQ==", "filename": "a", "type": "a/b; c"}]),
    "bad disposition": change("attachments", [{"content": "QQ==", "filename": "a", "disposition": "x"}]),
    "inline without content id": change("attachments", [{"content": "QQ==", "filename": "a", "disposition": "inline"}]),
    "sandbox not a boolean": change("mail_settings", {"sandbox_mode": {"enable": "true"}}),
}


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_is_kept(rule: str) -> None:
    mail = a_mail()
    RULES[rule](mail)
    status, body = await ask(mail)
    assert status == 400
    assert len(body["errors"]) >= 1
    assert all(error.keys() == {"message", "field", "help"} for error in body["errors"])


async def statuses(fake: FakeServer, times: int) -> list[int]:
    return [(await post(fake.url + PATH, a_mail()))[0] for _ in range(times)]


async def test_a_fault_counts_down() -> None:
    async with fake_sendgrid() as fake:
        fake.fault = Fault(kind=Kind.STATUS, status=503, count=2)
        assert await statuses(fake, 4) == [503, 503, 202, 202]


async def test_a_script_is_played_request_by_request() -> None:
    async with fake_sendgrid() as fake:
        fake.script([None, Fault(kind=Kind.STATUS, status=500, at=Point.AFTER_STORING), None])
        assert await statuses(fake, 3) == [202, 500, 202]
        assert fake.copies("e1") == 3


async def test_a_probability_replays_from_its_seed() -> None:
    seen = []
    for _ in range(2):
        async with fake_sendgrid(rng=random.Random(7)) as fake:
            fake.fault = Fault(kind=Kind.STATUS, status=503, probability=0.5)
            seen.append(await statuses(fake, 12))
    assert seen[0] == seen[1]
    assert set(seen[0]) == {202, 503}


def test_a_fault_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="mid answer"):
        Fault(kind=Kind.STATUS, at=Point.MID_ANSWER)


async def test_as_a_process_it_is_controlled_over_http() -> None:
    """Tests that kill HES need SendGrid to live on; also what it took must be told from outside."""
    command = [sys.executable, "-m", "tests.fakes.sendgrid", "--latency-ms", "1", "--keys", "SG.x"]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession() as session:
            fault = msgspec.json.encode(Fault(kind=Kind.STATUS, status=500, at=Point.AFTER_STORING, count=1))
            async with session.post(url + "/_fault", data=fault) as response:
                assert response.status == 200
            assert [(await post(url + PATH, a_mail(), "SG.x"))[0] for _ in range(2)] == [500, 202]
            async with session.get(url + "/_counts") as response:
                assert await response.json() == {"e1": 2}
            async with session.get(url + "/_accepted") as response:
                first, _second = await response.json()
                assert (first["hes_id"], first["hes_attempt"]) == ("e1", "a1")
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_the_control_port_answers_while_the_provider_refuses() -> None:
    fake = fake_sendgrid()
    await fake.start(control_port=0)
    control = f"http://127.0.0.1:{fake._listeners['control'].sockets[0].getsockname()[1]}"
    async with aiohttp.ClientSession() as session:
        for refuse in (b"true", b"false"):
            async with session.post(control + "/_refuse", data=refuse) as response:
                assert response.status == 200
            if refuse == b"true":
                with pytest.raises(aiohttp.ClientConnectorError):
                    await post(fake.url + PATH, a_mail())
    assert (await post(fake.url + PATH, a_mail()))[0] == 202
    await fake.stop()


# --- its logs ---------------------------------------------------------------------------------------------------------


async def logs(url: str, query: str, limit: int = 50, key: str = KEY) -> tuple[int, Any]:
    status, body, _ = await post(url + "/v3/logs", {"query": query, "limit": limit}, key)
    return status, body


def ids(answer: tuple[int, Any]) -> list[str]:
    assert answer[0] == 200
    return [message["sg_message_id"].partition(".")[0] for message in answer[1]["messages"]]


async def test_the_logs_are_searched_by_recipient_and_time_newest_first() -> None:
    now = 1_700_000_000.0
    async with fake_sendgrid(SendGridRules(clock=lambda: now)) as fake:
        await post(fake.url + PATH, a_mail())
        now += 60
        await post(fake.url + PATH, a_mail())
        to_ann = "to_email = 'ann@example.org'"
        assert ids(await logs(fake.url, to_ann)) == ["fake-2", "fake-1"]
        assert ids(await logs(fake.url, to_ann, limit=1)) == ["fake-2"]
        assert ids(await logs(fake.url, "to_email = 'Ann@example.org'")) == []
        later = 'sg_message_id_created_at > TIMESTAMP "2023-11-14T22:13:20Z"'
        assert ids(await logs(fake.url, f"{to_ann} AND {later}")) == ["fake-2"]
        assert ids(await logs(fake.url, f"{to_ann} AND {later.replace('>', '<=')}")) == ["fake-1"]


async def test_a_message_is_shown_with_its_custom_args_and_a_hit_without() -> None:
    async with fake_sendgrid() as fake, aiohttp.ClientSession() as session:
        await post(fake.url + PATH, a_mail())
        _, body = await logs(fake.url, "to_email = 'ann@example.org'")
        (hit,) = body["messages"]
        assert "custom_args" not in hit
        url, headers = f"{fake.url}/v3/logs/{hit['sg_message_id']}", {"Authorization": f"Bearer {KEY}"}
        async with session.get(url, headers=headers) as response:
            assert (await response.json())["custom_args"] == {"hes_id": "e1", "hes_attempt": "a1"}
        async with session.get(url + "x", headers=headers) as response:
            assert response.status == 404


async def test_a_message_shows_up_late() -> None:
    now = 1_700_000_000.0
    rules = SendGridRules(clock=lambda: now)
    rules.logs.lag_seconds = 30
    async with fake_sendgrid(rules) as fake:
        await post(fake.url + PATH, a_mail())
        assert ids(await logs(fake.url, "to_email = 'ann@example.org'")) == []
        now += 30
        assert ids(await logs(fake.url, "to_email = 'ann@example.org'")) == ["fake-1"]


@pytest.mark.parametrize(
    "query", ["", "to_email = ann", "hes_id = 'e1'", "custom_args = 'a1'", "to_email = 'a' OR to_email = 'b'"]
)
async def test_what_can_not_be_searched_is_a_400(query: str) -> None:
    async with fake_sendgrid() as fake:
        assert (await logs(fake.url, query))[0] == 400


async def test_who_may_not_read_the_logs() -> None:
    rules = SendGridRules()
    async with fake_sendgrid(rules) as fake:
        assert (await logs(fake.url, "to_email = 'a'", key="SG.x"))[0] == 401
        rules.logs.requests_left = 1
        assert [(await logs(fake.url, "to_email = 'a'"))[0] for _ in range(2)] == [200, 429]
        rules.logs.is_forbidden = True
        assert (await logs(fake.url, "to_email = 'a'"))[0] == 403
