"""What the README says is so."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import anyio
import msgspec
import pytest

from tests.faults.server import KEY, PATIENCE_SECONDS, cold
from tools.readme import README, filled

STANDS_FOR_HES = "http://127.0.0.1:8025"


def test_its_tables_are_what_the_code_says() -> None:
    """`make readme` fills them anew."""
    text = README.read_text()
    assert filled(text) == text


def blocks(text: str) -> Iterator[str]:
    """The blocks of code, indented or fenced, without their indentation."""
    for found in re.finditer(r"^```\w*\n((?:.*\n)*?)```|((?:^(?: {4}.*)?\n)+)", text, re.MULTILINE):
        yield dedent(found[1] or found[2]).strip()


def beginning_with(*words: str) -> list[str]:
    return [block for block in blocks(README.read_text()) if block.startswith(words)]


CURL = beginning_with("curl ")
PYTHON = beginning_with("from hes", "import ")


def test_blocks_are_found_however_they_are_written() -> None:
    text = "a\n\n    curl 1 \\\n      -d 2\n\nb\n\n```bash\ncurl 3\n```\n\n    four\n\n    five\n"
    assert [block for block in blocks(text) if block] == ["curl 1 \\\n  -d 2", "curl 3", "four\n\nfive"]
    assert len(CURL) >= 2
    assert len(PYTHON) >= 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_its_curl_lines_work(tmp_path: Path) -> None:
    """In their order; ID is the email of the answer before."""
    (tmp_path / ".hes-key").write_text(KEY)
    last_id = ""
    async with cold(tmp_path) as hes:
        await hes.ready()
        for block in CURL:
            script = re.sub(r"\bID\b", last_id, block.replace(STANDS_FOR_HES, hes.url))
            answer = msgspec.json.decode(
                await run("bash", "-c", script.replace("curl ", "curl --fail-with-body "), cwd=tmp_path)
            )
            last_id = answer.get("id", last_id)


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
async def test_its_python_works(block: str, tmp_path: Path) -> None:
    async with cold(tmp_path) as hes:
        await hes.ready()
        program = f"api_key = {KEY!r}\n{block.replace(STANDS_FOR_HES, hes.url)}"
        assert (await run(sys.executable, "-c", program, cwd=tmp_path)).split()[-1] == "sent"


async def run(*command: str, cwd: Path) -> str:
    """What it prints, after it ended well."""
    environ = os.environ | {"PYTHONPATH": str(README.parent), "no_proxy": "127.0.0.1"}
    with anyio.fail_after(PATIENCE_SECONDS):
        done = await anyio.run_process(command, check=False, cwd=cwd, env=environ, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()
