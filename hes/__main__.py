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
    except BaseExceptionGroup as group:  # out of the storage's task group
        wrong, others = group.split(ConfigError)
        if wrong is None or others is not None:
            raise
        click.echo(f"hes: {_first(wrong)}", err=True)
        sys.exit(USAGE)


def _first(group: BaseExceptionGroup[ConfigError]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


if __name__ == "__main__":
    main()
