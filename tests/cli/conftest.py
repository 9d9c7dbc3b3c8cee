"""What the tests of the command line share: the command, and a HES to talk to."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from hes.__main__ import main
from tests.cli.stub import Stub, served
from tests.faults.server import KEY, cold


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    def json_lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`hes ...` in a folder of its own, without any setting of HES's."""
    monkeypatch.chdir(tmp_path)
    for name in ("HES_URL", "HES_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "argv", ["hes", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real `hes serve` with its outbox."""
    folder = tmp_path_factory.mktemp("service")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(cold(folder, outbox_dir=folder / "outbox")) as hes,
    ):
        yield portal.call(hes.ready).url


@pytest.fixture
def hes(run: Run, service: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`hes ...` that talks to the real one."""
    monkeypatch.setenv("HES_URL", service)
    monkeypatch.setenv("HES_API_KEY", KEY)
    return run


@pytest.fixture
def stub(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """`run` talks to this one."""
    stub = Stub()
    with served(stub) as url:
        monkeypatch.setenv("HES_URL", url)
        monkeypatch.setenv("HES_API_KEY", KEY)
        yield stub
