"""`hes keys`: API keys. Needs a key with the scope `admin`."""

from typing import Any

import rich_click as click

from hes.cli.api import Name, with_hes
from hes.cli.screen import Screen
from hes.client import Client


@click.group()
def keys() -> None:
    """API keys. Your own needs the scope `admin`."""


@keys.command()
@click.option("--name", help="What it is for.")
@click.option("--project", help="Whose emails it sends and sees.")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="emails:send, emails:read, providers ... (again for more)"
)
@click.option(
    "--sender-domain", "sender_domains", multiple=True, metavar="DOMAIN", help="Only from there (again for more)."
)
@click.option("--rate", "rate_per_second", type=float, help="Emails a second, at most; each recipient counts.")
@click.option("--expires-at", metavar="TIME", help="As in 2026-01-31T12:00:00Z.")
@click.option("--test", is_flag=True, help="What it sends goes to the outbox only.")
@with_hes
def create(client: Client, screen: Screen, **fields: Any) -> None:
    """Make a key. It is printed alone on standard output, this once: KEY=$(hes keys create ...)."""
    given = {name: value for name, value in fields.items() if value}
    made = client.create_key(**given)
    if screen.as_json:
        screen.json(made)
        return
    screen.remark(f"key {made['id']} is made. HES keeps only its hash: keep it now, it is not told again")
    click.echo(made["key"])


@keys.command("list")
@with_hes
def list_(client: Client, screen: Screen) -> None:
    """All keys, without the keys themselves."""
    found = list(client.keys())
    if screen.as_json:
        screen.json({"data": found})
        return
    rows = [
        (
            key["id"],
            key.get("name"),
            key.get("project"),
            ", ".join(key.get("scopes", ())),
            ", ".join(key.get("sender_domains", ())),
            "yes" if key.get("test") else "",
            key.get("created_at"),
            key.get("expires_at"),
            key.get("revoked_at"),
        )
        for key in found
    ]
    screen.table(("id", "name", "project", "scopes", "domains", "test", "created", "expires", "revoked"), rows)


@keys.command()
@click.argument("key_id", metavar="ID", type=Name())
@with_hes
def revoke(client: Client, screen: Screen, *, key_id: str) -> None:
    """Let nobody in with this key any more."""
    client.revoke_key(key_id)
    if screen.as_json:
        screen.json({"id": key_id, "revoked": True})
    else:
        screen.line(key_id, "revoked")
