"""The way in: what is loaded, exit codes, help, completion."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hes.cli import COMMANDS
from tests.cli.conftest import Run
from tests.faults.server import KEY, environment

ALLOWED = {"hes", "hes.__main__", "hes.cli", "hes.errors"}
HEAVY = {"aiohttp", "alembic", "anyio", "httpx", "litestar", "sqlalchemy", "structlog", "uvicorn"}
LOADED = """
import sys
from hes.__main__ import main
sys.argv = ["hes", "--help"]
main()
print(*sys.modules, file=sys.stderr)
"""


def test_help_loads_no_command_and_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, env=environment())
    modules = ran.stderr.split()
    assert {m for m in modules if m.partition(".")[0] == "hes"} == ALLOWED
    assert HEAVY.isdisjoint(modules)
    for name, line in COMMANDS.items():
        assert name in ran.stdout
        assert line in ran.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_what_the_list_says(name: str, run: Run) -> None:
    command = getattr(import_module(f"hes.cli.{name}"), name)
    assert command.name == name
    assert command.help.startswith(COMMANDS[name])
    assert run(name, "--help").code == 0


@pytest.mark.parametrize(
    "words", [["sned"], ["send", "--sbject", "x"], ["emails", "show"], ["emails", "resolve", "x", "maybe"]]
)
def test_what_is_no_command_ends_with_2(words: list[str], run: Run) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")


def test_an_empty_id_is_usage_and_not_all_emails(run: Run) -> None:
    assert run("emails", "show", "").code == 2
    assert run("keys", "revoke", "").code == 2
    assert run("providers", "pause", "").code == 2


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hes em", "emails"),
        ("hes emails re", "resolve"),
        ("hes send --on-", "--on-doubt"),
        ("hes serve --ro", "--role"),
    ],
)
def test_the_shell_completes(words: str, found: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HES_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert f"plain,{found}\n" in run().out


def test_bash_gets_its_script(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HES_COMPLETE", "bash_source")
    assert "complete -o nosort -F _hes_completion hes" in run().out


# --- where HES is, and the key ---------------------------------------------------------------------------------------


def test_without_a_key_it_says_what_to_set(run: Run) -> None:
    ran = run("providers", "list")
    assert ran.code == 2
    assert ran.err.startswith("hes: HES_API_KEY: is not set")


def test_beside_the_key_file_of_make_run_no_key_is_needed(service: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / ".hes-key").write_text(f"{KEY}\n")
    assert run("providers", "list", "--url", service).code == 0


def test_the_key_of_make_run_goes_to_no_other_machine(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".hes-key").write_text(f"{KEY}\n")
    ran = run("providers", "list", "--url", "http://hes.example.com")
    assert ran.code == 2
    assert "HES_API_KEY: is not set" in ran.err


def test_a_key_may_come_from_another_file(service: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    assert run("providers", "list", "--url", service, "--key-file", "key").code == 0
    gone = run("providers", "list", "--url", service, "--key-file", "gone")
    assert (gone.code, "cannot read gone: No such file" in gone.err) == (2, True)


@pytest.mark.parametrize("way", ["--key-file", "beside", "variable"])
def test_a_key_file_that_others_can_read_is_warned_about(
    way: str, service: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ".hes-key" if way == "beside" else "key"
    (tmp_path / name).write_text(KEY)
    if way == "variable":
        monkeypatch.setenv("HES_API_KEY", f"file:{name}")
    flags = ["--key-file", name] if way == "--key-file" else []
    for mode, warned in [(0o644, f"{name} holds a secret, and others on this machine can read it"), (0o600, "")]:
        (tmp_path / name).chmod(mode)
        ran = run("providers", "list", "--url", service, "--json", *flags)
        assert ran.code == 0
        assert ran.json()["data"]
        assert ran.err.count("\n") == bool(warned)
        assert warned in ran.err


def test_a_wrong_key_fails(hes: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HES_API_KEY", "hes_live_wrong")
    ran = hes("providers", "list")
    assert ran.code == 1
    assert ran.err == "hes: Not authenticated: This key is not known.\n"


@pytest.mark.parametrize("key", ["two\nlines of a secret", "bell \x07 in a secret"])
def test_a_key_that_is_no_line_is_not_shown(key: str, hes: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HES_API_KEY", key)
    ran = hes("providers", "list")
    assert ran.code == 2
    assert "HES_API_KEY" in ran.err
    assert "secret" not in ran.err


def test_where_nobody_answers_it_names_the_url(hes: Run) -> None:
    ran = hes("emails", "list", "--url", "http://127.0.0.1:1")
    assert ran.code == 1
    assert ran.err.startswith("hes: no answer from http://127.0.0.1:1: Connection refused.")
    assert "HES_URL" in ran.err
