"""How much of one email's history is kept: a bound for its attempts, and for each kind of its timeline's entries.

Of what the email itself went through the beginning and the newest are kept, and in between whatever may still matter:
doubts, what was accepted or rejected, what people decided. Of what providers tell, all that changes something is kept,
and of the rest, such as each time that somebody opens it, so many of a type. Where something is missing the entry
before it says how much: `not_kept`.

An outage of a day comes nowhere near; but a year of tries, a caller that reschedules again and again, or a vendor that
tells of a hundred thousand openings would make one email as large as one likes, and each look at it. Doubts are kept
however many there are: each may be a copy that somebody got.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from hes.model import EmailId, Event, EventType, Outcome
from hes.storage import tables
from hes.storage.batches import padded

TRIM_EVERY = 200
"""So many versions of an email are made between two looks at what is too much."""
FIRST_ATTEMPTS, NEWEST_ATTEMPTS = 100, 500
FIRST_ENTRIES, NEWEST_ENTRIES = 300, 1500
"""An attempt has about three."""
OF_A_TYPE = 1000
"""Entries of one type that providers told. One that changes something is kept all the same."""

_PASSING_ENTRIES = [
    type_.value
    for type_ in (
        EventType.QUEUED, EventType.SCHEDULED, EventType.RESCHEDULED, EventType.ATTEMPT, EventType.NOT_TRIED,
        EventType.FAILED_OVER, EventType.FAILED, EventType.CANCELLED,
    )
]  # fmt: skip
_PASSING_OUTCOMES = [
    outcome.value for outcome in (Outcome.DECLINED, Outcome.REFUSED, Outcome.THROTTLED, Outcome.UNAVAILABLE)
]
"""It was surely not accepted, and no more follows from it."""

_event = tables.events.c
_attempt = tables.attempts.c
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def trim(connection: sa.Connection, email_id: EmailId, attempts: int) -> None:
    """Drop the middle of a history that has become too long. `attempts`: the newest one's number."""
    _trim_entries(connection, email_id)
    connection.execute(
        sa.delete(tables.attempts).where(
            _attempt.email_id == email_id,
            _attempt.number > FIRST_ATTEMPTS,
            _attempt.number <= attempts - NEWEST_ATTEMPTS,
            _attempt.outcome.in_(_PASSING_OUTCOMES),
            _attempt.resolution.is_(None),
        )
    )


def _trim_entries(connection: sa.Connection, email_id: EmailId) -> None:
    passing = _event.email_id == email_id, _event.type.in_(_PASSING_ENTRIES)
    ids = sa.select(_event.id).where(*passing).limit(1)
    before = connection.execute(ids.order_by(_event.id).offset(FIRST_ENTRIES - 1)).scalar_one_or_none()
    behind = connection.execute(ids.order_by(_event.id.desc()).offset(NEWEST_ENTRIES - 1)).scalar_one_or_none()
    if before is None or behind is None or before >= behind:
        return
    between = sa.delete(tables.events).where(*passing, _event.id > before, _event.id < behind)
    if dropped := connection.execute(between).rowcount:
        _note(connection, email_id, before, dropped)


def bounded(connection: sa.Connection, told: Sequence[Event]) -> list[Event]:
    """Those of a provider's entries that are kept; of the others it is noted how many there were.

    `told`: what changes nothing, of emails that are locked in this transaction.
    """
    by_type: dict[tuple[EmailId, EventType], list[Event]] = defaultdict(list)
    for entry in told:
        by_type[entry.email_id, entry.type].append(entry)
    there = _count(connection, sorted({email_id for email_id, _ in by_type}), sorted({type_ for _, type_ in by_type}))
    kept: list[Event] = []
    for (email_id, type_), entries in by_type.items():
        room = max(0, OF_A_TYPE - there[email_id, type_])
        some, missing = entries[:room], len(entries) - room
        if missing > 0 and some:
            some[-1] = replace(some[-1], data=some[-1].data | {"not_kept": missing})
        elif missing > 0:
            of_type = sa.select(_event.id).where(_event.email_id == email_id, _event.type == type_.value)
            last = connection.execute(of_type.order_by(_event.id.desc()).limit(1)).scalar_one()
            _note(connection, email_id, last, missing)
        kept += some
    return kept


def _count(
    connection: sa.Connection, email_ids: Sequence[EmailId], types: Sequence[EventType]
) -> Counter[tuple[EmailId, EventType]]:
    if not email_ids:
        return Counter()
    counts = (
        sa.select(_event.email_id, _event.type, sa.func.count())
        .where(_event.email_id.in_(padded(email_ids)), _event.type.in_([type_.value for type_ in types]))
        .group_by(_event.email_id, _event.type)
    )
    return Counter({(EmailId(id_), EventType(type_)): count for id_, type_, count in connection.execute(counts)})


def _note(connection: sa.Connection, email_id: EmailId, event_id: str, dropped: int) -> None:
    """Say in this entry that so many more behind it are not kept."""
    this = _event.email_id == email_id, _event.id == event_id
    data = _decode(connection.execute(sa.select(_event.data).where(*this)).scalar_one())
    data["not_kept"] = data.get("not_kept", 0) + dropped
    connection.execute(sa.update(tables.events).where(*this).values(data=_encode(data).decode()))
