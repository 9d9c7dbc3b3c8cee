"""Tries something that is to be `hes serve`: ready, an email sent into the outbox, stopped with 0.

What is built is tried by the same steps whether it is an image, a wheel or one file; only how it starts differs.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hes.client import Client, HesApiError, HesUnreachable

KEY = "a-key-for-this-trial-only-0123456789"
PATIENCE_SECONDS = 30


def settings(port: int) -> list[str]:
    """Its environment, `NAME=value`."""
    return [f"HES_BOOTSTRAP_KEY={KEY}", "HES_PROVIDERS=outbox://", "HES_HOST=127.0.0.1", f"HES_PORT={port}"]


def command(*words: str, folder: Path) -> "Callable[[int], subprocess.Popen[bytes]]":
    """Starts this in `folder`, with nothing of this process's environment but the PATH."""

    def start(port: int) -> "subprocess.Popen[bytes]":
        environ = dict(variable.split("=", 1) for variable in settings(port))
        environ |= {"PATH": os.environ["PATH"], "HOME": str(folder)}
        return subprocess.Popen(words, cwd=folder, env=environ)

    return start


def try_serving(what: str, start: "Callable[[int], AbstractContextManager[subprocess.Popen[bytes]]]") -> None:
    """`start` is told the port to serve on, and ends with what it started. Raises SystemExit where it does not work."""
    port = _free_port()
    with start(port) as process:
        try:
            with Client(f"http://127.0.0.1:{port}", KEY) as hes:
                _wait_until_ready(what, hes, process)
                accepted = hes.send(from_="a@example.com", to="b@example.org", subject="Hello", text="It works.")
                last = [email["status"] for email in hes.watch(accepted["id"])][-1]
        finally:
            process.terminate()
    if (last, process.returncode) != ("sent", 0):
        sys.exit(f"{what}: the email is {last}, not sent; HES ended with {process.returncode}, not 0")
    print(f"{what} works: ready, an email is in its outbox, stopped with 0")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(what: str, hes: Client, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            hes.health()
        except (HesApiError, HesUnreachable):
            time.sleep(0.1)
        else:
            return
    sys.exit(f"{what}: HES is not ready; see above")


def run(what: str, *words: str, cwd: Path) -> str:
    """What it printed; its errors are shown. Raises SystemExit unless it ends well."""
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what}: this failed: {' '.join(words[:5])} ...\n{done.stdout}")
    return done.stdout.strip()


def show(what: str, words: Sequence[str], *, cwd: Path) -> None:
    """The same, and it is seen while it runs."""
    if subprocess.run(words, cwd=cwd, check=False).returncode:
        sys.exit(f"{what}: this failed: {' '.join(words[:5])} ...")
