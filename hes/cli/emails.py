"""`hes emails`: what became of emails, and what is to become of them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import rich_click as click

from hes.cli import FAILED
from hes.cli.api import Name, with_hes
from hes.cli.screen import Screen
from hes.client import Client, Email, EmailState
from hes.client.types import Decision, Event, Many

FINE = frozenset({"sent", "delivered"})
"""Ends of a watch that a script may go on after."""


email_id = click.argument("email_id", metavar="ID", type=Name())
email_ids = click.argument("email_ids", metavar="[ID]...", type=Name(), nargs=-1)
send_at = click.option("--send-at", metavar="TIME", help="When, as in 2026-01-31T12:00:00Z.")


_WHICH = (
    click.option("--status", help="sent, failed, held, in_doubt, queued ..."),
    click.option("--reason", help="Why it is failed or held."),
    click.option("--to", metavar="ADDRESS", help="A recipient."),
    click.option("--from", "from_", metavar="ADDRESS", help="The sender."),
    click.option("--tag", metavar="KEY:VALUE", help="One of its tags."),
    click.option("--reference", help="Your own id."),
    click.option("--provider", metavar="NAME", help="Who took it, else who was tried last."),
    click.option("--created-after", metavar="TIME", help="As in 2026-01-31T12:00:00Z."),
    click.option("--created-before", metavar="TIME"),
)


def which_emails(command: Callable[..., None]) -> Callable[..., None]:
    """The filters of the list."""
    for option in reversed(_WHICH):
        command = option(command)
    return command


@click.group()
def emails() -> None:
    """What became of emails, and what is to become of them."""


@emails.command("list")
@which_emails
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--cursor", help="Where to go on: `next_cursor` of the answer before.")
@click.option("--all", "everything", is_flag=True, help="All that fit, however many.")
@with_hes
def list_(client: Client, screen: Screen, *, everything: bool, cursor: str | None, **filters: Any) -> None:
    """The newest emails first."""
    page = client.page(cursor, **filters)
    found, cursor = page["data"], page["next_cursor"]
    while everything and cursor:
        page = client.page(cursor, **filters)
        found, cursor = found + page["data"], page["next_cursor"]
    if screen.as_json:
        screen.json({"data": found, "next_cursor": cursor})
        return
    rows = [
        (e["id"], e["status"], e["reason"], e["provider"], _recipients(e), e["subject"], e["created_at"]) for e in found
    ]
    screen.table(("id", "status", "reason", "provider", "to", "subject", "created"), rows)
    if cursor:
        screen.remark(f"there are more: --cursor {cursor}, or --all")


@emails.command()
@email_id
@click.option("--content", is_flag=True, help="With what was handed in.")
@click.option("--attempts-cursor", help="Older attempts: `next_attempts_cursor` of the answer before.")
@click.option("--events-cursor", help="Older entries of the timeline: `next_events_cursor` of the answer before.")
@with_hes
def show(
    client: Client,
    screen: Screen,
    *,
    email_id: str,
    content: bool,
    attempts_cursor: str | None,
    events_cursor: str | None,
) -> None:
    """One email with its attempts and its timeline; of a long history the newest."""
    email = client.email(email_id, content=content, attempts_cursor=attempts_cursor, events_cursor=events_cursor)
    show_email(screen, email)
    for name in ("attempts", "events"):
        if cursor := email.get(f"next_{name}_cursor"):
            screen.remark(f"there are older {name}: --{name}-cursor {cursor}")


@emails.command()
@email_id
@with_hes
def watch(client: Client, screen: Screen, *, email_id: str) -> None:
    """An email's way as it goes, until it is at rest. Exit code 1 unless it was sent.

    With --json: a line for each change, the email as it stands then.
    """
    follow(client, screen, email_id)


@emails.command()
@email_ids
@which_emails
@with_hes
def cancel(client: Client, screen: Screen, *, email_ids: tuple[str, ...], **filters: Any) -> None:
    """Cancel emails that were not handed to a provider: one by ID, or all that the filters fit."""
    if _are_named(email_ids, filters):
        for email_id in email_ids:
            show_status(screen, client.cancel(email_id))
    else:
        _show_many(screen, lambda cursor: client.cancel_many(cursor, **filters))


@emails.command()
@email_ids
@click.argument("decision", type=click.Choice(["sent", "resend", "failed"]))
@which_emails
@with_hes
def resolve(client: Client, screen: Screen, *, email_ids: tuple[str, ...], decision: Decision, **filters: Any) -> None:
    """Decide about emails that are held or in doubt: one by ID, or all that the filters fit.

    `sent`: it arrived. `resend`: send it again, even if it may arrive twice. `failed`: give it up.
    """
    if _are_named(email_ids, filters):
        for email_id in email_ids:
            show_status(screen, client.resolve(email_id, decision))
    else:
        _show_many(screen, lambda cursor: client.resolve_many(decision, cursor, **filters))


def _are_named(email_ids: tuple[str, ...], filters: Mapping[str, Any]) -> bool:
    """By id, or else by a filter."""
    if bool(email_ids) == any(value is not None for value in filters.values()):
        raise click.UsageError("name emails by ID, or by filters such as --status; one of both")
    return bool(email_ids)


def _show_many(screen: Screen, do: Callable[[str | None], Many]) -> None:
    """Do it until there are no more."""
    changed = skipped = 0
    cursor = None
    while True:
        many = do(cursor)
        changed, skipped, cursor = changed + many["changed"], skipped + many["skipped"], many["next_cursor"]
        if cursor is None:
            break
    if screen.as_json:
        screen.json({"changed": changed, "skipped": skipped})
    else:
        screen.line(f"{changed} changed", f"{skipped} fit but could not be changed")


@emails.command()
@email_id
@send_at
@with_hes
def send(client: Client, screen: Screen, *, email_id: str, send_at: str | None) -> None:
    """Send a draft, a scheduled email now, or one that has failed or was cancelled once more."""
    show_status(screen, client.send_again(email_id, send_at=send_at))


@emails.command()
@email_id
@click.argument("send_at", metavar="TIME")
@with_hes
def reschedule(client: Client, screen: Screen, *, email_id: str, send_at: str) -> None:
    """Move a scheduled email to another TIME, as in 2026-01-31T12:00:00Z."""
    show_status(screen, client.reschedule(email_id, send_at))


@emails.command()
@email_id
@click.confirmation_option(prompt="Its content and its addresses will be gone for good. Erase it?")
@with_hes
def erase(client: Client, screen: Screen, *, email_id: str) -> None:
    """Delete an email's content and addresses; the trace stays."""
    client.erase(email_id)
    if screen.as_json:
        screen.json({"id": email_id, "erased": True})
    else:
        screen.line(email_id, "erased")


# --- showing ---------------------------------------------------------------------------------------------------------


def follow(client: Client, screen: Screen, email_id: str) -> None:
    """Show what happens to it until it is at rest; ends the process with 1 if that is no good end."""
    told: set[str] = set()
    status = ""
    with screen.working() as working:
        for email in client.watch(email_id):
            status = email["status"]
            if screen.as_json:
                screen.json(email)
            for event in email.get("events", ()):
                if event["id"] not in told and not screen.as_json:
                    screen.line(*_event(event))
                told.add(event["id"])
            working(f"{status} ...")
    if not screen.as_json:
        screen.line(email_id, status)
    if status not in FINE:
        sys.exit(FAILED)


def show_status(screen: Screen, email: Email | EmailState) -> None:
    """What a change led to."""
    if screen.as_json:
        screen.json(email)
    else:
        screen.line(email["id"], email["status"])


def show_email(screen: Screen, email: Email) -> None:
    if screen.as_json:
        screen.json(email)
        return
    facts = {
        "id": email["id"],
        "status": email["status"],
        "reason": email["reason"],
        "provider": email["provider"],
        "test": "yes" if email["test"] else None,
        "from": mailbox(email["from"]),
        "subject": email["subject"],
        "tags": ", ".join(f"{key}={value}" for key, value in email["tags"].items()),
        "reference": email["reference"],
        "stream": email["stream"],
        "on doubt": email["on_doubt"],
        "created": email["created_at"],
        "send at": email["send_at"],
        "expires": email["expires_at"],
    }
    for name, value in facts.items():
        if value:
            screen.line(name.ljust(9), value)
    screen.heading("Recipients")
    screen.table(
        ("kind", "address", "status", "reason"),
        [(r["kind"], mailbox(r), r["status"], r["reason"]) for r in email["recipients"]],
    )
    if attempts := email.get("attempts"):
        screen.heading("Attempts")
        screen.table(
            ("no", "provider", "outcome", "resolution", "code", "ended", "detail"),
            [
                (
                    a["number"],
                    a["provider"],
                    a["outcome"] or "in flight",
                    a["resolution"],
                    a["status_code"],
                    a["ended_at"],
                    a["detail"],
                )
                for a in attempts
            ],
        )
    screen.heading("Timeline")
    screen.table(("at", "what", "provider", "about"), [_event(event) for event in email.get("events", ())])
    _show_content(screen, email)


def _show_content(screen: Screen, email: Email) -> None:
    if "content" not in email:
        return
    content = email["content"]
    if content is None:
        screen.heading("The content was erased.")
        return
    if content["headers"]:
        screen.heading("Headers")
        screen.table(("name", "value"), list(content["headers"].items()))
    for name, body in (("Text", content["text"]), ("HTML", content["html"])):
        if body:
            screen.heading(name)
            screen.text(body)
    if content["attachments"]:
        screen.heading("Attachments")
        screen.table(
            ("name", "type", "content id"),
            [(a["filename"], a["content_type"], a.get("content_id")) for a in content["attachments"]],
        )


def mailbox(address: Any) -> str:
    """`Ann <ann@example.org>`."""
    return f"{address['name']} <{address['email']}>" if address["name"] else str(address["email"])


def _recipients(email: Email) -> str:
    """The first, and how many more."""
    addresses = [recipient["email"] for recipient in email["recipients"]]
    return f"{addresses[0]} +{len(addresses) - 1}" if len(addresses) > 1 else "".join(addresses)


def _event(event: Event) -> tuple[str, str, str | None, str]:
    return event["at"], event["type"].ljust(11), event["provider"], _about(event)


def _about(event: Event) -> str:
    """An entry's data, in words."""
    data = dict(event["data"])
    words = []
    if event["recipient"]:
        words.append(event["recipient"])
    if (number := data.pop("attempt", None)) is not None:
        words.append(f"attempt {number}")
    wait_ms = data.pop("wait_ms", None)
    words += [str(data.pop(key)) for key in ("outcome", "detail", "reason", "why") if data.get(key)]
    words += [f"{key} {value}" for key, value in data.items() if value not in ("", None)]
    if wait_ms:
        words.append(f"due in {wait_ms / 1000:.1f} s")
    return ", ".join(words)
