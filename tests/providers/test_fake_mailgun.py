"""The fake Mailgun is as strict as the vendor, and as silent."""

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

from tests.fakes.mailgun import DOMAIN, KEY, PATH, File, Mail, MailgunRules, fake_mailgun

pytestmark = pytest.mark.anyio

Fields = list[tuple[Any, ...]]
"""Name, value, and for a file: its name and type."""


def a_form() -> Fields:
    return [
        ("from", "Shop <shop@example.com>"),
        ("to", "ann@example.org"),
        ("subject", "Receipt"),
        ("text", "Hi"),
        ("v:hes_id", "e1"),
        ("v:hes_attempt", "a1"),
    ]


async def post(url: str, fields: Fields | bytes, key: str | None = KEY, content_type: str = "") -> tuple[int, str]:
    """Status and body, by a client and a multipart writer that know nothing of HES."""
    data: Any = fields
    if isinstance(fields, list):
        data = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
        for name, value, *file in fields:
            data.add_field(name, value, **dict(zip(("filename", "content_type"), file, strict=False)))
    headers = {"Content-Type": content_type} if content_type else {}
    if key is not None:
        headers["Authorization"] = aiohttp.encode_basic_auth("api", key)
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as response:
        return response.status, await response.text()


async def ask(fields: Fields | bytes, rules: MailgunRules | None = None, **how: Any) -> tuple[int, str]:
    """Status, and what `message` says, or the text."""
    async with fake_mailgun(rules) as fake:
        status, body = await post(fake.url + how.pop("path", PATH), fields, **how)
        assert len(fake.accepted) == (status == 200)
        return status, msgspec.json.decode(body)["message"] if body.startswith("{") else body


async def taken(fields: Fields) -> tuple[tuple[str, ...], Mail]:
    async with fake_mailgun() as fake:
        assert (await post(fake.url + PATH, fields))[0] == 200
        (copy,) = fake.accepted
        return copy.envelope, copy.content


async def test_a_good_form_is_taken() -> None:
    async with fake_mailgun() as fake:
        status, body = await post(fake.url + PATH, a_form())
        (copy,) = fake.accepted
    answer = {"id": f"<fake-1@{DOMAIN}>", "message": "Queued. Thank you."}
    assert (status, msgspec.json.decode(body)) == (200, answer)
    assert (copy.hes_id, copy.hes_attempt, copy.envelope) == ("e1", "a1", ("ann@example.org",))
    mail: Mail = copy.content
    assert (mail.sender, mail.subject, mail.text, mail.html) == ("Shop <shop@example.com>", "Receipt", "Hi", None)


async def test_the_id_can_be_missing() -> None:
    async with fake_mailgun(MailgunRules(gives_message_id=False)) as fake:
        assert await post(fake.url + PATH, a_form()) == (200, '{"message":"Queued. Thank you."}')


@pytest.mark.parametrize("key", [None, "wrong", ""])
async def test_credentials_come_first_and_are_refused_with_a_bare_text(key: str | None) -> None:
    assert await ask(b"{", key=key, path="/v3/unknown/messages") == (401, "Forbidden")


async def test_the_user_must_be_api() -> None:
    async with fake_mailgun() as fake, aiohttp.ClientSession() as session:
        headers = {"Authorization": aiohttp.encode_basic_auth("hes", KEY)}
        async with session.post(fake.url + PATH, headers=headers) as response:
            assert response.status == 401


@pytest.mark.parametrize(
    ("path", "says"), [("/v3/other.example/messages", "Domain not found"), ("/v3/messages", "page not found")]
)
async def test_an_unknown_domain_or_path(path: str, says: str) -> None:
    status, message = await ask(a_form(), path=path)
    assert status == 404
    assert says in message


@pytest.mark.parametrize("why", ["Account disabled", "The domain is unverified and requires DNS configuration."])
async def test_not_allowed_to_send(why: str) -> None:
    rules = MailgunRules()
    rules.not_allowed = why
    assert await ask(a_form(), rules) == (403, f"Domain {DOMAIN} is not allowed to send: {why}")


async def test_too_fast() -> None:
    rules = MailgunRules()
    rules.limit_exceeded = True
    status, message = await ask(a_form(), rules)
    assert status == 429
    assert message.startswith(f"Domain {DOMAIN} is not allowed to send: ")
    assert message.endswith("try again after 120 seconds")


@pytest.mark.parametrize("status", [400, 403])
async def test_the_sandbox(status: int) -> None:
    rules = MailgunRules()
    rules.sandbox_status = status
    got, message = await ask(a_form(), rules)
    assert got == status
    assert message.startswith("Sandbox subdomains are for test purposes only")


async def test_too_large() -> None:
    assert (await ask([*a_form(), ("attachment", io.BytesIO(b"x" * 26_300_000), "a.bin")]))[0] == 413


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"from":"a@x.org","to":"a@x.org","subject":"s","text":"t"}'),
        ("application/x-www-form-urlencoded", b"from=a@x.org&to=a@x.org&subject=s&text=t"),
        ("multipart/form-data", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=x"),
        (
            "multipart/form-data; boundary=b",
            b'--c\r\nContent-Disposition: form-data; name="from"\r\n\r\na\r\n--c--\r\n',
        ),
    ],
    ids=["JSON", "urlencoded", "no boundary", "cut off", "another boundary"],
)
async def test_what_is_no_form_has_no_from(content_type: str, body: bytes) -> None:
    assert await ask(body, content_type=content_type) == (400, "from parameter is missing")


def change(name: str, *values: str) -> Callable[[Fields], Fields]:
    """These values instead of those that `name` had."""
    return lambda fields: [field for field in fields if field[0] != name] + [(name, value) for value in values]


RULES = {
    "no from": (change("from"), "from parameter is missing"),
    "no to": (change("to"), "to parameter is missing"),
    "empty to": (change("to", ""), "to parameter is missing"),
    "no subject": (change("subject"), "subject parameter is missing"),
    "no content": (change("text"), "Need at least one of"),
    "empty content": (change("text", ""), "Need at least one of"),
    "html and template": (lambda fields: [*fields, ("html", "x"), ("template", "x")], "Only one parameters"),
    "bad from": (change("from", "shop"), "from parameter is not a valid address"),
    "bad to": (change("to", "ann@example.org", "ann"), "to parameter is not a valid address"),
    "unquoted comma": (change("to", "Doe, Ann <ann@example.org>"), "to parameter is not a valid address"),
    "bad bcc": (change("bcc", "a@"), "bcc parameter is not a valid address"),
    "too many recipients": (change("cc", *(f"a{number}@x.org" for number in range(1000))), "too many recipients"),
    "options too large": (change("v:x", "x" * 16_000, "x" * 400), "limited to 16KB total"),
    "header name not ASCII": (change("h:X-Ü", "x"), "header name"),
    "too many tags": (change("o:tag", *"abcdefghijk"), "at most 10 tags"),
    "unknown tracking": (change("o:tracking", "off"), "o:tracking parameter is not valid"),
    "unknown click tracking": (change("o:tracking-clicks", "off"), "o:tracking-clicks parameter is not valid"),
    "unknown open tracking": (change("o:tracking-opens", "htmlonly"), "o:tracking-opens parameter is not valid"),
}


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_is_kept(rule: str) -> None:
    apply, says = RULES[rule]
    status, message = await ask(apply(a_form()))
    assert status == 400
    assert says in message


async def test_a_file_without_a_name_is_dropped_silently() -> None:
    _, mail = await taken(
        [*a_form(), ("attachment", "lost"), ("attachment", b"kept", "ü.bin", "a/b"), ("inline", "lost")]
    )
    assert (mail.attachments, mail.inline) == ((File("ü.bin", "a/b", b"kept"),), ())


async def test_an_inline_file_is_known_by_its_name() -> None:
    _, mail = await taken([*a_form(), ("inline", b"PNG\r\n\0", "logo.png", "image/png")])
    assert mail.inline == (File("logo.png", "image/png", b"PNG\r\n\0"),)


async def test_duplicate_recipients_are_dropped_silently() -> None:
    fields = [*a_form(), ("to", "A <ANN@example.org>, bob@x.org"), ("cc", "bob@x.org"), ("bcc", "cid@x.org")]
    envelope, _ = await taken(fields)
    assert envelope == ("ann@example.org", "bob@x.org", "cid@x.org")


@pytest.mark.parametrize(
    ("given", "is_kept"), [("<a@x.org>", True), ("a@x.org", False), ("<a>", False), ("<a@b@c>", False), ("", False)]
)
async def test_a_message_id_that_is_none_is_replaced(given: str, *, is_kept: bool) -> None:
    _, mail = await taken([*a_form(), ("h:Message-Id", given)])
    assert mail.id == (given if is_kept else f"<fake-1@{DOMAIN}>")
    assert mail.headers == {}


async def test_options_headers_variables_and_tags_are_told_apart() -> None:
    fields = [("o:tag", "a"), ("o:tag", "bü"), ("o:tag", "ü"), ("h:X-A", "1"), ("o:tracking", "no"), ("unknown", "x")]
    _, mail = await taken([*a_form(), *fields])
    assert mail.tags == ("a", "b")
    assert (mail.headers, mail.options) == ({"X-A": "1"}, {"tracking": "no"})
    assert mail.variables == {"hes_id": "e1", "hes_attempt": "a1"}


async def test_test_mode_is_answered_and_not_delivered() -> None:
    async with fake_mailgun() as fake:
        assert (await post(fake.url + PATH, [*a_form(), ("o:testmode", "yes")]))[0] == 200
        assert fake.accepted == []


async def test_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.fakes.mailgun", "--keys", "k", "--domains", "m.example"]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        assert (await post(f"{url}/v3/m.example/messages", a_form(), "k"))[0] == 200
        async with aiohttp.ClientSession() as session, session.get(url + "/_counts") as response:
            assert await response.json() == {"e1": 1}
    finally:
        process.terminate()
        assert await process.wait() == 0


# --- its events -------------------------------------------------------------------------------------------------------

BY_ID = f"message-id=fake-1@{DOMAIN}&ascending=yes"


async def search(url: str, query: str, key: str = KEY, domain: str = DOMAIN) -> tuple[int, Any]:
    headers = {"Authorization": aiohttp.encode_basic_auth("api", key)}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v3/{domain}/events?{query}", headers=headers) as response,
    ):
        text = await response.text()
        return response.status, msgspec.json.decode(text) if text.startswith("{") else text


async def test_what_was_taken_is_found_by_its_message_id_without_brackets() -> None:
    async with fake_mailgun(MailgunRules(clock=lambda: 1000.0)) as fake:
        await post(fake.url + PATH, [*a_form(), ("bcc", "b@x.org")])
        status, body = await search(fake.url, BY_ID)
        assert status == 200
        assert [(item["event"], item["recipient"]) for item in body["items"]] == [
            ("accepted", "ann@example.org"),
            ("accepted", "b@x.org"),
        ]
        assert body["items"][0]["user-variables"] == {"hes_id": "e1", "hes_attempt": "a1"}
        assert len((await search(fake.url, BY_ID + "&limit=1"))[1]["items"]) == 1
        assert (await search(fake.url, BY_ID + "&begin=1001"))[1]["items"] == []
        assert (await search(fake.url, "message-id=other&ascending=yes"))[1]["items"] == []


async def test_an_event_shows_up_late() -> None:
    now = 1000.0
    rules = MailgunRules(clock=lambda: now)
    rules.search_lag_seconds = 30
    async with fake_mailgun(rules) as fake:
        await post(fake.url + PATH, a_form())
        assert (await search(fake.url, BY_ID))[1]["items"] == []
        now = 1030.0
        assert len((await search(fake.url, BY_ID))[1]["items"]) == 1


async def test_who_may_not_search() -> None:
    rules = MailgunRules()
    rules.searches_left = 1
    async with fake_mailgun(rules) as fake:
        assert await search(fake.url, BY_ID, key="x") == (401, "Forbidden")
        assert (await search(fake.url, BY_ID, domain="other.example"))[0] == 404
        assert [(await search(fake.url, BY_ID))[0] for _ in range(2)] == [200, 429]
        rules.sending_keys = {KEY}
        assert await search(fake.url, BY_ID) == (401, "Forbidden")
        assert (await post(fake.url + PATH, a_form()))[0] == 200


@pytest.mark.parametrize("query", ["message-id=x", "message-id=x&ascending=yes&hes_id=e1", BY_ID + "&limit=301"])
async def test_a_search_that_it_does_not_know_is_a_400(query: str) -> None:
    async with fake_mailgun() as fake:
        assert (await search(fake.url, query))[0] == 400
