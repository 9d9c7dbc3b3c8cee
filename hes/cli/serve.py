"""`hes serve`, and what it shares with `hes db`: the service's own settings.

What they need is imported inside, so that `hes serve --help` loads no web framework.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

if TYPE_CHECKING:
    from hes.settings import Settings

config = click.option("--config", metavar="FILE", help="Settings file; HES_CONFIG. Default: ./hes.toml if there.")
database = click.option("--database-url", metavar="URL", help="HES_DATABASE_URL. Default: sqlite:///./hes.db")


def settings_of(flags: dict[str, Any], *, with_providers: bool = True) -> "Settings":
    """The settings; logs go as they say from now on. Warns about what stands in the flags and had better not."""
    from hes import log, settings, start_warnings

    loaded = settings.load(flags, os.environ, Path.cwd(), with_providers=with_providers)
    log.configure(loaded.log_level, loaded.log_format)
    for warning in start_warnings.flag_warnings(flags):
        logging.getLogger("hes").warning("%s", warning)
    return loaded


@click.command()
@config
@database
@click.option("--role", type=click.Choice(["all", "api", "mailer"]), help="HES_ROLE: what this process does.")
@click.option("--host", help="HES_HOST: where to listen. Default: 127.0.0.1")
@click.option("--port", type=int, help="HES_PORT. Default: 8025; 0: any free port.")
@click.option("--workers", type=int, help="HES_WORKERS: how many processes; Postgres only. Default: 1")
@click.option("--log-level", help="HES_LOG_LEVEL: debug, info, warning, error, critical.")
@click.option("--log-format", type=click.Choice(["console", "json"]), help="HES_LOG_FORMAT.")
def serve(**flags: Any) -> None:
    """Serve until SIGTERM. Settings: flags, then HES_ variables, then the file, then defaults."""
    import sys
    from functools import partial

    import anyio

    from hes import serving, workers

    settings = settings_of(flags)
    if settings.workers == 1:
        anyio.run(serving.serve, settings, backend_options={"use_uvloop": True})
        return
    with serving.listen(settings.host, settings.port) as listener:
        work = partial(serving.serve, settings, listener=listener)
        sys.exit(workers.run(settings.workers, lambda: anyio.run(work, backend_options={"use_uvloop": True})))
