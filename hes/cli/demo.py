"""`hes demo`: a failover, live."""

import signal
import sys

import rich_click as click

FAILED = 1


@click.command()
@click.option("--fast", is_flag=True, help="In some seconds instead of a minute.")
def demo(*, fast: bool) -> None:
    """A failover, live: two made-up providers, one breaks, is mended, breaks again. Takes a minute.

    Needs no network and no settings, sends nothing, and leaves nothing behind.
    """
    import anyio

    from hes import log
    from hes.demo.story import FAST, IN_A_MINUTE, tell
    from hes.demo.view import Show

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while it starts; the story listens itself later
    log.configure("critical")  # what HES would log is told here
    pace = FAST if fast else IN_A_MINUTE
    with Show(pace.emails_per_second) as show:
        figures = anyio.run(tell, pace, show, backend_options={"use_uvloop": True})
    if figures is None:
        raise click.Abort
    show.tell_figures(figures)
    sys.exit(FAILED if figures.lost else 0)
