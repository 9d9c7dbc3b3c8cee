"""What a provider is to the rest of HES."""

from typing import Protocol

from msgspec import Struct

from hes.headers import encoded_words, may_be_decoded, quoted
from hes.model import Address, Answer, AttemptId, Email


class Support(Struct, frozen=True, kw_only=True):
    """What a kind of provider can express, for people who choose one. None: no limit of its own."""

    max_recipients: int | None
    """In all, per email."""
    max_request_bytes: int | None
    tags: str
    """What becomes of an email's tags."""
    own_message_id: bool
    """The Message-ID that HES made is kept, so that many receivers drop a second copy."""
    finds_out: str
    """How it can be found out what became of a doubt."""


class Provider(Protocol):
    """Takes one email over from us, or says why not.

    A provider knows nothing of attempt numbers, gates, retries or storage. It returns an `Answer` for everything
    that a provider normally does, down to a connection lost at the worst moment; it raises only when cancelled.
    What can't be expressed at this provider is `declined` with the reason, never dropped silently. What its own
    documentation does not settle is `in_doubt`.

    Where it has a way to find out about that, it is also one of `Replays` and `LooksUp` (`hes.providers.finding`); what
    it tells afterwards is read by a function beside it in the registry (`hes.providers.hook`).
    """

    name: str
    kind: str
    render_version: int
    """Grows whenever the same email would be rendered into other bytes."""

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        """Hand over one email. The time-out is over the whole call, from connecting to the last byte of the answer."""
        ...

    async def aclose(self) -> None:
        """Close connections. No call is in flight any more."""
        ...


def mailbox(address: Address) -> str:
    """`Name <address>` as RFC 5322, section 3.4 writes it; non-ASCII names stay as they are (the provider encodes).

    The phrase is quoted when it holds any of the specials, with `"` and `\\` escaped; what looks like an encoded word
    is encoded itself.
    """
    if not address.name:
        return address.email
    name = address.name
    if may_be_decoded(name):
        name = " ".join(encoded_words(name))
    elif any(c in '()<>[]:;@\\,."' for c in name):
        name = quoted(name)
    return f"{name} <{address.email}>"
