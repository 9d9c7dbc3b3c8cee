"""Settings: where they come from, what is refused and in which words, and that no secret gets out."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hes import provider_settings
from hes.errors import ConfigError
from hes.model import Address, OnDoubt
from hes.provider_settings import PROVIDER_SETTINGS, Kind, ProviderSettings
from hes.secret import Secret, Wrong
from hes.setting import api_url, mailbox
from hes.settings import NOT_BUILT_YET, SETTINGS, ClientSettings, Settings, describe, load, load_client

SENDGRID = {"HES_PROVIDERS": "sendgrid://hunter2@default"}


@pytest.fixture
def all_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every kind of provider were there."""
    monkeypatch.setattr(provider_settings, "BUILT", frozenset(Kind))


def one(tmp_path: Path, url: str, **environ: str) -> ProviderSettings:
    [provider] = load({}, {"HES_PROVIDERS": url, **environ}, tmp_path).providers
    return provider


def refusal(tmp_path: Path, environ: dict[str, str], file: str = "") -> str:
    if file:
        (tmp_path / "hes.toml").write_text(file)
    with pytest.raises(ConfigError) as caught:
        load({}, environ, tmp_path)
    return str(caught.value)


# --- sources ----------------------------------------------------------------------------------------------------


def test_with_nothing_set_hes_runs_on_sqlite_with_the_outbox(tmp_path: Path) -> None:
    settings = load({}, {"PATH": "/bin", "OTHER": "x"}, tmp_path)
    assert settings.database_url.reveal() == "sqlite:///./hes.db"
    assert [(p.name, p.kind) for p in settings.providers] == [("outbox", "outbox")]
    assert settings == Settings(providers=settings.providers)


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    (tmp_path / "hes.toml").write_text('port = 1\nhost = "127.0.0.2"\nworkers = "1"\nlog_level = "debug"')
    settings = load({"port": 3, "host": None}, {"HES_PORT": "2", "HES_LOG_LEVEL": "ERROR"}, tmp_path)
    assert (settings.port, settings.host, settings.log_level, settings.role) == (3, "127.0.0.2", "error", "all")
    assert settings.given == {"HES_PORT", "HES_HOST", "HES_WORKERS", "HES_LOG_LEVEL"}


@pytest.mark.parametrize(
    ("flags", "environ"), [({"config": "x.toml"}, {"HES_CONFIG": "no.toml"}), ({}, {"HES_CONFIG": "x.toml"})]
)
def test_the_file_is_named_by_flag_or_environment(tmp_path: Path, flags: Any, environ: Any) -> None:
    (tmp_path / "x.toml").write_text("port = 4")
    (tmp_path / "hes.toml").write_text("port = 5")
    assert load(flags, environ, tmp_path).port == 4


@pytest.mark.parametrize(
    ("content", "says"), [(None, "there is no file"), (b"port = ", "is not TOML"), (b"\xff", "is not UTF-8")]
)
def test_a_named_file_must_be_readable(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    message = refusal(tmp_path, {"HES_CONFIG": "x.toml"})
    assert says in message
    assert "HES_CONFIG" in message
    assert "x.toml" in message


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load({}, {"HES_PORT": "", "HES_PROVIDERS": " "}, tmp_path) == load({}, {}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "field", "means"),
    [
        ("HES_PORT", "0", "port", 0),
        ("HES_POLL_SECONDS", "0.25", "poll_seconds", 0.25),
        ("HES_DOUBT_SECONDS", "0", "doubt_seconds", 0),
        ("HES_EXPIRES_IN", "1", "expires_in", 1),
        ("HES_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024),
        ("HES_ON_DOUBT", "hold", "on_doubt", OnDoubt.HOLD),
        ("HES_DOCS", "off", "docs", False),
        ("HES_METRICS", "On", "metrics", True),
        ("HES_LOG_FORMAT", "json", "log_format", "json"),
        ("HES_PUBLIC_URL", "https://a.example/hes/", "public_url", "https://a.example/hes"),
        ("HES_OUTBOX_DIR", "/tmp/x", "outbox_dir", Path("/tmp/x")),
        ("HES_RETENTION_CONTENT", "0", "retention_content", 0),
        ("HES_RETENTION_DRAFTS", "0", "retention_drafts", 0),
        ("HES_PROJECT_LIMIT_BYTES", "0", "project_limit_bytes", 0),
        ("HES_BOOTSTRAP_KEY", "k" * 32, "bootstrap_key", Secret("k" * 32)),
        ("HES_DATABASE_URL", "sqlite:////var/hes.db", "database_url", Secret("sqlite:////var/hes.db")),
    ],
)
def test_values_are_read(tmp_path: Path, name: str, value: str, field: str, means: object) -> None:
    assert getattr(load({}, {name: value}, tmp_path), field) == means


def test_trusted_proxies_are_networks_from_either_source(tmp_path: Path) -> None:
    from_environment = load({}, {"HES_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}, tmp_path).trusted_proxies
    (tmp_path / "hes.toml").write_text('trusted_proxies = ["10.0.0.0/8", "fd00::/8"]')
    assert [str(n) for n in from_environment] == ["10.0.0.0/8", "fd00::/8"]
    assert load({}, {}, tmp_path).trusted_proxies == from_environment


# --- what is refused --------------------------------------------------------------------------------------------


def test_on_postgres_a_provider_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"HES_DATABASE_URL": "postgresql://hes:hunter2@db/hes"})
    assert "HES_PROVIDERS: no provider is configured, and this is Postgres" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("role", ["api", "mailer"])
def test_only_who_sends_needs_credentials(tmp_path: Path, role: str) -> None:
    environ = {"HES_DATABASE_URL": "postgresql://db/hes", "HES_PROVIDERS": "sendgrid://env:KEY@default"}
    environ["HES_ROLE"] = role
    if role == "mailer":
        assert "the environment variable KEY is not set" in refusal(tmp_path, environ)
        return
    [provider] = load({}, environ, tmp_path).providers
    assert (provider.name, provider.api_key) == ("sendgrid", None)


def test_what_needs_only_the_database_needs_no_provider(tmp_path: Path) -> None:
    environ = {"HES_DATABASE_URL": "postgresql://db/hes"}
    assert load({}, environ, tmp_path, with_providers=False).providers == ()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HES_PORT", "65536", "from 0 to 65535, not `65536`"),
        ("HES_PORT", "1_0", "whole number"),
        ("HES_PORT", "80.5", "whole number"),
        ("HES_WORKERS", "0", "from 1"),
        ("HES_WORKERS", "2", "one process"),
        ("HES_ROLE", "both", "one of all, api, mailer"),
        ("HES_ROLE", "api", "on SQLite one process does everything"),
        ("HES_LOG_LEVEL", "loud", "one of debug"),
        ("HES_LOG_FORMAT", "xml", "one of console, json"),
        ("HES_ON_DOUBT", "maybe", "one of resend, hold, wait"),
        ("HES_DOCS", "yes", "one of on, off"),
        ("HES_POLL_SECONDS", "0", "above 0"),
        ("HES_POLL_SECONDS", "nan", "above 0"),
        ("HES_POLL_SECONDS", "inf", "above 0"),
        ("HES_DOUBT_SECONDS", "-1", "from 0"),
        ("HES_RETENTION_HISTORY", "-1", "from 0"),
        ("HES_DATABASE_URL", "mysql://x", "must be sqlite:///"),
        ("HES_DATABASE_URL", "sqlite://", "must be sqlite:///"),
        ("HES_DATABASE_URL", "sqlite:///:memory:", "must be sqlite:///"),
        ("HES_BOOTSTRAP_KEY", "hunter2", "32 characters or more, not 7"),
        ("HES_PUBLIC_URL", "mail.example.com", "http:// or https://"),
        ("HES_PUBLIC_URL", "https://ann:hunter2@a.example", "without user"),
        ("HES_TRUSTED_PROXIES", "10.0.0.1/8", "host bits set"),
        ("HES_TRUSTED_PROXIES", "proxy", "must be networks"),
        ("HES_HOST", "a b", "must be an address"),
        ("HES_MAX_BODY_BYTES", "1023", "from 1024"),
        ("HES_EXPIRES_IN", "0", "from 1 to 31536000"),
        ("HES_EXPIRES_IN", "31536001", "from 1 to 31536000"),
        ("HES_ATTEMPT_TIMEOUT", "18.5", "must leave 2 seconds inside HES_GRACE_SECONDS (20)"),
        ("HES_LEASE_SECONDS", "11", "must leave 2 seconds inside HES_LEASE_SECONDS (11)"),
        ("HES_CONNECT_TIMEOUT", "10", "must be less than HES_ATTEMPT_TIMEOUT (10)"),
        ("HES_RETRY_BASE_SECONDS", "601", "must not be above HES_RETRY_CAP_SECONDS (600)"),
        ("HES_PROVIDER", "outbox://", "no such setting. Did you mean HES_PROVIDERS?"),
        ("HES_PROT", "1", "Did you mean HES_PORT?"),
        ("HES_ZZZZZZ", "1", "no such setting"),
    ],
)
def test_a_bad_value_names_the_setting_and_what_is_wrong(tmp_path: Path, name: str, value: str, says: str) -> None:
    message = refusal(tmp_path, {name: value})
    assert name in message
    assert says in message
    assert "hunter2" not in message
    assert "Example: HES_" in message or "no such setting" in message


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("port = 70000", "HES_PORT (port in "),
        ("port = true", "not `True`"),
        ('host = ["127.0.0.1"]', "must be text"),
        ("prot = 1", "no such setting. Did you mean port?"),
        ('config = "other.toml"', "no such setting"),
        ("docs = 1", "one of on, off"),
        ('providers = ["outbox://"]', "must be [[providers]] tables"),
        ("[[providers]]\nname = 'x'", "provider 1: kind must be one of"),
        ("routes = 1", "routes in "),
    ],
)
def test_a_bad_value_in_the_file_names_file_and_key(tmp_path: Path, file: str, says: str) -> None:
    message = refusal(tmp_path, {}, file)
    assert says in message
    assert "hes.toml" in message


def test_a_bad_flag_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"HES_LOG_LEVEL \(flag --log-level\): must be one of"):
        load({"log_level": "loud"}, {}, tmp_path)
    with pytest.raises(ConfigError, match="Did you mean port"):
        load({"prot": 1}, {}, tmp_path)


@pytest.mark.parametrize(
    "environ",
    [
        {"HES_URL": "https://hes.example", "HES_API_KEY": "k", "HES_TEST_POSTGRES_URL": "x"},
        {"HES_PORT": "tcp://10.0.0.1:8025", "HES_SERVICE_HOST": "10.0.0.1", "HES_SERVICE_PORT_HTTP": "8025"},
        {"HES_PORT_8025_TCP": "tcp://10.0.0.1:8025", "HES_PORT_8025_TCP_ADDR": "10.0.0.1"},
        {"HES_API_PORT": "tcp://10.0.0.1:8025", "HES_API_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_variables_of_clients_tests_and_kubernetes_are_let_through(tmp_path: Path, environ: dict[str, str]) -> None:
    assert load({}, environ, tmp_path).port == 8025


# --- providers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "is_refused"),
    [
        ({"HES_HOST": "127.8.8.8"}, False),
        ({"HES_HOST": "::1"}, False),
        ({"HES_HOST": "localhost"}, False),
        ({"HES_HOST": "0.0.0.0"}, True),
        ({"HES_HOST": "localhost.example.com"}, True),
        ({"HES_HOST": "0.0.0.0", "HES_PROVIDERS": "outbox://"}, False),
    ],
)
def test_mail_never_vanishes_into_a_test_box(tmp_path: Path, environ: dict[str, str], *, is_refused: bool) -> None:
    if is_refused:
        assert "mail must never vanish into a test box" in refusal(tmp_path, environ)
    else:
        assert [p.kind for p in load({}, environ, tmp_path).providers] == [Kind.OUTBOX]


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("sendgrid://KEY@default", {"name": "sendgrid", "api_key": Secret("KEY"), "weight": 1, "max_in_flight": 64}),
        ("sendgrid://a%2Fb+c@default?weight=2.5&max_in_flight=8", {"api_key": Secret("a/b+c"), "weight": 2.5}),
        ("sendgrid://env%3AKEY@default", {"api_key": Secret("from the environment")}),
        ("sendgrid://env:KEY@default?webhook_secret=a+b%3D", {"webhook_secret": Secret("a+b=")}),
        ("sendgrid://K@default?base_url=http%3A%2F%2F127.0.0.1:9/", {"base_url": "http://127.0.0.1:9"}),
        ("sendgrid://K@default?from=Shop+<shop%40Example.com>", {"sender": Address("shop@example.com", "Shop+")}),
        ("mailgun://K@default/mg.example.com?region=eu&name=mg-eu", {"domain": "mg.example.com", "region": "eu"}),
        ("smtp://us%3Aer:pa%40ss@mx.example:587", {"username": Secret("us:er"), "password": Secret("pa@ss")}),
        ("smtp://[::1]:25?tls=none", {"host": "[::1]", "port": 25, "tls": "none"}),
        ("ses://AKID:S%2FK@default?region=eu-west-1", {"secret_access_key": Secret("S/K"), "region": "eu-west-1"}),
        ("ses://?region=eu-west-1", {"access_key_id": None}),
        ("outbox://", {"kind": Kind.OUTBOX}),
    ],
)
@pytest.mark.usefixtures("all_built")
def test_a_provider_as_url(tmp_path: Path, url: str, fields: dict[str, object]) -> None:
    provider = one(tmp_path, url, KEY="from the environment")
    assert {key: getattr(provider, key) for key in fields} == fields


def test_a_table_says_the_same_as_its_url(tmp_path: Path) -> None:
    url = one(tmp_path, "sendgrid://env%3AKEY@default?name=main&weight=2&from=shop%40example.com", KEY="k")
    (tmp_path / "hes.toml").write_text(
        '[[providers]]\nname = "main"\nkind = "sendgrid"\napi_key = "env:KEY"\nweight = 2\nfrom = "shop@example.com"'
    )
    assert load({}, {"KEY": "k"}, tmp_path).providers == (url,)


def test_names_default_to_the_kind_numbered_when_taken(tmp_path: Path) -> None:
    urls = "outbox:// outbox:// sendgrid://K@default?name=outbox-2 outbox://"
    settings = load({}, {"HES_PROVIDERS": urls}, tmp_path)
    assert [p.name for p in settings.providers] == ["outbox", "outbox-3", "outbox-2", "outbox-4"]


def test_the_variable_replaces_the_files_providers(tmp_path: Path) -> None:
    (tmp_path / "hes.toml").write_text('[[providers]]\nkind = "sendgrid"\napi_key = "env:NOT_SET"')
    assert [p.kind for p in load({}, {"HES_PROVIDERS": "outbox://"}, tmp_path).providers] == [Kind.OUTBOX]


def test_a_provider_inherits_times_unless_it_has_its_own(tmp_path: Path) -> None:
    provider = one(tmp_path, "outbox://?attempt_timeout=5", HES_ATTEMPT_TIMEOUT="8", HES_GATE_OPEN_SECONDS="3")
    assert (provider.attempt_timeout, provider.gate_open_seconds, provider.connect_timeout) == (5, 3, 2)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("hunter2", "URL 1 must look like"),
        ("sendgrid://hunter2/x@default", "URL 1 must look like"),
        ("sendgrid://hunter2?x@default", "URL 1 must look like"),
        ("sendgrid://hunter2#x@default", "URL 1 must look like"),
        ("sendgird://hunter2@default", "URL 1: kind must be one of sendgrid, mailgun"),
        ("sendgrid://hunter2@api.sendgrid.com", "its host must be the word default"),
        ("sendgrid://hunter2@default/path", "sendgrid takes no path"),
        ("outbox://hunter2@default", "outbox takes no user part"),
        ("sendgrid://hunter2@default?api_key=x", "says the same thing twice"),
        ("sendgrid://hunter2@default?name=No", "provider 1: name must be lower-case"),
        ("sendgrid://hunter2@default?name=outbox", "outbox is the built-in one"),
        ("outbox://?name=a outbox://?name=a", "two providers are called a"),
        ("sendgrid://hunter2@default?wieght=1", "wieght: no such key. Did you mean weight?"),
        ("sendgrid://hunter2@default?hunter2%21=1", "one of its keys does not exist"),
        ("sendgrid://hunter2@default?domain=a.example", "kind sendgrid has no such key"),
        ("sendgrid://hunter2@default?lease_seconds=9", "lease_seconds holds for the whole process"),
        ("sendgrid://hunter2@default?weight=0", "provider 1 (sendgrid): weight: must be a number above 0"),
        ("sendgrid://hunter2@default?max_in_flight=1001", "max_in_flight: must be a whole number from 1 to 1000"),
        ("sendgrid://hunter2@default?from=shop", "from: must be an address"),
        ("sendgrid://hunter2@default?attempt_timeout=19", "attempt_timeout: 19 must leave 2 seconds"),
        ("sendgrid://hunter2@default?connect_timeout=11", "connect_timeout: 11 must be less than attempt_timeout (10)"),
        ("sendgrid://hunter2@default?webhook_secret=file:no", "webhook_secret: cannot read"),
        ("sendgrid://env:NOT_SET@default", "api_key: the environment variable NOT_SET is not set"),
        ("sendgrid://env:hunter2-x@default", "api_key: the environment variable behind env: is not set"),
        ("sendgrid://hunter2%0Ax@default", "api_key: must be text"),
        ("sendgrid://@default", "api_key: is missing"),
        ("mailgun://hunter2@default", "domain: is missing"),
        ("postmark://hunter2@default", "provider kind `postmark` is not built yet"),
    ],
)
def test_a_bad_provider_url_is_refused_without_quoting_it(tmp_path: Path, url: str, says: str) -> None:
    message = refusal(tmp_path, {"HES_PROVIDERS": url})
    assert message.startswith("HES_PROVIDERS: ")
    assert says in message
    assert "hunter2" not in message
    assert "Example: " in message


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("sendgrid", "api_key"),
        ("mailgun", "api_key"),
        ("mailgun://K@default", "domain"),
        ("postmark", "api_key"),
        ("resend", "api_key"),
        ("brevo", "api_key"),
        ("ses", "region"),
        ("smtp", "host"),
    ],
)
@pytest.mark.usefixtures("all_built")
def test_what_a_kind_needs_is_asked_for(tmp_path: Path, kind: str, missing: str) -> None:
    url = kind if "://" in kind else f"{kind}://"
    assert f"{missing}: is missing. Example: {missing} = " in refusal(tmp_path, {"HES_PROVIDERS": url})


@pytest.mark.parametrize(
    ("value", "is_good"),
    [
        ("https://api.eu.example.com", True),
        ("https://10.0.0.1:8443/", True),
        ("http://localhost:9999", True),
        ("http://[::1]:9999", True),
        ("http://127.9.9.9", True),
        ("http://api.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost@example.com", False),
        ("http://localhost\\@example.com", False),
        ("https://a.example/v3", False),
        ("https://a.example?x=1", False),
        ("https://a.example:0", False),
        ("https://a.example:65536", False),
        ("ftp://a.example", False),
        ("https://", False),
    ],
)
def test_a_base_url_is_a_host_and_only_loopback_goes_without_tls(value: str, *, is_good: bool) -> None:
    if is_good:
        assert api_url(value) == value.rstrip("/")
    else:
        with pytest.raises(Wrong):
            api_url(value)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("a@Example.com", Address("a@example.com")),
        ('"Ann, B." <a@b.example>', Address("a@b.example", "Ann, B.")),
        ("<a@b.example>", Address("a@b.example")),
        ("a@b.example>", None),
        ("Ann <a@b.example", None),
        ("Ann a@b.example", None),
        ("a@b@c.example", None),
        ("a@bücher.example", None),
        ("a@b.example\nBcc: x@y.example", None),
    ],
)
def test_a_sender_is_one_mailbox(value: str, means: Address | None) -> None:
    if means:
        assert mailbox(value) == means
    else:
        with pytest.raises(Wrong):
            mailbox(value)


ROUTES = '[routes]\ntransactional = [["sendgrid"], ["outbox"]]'


def test_routes_are_ordered_groups_of_known_providers(tmp_path: Path) -> None:
    (tmp_path / "hes.toml").write_text(ROUTES)
    settings = load({}, {"HES_PROVIDERS": "sendgrid://K@default outbox://"}, tmp_path)
    assert settings.routes == {"transactional": (("sendgrid",), ("outbox",))}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ('[["mailgun"]]', "there is no provider mailgun; known: sendgrid"),
        ('[["sendgrid"], ["sendgrid"]]', "sendgrid is named twice"),
        ('["sendgrid"]', "must be a list of groups"),
        ("[[]]", "must be a list of groups"),
        ("[[{}]]", "there is no provider"),
    ],
)
def test_a_bad_route_is_refused(tmp_path: Path, groups: str, says: str) -> None:
    message = refusal(tmp_path, SENDGRID, f"[routes]\nx = {groups}")
    assert says in message
    assert "routes in" in message


# --- secrets ----------------------------------------------------------------------------------------------------


def test_a_secret_only_shows_when_revealed() -> None:
    key = Secret("hunter2")
    assert key.reveal() == "hunter2"
    assert "hunter2" not in f"{key} {key!r} {[key]}"
    for encode in (pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins):
        with pytest.raises(TypeError) as caught:
            encode(key)
        assert "hunter2" not in str(caught.value)
    assert copy.deepcopy(key) is copy.copy(key) is key


def test_a_secret_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old\n")
    key = Secret.of("file:key", {}, tmp_path)
    assert key.reveal() == "old"
    path.write_text("new\n")
    os.utime(path, ns=(1, 1))
    assert key.reveal() == "new"
    (tmp_path / "next").write_text("via rename")
    (tmp_path / "next").rename(path)
    assert key.reveal() == "via rename"


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"])
def test_a_secret_keeps_its_last_good_value_while_its_file_is_bad(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    key = Secret.of("file:key", {}, tmp_path)
    path.unlink() if content is None else path.write_bytes(content)
    assert key.reveal() == "old"
    path.write_text("new and longer")
    assert key.reveal() == "new and longer"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("file:missing", "cannot read"),
        ("file:empty", "must hold one line"),
        ("file:binary", "not UTF-8"),
        ("file:", "cannot read"),
        ("FILE:key", "`FILE:` is written `file:`"),
        ("Env:KEY", "`Env:` is written `env:`"),
        ("env:EMPTY", "EMPTY is not set"),
        ("env:LINES", "LINES must hold one line"),
    ],
)
def test_a_secret_that_is_not_there_is_refused_at_load(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff")
    environ = {"EMPTY": "", "LINES": "hunter2\nx", "HES_PROVIDERS": f"sendgrid://{spec}@default"}
    message = refusal(tmp_path, environ)
    assert message.startswith("HES_PROVIDERS: provider 1 (sendgrid): api_key: ")
    assert says in message
    assert "hunter2" not in message


ALL_SECRETS = [
    ("HES_BOOTSTRAP_KEY", "hunter2" * 5, lambda environ, cwd: load({}, environ, cwd).bootstrap_key),
    ("HES_DATABASE_URL", "postgresql://hes:hunter2@db/hes", lambda environ, cwd: load({}, environ, cwd).database_url),
    ("HES_API_KEY", "hunter2", lambda environ, cwd: load_client({}, environ, cwd).api_key),
]
SENDS = {"HES_PROVIDERS": "sendgrid://K@default"}
Read = Callable[[dict[str, str], Path], Secret]


@pytest.mark.parametrize("spec", ["file:key", "env:SOMEWHERE"])
@pytest.mark.parametrize(("name", "content", "read"), ALL_SECRETS)
def test_every_secret_may_stand_elsewhere(tmp_path: Path, spec: str, name: str, content: str, read: Read) -> None:
    (tmp_path / "key").write_text(f"{content}\n")
    elsewhere = SENDS | {"SOMEWHERE": content}
    assert read(elsewhere | {name: spec}, tmp_path).reveal() == content
    (tmp_path / "hes.toml").write_text(f'{name.removeprefix("HES_").lower()} = "{spec}"')
    assert read(elsewhere, tmp_path).reveal() == content


@pytest.mark.parametrize(("name", "content", "read"), ALL_SECRETS)
def test_what_the_start_reads_stays_as_it_is(tmp_path: Path, name: str, content: str, read: Read) -> None:
    """What hangs on it was decided at the start: it is not another one in the middle."""
    (tmp_path / "key").write_text(content)
    secret = read(SENDS | {name: "file:key"}, tmp_path)
    (tmp_path / "key").write_text(f"{content} another")
    assert secret.reveal() == content


@pytest.mark.parametrize("content", [None, b"", b" \n", b"hunter2\nhunter2", b"\xff\xfehunter2"])
@pytest.mark.parametrize(("name", "_", "read"), ALL_SECRETS)
def test_a_file_that_holds_no_secret_is_named_and_not_quoted(
    tmp_path: Path, name: str, _: str, read: Read, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(SENDS | {name: "file:key"}, tmp_path)
    assert str(caught.value).startswith(f"{name}: ")
    assert str(tmp_path / "key") in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"HES_BOOTSTRAP_KEY": "file:key"}, "HES_BOOTSTRAP_KEY, file:key: must have 32 characters or more, not 7."),
        ({"HES_DATABASE_URL": "file:key"}, "HES_DATABASE_URL, file:key: must be sqlite:/// and a file, or "),
        ({"HES_DATABASE_URL": "env:KEY"}, "HES_DATABASE_URL, env:KEY: must be sqlite:/// and a file, or "),
        ({"HES_BOOTSTRAP_KEY": "env:NOT_SET"}, "HES_BOOTSTRAP_KEY: the environment variable NOT_SET is not set."),
        ({"HES_PROVIDERS": "file:key"}, "URL 1: env: and file: stand in the place of a secret, as in sendgrid://env:"),
        ({"HES_PROVIDERS": "smtp://env:KEY:file:key@mx.example"}, "URL 1: write the : of env: and file: as %3A"),
    ],
)
def test_what_stands_elsewhere_and_is_wrong_is_not_quoted(tmp_path: Path, environ: dict[str, str], says: str) -> None:
    (tmp_path / "key").write_text("hunter2")
    message = refusal(tmp_path, environ | {"KEY": "hunter2"})
    assert says in message
    assert "hunter2" not in message


@pytest.mark.usefixtures("all_built")
def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    environ = {
        "HES_PROVIDERS": "sendgrid://hunter2@default?webhook_secret=hunter2 smtp://hunter2:hunter2@mx.example "
        "ses://hunter2:hunter2@default?region=eu",
        "HES_BOOTSTRAP_KEY": "hunter2" * 5,
    }
    settings = load({}, environ, tmp_path)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(Settings(database_url=Secret("postgresql://hes:hunter2@db/hes")))
    assert "hunter2" not in repr(load_client({}, {"HES_API_KEY": "hunter2"}, tmp_path))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///./hes.db", "sqlite:///./hes.db"),
        ("postgresql://hes:hunter2@db:5432/hes?password=hunter2", "postgresql://hes:***@db:5432/hes"),
        ("postgresql://hes:hunt/er2@x@db/hes", "postgresql://hes:***@db/hes"),
    ],
)
def test_the_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert Settings(database_url=Secret(url)).database_shown == shown


# --- what people read -------------------------------------------------------------------------------------------


def test_what_is_set_and_does_nothing_yet_is_named(tmp_path: Path) -> None:
    environ = {
        "HES_PUBLIC_URL": "https://mail.example.com",
        "HES_PORT": "0",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_SERVICE_NAME": "x",
        "HES_PROVIDERS": "sendgrid://K@default?weight=2&webhook_secret=S&from=a%40example.com outbox://?max_in_flight=2",
    }
    assert load({}, environ, tmp_path).without_effect() == [
        "HES_PUBLIC_URL",
        "OTEL_LOGS_EXPORTER",
        "providers.sendgrid.from",
    ]


def test_defaults_are_not_named_as_without_effect(tmp_path: Path) -> None:
    assert load({}, {}, tmp_path).without_effect() == []


def test_what_is_not_built_yet_names_settings_that_exist() -> None:
    known = {s.name for s in (*SETTINGS, *PROVIDER_SETTINGS)} | {"routes"}
    assert set(NOT_BUILT_YET) <= known


def test_every_field_is_a_described_setting() -> None:
    fields = {s.field for s in SETTINGS} | {"routes", "given", "exports"}
    assert set(Settings.__struct_fields__) | set(ClientSettings.__struct_fields__) <= fields
    assert all(line.name and line.default and line.help and line.name in line.example for line in describe())


def test_the_examples_of_all_settings_are_good(tmp_path: Path) -> None:
    for setting in SETTINGS:
        name, _, value = setting.example.partition("=")
        if "$(" not in value:
            assert setting.read(value.strip('"'), name) is not None


def test_settings_of_clients(tmp_path: Path) -> None:
    assert load_client({}, {}, tmp_path) == ClientSettings(url="http://127.0.0.1:8025")
    client = load_client({"url": "https://hes.example/"}, {"HES_API_KEY": "k", "HES_PROVIDERS": "broken"}, tmp_path)
    assert client == ClientSettings(url="https://hes.example", api_key=Secret("k"))
