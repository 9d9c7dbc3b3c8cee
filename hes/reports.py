"""What follows from what a provider tells afterwards. Pure, like `hes.policy`.

Events come late, twice and in any order, and the same ones lead to the same end in each of them: what is known of a
recipient only grows, from `sent` over `delivered` and `bounced` to `complained`, and the email's status is made of its
recipients'. A bounce after a delivery is one of those: the receiving server took it, and gave it back later. Given up
for that: an email that was called `delivered` may become `bounced`.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from hes import timeline
from hes.case import Case, Change
from hes.model import Attempt, Event, EventType, Evidence, Millis, Status
from hes.policy import WENT_OUT
from hes.told import EventKind, ProviderEvent
from hes.transitions import Cause, move

_SAYS = {
    EventKind.DELIVERED: Status.DELIVERED,
    EventKind.OPENED: Status.DELIVERED,
    EventKind.CLICKED: Status.DELIVERED,
    EventKind.BOUNCED: Status.BOUNCED,
    EventKind.REJECTED: Status.BOUNCED,
    EventKind.COMPLAINED: Status.COMPLAINED,
}
_NO_ENTRY = frozenset({EventKind.ACCEPTED, EventKind.RESUBSCRIBED})
_GROWS = (Status.SENT, Status.DELIVERED, Status.BOUNCED, Status.COMPLAINED)


class Standing(Struct, frozen=True):
    """One recipient, and what was told of it. `status` None: nothing, it is as the email."""

    position: int
    address: str
    status: Status | None = None


class Report(Struct, frozen=True):
    """What is to be written of an event."""

    change: Change | None = None
    """Of the delivery; it has the timeline's entries too."""
    entries: tuple[Event, ...] = ()
    """The timeline's entries where the delivery does not change."""
    standings: tuple[Standing, ...] = ()
    """Those that changed."""


def attempt_of(case: Case, provider: str, event: ProviderEvent) -> Attempt | None:
    """Which attempt an event is about: by our id, else by the provider's. Nobody speaks of another's attempts."""
    theirs = [attempt for attempt in case.attempts if attempt.provider in (event.providers or (provider,))]
    if event.hes_attempt is not None:
        return next((a for a in theirs if a.id == event.hes_attempt), None)
    if event.provider_message_id is None:
        return None
    return next((a for a in theirs if a.provider_message_id == event.provider_message_id), None)


def evidence(attempt: Attempt, event: ProviderEvent) -> Evidence | None:
    """That the provider took it, if the event says so for sure; what HES does not understand says nothing."""
    if event.kind is None:
        return None
    return Evidence(
        email_id=attempt.email_id,
        attempt_id=attempt.id,
        accepted=True,
        source="event",
        provider_message_id=event.provider_message_id,
        detail=event.vendor_type,
    )


def report(
    case: Case, standings: Sequence[Standing], attempt: Attempt, event: ProviderEvent, now: Millis
) -> Report | None:
    """What the event says of an email that has gone out. None: it has not, as far as is known; it must wait."""
    delivery = case.delivery
    if event.kind is None or event.kind in _NO_ENTRY:
        return Report()
    if delivery.status not in WENT_OUT:
        return None
    about = [s for s in standings if _is(s, event.recipient)] or (list(standings) if len(standings) == 1 else [])
    type_, at = EventType(event.kind.value), min(event.at, now)
    entry = timeline.entry(delivery, type_, at, attempt.provider, **event.data, attempt=attempt.number)
    entry = replace(entry, recipient=about[0].address or None if about else None)
    says = _SAYS.get(event.kind)
    if says is None:
        return Report(entries=(entry,))
    changed = _grown(standings, about, says)
    known = list({s.position: s for s in (*standings, *changed)}.values())
    # Whose bounce it is may not be said, or be erased; that somebody's is one is known all the same.
    told = says if not about and says is not Status.DELIVERED else Status.SENT
    status = max(delivery.status, _of_all([s.status for s in known]), told, key=_GROWS.index)
    if status is not delivery.status:
        moved = move(delivery, Cause.PROVIDER_EVENT, status)
        return Report(change=Change(moved, (entry,)), standings=_said_of_each(known, standings))
    return Report(entries=(entry,), standings=_said_of_each(known, standings) if changed else ())


def _is(standing: Standing, address: str | None) -> bool:
    return bool(address) and standing.address.casefold() == (address or "").casefold()


def _grown(standings: Sequence[Standing], about: Sequence[Standing], says: Status) -> list[Standing]:
    positions = {s.position for s in about}
    return [
        replace(s, status=says)
        for s in standings
        if s.position in positions and _GROWS.index(says) > _GROWS.index(s.status or Status.SENT)
    ]


def _of_all(statuses: Sequence[Status | None]) -> Status:
    """An email's status, of its recipients'."""
    for one in (Status.COMPLAINED, Status.BOUNCED):
        if one in statuses:
            return one
    return Status.DELIVERED if statuses and all(s is Status.DELIVERED for s in statuses) else Status.SENT


def _said_of_each(known: Sequence[Standing], before: Sequence[Standing]) -> tuple[Standing, ...]:
    """Those of whom nothing was told are `sent`: from now on the email's status is not theirs any more."""
    told = {s.position: s if s.status else replace(s, status=Status.SENT) for s in known}
    return tuple(told[s.position] for s in before if told[s.position] != s)
