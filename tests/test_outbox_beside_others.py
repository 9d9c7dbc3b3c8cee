"""An outbox beside providers that send: it gets what is meant for it, and no other email vanishes into it."""

from pathlib import Path
from typing import Any

import pytest

from hes.configured import rules_of
from hes.lanes import Lane
from hes.provider_settings import EXAMPLE
from hes.routing import Routing
from hes.settings import Settings, describe, load
from hes.start_warnings import start_warnings


def usable(settings: Settings, **lane: Any) -> list[str]:
    return Routing(rules_of(settings)).usable(Lane("p", lane.pop("stream", "default"), "example.com", **lane))


@pytest.mark.parametrize(
    ("providers", "usable_ones"),
    [
        ("outbox://", ["outbox"]),
        ("outbox:// outbox://?name=box", ["outbox", "box"]),
        ("sendgrid://K@default", ["sendgrid"]),
        ("sendgrid://K@default outbox://", ["sendgrid"]),
        ("outbox://?name=box sendgrid://K@default resend://K@default outbox://", ["sendgrid", "resend"]),
    ],
)
def test_an_outbox_takes_no_turns_with_a_real_provider(tmp_path: Path, providers: str, usable_ones: list[str]) -> None:
    settings = load({}, {"HES_PROVIDERS": providers}, tmp_path)
    assert usable(settings) == usable_ones
    assert usable(settings, is_test=True) == ["outbox"]


def test_an_outbox_gets_what_names_it(tmp_path: Path) -> None:
    (tmp_path / "hes.toml").write_text('[routes]\nkept = [["sendgrid"], ["outbox"]]')
    settings = load({}, {"HES_PROVIDERS": "sendgrid://K@default outbox://"}, tmp_path)
    assert usable(settings, own_providers=("outbox",)) == ["outbox"]
    assert usable(settings, own_providers=("sendgrid", "outbox")) == ["sendgrid", "outbox"]
    assert usable(settings, stream="kept") == ["sendgrid", "outbox"]
    assert usable(settings, stream="other") == ["sendgrid"]


@pytest.mark.parametrize(
    ("providers", "routes", "warned_of"),
    [
        ("outbox://", "", []),
        ("outbox:// outbox://?name=box", "", []),
        ("sendgrid://K@default", "", []),
        ("sendgrid://K@default outbox://?name=box", "", ["box keeps"]),
        ("sendgrid://K@default outbox://", 'a = [["sendgrid"], ["outbox"]]', ["outbox keeps"]),
        ("sendgrid://K@default outbox://", 'a = [["sendgrid", "outbox"]]', ["outbox keeps", "routes.a: outbox takes"]),
        ("outbox:// outbox://?name=box", 'a = [["outbox", "box"]]', []),
    ],
)
def test_the_start_warns_of_an_outbox_beside_real_providers(
    tmp_path: Path, providers: str, routes: str, warned_of: list[str]
) -> None:
    (tmp_path / "hes.toml").write_text(f"[routes]\n{routes}")
    warnings = start_warnings(load({}, {"HES_PROVIDERS": providers}, tmp_path))
    assert len(warnings) == len(warned_of)
    assert all(start in warning for start, warning in zip(warned_of, warnings, strict=True))


def test_no_error_recommends_an_outbox_beside_others() -> None:
    assert "outbox" not in EXAMPLE
    assert not any("outbox" in line.example for line in describe() if line.name == "HES_PROVIDERS")
