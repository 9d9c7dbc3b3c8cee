"""Several processes of one `hes serve`: real forks, real signals."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_SECONDS = 20

WORK = """
import os, signal, sys
from pathlib import Path
from hes import workers

folder = Path(sys.argv[1])

def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    (folder / f"{os.getpid()}").touch()
    if (folder / "dies").exists():
        raise RuntimeError("it dies")
    got = signal.sigwait({signal.SIGTERM, signal.SIGINT})
    (folder / f"{os.getpid()}").write_text(got.name)

sys.exit(workers.run(2, work))
"""


@contextmanager
def parent(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WORK, str(folder)]
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def children(folder: Path, count: int, but: set[int] | None = None) -> set[int]:
    """Wait until so many have begun, besides these."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := {int(file.name) for file in folder.iterdir() if file.name.isdigit()} - (but or set())) < count:
        assert time.monotonic() < deadline, found
    return found


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
        pytest.fail(f"process {pid} is still there")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_it_ends_with_them(tmp_path: Path, number: signal.Signals) -> None:
    with parent(tmp_path) as process:
        pids = children(tmp_path, 2)
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 0
    assert {(tmp_path / str(pid)).read_text() for pid in pids} == {number.name}


def test_who_is_killed_is_replaced(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        before = children(tmp_path, 2)
        os.kill(min(before), signal.SIGKILL)
        children(tmp_path, 1, but=before)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


def test_those_that_die_again_and_again_end_it(tmp_path: Path) -> None:
    (tmp_path / "dies").touch()
    with parent(tmp_path) as process:
        assert process.wait(PATIENCE_SECONDS) == 1
    assert 5 < len(children(tmp_path, 1)) <= 7, "two, and five more"


def test_when_the_parent_is_killed_nobody_stays(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        pids = children(tmp_path, 2)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        for pid in pids:
            wait_gone(pid)
