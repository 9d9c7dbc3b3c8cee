"""Between rows and the policy: load cases, gather what the policy says, write it with one statement per table."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from hes.ids import NewId
from hes.model import (
    Attempt,
    AttemptId,
    Delivery,
    EmailId,
    Event,
    EventType,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Status,
)
from hes.policy import Case, Change
from hes.storage import tables

_encode = msgspec.json.Encoder().encode
_decode_data = msgspec.json.Decoder(dict[str, Any]).decode

_update_delivery = sa.update(tables.deliveries).where(tables.deliveries.c.email_id == sa.bindparam("of_email"))
_insert_attempt = sa.insert(tables.attempts)
_update_attempt = sa.update(tables.attempts).where(
    tables.attempts.c.email_id == sa.bindparam("of_email"), tables.attempts.c.number == sa.bindparam("of_number")
)
_delete_attempt = sa.delete(tables.attempts).where(
    tables.attempts.c.email_id == sa.bindparam("of_email"), tables.attempts.c.number == sa.bindparam("of_number")
)
_insert_event = sa.insert(tables.events)

_by_email: sa.BindParameter[str] = sa.bindparam("email_ids", expanding=True)
_select_attempts = (
    sa.select(tables.attempts)
    .where(tables.attempts.c.email_id.in_(_by_email))
    .order_by(tables.attempts.c.email_id, tables.attempts.c.number)
)
_select_deliveries = sa.select(tables.deliveries).where(tables.deliveries.c.email_id.in_(_by_email)).with_for_update()


async def load(connection: AsyncConnection, email_ids: Iterable[EmailId]) -> "Ledger":
    """The cases of these emails, their deliveries locked until the transaction ends. Unknown ids are left out."""
    ids = sorted(set(email_ids))
    if not ids:
        return Ledger({})
    deliveries = (await connection.execute(_select_deliveries, {"email_ids": ids})).mappings()
    attempts: dict[str, list[Attempt]] = {}
    for row in (await connection.execute(_select_attempts, {"email_ids": ids})).mappings():
        attempts.setdefault(row["email_id"], []).append(attempt_of(row))
    return Ledger(
        {row["email_id"]: Case(delivery_of(row), tuple(attempts.get(row["email_id"], ()))) for row in deliveries}
    )


class Ledger:
    """Cases of one transaction, and what is to be written about them at its end."""

    def __init__(self, cases: dict[EmailId, Case]) -> None:
        self._cases = cases
        self._new_attempts: list[Attempt] = []
        self._changed_attempts: dict[AttemptId, Attempt] = {}
        self._dropped: list[Attempt] = []
        self._changed: dict[EmailId, Delivery] = {}
        self._events: list[Event] = []

    def case(self, email_id: EmailId) -> Case | None:
        """As it stands with all changes made so far."""
        return self._cases.get(email_id)

    def change(self, change: Change | None) -> None:
        """Take down what happened; later decisions of this transaction see it."""
        if change is None:
            return
        email_id = change.delivery.email_id
        case = self._cases.get(email_id, Case(change.delivery))
        for attempt in change.attempts:
            if case.attempt(attempt.id) is None:
                self._new_attempts.append(attempt)
            else:
                self._changed_attempts[attempt.id] = attempt
        if change.dropped is not None and (dropped := case.attempt(change.dropped)) is not None:
            self._dropped.append(dropped)
        self._cases[email_id] = case.after(change)
        self._changed[email_id] = change.delivery
        self._events.extend(change.events)

    async def write(self, connection: AsyncConnection, new_id: NewId) -> None:
        """Write it all down: at most one statement per table and kind of change."""
        if self._dropped:
            keys = [{"of_email": a.email_id, "of_number": a.number} for a in self._dropped]
            await connection.execute(_delete_attempt, keys)
        if self._new_attempts:
            await connection.execute(_insert_attempt, [_attempt_row(a) for a in self._new_attempts])
        if self._changed_attempts:
            rows = [_attempt_end(a) for a in self._changed_attempts.values()]
            await connection.execute(_update_attempt, rows)
        if self._changed:
            rows = [_delivery_move(d) for d in self._changed.values()]
            await connection.execute(_update_delivery, rows)
        if self._events:
            await connection.execute(_insert_event, [event_row(e, new_id()) for e in self._events])


def _joined(names: Iterable[str]) -> str:
    return "".join(f"{name}," for name in names)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")[:-1])


def _delivery_move(delivery: Delivery) -> dict[str, Any]:
    """The columns that change after acceptance, for the UPDATE."""
    return {
        "of_email": delivery.email_id,
        "status": delivery.status.value,
        "reason": delivery.reason and delivery.reason.value,
        "due_at": delivery.due_at,
        "expires_at": delivery.expires_at,
        "attempt_id": delivery.attempt_id,
        "lease_ends_at": delivery.lease_ends_at,
        "attempts": delivery.attempts,
        "provider": delivery.provider,
        "tried": _joined(delivery.tried),
        "declined_by": _joined(delivery.declined_by),
        "round": delivery.round,
        "lapses": delivery.lapses,
        "version": delivery.version,
    }


def delivery_row(delivery: Delivery) -> dict[str, Any]:
    """All columns, for the INSERT."""
    row = _delivery_move(delivery)
    row["email_id"] = row.pop("of_email")
    row["project"] = delivery.project
    row["lane"] = delivery.lane
    row["expires_in"] = delivery.expires_in
    row["on_doubt"] = delivery.on_doubt.value
    row["attempt_timeout"] = delivery.attempt_timeout
    row["own_providers"] = _joined(delivery.own_providers)
    row["size_bytes"] = delivery.size_bytes
    return row


def delivery_of(row: Mapping[Any, Any]) -> Delivery:
    return Delivery(
        email_id=row["email_id"],
        project=row["project"],
        lane=row["lane"],
        status=Status(row["status"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        due_at=row["due_at"],
        expires_at=row["expires_at"],
        expires_in=row["expires_in"],
        on_doubt=OnDoubt(row["on_doubt"]),
        attempt_timeout=row["attempt_timeout"],
        own_providers=_split(row["own_providers"]),
        size_bytes=row["size_bytes"],
        attempt_id=row["attempt_id"],
        lease_ends_at=row["lease_ends_at"],
        attempts=row["attempts"],
        provider=row["provider"],
        tried=_split(row["tried"]),
        declined_by=_split(row["declined_by"]),
        round=row["round"],
        lapses=row["lapses"],
        version=row["version"],
    )


def _attempt_end(attempt: Attempt) -> dict[str, Any]:
    return {
        "of_email": attempt.email_id,
        "of_number": attempt.number,
        "outcome": attempt.outcome and attempt.outcome.value,
        "ended_at": attempt.ended_at,
        "status_code": attempt.status_code,
        "provider_message_id": attempt.provider_message_id,
        "detail": attempt.detail,
        "resolution": attempt.resolution and attempt.resolution.value,
    }


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "email_id": attempt.email_id,
        "number": attempt.number,
        "id": attempt.id,
        "provider": attempt.provider,
        "render_version": attempt.render_version,
        "started_at": attempt.started_at,
    }


def attempt_of(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(
        id=row["id"],
        email_id=row["email_id"],
        number=row["number"],
        provider=row["provider"],
        started_at=row["started_at"],
        render_version=row["render_version"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        ended_at=row["ended_at"],
        status_code=row["status_code"],
        provider_message_id=row["provider_message_id"],
        detail=row["detail"],
        resolution=Resolution(row["resolution"]) if row["resolution"] else None,
    )


def event_row(event: Event, event_id: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "email_id": event.email_id,
        "type": event.type.value,
        "at": event.at,
        "provider": event.provider,
        "recipient": event.recipient,
        "data": _encode(event.data).decode() if event.data else "{}",
    }


def event_of(row: Mapping[Any, Any]) -> Event:
    return Event(
        email_id=row["email_id"],
        type=EventType(row["type"]),
        at=row["at"],
        provider=row["provider"],
        recipient=row["recipient"],
        data=_decode_data(row["data"]),
    )
