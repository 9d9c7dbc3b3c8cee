"""What the README says is so: its tables are the code's, and each command and example in it works."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import anyio
import httpx
import msgspec
import pytest
from click.testing import CliRunner

from hes.cli import cli
from hes.settings import Settings, load
from tests.faults.server import KEY, PATIENCE_SECONDS, Hes, cold
from tools.readme import OBSERVABILITY, README, filled

STANDS_FOR_HES = "http://127.0.0.1:8025"
STANDS_FOR_SOON = "2026-12-24"

NOT_RUN = {
    "make run": "sets up .venv and serves what these tests serve; `make test` is the suite that this test belongs to",
    "0.0 s  20 emails a second": "what `hes demo` prints; tests/test_demo.py looks at that",
    "┌──": "a drawing",
}
"""Blocks of the README that no test runs, by how they begin, and why."""


def test_its_tables_are_what_the_code_says() -> None:
    """`make readme` fills them anew."""
    for page in (README, OBSERVABILITY):
        text = page.read_text()
        assert filled(text) == text


def blocks(text: str) -> Iterator[str]:
    """The blocks of code, indented or fenced, without their indentation."""
    for found in re.finditer(r"^```\w*\n((?:.*\n)*?)```|((?:^(?: {4}.*)?\n)+)", text, re.MULTILINE):
        if block := dedent(found[1] or found[2]).strip():
            yield block


def beginning_with(*words: str) -> list[str]:
    return [block for block in blocks(README.read_text()) if block.startswith(words)]


CURL = beginning_with("curl ")
PYTHON = beginning_with("from hes", "import ")
COMMANDS = beginning_with("hes ", "echo ")
SESSIONS = beginning_with("$ ")
STARTS = beginning_with("HES_PROVIDERS=")
REQUESTS = beginning_with("POST ")
FILES = beginning_with("# hes.toml")


def test_blocks_are_found_however_they_are_written() -> None:
    text = "a\n\n    curl 1 \\\n      -d 2\n\nb\n\n```bash\ncurl 3\n```\n\n    four\n\n    five\n"
    assert list(blocks(text)) == ["curl 1 \\\n  -d 2", "curl 3", "four\n\nfive"]


def test_each_block_is_run_or_is_said_why_not() -> None:
    kinds = [CURL, PYTHON, COMMANDS, SESSIONS, STARTS, REQUESTS, FILES]
    assert all(kinds)
    run = {block for kind in kinds for block in kind}
    left = [block for block in blocks(README.read_text()) if block not in run]
    assert [block for block in left if not block.startswith(tuple(NOT_RUN))] == []
    assert [words for words in NOT_RUN if not any(block.startswith(words) for block in left)] == []


# --- what is typed ---------------------------------------------------------------------------------------------------


class Terminal:
    """A shell in the folder of `make run`: its key file is there, and HES is where it is."""

    def __init__(self, hes: Hes, folder: Path) -> None:
        self._hes = hes
        self._folder = folder
        self._last_id = ""

    async def type(self, command: str) -> str:
        """What it prints, after it ended well. `ID` is the last id that was seen."""
        soon = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
        command = command.replace(STANDS_FOR_HES, self._hes.url).replace(STANDS_FOR_SOON, soon)
        command = re.sub(r"\bID\b", self._last_id, command)
        script = (
            f'hes() {{ "{sys.executable}" -m hes "$@"; }}; curl() {{ command curl --fail-with-body "$@"; }}\n{command}'
        )
        said = await run("bash", "-c", script, cwd=self._folder, HES_URL=self._hes.url)
        if found := re.findall(ID, said):
            self._last_id = found[0 if said.startswith("{") else -1]
        return said


ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@asynccontextmanager
async def terminal(folder: Path, **settings: object) -> AsyncIterator[Terminal]:
    (folder / ".hes-key").write_text(KEY)
    (folder / ".hes-key").chmod(0o600)
    async with cold(folder, **settings) as hes:
        await hes.ready()
        yield Terminal(hes, folder)


async def run(*command: str, cwd: Path, **variables: str) -> str:
    """What it prints, after it ended well."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("HES_")}
    environ = rest | {"PYTHONPATH": str(README.parent), "no_proxy": "127.0.0.1"} | variables
    with anyio.fail_after(PATIENCE_SECONDS):
        done = await anyio.run_process(command, check=False, cwd=cwd, env=environ, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@needs_curl
async def test_its_curl_lines_work(tmp_path: Path) -> None:
    """In their order; ID is the email of the answer before."""
    async with terminal(tmp_path) as shell:
        for block in CURL:
            answer = msgspec.json.decode(await shell.type(block))
            assert "problem" not in str(answer)


async def test_its_hes_lines_work(tmp_path: Path) -> None:
    (tmp_path / "mail.eml").write_text("From: shop@example.com\nSubject: Receipt 7\n\nThank you.\n")
    async with terminal(tmp_path) as shell:
        for line in "\n".join(COMMANDS).splitlines():
            assert re.search(f"^{ID}", await shell.type(line), re.MULTILINE), line


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
async def test_its_python_works(block: str, tmp_path: Path) -> None:
    async with cold(tmp_path) as hes:
        await hes.ready()
        program = f"api_key = {KEY!r}\n{block.replace(STANDS_FOR_HES, hes.url)}"
        assert (await run(sys.executable, "-c", program, cwd=tmp_path)).split()[-1] == "sent"


@pytest.mark.parametrize("block", REQUESTS, ids=range(len(REQUESTS)))
async def test_its_requests_are_taken(block: str, tmp_path: Path) -> None:
    head, _, body = block.partition("\n\n")
    (method, path), *headers = (line.split(maxsplit=1) for line in head.splitlines())
    names = {name.rstrip(":"): value.split("  ")[0].replace("<key>", KEY) for name, value in headers}
    async with cold(tmp_path) as hes, httpx.AsyncClient(trust_env=False) as http:
        await hes.ready()
        answer = await http.request(method, f"{hes.url}{path}", headers=names, json=msgspec.json.decode(body))
    assert answer.status_code == 202, answer.text


# --- sessions: what is typed, and what is shown ----------------------------------------------------------------------


def typed(session: str) -> Iterator[tuple[str, list[str]]]:
    """Each command, with the lines that are shown below it."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*", part)
        assert command is not None
        yield command[0], part[command.end() :].strip("\n").splitlines()


def squeezed(line: str) -> str:
    """Without what differs from run to run: ids, times, numbers, the width of columns."""
    line = re.sub(ID, "<id>", line)
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", line)
    return " ".join(re.sub(r"\d+", "<n>", line).split())


def is_shown(line: str, real: str) -> bool:
    line, real = squeezed(line), squeezed(real)
    return real.startswith(line.removesuffix("...").rstrip()) if line.endswith("...") else real == line


def check_shown(lines: list[str], said: str) -> None:
    """The lines are what was said, in its order; `...` stands for what was left out."""
    left = said.splitlines()
    may_skip = False
    for line in lines:
        if line.strip() == "...":
            may_skip = True
            continue
        while may_skip and left and not is_shown(line, left[0]):
            left.pop(0)
        assert left, f"not said: {line}\n{said}"
        assert is_shown(line, left.pop(0)), f"not said there: {line}\n{said}"
        may_skip = False
    assert may_skip or not lines or left == [], said


@pytest.mark.parametrize(
    ("lines", "is_so"),
    [
        (["a 1", "c"], False),
        (["a 2", "b", "c"], True),
        (["a 1", "..."], True),
        (["...", "c"], True),
        (["...", "a", "..."], False),
        (["a 1", "b"], False),
        (["a ...", "b", "c"], True),
        ([], True),
    ],
)
def test_what_is_shown_is_compared(lines: list[str], is_so: bool) -> None:  # noqa: FBT001
    if is_so:
        check_shown(lines, "a  1\nb\nc\n")
    else:
        with pytest.raises(AssertionError):
            check_shown(lines, "a  1\nb\nc\n")


def settings_before(session: str) -> dict[str, object]:
    """Of the HES that was started in the same section."""
    text = README.read_text()
    section = next(part for part in text.split("\n## ") if session in [*blocks(part)])
    for block in blocks(section):
        if block in STARTS:
            return {"providers": providers_in(block)}
    return {}


def providers_in(start: str) -> str:
    found = re.match('HES_PROVIDERS="([^"]*)" make run', start)
    assert found is not None, start
    return found[1]


@needs_curl
async def test_its_sessions_go_as_shown(tmp_path: Path) -> None:
    """Those of one section one after the other, in one HES."""
    groups: dict[str, list[str]] = {}
    for session in SESSIONS:
        groups.setdefault(str(settings_before(session).get("providers", "")), []).append(session)
    for n, (providers, sessions) in enumerate(groups.items()):
        (folder := tmp_path / str(n)).mkdir()
        async with terminal(folder, **({"providers": providers} if providers else {})) as shell:
            for session in sessions:
                for command, lines in typed(session):
                    check_shown(lines, await shell.type(command))


# --- settings, and what is named in sentences and tables -------------------------------------------------------------


@pytest.mark.parametrize("block", STARTS, ids=range(len(STARTS)))
def test_what_it_starts_hes_with_is_accepted(block: str, tmp_path: Path) -> None:
    environ = {"HES_PROVIDERS": providers_in(block), "SENDGRID_KEY": "SG.x"}
    assert next(p.kind for p in load({}, environ, tmp_path).providers) == "sendgrid"


@pytest.mark.parametrize("block", FILES, ids=range(len(FILES)))
def test_its_settings_files_are_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "hes.toml").write_text(block.replace("/run/secrets/mailgun", f"{tmp_path}/secret"))
    settings = load({}, {"SENDGRID_KEY": "SG.x"}, tmp_path)
    assert isinstance(settings, Settings)
    assert [p.name for p in settings.providers] == ["sendgrid", "mailgun"]
    assert settings.routes


def named_commands() -> Iterator[tuple[str, ...]]:
    """In sentences `hes emails list`; in a table's cell also what follows it, as `show ID`."""
    for line in re.sub(r"^ {4}.*$", "", README.read_text(), flags=re.MULTILINE).splitlines():
        group = ""
        for span in re.findall(r"`([^`]+)`", line):
            words = re.sub(r"^(\.venv/bin/)?hes ", "", span).split()
            if words != span.split():
                yield tuple(word for word in words if word.islower() and not word.startswith("-"))
                group = words[0] if line.startswith("| `hes ") else ""
            elif group:
                yield group, words[0]


def test_each_command_that_it_names_is_there() -> None:
    named = set(named_commands())
    assert {("demo",), ("emails", "watch"), ("emails", "erase"), ("keys", "revoke"), ("db", "current")} <= named
    for words in sorted(named):
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0, words


def test_each_target_of_make_that_it_names_is_there() -> None:
    targets = re.findall(r"^([a-z]+):", (README.parent / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", README.read_text())) <= set(targets)
    assert os.access(README.parent / ".ci" / "run", os.X_OK)
