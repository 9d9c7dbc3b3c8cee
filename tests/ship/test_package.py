"""The wheel, built and served from; one version everywhere; the SBOM. `make package` installs them for real."""

import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import anyio
import httpx
import pytest

from hes import __version__
from tests.faults.server import client, run
from tools.locked import BUILD_ONLY, ROOT, build_wheel, pins
from tools.sbom import as_json, sbom


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_holds_all_of_hes_and_nothing_else(wheel: Path) -> None:
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "hes").rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == ours
    assert {"hes/py.typed", "hes/storage/migrations/script.py.mako"} <= held


async def test_what_was_in_it_serves(wheel: Path, tmp_path: Path) -> None:
    """Without this checkout; what it needs is there as the lock says."""
    (site := tmp_path / "site").mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    python = ["env", f"PYTHONPATH={site}", sys.executable]
    where = await anyio.run_process([*python, "-c", "import hes; print(hes.__file__)"], cwd=tmp_path)
    assert where.stdout.decode().startswith(str(site))
    async with run([*python, "-m", "hes", "serve"], tmp_path) as hes:
        await hes.ready()
        async with client(lambda: hes.url) as shop, httpx.AsyncClient(trust_env=False) as http:
            assert (await shop.until(await shop.send()))["status"] == "sent"
            assert (await http.get(f"{hes.url}/docs")).status_code == 200


def test_there_is_one_version(wheel: Path) -> None:
    assert wheel.name == f"hes-{__version__}-py3-none-any.whl"
    assert metadata.version("hes") == __version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_what_only_builds_is_needed_by_nothing_that_runs() -> None:
    for name in pins():
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # locked for another platform
        names = {re.split(r"[^A-Za-z0-9-]", line)[0].lower() for line in needed if "extra ==" not in line}
        assert not names & BUILD_ONLY, name
    assert set((ROOT / "Containerfile").read_text().split()) >= BUILD_ONLY


def test_the_sbom_is_the_lock() -> None:
    document = sbom()
    assert {one["name"]: one["version"] for one in document["components"]} == pins()
    refs = {one["bom-ref"] for one in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    assert all(entry["ref"] in refs and refs.issuperset(entry["dependsOn"]) for entry in document["dependencies"])
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    assert f"pkg:pypi/litestar@{pins()['litestar']}" in needs[document["metadata"]["component"]["bom-ref"]]
    assert as_json() == as_json()
    assert len([one for one in document["components"] if "licenses" not in one]) < 10
