"""Builds the wheel, the sdist and the SBOM into dist/, and tries the first two: `make package`.

A fresh virtual environment, in it what is locked and the wheel, then the sdist. Nothing of this checkout is there.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.locked import LOCK, ROOT, build_wheel
from tools.sbom import as_json
from tools.trial import command, run, show, try_serving


def main() -> None:
    """Raises SystemExit where something fails."""
    out = ROOT / "dist"
    for old in (*out.glob("hes-*.whl"), *out.glob("hes-*.tar.gz")):
        old.unlink()
    wheel = build_wheel(out, sdist=True)
    (sdist,) = out.glob("hes-*.tar.gz")
    (out / "sbom.json").write_bytes(as_json())
    with tempfile.TemporaryDirectory(prefix="hes-package-") as folder:
        place = Path(folder)
        subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
        python = str(place / "venv/bin/python")
        install = [python, "-m", "pip", "install", "-qq"]
        show("package", [*install, "--require-hashes", "-r", str(LOCK)], cwd=place)
        for built in (wheel, sdist):
            show("package", [*install, "--no-index", "--no-deps", "--no-build-isolation", str(built)], cwd=place)
            (home := place / built.name.removeprefix("hes-")).mkdir()
            where = run("package", python, "-c", "import hes; print(hes.__file__)", cwd=home)
            if not where.startswith(folder):
                sys.exit(f"package: {where} was imported, not what was installed")
            try_serving(built.name, command(str(place / "venv/bin/hes"), "serve", folder=home))
            run("package", python, "-m", "pip", "uninstall", "-qq", "--yes", "hes", cwd=place)


if __name__ == "__main__":
    main()
