"""What the commands that talk to a running HES share: where it is, the key, and who shows the answer.

No flag takes the key itself: everybody on a machine can read a process's arguments.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rich_click as click

from hes.cli.screen import Screen
from hes.client import Client
from hes.errors import ConfigError
from hes.secret import exposed
from hes.setting import is_loopback
from hes.settings import load_client

KEY_FILE = ".hes-key"
"""Where `make run` keeps its key."""


class Name(click.ParamType[str]):
    """An id or a name: not empty, as `"$ID"` is whose variable is not set."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value or self.fail("is empty", param, ctx)


def with_hes(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags that all have, and hands the command a client and a screen first."""

    @click.option("--url", metavar="URL", help="Where HES is; HES_URL. Default: http://127.0.0.1:8025")
    @click.option(
        "--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Holds the key, if not HES_API_KEY."
    )
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @functools.wraps(command)
    def run(url: str | None, key_file: Path | None, as_json: bool, **given: Any) -> None:  # noqa: FBT001
        screen = Screen(as_json=as_json)
        with connect(url, key_file, screen) as client:
            command(client, screen, **given)

    return run


def connect(url: str | None, key_file: Path | None, screen: Screen) -> Client:
    """Raises ConfigError."""
    settings = load_client({"url": url}, os.environ, Path.cwd())
    file = key_file
    if key_file is not None:
        key = _key_in(key_file)
    elif settings.api_key is not None:
        key, file = settings.api_key.reveal(), settings.api_key.file
    else:
        file = Path(KEY_FILE)
        key = _key_of_make_run(settings.url)
    if file is not None and (wrong := exposed(file)) is not None:
        screen.remark(wrong)
    return Client(settings.url, key, on_repeat=screen.repeat)


def _key_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"--key-file: cannot read {file}: {why}. Example: --key-file {KEY_FILE}") from None


def _key_of_make_run(url: str) -> str:
    """It is for the HES on this machine, and goes to no other."""
    file = Path(KEY_FILE)
    if file.is_file() and is_loopback(urlsplit(url).hostname or ""):
        return _key_in(file)
    where = f"and there is no {KEY_FILE} for {url} in this folder"
    raise ConfigError(f"HES_API_KEY: is not set, {where}. Example: HES_API_KEY=hes_live_...")
