"""What can be said of the Containerfile without building it. `make image` builds it, and tries what it built."""

import fnmatch
import re
from pathlib import Path
from shlex import split

import pytest
import yaml
from click.testing import CliRunner

from hes import __version__
from hes.cli import cli
from hes.settings import load
from hes.web.health import is_alive

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Containerfile").read_text().replace("\\\n", " ").splitlines()


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(f"{word} ")]


def test_hes_accepts_what_the_image_sets_and_wants_to_be_told_a_provider(tmp_path: Path) -> None:
    """On every address an outbox must be named on purpose."""
    (text,) = instructions("ENV")
    environ = dict(word.split("=", 1) for word in split(text))
    settings = load({}, environ | {"HES_PROVIDERS": "outbox://"}, tmp_path)
    assert settings.host == "0.0.0.0"  # all addresses of the container
    assert settings.is_sqlite
    assert str(settings.outbox_dir).startswith("/data/")
    assert settings.database_url.reveal().startswith("sqlite:////data/")
    with pytest.raises(Exception, match="HES_PROVIDERS"):
        load({}, environ, tmp_path)


def test_its_health_check_asks_what_hes_answers() -> None:
    (check,) = instructions("HEALTHCHECK")
    (alive,) = is_alive.paths
    assert f'{alive}\\"' in check
    (port,) = instructions("EXPOSE")
    assert f"'HES_PORT', '{port}'" in check


COMPOSE = yaml.safe_load((ROOT / "docs/compose.yaml").read_text())


@pytest.mark.parametrize("name", ["upgrade", "api", "mailer"])
def test_the_compose_file_is_what_hes_takes(name: str, tmp_path: Path) -> None:
    service = COMPOSE["services"][name]
    assert service["image"] == f"hes:{__version__}"
    given = {"POSTGRES_PASSWORD": "secret", "HES_BOOTSTRAP_KEY": "k" * 32}
    environ = {key: filled_in(value, given) for key, value in service["environment"].items()}
    settings = load({}, environ, tmp_path, with_providers=name != "upgrade")
    assert settings.role == ("all" if name == "upgrade" else name)
    assert settings.without_effect() == []
    assert CliRunner().invoke(cli, [*service.get("command", ["serve"]), "--help"]).exit_code == 0
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert float(service["stop_grace_period"].removesuffix("s")) >= settings.grace_seconds + 5


def test_the_compose_file_listens_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8025:8025"]


def filled_in(text: str, given: dict[str, str]) -> str:
    """As Compose does: `${NAME:?}` must be given, `${NAME:-default}` may be."""
    text = re.sub(r"\$\{(\w+):\?\}", lambda found: given[found[1]], text)
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), text)


def test_it_runs_as_nobody_the_same_one_as_in_the_manifests() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "by number, or Kubernetes can't tell that it is not root"
    documents = yaml.safe_load_all((ROOT / "kustomize/base/mailer.yaml").read_text())
    secured = next(iter(documents))["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{secured['runAsUser']}:{secured['runAsGroup']}"


def test_what_it_copies_is_there_and_nothing_else_reaches_the_builder() -> None:
    sources = {word for line in instructions("COPY") if "--from" not in line for word in split(line)[:-1]}
    assert all((ROOT / source).exists() for source in sources)
    *_, last = ignored = [
        line for line in (ROOT / ".containerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored[1:-1]} == {source.rstrip("/") for source in sources}
    assert fnmatch.fnmatch("hes/web/__pycache__", last)


def test_it_installs_what_is_locked_and_nothing_else() -> None:
    for command in instructions("RUN"):
        for install in re.findall(r"pip install ([^&]*)", command):
            assert "--require-hashes" in install or "--no-index --no-deps" in install


def test_on_which_image_it_is_built_can_be_said() -> None:
    assert [line.split()[0] for line in instructions("FROM")] == ["${BASE}", "${BASE}"]
    assert instructions("ARG")[0].startswith("BASE=")
