"""`hes providers`: how each stands, and the operator's hand."""

from collections.abc import Sequence

import rich_click as click

from hes.cli.api import Name, with_hes
from hes.cli.screen import Screen
from hes.client import Client, Provider


@click.group()
def providers() -> None:
    """How each provider stands, and the operator's hand."""


@providers.command("list")
@with_hes
def list_(client: Client, screen: Screen) -> None:
    """State, why, since when, rates and quota."""
    found = client.providers()
    if screen.as_json:
        screen.json({"data": found})
    else:
        _table(screen, found)


@providers.command()
@click.argument("name", type=Name())
@with_hes
def pause(client: Client, screen: Screen, *, name: str) -> None:
    """Send nothing through a provider until it is resumed, also after a restart."""
    _show(screen, client.pause(name))


@providers.command()
@click.argument("name", type=Name())
@with_hes
def resume(client: Client, screen: Screen, *, name: str) -> None:
    """End a pause."""
    _show(screen, client.resume(name))


@providers.command()
@click.argument("name", type=Name())
@with_hes
def reset(client: Client, screen: Screen, *, name: str) -> None:
    """Forget what was learned of a provider: its trouble was mended."""
    _show(screen, client.reset(name))


def _show(screen: Screen, provider: Provider) -> None:
    if screen.as_json:
        screen.json(provider)
    else:
        _table(screen, [provider])


def _table(screen: Screen, found: Sequence[Provider]) -> None:
    screen.table(
        ("name", "state", "since", "until", "in flight", "last minute", "errors", "quota left", "reason"),
        [
            (
                p["name"],
                p["state"],
                p["since"],
                p["until"],
                f"{p['in_flight']}/{p['in_flight_limit']}",
                p["sent_last_minute"],
                f"{p['error_rate']:.0%}",
                p["quota_left"],
                p["reason"],
            )
            for p in found
        ],
    )
