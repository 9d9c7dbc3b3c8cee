"""The way in: `hes`, and `python -m hes`. The commands are in `hes.cli`."""

import sys

import rich_click as click

from hes.cli import FAILED, USAGE, cli
from hes.errors import ConfigError, HesError


def main() -> None:
    """Exit codes: 0 fine, 1 failed, 2 usage."""
    try:
        cli(prog_name="hes", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except click.Abort:
        sys.exit(FAILED)
    except ConfigError as error:
        click.echo(f"hes: {error}", err=True)
        sys.exit(USAGE)
    except HesError as error:
        click.echo(f"hes: {error}", err=True)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
