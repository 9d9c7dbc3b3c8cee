"""What a 202 promises, looked at from outside: it is on disk, and it is one."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import httpx
import pytest

from tests.faults.server import (
    SERVE,
    an_email,
    client,
    cold,
    eventually,
    fake_process,
    run,
    sendgrid_at,
)

pytestmark = pytest.mark.anyio

MARKS = [f"mark-{number}-of-this-test" for number in range(5)]
CALLS = "fsync,fdatasync,pwrite64,pwritev,write,writev,sendto,sendmsg"


def _why_not() -> str:
    """Why strace can't be used; "" if it can."""
    if shutil.which("strace") is None:
        return "strace is missing"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace is not permitted: {done.stderr.strip()[:80]}"


WHY_NOT = _why_not()
# strace fills a process id up to five places with spaces.
SYNCED = re.compile(r" f(?:data)?sync\(\d+<[^>]*hes\.db-wal>\) += 0")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")


def whole_calls(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Each call as one line, with the numbers of the lines where it began and where it returned."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if line.endswith(" <unfinished ...>"):
            begun[line.split()[0]] = number, line.removesuffix(" <unfinished ...>")
        elif match := RESUMED.match(line):
            first, text = begun.pop(match[1])
            yield first, number, text + match[3]
        else:
            yield number, number, line


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
async def test_the_sync_to_disk_returns_before_the_202_is_written(tmp_path: Path) -> None:
    """By the order of system calls: the content goes into the database's log, that to disk, then the answer out."""
    trace = tmp_path / "trace"
    # -D: strace is no parent, so that the process is HES's own and ends like it.
    strace = ["strace", "-D", "-f", "-y", "--seccomp-bpf", "-s", "5000", "-o", str(trace), "-e", f"trace={CALLS}"]
    async with run([*strace, *SERVE], tmp_path) as server:
        await server.ready()
        async with client(lambda: server.url) as hes:
            ids = [await hes.send(subject=mark) for mark in MARKS]
    calls = list(whole_calls(await eventually(lambda: trace_of(trace, server.pid))))
    syncs = [(begin, end) for begin, end, call in calls if SYNCED.search(call)]
    for mark, email_id in zip(MARKS, ids, strict=True):
        written = min(end for _, end, call in calls if "hes.db-wal>" in call and mark in call)
        answered = min(begin for begin, _, call in calls if "202 Accepted" in call and email_id in call)
        assert any(written < begin and end < answered for begin, end in syncs), mark


async def trace_of(path: Path, pid: int) -> list[str] | None:
    """The trace's lines, once strace has written down the end of the process."""
    text = await anyio.Path(path).read_text()
    return text.splitlines() if re.search(rf"^{pid} +\+\+\+ ", text, re.MULTILINE) else None


async def test_fifty_posts_at_once_with_one_key_are_one_email(tmp_path: Path) -> None:
    async with fake_process() as fake, cold(tmp_path, providers=sendgrid_at(fake.url)) as server:
        await server.ready()
        async with client(lambda: server.url) as hes:
            answers: list[httpx.Response] = []

            async def post() -> None:
                answers.append(await hes.post("/v1/emails", an_email(), "the-key"))

            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(post)
            await hes.until(answers[0].json()["id"], "sent")
        copies = await fake.accepted()
    assert len({(answer.status_code, answer.headers["location"], answer.content) for answer in answers}) == 1
    assert (answers[0].status_code, len(answers)) == (202, 50)
    assert [copy["hes_id"] for copy in copies] == [answers[0].json()["id"]]
