"""Builds the image, tries it, lists what is in it, pushes it: `make image`, `make push IMAGE=...`.

docs/container.md is the guide. From the environment: IMAGE (its name), BASE (the image to build on), BUILDER (buildah,
podman or docker; the first that is here), IMAGE_FLAGS (for the builder's `build` or `push`), RUN_FLAGS (for podman's or
docker's `run`), SOURCE and LICENSES (for its labels).

It is tried as a cluster runs it: not as root, on a root that is read-only, with /data and /tmp to write to. podman and
docker do that by themselves. buildah only builds, so there the root is mounted read-only in a mount namespace of its
own, and the image's own command, environment and user are started in it; that needs root.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hes import __version__
from tools.sbom import image_as_json
from tools.trial import run, settings, show, try_serving

ROOT = Path(__file__).parents[1]
NAME = f"hes:{__version__}"
(DEFAULT_BASE,) = re.findall(r"^ARG BASE=(\S+)", (ROOT / "Containerfile").read_text(), re.MULTILINE)


def builder() -> str:
    """Raises SystemExit where there is none."""
    if name := os.environ.get("BUILDER") or next(filter(shutil.which, ("buildah", "podman", "docker")), None):
        return name
    sys.exit("image: there is neither buildah nor podman nor docker here. Debian, Ubuntu: apt-get install buildah")


def image() -> str:
    return os.environ.get("IMAGE") or NAME


def flags() -> list[str]:
    return shlex.split(os.environ.get("IMAGE_FLAGS", ""))


def revision() -> str:
    """Of this checkout; empty outside of one."""
    return run("image", "git", "rev-parse", "HEAD", cwd=ROOT) if (ROOT / ".git").exists() else ""


def build() -> None:
    """The default of BASE stands in the Containerfile."""
    arguments = [f"VERSION={__version__}", f"REVISION={revision()}"]
    arguments += [f"{name}={os.environ[name]}" for name in ("BASE", "SOURCE", "LICENSES") if os.environ.get(name)]
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    if builder() != "docker":
        options += ["--format", "docker"]  # the other format has no place for a HEALTHCHECK
    words = [builder(), "build", *flags(), *options, "--file", "Containerfile", "--tag", image(), "."]
    show("image", words, cwd=ROOT)
    print(f"{image()} is built on {pinned_base()}")


def pinned_base() -> str:
    """The base with its digest, to be given as BASE from then on; without one if it came from no registry."""
    base = os.environ.get("BASE") or DEFAULT_BASE
    form = "{{.FromImageDigest}}" if builder() == "buildah" else '{{join .RepoDigests " "}}'
    kind = ["inspect", "--type", "image"] if builder() == "buildah" else ["image", "inspect"]
    found = run("image", builder(), *kind, "--format", form, base, cwd=ROOT).split()
    if not found:
        return f"{base}, which has no digest: it came from no registry"
    return found[0] if "@" in found[0] else f"{base.partition('@')[0]}@{found[0]}"


def push() -> None:
    if "/" not in image():
        sys.exit(f"image: where to? Example: make push IMAGE=registry.example.com/{NAME}")
    run("image", builder(), "tag", NAME, image(), cwd=ROOT)
    show("image", [builder(), "push", *flags(), image()], cwd=ROOT)


# --- trying it -------------------------------------------------------------------------------------------------------


def by_engine(port: int) -> "subprocess.Popen[bytes]":
    """By podman or docker. The image's /data is a volume that goes with the container."""
    environ = [word for variable in settings(port) for word in ("--env", variable)]
    options = ["--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "ALL", *environ]
    return subprocess.Popen([builder(), "run", "--rm", *run_flags(), *options, image()])


def run_flags() -> list[str]:
    return shlex.split(os.environ.get("RUN_FLAGS", ""))


IN_A_READ_ONLY_ROOT = """
set -eu
mount --bind "$1" "$1"
cd "$1"
mount -o remount,bind,ro .
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o uid=${2%:*},gid=${2#*:},mode=0700 tmpfs data
user=$2; shift 2
exec chroot --userspec="$user" . env -C /data -i "$@"
"""


@contextmanager
def mounted() -> "Iterator[str]":
    """For buildah: the folder that holds the image's files."""
    container = run("image", "buildah", "from", "--pull-never", image(), cwd=ROOT)
    try:
        yield run("image", "buildah", "mount", container, cwd=ROOT)
    finally:
        run("image", "buildah", "rm", container, cwd=ROOT)


@contextmanager
def by_chroot(port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """For buildah: what the image says is started in its files."""
    with mounted() as root:
        inspected = run("image", "buildah", "inspect", "--type", "image", image(), cwd=ROOT)
        config = msgspec.json.decode(inspected)["OCIv1"]["config"]
        words = [root, config["User"], *config["Env"], *settings(port), *config["Entrypoint"], *config["Cmd"]]
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", IN_A_READ_ONLY_ROOT, "sh", *words]) as process:
            yield process


def try_it() -> None:
    """On a read-only root, not as root."""
    try_serving(image(), by_chroot if builder() == "buildah" else by_engine)


# --- what is in it ---------------------------------------------------------------------------------------------------

LIST = """
import importlib.metadata, json, pathlib, re
status = pathlib.Path("/var/lib/dpkg/status")
text = status.read_text() if status.exists() else ""
field = lambda name, block: re.search(f"^{name}: (.*)$", block, re.MULTILINE)[1]
installed = [block for block in text.split("\\n\\n") if "\\nStatus: install ok installed" in block]
print(json.dumps({
    "pypi": sorted({(re.sub("[-_.]+", "-", d.name).lower(), d.version) for d in importlib.metadata.distributions()}),
    "deb": sorted((field("Package", block), field("Version", block)) for block in installed),
}))
"""
"""Runs in the image, by its Python: packages of Python, and Debian's where the base is one."""


def list_it() -> None:
    """Write dist/image-sbom.json."""
    if builder() == "buildah":
        with mounted() as root:
            listed = run("image", "chroot", root, "/opt/hes/bin/python3", "-c", LIST, cwd=ROOT)
    else:
        options = ["--rm", *run_flags(), "--network", "none", "--entrypoint", "python3"]
        listed = run("image", builder(), "run", *options, image(), "-c", LIST, cwd=ROOT)
    (ROOT / "dist").mkdir(exist_ok=True)
    (ROOT / "dist/image-sbom.json").write_bytes(image_as_json(msgspec.json.decode(listed)))
    print("dist/image-sbom.json lists what is in it")


if __name__ == "__main__":
    {"build": build, "try": try_it, "list": list_it, "push": push}[sys.argv[1]]()
