"""Doubles of what HES talks to: real HTTP on loopback, in a test's own loop or as processes of their own."""

from typing import Any

from msgspec.structs import replace

from hes.model import Address, Email, EmailId

SAMPLE = Email(
    id=EmailId("0190-email"),
    project="default",
    message_id="<0190-email@hes.example>",
    date=1_700_000_000_000,
    sender=Address("shop@example.com", "Shop"),
    to=(Address("ann@example.org", "Ann"),),
    subject="Receipt 7",
    text="Hi",
    html="<p>Hi</p>",
)


def an_email(**changes: Any) -> Email:
    """A plain email, changed in the named fields."""
    return replace(SAMPLE, **changes)
