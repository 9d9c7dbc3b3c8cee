"""Packs HES and all that it needs into one file, dist/hes, which wants only python3; then tries it: `make binary`.

It holds compiled parts, so there is one file for each platform and each version of Python. It unpacks itself once, into
~/.shiv (SHIV_ROOT names another place).
"""

import sys
import tempfile
from pathlib import Path

from tools.locked import BUILD_ONLY, LOCK, ROOT, build_wheel
from tools.trial import command, run, show, try_serving

MADE_FOR = f"{sys.version_info.major}.{sys.version_info.minor}"
PREAMBLE = f"""#!/usr/bin/env python3
import sys
if "%d.%d" % sys.version_info[:2] != "{MADE_FOR}":
    sys.exit("hes: this file is made for Python {MADE_FOR}, and %s is Python %d.%d. Start it as: "
             "python{MADE_FOR} hes ..." % ((sys.executable,) + sys.version_info[:2]))
sys.dont_write_bytecode = False
"""
"""Bytecode is kept beside what is unpacked, whatever PYTHONDONTWRITEBYTECODE says of other places: else each start
would compile all of it anew."""


def main() -> None:
    """Raises SystemExit where something fails."""
    out = ROOT / "dist/hes"
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hes-binary-") as folder:
        place = Path(folder)
        site = place / "site"
        install = [sys.executable, "-m", "pip", "install", "-qq", "--no-compile", "--target", str(site)]
        show("binary", [*install, "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)], cwd=ROOT)
        show("binary", [*install, "--no-index", "--no-deps", str(build_wheel(place))], cwd=ROOT)
        forget(site)
        pack(site, out, place)
        print(f"dist/hes: {out.stat().st_size / 2**20:.0f} MB, for Python {MADE_FOR}")
        try_serving("dist/hes", command(sys.executable, "-I", str(out), "serve", folder=place))


def pack(site: Path, out: Path, place: Path) -> None:
    """Make one file of what is installed in `site`. `place`: for what is needed meanwhile."""
    preamble = place / "preamble.py"
    preamble.write_text(PREAMBLE)
    preamble.chmod(0o755)
    packed = ["--site-packages", str(site), "--console-script", "hes", "--preamble", str(preamble)]
    shiv = [sys.executable, "-m", "shiv.cli", *packed, "--compressed", "--python", "/usr/bin/env python3"]
    run("binary", *shiv, "--output-file", str(out), cwd=ROOT)


def forget(site: Path) -> None:
    """Take away what only builds."""
    for record in site.glob("*.dist-info/RECORD"):
        name = record.parent.name.partition("-")[0].replace("_", "-")
        if name in BUILD_ONLY:
            for line in record.read_text().splitlines():
                (site / line.split(",")[0]).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
