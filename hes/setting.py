"""How one setting is declared, and what its value may be.

A setting is declared once, as `Annotated[type, Setting(...)]` on the field that holds it; reading, checking and the
README's table all come from there. No error text quotes a secret, or a part of a URL that could be one.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from hes.errors import ConfigError
from hes.model import Address
from hes.secret import Wrong

# --- declaring a setting ----------------------------------------------------------------------------------------


class Setting(Struct, frozen=True):
    """What a setting may be, and what people read about it."""

    parse: Callable[[object], object]
    """From text, or from what TOML holds, to the checked value; raises Wrong."""
    help: str
    example: str
    """As declared: a value. From `declared` on: a whole line, as in `HES_PORT=8025` or `weight = 2`."""
    default: str = ""
    """For people; `declared` makes it from the field's default unless it is told."""
    name: str = ""
    """The variable, or the key within `[[providers]]`; `declared` makes it from the field's unless it is told."""
    field: str = ""
    """The attribute that holds it; filled in by `declared`."""

    @property
    def key(self) -> str:
        """Its name in `hes.toml`, and (with dashes) as a flag."""
        return self.name.removeprefix("HES_").lower()

    def read(self, value: object, where: str) -> Any:
        """The checked value. Raises ConfigError, which names `where`."""
        try:
            return self.parse(value)
        except Wrong as wrong:
            raise self.refusal(where, str(wrong)) from None

    def refusal(self, where: str, wrong: str) -> ConfigError:
        return ConfigError(f"{where}: {wrong}. Example: {self.example}")


def declared(struct: type[Struct], *, variables: bool) -> tuple[Setting, ...]:
    """The settings declared on a struct's fields, in their order; as HES_ variables, or as keys of a table."""
    found = []
    for field in fields(struct):
        for setting in getattr(field.type, "__metadata__", ()):
            name = setting.name or (f"HES_{field.name.upper()}" if variables else field.name)
            quoted = setting.example if re.fullmatch(r"[0-9.]+", setting.example) else f'"{setting.example}"'
            example = f"{name}={setting.example}" if variables else f"{name} = {quoted}"
            default = setting.default or _for_people(field.default)
            found.append(replace(setting, name=name, example=example, default=default, field=field.name))
    return tuple(found)


def _for_people(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default in (None, (), NODEFAULT) else str(default)


def closest(name: str, known: Iterable[str]) -> str:
    """` Did you mean ...?`, or nothing."""
    matches = get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


# --- what a value may be ----------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """A harmless value, short; only for settings that are no secret and hold none."""
    return f"`{str(value)[:40]}`" if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def text(value: object) -> str:
    """Text that is not empty and holds no control characters; spaces around it go."""
    stripped = value.strip() if isinstance(value, str) else ""
    if not stripped or not stripped.isprintable():
        raise Wrong("must be text, not empty and without control characters")
    return stripped


def secret(value: object) -> str:
    """`env:NAME`, `file:PATH` or the secret itself; whoever reads it makes a `Secret` of it."""
    return text(value)


def matching(pattern: str, wrong: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not re.fullmatch(pattern, word := text(value)):
            raise Wrong(wrong)
        return word

    return parse


def one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else None
        if word not in words:
            raise Wrong(f"must be one of {', '.join(words)}, not {shown(value)}")
        return word

    return parse


def switch(value: object) -> bool:
    """`on` or `off`; in TOML also true and false."""
    return value if isinstance(value, bool) else one_of("on", "off")(value) == "on"


def whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number_ = value
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
            number_ = int(value)
        if type(number_) is not int or not low <= number_ <= high:
            raise Wrong(f"must be a whole number from {low} to {high}, not {shown(value)}")
        return number_

    return parse


def number(high: float, *, zero: bool = False) -> Callable[[object], float]:
    """Above zero, or with `zero` also zero itself."""

    def parse(value: object) -> float:
        try:
            number_ = float(value) if isinstance(value, str | int | float) and value is not True else math.nan
        except (ValueError, OverflowError):
            number_ = math.nan
        if not (0 < number_ <= high or (zero and number_ == 0 and value is not False)):
            raise Wrong(f"must be a number {'from' if zero else 'above'} 0, up to {high:g}, not {shown(value)}")
        return number_

    return parse


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant: 127.0.0.0/8, ::1, localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


_HTTP_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^?#@\s\\]*)?",
    re.IGNORECASE,
)


def http_url(value: object) -> str:
    """A URL to reach something by; without user, query and fragment, and without a slash at its end."""
    url = text(value)
    match = _HTTP_URL.fullmatch(url)
    if not match or int(match["port"] or 1) not in range(1, 65536):
        raise Wrong("must be http:// or https:// and a host, without user, query or fragment")
    return url.rstrip("/")


def api_url(value: object) -> str:
    """Where a provider's API is: a secret goes there, so nothing but TLS beyond this machine."""
    url = http_url(value)
    match = _HTTP_URL.fullmatch(url)
    if not match or match["path"]:
        raise Wrong("must have no path: HES appends the API's own")
    if match["scheme"].lower() == "http" and not is_loopback(match["host"]):
        raise Wrong("must be https:// (plain http only for 127.0.0.0/8, ::1 and localhost)")
    return url


_MAILBOX = re.compile(r'(?:"?(?P<name>[^"<>@]*?)"?\s*<)?(?P<email>[^\s<>@"(),;:]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)>?')


def mailbox(value: object) -> Address:
    """`ann@example.com` or `Ann <ann@example.com>`."""
    match = _MAILBOX.fullmatch(word := text(value))
    if not match or (match["name"] is None) == word.endswith(">"):
        raise Wrong("must be an address, or a name and <address>; its domain in ASCII (xn--...)")
    local, _, domain = match["email"].rpartition("@")
    return Address(f"{local}@{domain.lower()}", match["name"] or None)
