"""Settings, from flags, environment, `hes.toml` and defaults, in that order. A bad value stops the start.

Everything of design.md, section 6 is read and checked from the first day, whether or not its part is built; what has
no effect yet is named by `Settings.without_effect`. Errors are ConfigError: the variable's name, where it came from,
what is wrong, an example; never a secret.

An empty environment variable counts as not set (compose files and charts make such). A name that begins with HES_ and
is not known is refused, since a typo that is silently ignored is worse; those that Kubernetes makes for Services whose
names begin with `hes` are let through.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from hes.errors import ConfigError
from hes.model import MAX_EXPIRES_IN, OnDoubt
from hes.provider_settings import (
    EXAMPLE,
    INHERITED,
    PROVIDER_SETTINGS,
    SECONDS,
    Around,
    Kind,
    ProviderSettings,
    Times,
    plain_outbox,
    read_providers,
)
from hes.secret import Secret, Wrong
from hes.setting import Setting, closest, declared, http_url, is_loopback, matching, one_of, switch, text, whole
from hes.telemetry.environment import Exports, exports_of, is_followed

NOT_BUILT_YET = {
    "HES_PUBLIC_URL": "nothing links back to HES",
    "from": "the sender is the email's",
}
"""Settings that are read and checked, and what is missing for them to do something. Shrinks as parts are built."""

LEAST_BODY_BYTES = 1024
"""Into less no useful email fits."""

MARGIN_SECONDS = 2.0
"""What an attempt must leave inside the lease and inside the grace period, to write its outcome."""


def _database_url(value: object) -> Secret:
    """Never quoted in errors: it may hold a password. No database in memory: what is accepted must survive."""
    url = text(value)
    if not re.fullmatch(r"sqlite:///(?!:memory:)[^?#]+|postgresql://\S+", url):
        raise Wrong("must be sqlite:/// and a file, or postgresql:// and a server")
    return Secret(url)


def _bootstrap_key(value: object) -> Secret:
    key = text(value)
    if len(key) < 32:
        raise Wrong(f"must have 32 characters or more, not {len(key)}")
    return Secret(key)


def _client_key(value: object) -> Secret:
    return Secret(text(value))


_SECRETS = frozenset({_database_url, _bootstrap_key, _client_key})
"""What reads a secret, which may stand elsewhere as well: `env:NAME` or `file:PATH`."""


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: object) -> tuple[Network, ...]:
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(ipaddress.ip_network(word) for word in words)
    except ValueError as error:
        raise Wrong(f"must be networks like 10.0.0.0/8: {error}") from None
    raise Wrong("must be a list of networks")


def _on_doubt(value: object) -> OnDoubt:
    return OnDoubt(one_of(*OnDoubt)(value))


def _path(value: object) -> Path:
    return Path(text(value))


_host = matching(r"[A-Za-z0-9._:%-]+", "must be an address or a host's name")
_days = whole(0, 36500)
_amount = whole(0, 2**53)
_level = one_of("debug", "info", "warning", "error", "critical")
Level = Literal["debug", "info", "warning", "error", "critical"]


class Settings(Times, frozen=True, kw_only=True):
    """All of HES's settings. Its repr shows no secret."""

    database_url: Annotated[
        Secret,
        Setting(
            _database_url,
            "sqlite:///FILE or postgresql://..., or env:NAME or file:PATH",
            "sqlite:///./hes.db",
            default="sqlite:///./hes.db",
        ),
    ] = Secret("sqlite:///./hes.db")
    role: Annotated[
        Literal["all", "api", "mailer"],
        Setting(one_of("all", "api", "mailer"), "What this process does: accept (api), send (mailer), or all", "all"),
    ] = "all"
    host: Annotated[str, Setting(_host, "Where to listen", "127.0.0.1")] = "127.0.0.1"
    port: Annotated[int, Setting(whole(0, 65535), "Where to listen; 0: any free port", "8025")] = 8025
    workers: Annotated[int, Setting(whole(1, 256), "Processes (Postgres only)", "1")] = 1
    bootstrap_key: Annotated[
        Secret | None,
        Setting(
            _bootstrap_key,
            "An admin key of project default, 32 characters or more; or env:NAME or file:PATH",
            "$(openssl rand -hex 32)",
        ),
    ] = None
    log_level: Annotated[Level, Setting(_level, "The least that is logged", "info")] = "info"
    log_format: Annotated[
        Literal["console", "json"] | None,
        Setting(one_of("console", "json"), "How it is logged", "json", default="console on a terminal, else json"),
    ] = None
    public_url: Annotated[str | None, Setting(http_url, "How others reach HES", "https://mail.example.com")] = None
    trusted_proxies: Annotated[
        tuple[Network, ...], Setting(_networks, "Networks whose X-Forwarded-For is believed", "10.0.0.0/8,fd00::/8")
    ] = ()
    outbox_dir: Annotated[Path, Setting(_path, "The outbox's Maildir", "./outbox", default="./outbox")] = Path("outbox")
    max_body_bytes: Annotated[int, Setting(whole(LEAST_BODY_BYTES, 2**31), "The largest request body", "31457280")] = (
        31_457_280
    )
    queue_limit: Annotated[
        int,
        Setting(_amount, "Emails that may wait, drafts included, before sends get 503; 0: any number", "1000000"),
    ] = 0
    queue_limit_bytes: Annotated[int, Setting(_amount, "The same in bytes", "10737418240")] = 0
    project_limit_bytes: Annotated[
        int | None,
        Setting(
            _amount,
            "Bytes that a project's drafts, waiting, cancelled and failed emails may hold before its sends get 503; "
            "0: any number",
            "1073741824",
            default="as HES_QUEUE_LIMIT_BYTES",
        ),
    ] = None
    on_doubt: Annotated[
        OnDoubt, Setting(_on_doubt, "What follows when nobody can know whether an email was taken", "hold")
    ] = OnDoubt.RESEND
    # From 1 on, and not from 10 as in the API: whoever tries out what follows an expiry need not wait for it.
    expires_in: Annotated[int, Setting(whole(1, MAX_EXPIRES_IN), "Seconds until an email is given up", "86400")] = (
        86_400
    )
    retention_content: Annotated[int | None, Setting(_days, "Days until contents go", "30", default="kept")] = None
    retention_drafts: Annotated[
        int, Setting(_days, "Days until a draft is cancelled and its content goes; 0: never", "30")
    ] = 30
    retention_history: Annotated[int | None, Setting(_days, "Days until the trace goes", "365", default="kept")] = None
    lease_seconds: Annotated[float, Setting(SECONDS, "How long a sender holds an email", "30")] = 30.0
    poll_seconds: Annotated[float, Setting(SECONDS, "How often due emails are looked for", "1")] = 1.0
    grace_seconds: Annotated[float, Setting(SECONDS, "What a stop leaves for calls in flight", "20")] = 20.0
    docs: Annotated[bool, Setting(switch, "The docs page, /docs, and /openapi.json", "off")] = True
    metrics: Annotated[bool, Setting(switch, "The metrics, /metrics (one process; not with HES_WORKERS)", "off")] = True
    providers: Annotated[
        tuple[ProviderSettings, ...],
        Setting(
            text,
            "What emails leave by: URLs with spaces between; replaces the file's [[providers]]",
            '"sendgrid://KEY@default mailgun://KEY@default/mg.example.com"',
            default="outbox:// on SQLite and a loopback host",
        ),
    ] = ()
    routes: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """Stream -> ordered groups of providers' names; only in the file."""
    given: frozenset[str] = frozenset()
    """The names of what was set on purpose, `OTEL_*` ones and `routes` included."""
    exports: Exports = Exports()
    """What goes out by OTLP, as the `OTEL_*` variables say."""

    @property
    def has_metrics_page(self) -> bool:
        """Of several processes behind one port each scrape would meet another one: they have none."""
        return self.metrics and self.workers == 1

    @property
    def sending_providers(self) -> tuple[str, ...]:
        """Names of those that send, as an outbox does not. Where there are none, keeping is what is wanted."""
        return tuple(provider.name for provider in self.providers if provider.kind is not Kind.OUTBOX)

    @property
    def longest_call_seconds(self) -> float:
        """What a lease and the grace period leave for one call to a provider."""
        return min(self.lease_seconds, self.grace_seconds) - MARGIN_SECONDS

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.reveal().startswith("sqlite:")

    @property
    def database_shown(self) -> str:
        """The database's URL for people: without password and parameters."""
        return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", self.database_url.reveal()).partition("?")[0]

    def without_effect(self) -> list[str]:
        """What was set and does nothing yet, such as `HES_METRICS` or `providers.sendgrid.weight`."""
        own = [name for name in self.given if name in NOT_BUILT_YET or _is_otel_in_vain(name)]
        if "HES_METRICS" in self.given and self.metrics and not self.has_metrics_page:
            own.append("HES_METRICS")  # with HES_WORKERS
        theirs = [f"providers.{p.name}.{key}" for p in self.providers for key in p.given if key in NOT_BUILT_YET]
        return sorted(own) + sorted(theirs)


def _is_otel_in_vain(name: str) -> bool:
    return name.startswith("OTEL_") and not is_followed(name)


class ClientSettings(Struct, frozen=True, kw_only=True):
    """What the commands that talk to a running HES need."""

    url: Annotated[str, Setting(http_url, "Clients: where HES is", "http://127.0.0.1:8025")] = "http://127.0.0.1:8025"
    api_key: Annotated[
        Secret | None, Setting(_client_key, "Clients: the key; or env:NAME or file:PATH", "hes_live_...")
    ] = None


_SERVICE = tuple(sorted(declared(Settings, variables=True), key=lambda s: s.field in INHERITED))
_CLIENT = declared(ClientSettings, variables=True)
_CONFIG = Setting(text, "The file", "HES_CONFIG=/etc/hes.toml", default="./hes.toml if there", name="HES_CONFIG")
SETTINGS: tuple[Setting, ...] = (*_SERVICE, *_CLIENT, _CONFIG)
"""Every variable."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_FILE_KEYS = frozenset({"routes"} | {setting.key for setting in _SERVICE + _CLIENT})
_FOR_TESTS = "HES_TEST_POSTGRES_URL"


class Description(Struct, frozen=True):
    """One line of the README's table; all of it text."""

    name: str
    default: str
    help: str
    example: str
    is_built: bool


def describe() -> list[Description]:
    """All variables, then the keys of `[[providers]]`."""
    return [
        Description(s.name, s.default, s.help, s.example, s.name not in NOT_BUILT_YET)
        for s in (*SETTINGS, *PROVIDER_SETTINGS)
    ]


# --- loading ----------------------------------------------------------------------------------------------------


class _Raw(Struct, frozen=True):
    """A value as somebody wrote it, and where: `HES_PORT (port in /etc/hes.toml)`."""

    value: object
    where: str


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path, *, with_providers: bool = True
) -> Settings:
    """Settings of the service. `flags`: by file key (`port`), and `config`; a None was not given.

    `with_providers` False: for what needs only the database. With the role `api` their credentials may be missing.
    Reads the file and the files of secrets, and nothing else. Raises ConfigError.
    """
    raw = _gather(flags, environ, cwd)
    values = {s.field: _read(s, raw, environ, cwd) for s in _SERVICE if s.name in raw and s.name != "HES_PROVIDERS"}
    given = frozenset(raw) | {name for name in environ if name.startswith("OTEL_")}
    settings = Settings(**values, given=given, exports=_exports(environ))
    _check_database(settings)
    _check_times(settings, settings)
    if not with_providers:
        return settings
    settings = replace(settings, providers=_providers(settings, raw, environ, cwd))
    if "routes" not in raw:
        return settings
    return replace(settings, routes=_routes(raw["routes"], {p.name for p in settings.providers}))


def load_client(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> ClientSettings:
    """Settings of a command that talks to a running HES. Raises ConfigError."""
    raw = _gather(flags, environ, cwd)
    return ClientSettings(**{s.field: _read(s, raw, environ, cwd) for s in _CLIENT if s.name in raw})


def _read(setting: Setting, raw: Mapping[str, _Raw], environ: Mapping[str, str], cwd: Path) -> Any:
    """The checked value. A secret's file is read now and never again: what hangs on it is decided at the start."""
    value, where = raw[setting.name].value, raw[setting.name].where
    if setting.parse not in _SECRETS:
        return setting.read(value, where)
    try:
        found = Secret.of(spec := text(value), environ, cwd)
    except Wrong as wrong:
        raise setting.refusal(where, str(wrong)) from None
    is_elsewhere = found.reveal() != spec
    setting.read(found.reveal(), f"{where}, {spec}" if is_elsewhere else where)
    return found.fixed()


def _gather(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> dict[str, _Raw]:
    """What was given, by variable name (`routes` by that word); the first source wins."""
    _refuse_unknown(flags, environ)
    set_here = {name: value for name, value in environ.items() if value.strip() and not _is_of_kubernetes(name, value)}
    config = flags.get("config") or set_here.get("HES_CONFIG")
    file, content = _file(config, cwd)
    raw = {"routes": _Raw(content["routes"], f"routes in {file}")} if "routes" in content else {}
    for setting in _SERVICE + _CLIENT:
        key = setting.key
        if flags.get(key) is not None:
            raw[setting.name] = _Raw(flags[key], f"{setting.name} (flag --{key.replace('_', '-')})")
        elif setting.name in set_here:
            raw[setting.name] = _Raw(set_here[setting.name], setting.name)
        elif key in content:
            raw[setting.name] = _Raw(content[key], f"{setting.name} ({key} in {file})")
    return raw


def _refuse_unknown(flags: Mapping[str, object], environ: Mapping[str, str]) -> None:
    for key in flags:
        if key != "config" and key not in _FILE_KEYS - {"routes"}:
            raise ConfigError(f"--{key}: there is no such setting.{closest(key, _FILE_KEYS)}")
    for name, value in environ.items():
        is_ours = name.startswith("HES_") and name != _FOR_TESTS and not _is_of_kubernetes(name, value)
        if is_ours and name not in _BY_NAME:
            raise ConfigError(f"{name}: there is no such setting.{closest(name, _BY_NAME)}")


def _is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes made this for a Service: `hes` gives each pod beside it HES_PORT=tcp://10.0.0.1:8025."""
    if re.fullmatch(r"HES_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", name):
        return True
    return name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))


def _file(config: object, cwd: Path) -> tuple[Path, dict[str, object]]:
    """The file and what it holds; nothing if none was named and there is no ./hes.toml."""
    path = cwd / (str(config) if config else "hes.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config:
            raise _CONFIG.refusal("HES_CONFIG (or --config)", f"there is no file {path}") from None
        return path, {}
    except OSError as error:
        raise _CONFIG.refusal("HES_CONFIG (or --config)", f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _CONFIG.refusal("HES_CONFIG (or --config)", f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise _CONFIG.refusal("HES_CONFIG (or --config)", f"{path} is not TOML: {error}") from None
    for key in content:
        if key not in _FILE_KEYS:
            raise ConfigError(f"{key} in {path}: there is no such setting.{closest(key, _FILE_KEYS)}")
    return path, content


def _exports(environ: Mapping[str, str]) -> Exports:
    try:
        return exports_of(environ)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_database(settings: Settings) -> None:
    """What SQLite cannot do."""
    if not settings.is_sqlite:
        return
    if settings.role != "all":
        wrong = "on SQLite one process does everything, with the role all"
        raise _BY_NAME["HES_ROLE"].refusal("HES_ROLE", wrong)
    if settings.workers > 1:
        raise _BY_NAME["HES_WORKERS"].refusal("HES_WORKERS", "on SQLite there is one process; more need Postgres")


def _check_times(times: Times, settings: Settings, prefix: str = "") -> None:
    """Times that must fit each other: HES's own, or with a prefix for errors one provider's."""
    name = str if prefix else (lambda key: f"HES_{key.upper()}")
    for outer, seconds in (
        ("HES_LEASE_SECONDS", settings.lease_seconds),
        ("HES_GRACE_SECONDS", settings.grace_seconds),
    ):
        if times.attempt_timeout + MARGIN_SECONDS > seconds:
            wrong = f"{times.attempt_timeout:g} must leave {MARGIN_SECONDS:g} seconds inside {outer} ({seconds:g})"
            raise ConfigError(f"{prefix}{name('attempt_timeout')}: {wrong}. Example: {name('attempt_timeout')}=10")
    if times.connect_timeout >= times.attempt_timeout:
        wrong = f"{times.connect_timeout:g} must be less than {name('attempt_timeout')} ({times.attempt_timeout:g})"
        raise ConfigError(f"{prefix}{name('connect_timeout')}: {wrong}. Example: {name('connect_timeout')}=2")
    if times.retry_base_seconds > times.retry_cap_seconds:
        wrong = (
            f"{times.retry_base_seconds:g} must not be above {name('retry_cap_seconds')} ({times.retry_cap_seconds:g})"
        )
        raise ConfigError(f"{prefix}{name('retry_base_seconds')}: {wrong}. Example: {name('retry_base_seconds')}=1")


def _providers(
    settings: Settings, raw: Mapping[str, _Raw], environ: Mapping[str, str], cwd: Path
) -> tuple[ProviderSettings, ...]:
    given = raw.get("HES_PROVIDERS")
    around = Around(settings, environ, cwd, sends=settings.role != "api")
    if given and (providers := read_providers(given.value, given.where, around)):
        for provider in providers:
            _check_times(provider, settings, f"{given.where}: provider {provider.name}: ")
        return providers
    if settings.is_sqlite and is_loopback(settings.host):
        return (plain_outbox(settings),)
    open_to = f"HES_HOST={settings.host} is open to others" if settings.is_sqlite else "this is Postgres"
    wrong = (
        f"no provider is configured, and {open_to}: mail must never vanish into a test box. Name a "
        "provider, or outbox:// if keeping instead of sending is what you want"
    )
    raise ConfigError(f"HES_PROVIDERS: {wrong}. Example: {EXAMPLE}")


def _routes(raw: _Raw, known: set[str]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Stream -> ordered groups, each of known providers, none named twice in a stream."""
    example = 'Example: transactional = [["sendgrid", "mailgun"], ["smtp-backup"]]'
    if not isinstance(raw.value, dict):
        raise ConfigError(f"{raw.where}: must be a table. {example}")
    routes = {}
    for stream, groups in raw.value.items():
        where = f"{raw.where}: {stream}"
        if not (isinstance(groups, list) and groups and all(isinstance(g, list) and g for g in groups)):
            raise ConfigError(f"{where}: must be a list of groups, each a list of providers' names. {example}")
        names = [str(name) for group in groups for name in group]
        for name in names:
            if name not in known:
                raise ConfigError(f"{where}: there is no provider {name}; known: {', '.join(sorted(known))}. {example}")
            if names.count(name) > 1:
                raise ConfigError(f"{where}: {name} is named twice. {example}")
        routes[stream] = tuple(tuple(group) for group in groups)
    return routes
