"""`hes providers` against a real HES, `hes keys` against a stub."""

import pytest

from tests.cli.conftest import Run
from tests.cli.stub import Stub, Told

KEY = {"id": "k1", "name": "shop", "project": "default", "scopes": ["emails:send"], "sender_domains": [], "test": False,
       "created_at": "2026-01-31T12:00:00.000Z", "expires_at": None}  # fmt: skip


def test_providers_are_listed_and_turned(hes: Run) -> None:
    head, outbox = hes("providers", "list").out.splitlines()
    assert head.split()[:3] == ["NAME", "STATE", "SINCE"]
    assert outbox.split()[:2] == ["outbox", "up"]
    assert hes("providers", "list", "--json").json()["data"][0]["kind"] == "outbox"
    try:
        assert hes("providers", "pause", "outbox", "--json").json()["state"] == "paused"
    finally:
        assert hes("providers", "resume", "outbox").out.splitlines()[1].split()[:2] == ["outbox", "up"]
    assert hes("providers", "reset", "outbox").code == 0


def test_a_provider_that_is_not_there_fails(hes: Run) -> None:
    ran = hes("providers", "pause", "pigeon")
    assert (ran.code, ran.err.startswith("hes: Not found: ")) == (1, True)


def test_a_new_key_stands_alone_on_standard_output(stub: Stub, run: Run) -> None:
    stub.answers = [Told(201, KEY | {"key": "hes_live_k1_secret"})]
    words = "--name shop --scope emails:send --scope emails:read --sender-domain example.com --test --rate 5"
    ran = run("keys", "create", *words.split())
    assert (ran.code, ran.out) == (0, "hes_live_k1_secret\n")
    assert "k1 is made" in ran.err
    assert "secret" not in ran.err
    assert (stub.asked[0].method, stub.asked[0].path) == ("POST", "/v1/keys")
    assert stub.asked[0].json() == {
        "name": "shop",
        "scopes": ["emails:send", "emails:read"],
        "sender_domains": ["example.com"],
        "rate_per_second": 5.0,
        "test": True,
    }
    assert run("keys", "create", "--json").json()["key"] == "hes_live_k1_secret"


def test_keys_are_listed(stub: Stub, run: Run) -> None:
    stub.answers = [Told(200, {"data": [KEY], "next_cursor": None})]
    head, key = run("keys", "list").out.splitlines()
    assert head.split()[:4] == ["ID", "NAME", "PROJECT", "SCOPES"]
    assert key.split()[:4] == ["k1", "shop", "default", "emails:send"]
    assert run("keys", "list", "--json").json() == {"data": [KEY]}


@pytest.mark.parametrize("told", [Told(204), Told(200, KEY)])
def test_a_key_is_revoked(told: Told, stub: Stub, run: Run) -> None:
    stub.answers = [told]
    assert run("keys", "revoke", "k1").out == "k1  revoked\n"
    assert run("keys", "revoke", "k1", "--json").json() == {"id": "k1", "revoked": True}
    assert (stub.asked[0].method, stub.asked[0].path) == ("DELETE", "/v1/keys/k1")
