"""Builds the image, tries it, pushes it: `make image`, `make push IMAGE=...`. docs/container.md is the guide.

From the environment: IMAGE (its name), BASE (the image to build on), BUILDER (buildah, podman or docker; the first
that is here), IMAGE_FLAGS (for the builder's `build` or `push`).

It is tried as a cluster runs it: not as root, on a root that is read-only, with /data and /tmp to write to. podman and
docker do that by themselves. buildah only builds, so there the root is mounted read-only in a mount namespace of its
own, and the image's own command, environment and user are started in it; that needs root.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hes import __version__
from tools.trial import run, settings, show, try_serving

ROOT = Path(__file__).parents[1]
NAME = f"hes:{__version__}"


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
    if base := os.environ.get("BASE"):
        arguments.append(f"BASE={base}")
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    words = [builder(), "build", *flags(), *options, "--file", "Containerfile", "--tag", image(), "."]
    show("image", words, cwd=ROOT)


def push() -> None:
    if "/" not in image():
        sys.exit(f"image: where to? Example: make push IMAGE=registry.example.com/{NAME}")
    run("image", builder(), "tag", NAME, image(), cwd=ROOT)
    show("image", [builder(), "push", *flags(), image()], cwd=ROOT)


# --- trying it -------------------------------------------------------------------------------------------------------


def by_engine(port: int) -> "subprocess.Popen[bytes]":
    """By podman or docker. The image's /data is a volume that goes with the container."""
    environ = [word for variable in settings(port) for word in ("--env", variable)]
    options = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "ALL", *environ]
    return subprocess.Popen([builder(), "run", *options, image()])


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
def by_chroot(port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """For buildah: what the image says is started in its files."""
    container = run("image", "buildah", "from", "--pull-never", image(), cwd=ROOT)
    try:
        root = run("image", "buildah", "mount", container, cwd=ROOT)
        inspected = run("image", "buildah", "inspect", "--type", "image", image(), cwd=ROOT)
        config = msgspec.json.decode(inspected)["OCIv1"]["config"]
        words = [root, config["User"], *config["Env"], *settings(port), *config["Entrypoint"], *config["Cmd"]]
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", IN_A_READ_ONLY_ROOT, "sh", *words]) as process:
            yield process
    finally:
        run("image", "buildah", "rm", container, cwd=ROOT)


def try_it() -> None:
    """On a read-only root, not as root."""
    try_serving(image(), by_chroot if builder() == "buildah" else by_engine)


if __name__ == "__main__":
    {"build": build, "try": try_it, "push": push}[sys.argv[1]]()
