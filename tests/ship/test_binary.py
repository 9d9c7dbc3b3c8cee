"""The one file: packed from what is installed here, without network, and started where there is only python3.

`make binary` packs the same way what pip gets by hash.
"""

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from hes import __version__
from tools.binary import pack
from tools.locked import build_wheel, pins
from tools.trial import settings, try_serving


def test_where_only_python_is_it_serves_sends_and_stops(tmp_path: Path) -> None:
    """Takes 15 to 30 s, half of them for packing."""
    (site := tmp_path / "site").mkdir()
    copy_installed(site)
    zipfile.ZipFile(build_wheel(tmp_path)).extractall(site)
    (home := tmp_path / "home").mkdir()
    pack(site, home / "hes", tmp_path)
    shutil.rmtree(site)
    bare = {"PATH": f"{python_folder()}:/usr/bin:/bin", "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(port: int) -> "subprocess.Popen[bytes]":
        given = dict(setting.split("=", 1) for setting in settings(port))
        return subprocess.Popen(["./hes", "serve"], cwd=home, env=bare | given)

    told = subprocess.run(["./hes", "--version"], cwd=home, env=bare, capture_output=True, text=True, check=True)
    assert told.stdout == f"hes, version {__version__}\n"
    assert list(home.glob(".shiv/*/site-packages/hes/__pycache__/*.pyc")), "each start would compile it anew"
    try_serving("hes", start)
    (email,) = (home / "outbox/new").iterdir()
    assert b"It works." in email.read_bytes()
    assert (home / "hes.db").exists()


def python_folder() -> Path:
    """Where the python3 is that .venv was made with, outside of it."""
    folder = Path(sys.base_prefix) / "bin"
    assert (folder / "python3").exists()
    return folder


def copy_installed(site: Path) -> None:
    """Copy what the lock names and is here; no more."""
    for name in pins():
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue  # locked for another platform
        for file in files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
