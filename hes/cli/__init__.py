"""The command line: one file per command, loaded when it is called, so that `hes --help` loads none of them."""

from importlib import import_module
from typing import Any

import rich_click as click

from hes import __version__

FAILED = 1
USAGE = 2

COMMANDS = {
    "serve": "Serve until SIGTERM.",
    "demo": "A failover, live",
    "db": "The database's schema.",
    "send": "Send an email through a running HES.",
    "emails": "What became of emails, and what is to become of them.",
    "providers": "How each provider stands, and the operator's hand.",
    "keys": "API keys.",
}
"""Name -> its line in `hes --help`. The command `send` is `send` in `hes/cli/send.py`."""


class Commands(click.RichGroup):
    """Lists and completes by the table above; only the command that is called is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """What lists need to know of it."""
        if cmd_name in COMMANDS:
            return click.Command(cmd_name, help=COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            found: Any = getattr(import_module(f"hes.cli.{name}"), name)
            return name, found, rest
        return name, command, rest


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hes")
def cli() -> None:
    """HES takes email over a REST API, keeps it safe, and gets it out through whichever provider works.

    `send`, `emails`, `providers` and `keys` talk to a running HES: HES_URL says where (http://127.0.0.1:8025), and
    HES_API_KEY holds the key. Beside a `.hes-key` file, as `make run` makes it, neither is needed.
    """
