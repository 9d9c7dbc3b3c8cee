"""`hes send`: one email through a running HES."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import rich_click as click

from hes.cli.api import with_hes
from hes.cli.emails import follow, send_at
from hes.cli.mime_file import MAX_FILE_BYTES, CannotExpress, read_mime
from hes.cli.screen import Screen
from hes.client import Client


@click.command()
@click.option("--from", "from_", metavar="ADDRESS", help="Whom it comes from: shop@example.com or 'Shop <...>'.")
@click.option("--to", multiple=True, metavar="ADDRESS", help="A recipient (again for more).")
@click.option("--cc", multiple=True, metavar="ADDRESS")
@click.option("--bcc", multiple=True, metavar="ADDRESS", help="The other recipients don't see these.")
@click.option("--reply-to", multiple=True, metavar="ADDRESS", help="Where answers go.")
@click.option("--subject")
@click.option("--text", metavar="TEXT|-", help="The plain body; -: from standard input.")
@click.option("--html", metavar="HTML|-", help="The HTML body; -: from standard input.")
@click.option("--html-file", metavar="FILE", type=click.File("r", encoding="utf-8"), help="The HTML body, in a file.")
@click.option("--eml", metavar="FILE", type=click.File("rb"), help="A MIME file; other flags go before what it says.")
@click.option(
    "--attach",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file (again for more).",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A label (again for more).")
@click.option("--reference", help="Your own id.")
@click.option("--stream", metavar="LABEL", help="Chooses the route.")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Only these may take it, in this order.")
@click.option("--on-doubt", type=click.Choice(["resend", "hold", "wait"]), help="When nobody can know if it was taken.")
@click.option("--expires-in", type=int, metavar="SECONDS", help="Until it is given up.")
@send_at
@click.option("--draft", is_flag=True, help="Only store it; `hes emails send` sends it.")
@click.option(
    "--key", metavar="IDEMPOTENCY_KEY", help="The same email with the same key is sent once. Default: a random one."
)
@click.option("--watch", is_flag=True, help="Show its way until it is at rest. Exit code 1 unless it was sent.")
@with_hes
def send(client: Client, screen: Screen, *, key: str | None, watch: bool, **given: Any) -> None:
    """Send an email through a running HES. It is on HES's disk when this says so.

    Example: hes send --from me@example.com --to you@example.com --subject Hello --text 'It works.' --watch

    With --watch --json: a line for each change, the email as it stands then.
    """
    if watch and given["draft"]:
        raise click.UsageError("Either --watch or --draft: a draft stays where it is until `hes emails send` sends it.")
    accepted = client.send(fields(**given), idempotency_key=key)
    if watch:
        follow(client, screen, accepted["id"])
    elif screen.as_json:
        screen.json(accepted)
    else:
        screen.line(accepted["id"], accepted["status"])


def fields(
    *,
    eml: BinaryIO | None,
    text: str | None,
    html: str | None,
    html_file: Any,
    attach: Sequence[Path],
    tags: Sequence[str],
    draft: bool,
    **plain: Any,
) -> dict[str, Any]:
    """The API's fields: what a MIME file says, then what the flags say."""
    if [text, html].count("-") > 1:
        raise click.UsageError("Only one of --text and --html can come from standard input.")
    if html is not None and html_file is not None:
        raise click.UsageError("Either --html or --html-file.")
    found = _mime(eml) if eml else {}
    bodies = {"text": _body(text), "html": html_file.read() if html_file else _body(html)}
    labels = {"tags": dict(_tag(tag) for tag in tags), "draft": draft or None}
    files = [*found.get("attachments", ()), *(_file(path) for path in attach)]
    said = {**plain, **bodies, **labels, "attachments": files}
    return found | {name: value for name, value in said.items() if value not in (None, (), [], {})}


def _mime(file: BinaryIO) -> dict[str, Any]:
    try:
        return read_mime(file.read(MAX_FILE_BYTES + 1))
    except CannotExpress as error:
        raise click.BadParameter(f"{error}.", param_hint="--eml") from None


def _body(value: str | None) -> str | None:
    return sys.stdin.read() if value == "-" else value


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("must be KEY=VALUE, as in kind=receipt", param_hint="--tag")
    return key, value


def _file(path: Path) -> dict[str, Any]:
    """HES guesses the content type by the name."""
    return {"filename": path.name, "content": path.read_bytes()}
