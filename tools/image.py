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
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hes import __version__
from hes.client import Client, HesApiError, HesUnreachable

ROOT = Path(__file__).parents[1]
NAME = f"hes:{__version__}"
KEY = "a-key-for-this-try-only-0123456789"
PATIENCE_SECONDS = 30


def builder() -> str:
    """Raises SystemExit where there is none."""
    if name := os.environ.get("BUILDER") or next(filter(shutil.which, ("buildah", "podman", "docker")), None):
        return name
    sys.exit("image: there is neither buildah nor podman nor docker here. Debian, Ubuntu: apt-get install buildah")


def run(*command: str, **more: Any) -> str:
    """What it printed. Its errors are shown; it must end well."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, **more)
    if done.returncode:
        sys.exit(f"image: this failed: {shlex.join(command[:4])} ...")
    return str(done.stdout).strip()


def flags() -> list[str]:
    return shlex.split(os.environ.get("IMAGE_FLAGS", ""))


def image() -> str:
    return os.environ.get("IMAGE") or NAME


def build() -> None:
    """The default of BASE stands in the Containerfile."""
    arguments = [
        f"VERSION={__version__}",
        f"REVISION={run('git', 'rev-parse', 'HEAD') if (ROOT / '.git').exists() else ''}",
    ]
    if base := os.environ.get("BASE"):
        arguments.append(f"BASE={base}")
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    subprocess.run(
        [builder(), "build", *flags(), *options, "--file", "Containerfile", "--tag", image(), "."], cwd=ROOT, check=True
    )


def push() -> None:
    if "/" not in image():
        sys.exit("image: where to? Example: make push IMAGE=registry.example.com/hes:" + __version__)
    run(builder(), "tag", NAME, image())
    subprocess.run([builder(), "push", *flags(), image()], check=True)


# --- trying it -------------------------------------------------------------------------------------------------------


def settings(port: int) -> list[str]:
    return [f"HES_BOOTSTRAP_KEY={KEY}", "HES_PROVIDERS=outbox://", "HES_HOST=127.0.0.1", f"HES_PORT={port}"]


@contextmanager
def by_engine(engine: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """By podman or docker. The image's /data is a volume that goes with the container."""
    environ = [word for variable in settings(port) for word in ("--env", variable)]
    options = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "ALL", *environ]
    with subprocess.Popen([engine, "run", *options, image()]) as process:
        yield process


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
def by_chroot(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """For buildah: what the image says is started in its files."""
    container = run("buildah", "from", "--pull-never", image())
    try:
        root = run("buildah", "mount", container)
        config = msgspec.json.decode(run("buildah", "inspect", "--type", "image", image()))["OCIv1"]["config"]
        words = [root, config["User"], *config["Env"], *settings(port), *config["Entrypoint"], *config["Cmd"]]
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", IN_A_READ_ONLY_ROOT, "sh", *words]) as process:
            yield process
    finally:
        run("buildah", "rm", container)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(hes: Client, process: "subprocess.Popen[bytes]") -> None:
    """Raises SystemExit if it ends or takes too long."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            hes.health()
        except (HesApiError, HesUnreachable):
            time.sleep(0.1)
        else:
            return
    sys.exit("image: HES is not ready; see above")


def try_it() -> None:
    """Start, be ready, send an email into the outbox, stop with 0."""
    port = free_port()
    engine = builder()
    started = by_chroot(port) if engine == "buildah" else by_engine(engine, port)
    with started as process:
        try:
            with Client(f"http://127.0.0.1:{port}", KEY) as hes:
                wait_until_ready(hes, process)
                accepted = hes.send(from_="a@example.com", to="b@example.org", subject="Hello", text="It works.")
                last = [email["status"] for email in hes.watch(accepted["id"])][-1]
        finally:
            process.terminate()
    if (last, process.returncode) != ("sent", 0):
        sys.exit(f"image: the email is {last}, not sent; HES ended with {process.returncode}, not 0")
    print(f"{image()} works: ready, an email is in its outbox, stopped with 0; its root was read-only")


if __name__ == "__main__":
    {"build": build, "try": try_it, "push": push}[sys.argv[1]]()
