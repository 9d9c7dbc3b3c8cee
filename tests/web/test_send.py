"""`POST /v1/emails`, end to end: what is answered, what is stored, and that a refusal stores nothing."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from litestar import Request

from hes.errors import StorageUnavailable
from hes.storage.records import Accepted, NewEmail
from hes.web.auth import ALL_SCOPES, KeyScope, Principal
from tests.web.service import KEY, LEAST, MAX_BODY_BYTES, Service, now, paths_in, problem_in


class Somebody:
    """An authenticator that takes everybody for this one."""

    def __init__(self, *scopes: KeyScope, project: str = "default", domains: tuple[str, ...] = ()) -> None:
        wide = frozenset(scopes) or ALL_SCOPES
        self.principal = Principal(key_id="k", project=project, scopes=wide, sender_domains=domains)

    async def __call__(self, request: Request[Any, Any, Any]) -> Principal:
        return self.principal


# --- what is taken


async def test_an_email_is_answered_with_its_id_and_where_to_read_it(hes: Service) -> None:
    response = await hes.send()
    assert response.status_code == 202
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert list(found) == ["id", "status", "created_at"]
    assert found["status"] == "queued"
    assert found["created_at"].endswith("Z")
    assert response.headers["location"] == f"/v1/emails/{found['id']}"
    assert (await hes.ask("GET", response.headers["location"])).json()["id"] == found["id"]
    assert hes.wakes == 1


async def test_an_email_is_stored_exactly(hes: Service) -> None:
    content = bytes(range(256)) * 100
    file = {"filename": "größe 1.bin", "content": base64.b64encode(content).decode(), "content_type": "image/png"}
    fields: dict[str, Any] = {
        "from": {"email": "Ann.Lee@müller.DE", "name": "Änn Lee, Dr."},
        "to": ["Bob <bob@example.org>", {"email": "carl@example.org", "name": "日本 🎉"}],
        "cc": "cc@example.org",
        "bcc": ["bcc@example.org"],
        "reply_to": '"Help, Desk" <help@example.com>',
        "subject": "Größe 🎉 \u202eRTL",
        "text": "Zeile 1\r\nZeile 2\n.\n\u2028🎉",
        "html": "<p>\U0001f389</p>",
        "headers": {"X-Order": "Nº 17"},
        "attachments": [file | {"content_id": "logo"}],
        "tags": {"kind": "wëlcome"},
        "reference": "order 17",
        "stream": "bulk",
        "on_doubt": "hold",
        "providers": ["two", "one"],
    }
    found = await hes.read(await hes.accepted(**fields), content=True)
    people = [(r["kind"], r["email"], r["name"]) for r in found["recipients"]]
    assert found["from"] == {"email": "Ann.Lee@xn--mller-kva.de", "name": "Änn Lee, Dr."}
    assert people == [
        ("to", "bob@example.org", "Bob"),
        ("to", "carl@example.org", "日本 🎉"),
        ("cc", "cc@example.org", None),
        ("bcc", "bcc@example.org", None),
    ]
    same = ("subject", "tags", "reference", "stream", "on_doubt")
    assert {name: found[name] for name in same} == {name: fields[name] for name in same}
    assert found["content"] == {
        "reply_to": [{"email": "help@example.com", "name": "Help, Desk"}],
        "text": fields["text"],
        "html": fields["html"],
        "headers": fields["headers"],
        "attachments": fields["attachments"],
    }


async def test_what_is_stored_is_what_a_sender_gets(hes: Service) -> None:
    email_id = await hes.accepted(bcc="b@example.org", attempt_timeout=3, headers={"X-A": "é"})
    leased = await hes.leased()
    assert leased.email.message_id == f"<hes-{email_id}@example.com>"
    assert leased.email.headers == {"X-A": "é"}
    assert [a.email for a in leased.email.bcc] == ["b@example.org"]
    assert leased.timeout_seconds == 3
    assert abs(leased.email.date - now()) < 60_000


# --- the same again: S23


def with_key(value: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": value}}


async def test_the_same_request_again_is_answered_the_same_and_sends_once(hes: Service) -> None:
    first = await hes.send(**with_key("order-17"))
    rows = hes.count_rows()
    again = await hes.send(json.dumps(LEAST, indent=2).encode(), **with_key("order-17"))
    assert (again.status_code, again.content, again.headers["location"]) == (
        *(202, first.content),
        first.headers["location"],
    )
    assert hes.count_rows() == rows
    assert (await hes.send(**with_key("order-18"))).json()["id"] != first.json()["id"]


async def test_fifty_at_once_with_one_key_are_one_email(hes: Service) -> None:
    answers = []

    async def one() -> None:
        answers.append(await hes.send(**with_key("once")))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert {a.status_code for a in answers} == {202}
    assert len({a.content for a in answers}) == 1
    assert hes.count_rows()["emails"] == 1


async def test_a_key_with_another_body_is_422_and_stores_nothing(hes: Service) -> None:
    await hes.send(**with_key("order-17"))
    rows = hes.count_rows()
    response = await hes.send(LEAST | {"subject": "Other"}, **with_key("order-17"))
    assert problem_in(response, 422)["type"] == "urn:hes:problem:key-reused"
    assert hes.count_rows() == rows


async def test_a_key_is_the_projects_own(hes: Service) -> None:
    mine = await hes.send(**with_key("k"))
    other = {"desk": {"authenticator": Somebody(project="other")}}
    theirs = await hes.send(LEAST | {"subject": "Theirs"}, **with_key("k"), **other)
    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine.json()["id"]


@pytest.mark.parametrize("value", ["", "x" * 256, "x" * 10_000, "a b", "a\x00", b"\xff", "日本".encode()])
async def test_a_malformed_key_is_400_and_stores_nothing(hes: Service, value: str | bytes) -> None:
    rows = hes.count_rows()
    problem_in(await hes.send(headers={"Idempotency-Key": value}), 400)
    assert hes.count_rows() == rows


async def test_two_keys_are_400(hes: Service) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a"), ("Content-Type", "application/json")]
    problem_in(await hes.ask("POST", "/v1/emails", json=LEAST, headers=headers), 400)
    assert hes.count_rows()["emails"] == 0


# --- who may


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("value", [f"Bearer {KEY}", basic(KEY, ""), basic("api", KEY)])
async def test_the_key_as_bearer_and_as_basic(hes: Service, value: str) -> None:
    assert (await hes.send(key=None, headers={"Authorization": value})).status_code == 202


@pytest.mark.parametrize("value", [None, "Bearer wrong", f"Bearer {KEY}x", basic("api", "wrong"), KEY])
async def test_without_a_right_key_it_is_401_with_a_challenge_and_stores_nothing(
    hes: Service, value: str | None
) -> None:
    """S3. Nobody learns what else is wrong with the request."""
    headers = {} if value is None else {"Authorization": value}
    response = await hes.send(b"{", key=None, headers=headers)
    problem_in(response, 401)
    assert response.headers["www-authenticate"] == 'Bearer, Basic realm="hes"'
    assert sum(hes.count_rows().values()) == 0


@pytest.mark.parametrize("name", ["api_key", "access_token", "key", "authorization"])
async def test_a_key_in_the_url_opens_nothing(hes: Service, name: str) -> None:
    response = await hes.ask("POST", f"/v1/emails?{name}={KEY}", key=None, json=LEAST)
    problem_in(response, 401)
    assert KEY not in response.text


async def test_a_key_needs_the_scope_and_the_senders_domain(hes: Service) -> None:
    """S11, S12."""
    problem_in(await hes.send(desk={"authenticator": Somebody("emails:read", "admin")}), 403)
    problem_in(await hes.send(desk={"authenticator": Somebody(domains=("example.net",))}), 403)
    problem_in(
        await hes.send(LEAST | {"from": "a@x.example.net"}, desk={"authenticator": Somebody(domains=("example.net",))}),
        403,
    )
    assert hes.count_rows()["emails"] == 0
    assert (await hes.send(desk={"authenticator": Somebody(domains=("example.com",))})).status_code == 202


# --- what is refused stores nothing

HOSTILE: list[tuple[dict[str, Any], str]] = [
    # S5: what is not the caller's to assign
    *(({name: value}, name) for name, value in {"state": "sent", "tenant_id": "A", "id": "x", "attempts": []}.items()),
    *(({name: value}, name) for name, value in {"scopes": ["admin"], "project": "b", "test": True}.items()),
    # how much: S6
    ({"to": [f"a{i}@example.org" for i in range(5_000)]}, "to"),
    ({"subject": "x" * 150_000}, "subject"),
    # S15: what ends a line, and addresses with two meanings
    *(({"subject": f"x{end}Bcc: evil@example.org"}, "subject") for end in ("\r\n", "\n", "\r", "\u2028", "\x85")),
    ({"from": {"email": "a@example.org", "name": "x\r\nBcc: e@e.org"}}, "from.name"),
    ({"to": ["ok@example.org", "a@x.y>\r\nRCPT TO:<e@e.org"]}, "to[1]"),
    ({"reply_to": '"a\r\nRCPT TO:<e@e.org>"@x.y'}, "reply_to"),
    ({"headers": {"X-A": "x\nBcc: e@e.org"}}, "headers.X-A"),
    ({"headers": {"X-A\nBcc": "e@e.org"}}, "headers"),
    ({"headers": {"Bcc": "e@e.org"}}, "headers.Bcc"),
    ({"headers": {"DKIM-Signature": "x"}}, "headers.DKIM-Signature"),
    ({"headers": {"X-SMTPAPI": "{}"}}, "headers.X-SMTPAPI"),
    ({"tags": {"kind": "x\r\ny"}}, "tags.kind"),
    ({"attachments": [{"filename": "x\r\ny", "content": "UERG"}]}, "attachments[0].filename"),
    *(({"to": text}, "to") for text in ("a@b.org,c@d.org", "a@b.org;c@d.org", "<a@b.org> c@d.org")),
    *(({"to": text}, "to") for text in ('"evil@a.org x"@b.org', "=?utf-8?q?x?=@b.org", "a@b.org\x00")),
    # S22: SQL, paths, types
    *(({"to": value}, "to") for value in ("' OR 1=1--", "%00", "../../etc/passwd", "..%2f")),
    ({"to": {"$ne": ""}}, "to"),
    ({"to": [[]]}, "to[0]"),
    ({"reference": {"a": 1}}, "reference"),
    ({"providers": ["one'; DROP TABLE emails"]}, "providers[0]"),
    # not built yet
    *(({name: value}, name) for name, value in {"send_at": "x", "priority": "high", "raw": ""}.items()),
]


@pytest.mark.parametrize(("fields", "path"), HOSTILE, ids=lambda value: repr(value)[:40])
async def test_hostile_content_is_422_named_and_stores_nothing(hes: Service, fields: dict[str, Any], path: str) -> None:
    response = await hes.send(LEAST | fields)
    assert path in paths_in(response)
    assert "e@e.org" not in response.text
    assert "DROP" not in response.text
    assert sum(hes.count_rows().values()) == 0


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"\xff", b"\xef\xbb\xbf{}", json.dumps(LEAST).encode() + b" x", b"{}{}"),
        *(b"[" * 100_000, b'{"expires_in":1e999}', b'{"expires_in":NaN}', b'{"expires_in":' + b"9" * 10_000 + b"}"),
        *(b'{"subject":"\\ud800"}', b'{"subject":"\xed\xa0\x80"}'),
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_what_is_no_json_is_400_and_stores_nothing(hes: Service, raw: bytes) -> None:
    """S6."""
    problem_in(await hes.send(raw), 400)
    assert sum(hes.count_rows().values()) == 0


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 415),
        ([("Content-Type", "text/plain")], 415),
        ([("Content-Type", "application/x-www-form-urlencoded")], 415),
        *(([("Content-Type", "application/json"), ("Content-Encoding", e)], 415) for e in ("gzip", "zstd", "br", "x")),
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip, gzip")], 415),
        ([("Content-Type", "application/json;charset=utf-8"), ("Content-Encoding", "identity")], 202),
    ],
)
async def test_only_plain_json_is_taken(hes: Service, lines: list[tuple[str, str]], status: int) -> None:
    """S7."""
    response = await hes.ask("POST", "/v1/emails", content=json.dumps(LEAST).encode(), headers=lines)
    assert response.status_code == status
    assert hes.count_rows()["emails"] == (status == 202)


async def chunks(size: int) -> AsyncIterator[bytes]:
    for begin in range(0, size, 10_000):
        yield b" " * min(10_000, size - begin)


@pytest.mark.parametrize("make", [lambda size: b" " * size, chunks], ids=["whole", "chunked"])
async def test_a_body_over_the_limit_is_413(hes: Service, make: Callable[[int], Any]) -> None:
    headers = {"Content-Type": "application/json"}
    over = await hes.ask("POST", "/v1/emails", content=make(MAX_BODY_BYTES + 1), headers=headers)
    problem_in(over, 413)
    within = await hes.ask("POST", "/v1/emails", content=make(MAX_BODY_BYTES), headers=headers)
    problem_in(within, 400)
    assert hes.count_rows()["emails"] == 0


async def test_an_announced_length_over_the_limit_is_413_before_anything_is_read(hes: Service) -> None:
    problem_in(await hes.send(headers={"Content-Length": str(2**31)}), 413)


async def test_a_query_is_refused(hes: Service) -> None:
    response = await hes.ask("POST", "/v1/emails?dry_run=1&tenant=A", json=LEAST)
    assert paths_in(response) == ["dry_run", "tenant"]
    assert hes.count_rows()["emails"] == 0


# --- no storage


class Away:
    """A storage that can't write."""

    async def accept(self, new: NewEmail) -> Accepted:
        raise StorageUnavailable("secret inside")


async def test_without_storage_it_is_503_and_says_when_to_try_again(hes: Service) -> None:
    response = await hes.send(desk={"storage": Away()})
    problem_in(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert "secret" not in response.text
    assert hes.wakes == 0
