"""What is configured per provider: reads `HES_PROVIDERS` and `[[providers]]`.

`hes.settings` decides where values come from (flag, environment, file, default), `hes.setting` what one may be.
No error text quotes a secret, or a part of a provider URL that could be one.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace

from hes.errors import ConfigError
from hes.model import Address
from hes.secret import Secret, Wrong
from hes.setting import Setting, api_url, closest, declared, mailbox, matching, number, one_of, secret, whole


class Kind(StrEnum):
    """The kinds of provider. Closed."""

    SENDGRID = "sendgrid"
    MAILGUN = "mailgun"
    POSTMARK = "postmark"
    SES = "ses"
    RESEND = "resend"
    BREVO = "brevo"
    SMTP = "smtp"
    OUTBOX = "outbox"


BUILT = frozenset({Kind.SENDGRID, Kind.MAILGUN, Kind.RESEND, Kind.OUTBOX})
"""The kinds that can be used now; grows with `hes.providers`."""


class _Keys(Struct, frozen=True):
    """What one kind has besides what all have. `user`: what the user part of its URL fills."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    user: tuple[str, ...] = ()


_API_KEY = _Keys(needs=("api_key",), may=("base_url", "webhook_secret"), user=("api_key",))
_KEYS = {
    Kind.SENDGRID: _API_KEY,
    Kind.MAILGUN: _Keys(needs=("api_key", "domain"), may=("base_url", "region", "webhook_secret"), user=("api_key",)),
    Kind.POSTMARK: _API_KEY,
    Kind.SES: _Keys(
        needs=("region",),
        may=("base_url", "access_key_id", "secret_access_key", "webhook_secret"),
        user=("access_key_id", "secret_access_key"),
    ),
    Kind.RESEND: _API_KEY,
    Kind.BREVO: _API_KEY,
    Kind.SMTP: _Keys(needs=("host",), may=("port", "username", "password", "tls"), user=("username", "password")),
    Kind.OUTBOX: _Keys(),
}
_OF_KINDS = frozenset(key for keys in _KEYS.values() for key in keys.needs + keys.may)

_OF_THE_PROCESS = frozenset({"lease_seconds", "poll_seconds", "grace_seconds", "expires_in"})

NAME = matching(r"[a-z0-9][a-z0-9_-]{0,62}", "must be lower-case letters, digits, - and _, no - or _ first")
SECONDS = number(3600)
_DOMAIN = matching(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+", "must be a domain, in ASCII")
_REGION = matching(r"[a-z0-9-]{2,30}", "must be a region's name")
_HOST = matching(r"\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+", "must be a host's name or address")
_TLS = one_of("starttls", "implicit", "none")


class Times(Struct, frozen=True, kw_only=True):
    """What holds for all providers as a HES_ setting, and for one as a key of the same name in lower case."""

    attempt_timeout: Annotated[float, Setting(SECONDS, "Seconds over one call to a provider", "10")] = 10.0
    connect_timeout: Annotated[float, Setting(SECONDS, "Seconds to connect to a provider", "2")] = 2.0
    gate_open_seconds: Annotated[float, Setting(number(300), "How long a failing provider rests at first", "10")] = 10.0
    gate_fail_max: Annotated[int, Setting(whole(1, 1000), "Failures in a row that shut a provider's gate", "5")] = 5
    retry_base_seconds: Annotated[float, Setting(number(3600), "The first backoff", "1")] = 1.0
    retry_cap_seconds: Annotated[float, Setting(number(86400), "The longest backoff", "600")] = 600.0
    doubt_seconds: Annotated[float, Setting(number(3600, zero=True), "How long a doubt is looked into", "15")] = 15.0


class ProviderSettings(Times, frozen=True, kw_only=True):
    """One configured provider. Times that it has no own value for are the HES_ ones already."""

    name: Annotated[str, Setting(NAME, "What it is called; once only", "sendgrid-main", "the kind")]
    kind: Annotated[Kind, Setting(one_of(*Kind), f"One of {', '.join(Kind)}", "sendgrid")]
    api_key: Annotated[Secret | None, Setting(secret, "env:NAME, file:PATH or a literal", "env:SENDGRID_KEY")] = None
    base_url: Annotated[str | None, Setting(api_url, "Another address of its API", "https://api.example.com")] = None
    domain: Annotated[str | None, Setting(_DOMAIN, "The sending domain (mailgun)", "mg.example.com")] = None
    region: Annotated[str | None, Setting(_REGION, "Where the account is (mailgun, ses)", "eu")] = None
    weight: Annotated[float, Setting(number(1e6), "Its share of the traffic", "2")] = 1.0
    max_in_flight: Annotated[int, Setting(whole(1, 1000), "Calls at the same time, at most", "64")] = 64
    rate_per_second: Annotated[float | None, Setting(number(1e6), "Emails a second, at most", "100.0")] = None
    daily_quota: Annotated[int | None, Setting(whole(1, 10**9), "Emails a day, at most", "50000")] = None
    webhook_secret: Annotated[Secret | None, Setting(secret, "What its events are signed with", "env:HOOK_KEY")] = None
    host: Annotated[str | None, Setting(_HOST, "The server (smtp)", "smtp.example.com")] = None
    port: Annotated[int, Setting(whole(1, 65535), "The server's port (smtp)", "587")] = 587
    # Some services' SMTP user name is the API token itself, and an access key id is half a credential: both hidden.
    username: Annotated[Secret | None, Setting(secret, "User name (smtp)", "env:SMTP_USER")] = None
    password: Annotated[Secret | None, Setting(secret, "Password (smtp)", "file:/run/secrets/smtp")] = None
    tls: Annotated[Literal["starttls", "implicit", "none"], Setting(_TLS, "Encryption (smtp)", "starttls")] = "starttls"
    access_key_id: Annotated[Secret | None, Setting(secret, "AWS key (ses)", "env:AWS_ACCESS_KEY_ID")] = None
    secret_access_key: Annotated[Secret | None, Setting(secret, "AWS secret (ses)", "file:/run/secrets/aws")] = None
    sender: Annotated[
        Address | None, Setting(mailbox, "Sender of all that leaves here", "Shop <shop@example.com>", name="from")
    ] = None
    given: frozenset[str] = frozenset()
    """The keys that were set on purpose."""


INHERITED = Times.__struct_fields__


def plain_outbox(times: Times) -> ProviderSettings:
    """An outbox that nobody configured, with the times that hold for all."""
    return ProviderSettings(name=Kind.OUTBOX.value, kind=Kind.OUTBOX, **{key: getattr(times, key) for key in INHERITED})


_OWN, _TIMES = declared(ProviderSettings, variables=False), declared(Times, variables=False)
PROVIDER_SETTINGS = (
    *(setting for setting in _OWN if setting.field not in INHERITED),
    *(replace(setting, default=f"HES_{setting.name.upper()}") for setting in _TIMES),
)
_BY_KEY = {setting.name: setting for setting in PROVIDER_SETTINGS}

EXAMPLE = 'HES_PROVIDERS="sendgrid://KEY@default mailgun://KEY@default/mg.example.com"'


class Around(Struct, frozen=True):
    """What providers are read with: times to inherit, and where secrets are looked for."""

    times: Times
    environ: Mapping[str, str]
    cwd: Path
    sends: bool = True
    """False: this process only accepts, and may be without the credentials for sending."""


def read_providers(value: object, where: str, around: Around) -> tuple[ProviderSettings, ...]:
    """From the text of HES_PROVIDERS, or the tables of the file. Raises ConfigError."""
    try:
        tables = _tables(value)
        names = _names(tables)
    except Wrong as wrong:
        raise ConfigError(f"{where}: {wrong}. Example: {EXAMPLE}") from None
    return tuple(
        _provider(table, name, f"{where}: provider {n} ({name})", around)
        for n, (table, name) in enumerate(zip(tables, names, strict=True), 1)
    )


def _tables(value: object) -> list[dict[str, object]]:
    if isinstance(value, str):
        return [_table_of_url(url, n) for n, url in enumerate(value.split(), 1)]
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise Wrong("must be [[providers]] tables, or one text of URLs")
    return value


def _names(tables: Sequence[Mapping[str, object]]) -> list[str]:
    """Each one's name: its own, else its kind, numbered when that is taken."""
    names: list[str | None] = []
    for n, table in enumerate(tables, 1):
        try:
            one_of(*Kind)(table.get("kind"))
        except Wrong:
            raise Wrong(f"provider {n}: kind must be one of {', '.join(Kind)}") from None
        try:
            names.append(NAME(table["name"]) if "name" in table else None)
        except Wrong as wrong:
            raise Wrong(f"provider {n}: name {wrong}") from None
        if names[-1] and names[-1] in names[:-1]:
            raise Wrong(f"two providers are called {names[-1]}")
    all_names: list[str] = []
    for table, name in zip(tables, names, strict=True):
        kind = str(table["kind"]).strip().lower()
        candidates = [kind, *(f"{kind}-{i}" for i in range(2, len(tables) + 2))]
        all_names.append(name or next(c for c in candidates if c not in names and c not in all_names))
    return all_names


def _provider(table: Mapping[str, object], name: str, where: str, around: Around) -> ProviderSettings:
    kind = Kind(_BY_KEY["kind"].read(table["kind"], f"{where}: kind"))
    if kind not in BUILT:
        raise ConfigError(f"{where}: provider kind `{kind}` is not built yet. Example: {EXAMPLE}")
    if name == Kind.OUTBOX and kind is not Kind.OUTBOX:
        raise _BY_KEY["name"].refusal(f"{where}: name", "outbox is the built-in one, which keeps instead of sending")
    _check_keys(table, kind, where, around)
    values = {key: getattr(around.times, key) for key in INHERITED}
    for key, raw in table.items():
        setting = _BY_KEY[key]
        value = setting.read(raw, f"{where}: {key}")
        if setting.parse is secret:
            try:
                value = Secret.of(value, around.environ, around.cwd)
            except Wrong as wrong:
                if not around.sends and key != "webhook_secret":
                    continue
                raise setting.refusal(f"{where}: {key}", str(wrong)) from None
        values[setting.field] = value
    return ProviderSettings(**{**values, "name": name, "kind": kind, "given": frozenset(table)})


def _check_keys(table: Mapping[str, object], kind: Kind, where: str, around: Around) -> None:
    """All that the kind needs, and nothing that would do nothing there."""
    own = _KEYS[kind]
    for key in table:
        if key in _OF_THE_PROCESS:
            raise ConfigError(f"{where}: {key} holds for the whole process. Example: HES_{key.upper()}=20")
        if key not in _BY_KEY:
            # A mangled URL can put a part of its secret here: quoted only where it looks like a key.
            quoted = f"{key}: no such key" if re.fullmatch(r"[a-z_]{1,30}", key) else "one of its keys does not exist"
            raise ConfigError(f"{where}: {quoted}.{closest(key, _BY_KEY)} Example: {_BY_KEY['weight'].example}")
        if key in _OF_KINDS and key not in own.needs + own.may:
            raise ConfigError(f"{where}: {key}: a provider of kind {kind} has no such key. Example: {EXAMPLE}")
    for key in own.needs:
        if key not in table and (around.sends or _BY_KEY[key].parse is not secret):
            raise _BY_KEY[key].refusal(f"{where}: {key}", "is missing")


_URL = re.compile(
    r"(?P<kind>[a-z]+)://(?:(?P<user>[^/?#]*)@)?(?P<host>\[[0-9a-fA-F:.]+\]|[^/?#@:\[\]]*)(?::(?P<port>[0-9]+))?"
    r"(?P<path>/[^?#@]*)?(?:\?(?P<query>[^#@]*))?"
)
"""Strict on purpose, and instead of urllib, whose errors quote what they can't read: a key with an unescaped `/`, `?`
or `#` must end in our own message, not in a host or parameter that is quoted in an error."""


def _table_of_url(url: str, n: int) -> dict[str, object]:
    """What a `[[providers]]` table would hold. Raises Wrong, which quotes nothing of the URL."""
    if url.startswith(("env:", "file:")):
        raise Wrong(
            f"URL {n}: env: and file: stand in the place of a secret, as in sendgrid://env:SENDGRID_KEY@default"
        )
    match = _URL.fullmatch(url)
    if not match:
        raise Wrong(f"URL {n} must look like kind://KEY@default, with / ? # @ % and spaces percent-encoded")
    if match["kind"] not in Kind.__members__.values():
        raise Wrong(f"URL {n}: kind must be one of {', '.join(Kind)}")
    kind = Kind(match["kind"])
    pairs: list[tuple[str, str]] = [("kind", kind)]
    if match["user"]:
        keys = _KEYS[kind].user
        if not keys:
            raise Wrong(f"URL {n}: {kind} takes no user part")
        parts = match["user"].split(":", 1) if len(keys) > 1 else [match["user"]]
        if len(keys) > 1 and parts[0] in ("env", "file"):  # or the word would be the user's name
            raise Wrong(f"URL {n}: write the : of env: and file: as %3A, since another : parts user and password")
        pairs += zip(keys, parts, strict=False)
    if kind is Kind.SMTP:
        pairs += [(key, match[key]) for key in ("host", "port") if match[key]]
    elif match["host"] not in ("", "default") or match["port"]:
        raise Wrong(f"URL {n}: its host must be the word default; another address goes into ?base_url=")
    if path := (match["path"] or "/")[1:]:
        if "domain" not in _KEYS[kind].needs:
            raise Wrong(f"URL {n}: {kind} takes no path")
        pairs.append(("domain", path))
    for parameter in filter(None, (match["query"] or "").split("&")):
        key, _, value = parameter.partition("=")
        pairs.append((unquote(key), value))
    table = {key: unquote(value) for key, value in pairs}  # not unquote_plus: secrets are full of +
    if len(table) < len(pairs):
        raise Wrong(f"URL {n} says the same thing twice")
    return dict(table)
