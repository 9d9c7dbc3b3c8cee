"""What requirements/runtime.txt pins, for the tools that pack HES together with it."""

import re
import sys
from pathlib import Path

from tools.trial import run, show

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/runtime.txt"
BUILD_ONLY = frozenset({"hatchling", "pathspec", "pluggy", "trove-classifiers"})
"""Locked since they build HES. Nothing that is shipped holds them."""


def pins() -> dict[str, str]:
    """Name -> version, of all that HES needs to run."""
    found = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", LOCK.read_text(), re.MULTILINE))
    return {name: version for name, version in found.items() if name not in BUILD_ONLY}


def build_wheel(out: Path, *, sdist: bool = False) -> Path:
    """Build HES's wheel (and its sdist) into `out`, offline; the backend is the locked one."""
    targets = ["--target", "wheel", *(["--target", "sdist"] if sdist else [])]
    show("package", [sys.executable, "-m", "hatchling", "build", "--directory", str(out), *targets], cwd=ROOT)
    (wheel,) = out.glob("hes-*.whl")
    return wheel


def pip(*words: str) -> None:
    run("package", sys.executable, "-m", "pip", *words, cwd=ROOT)
