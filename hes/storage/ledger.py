"""Between rows and the policy: load cases, gather what the policy says, write it with one statement per table."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from hes.case import Case, Change, Search
from hes.ids import NewId
from hes.lanes import lane_of, text_of
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
from hes.storage import bounds, tables
from hes.storage.batches import Insert, Row, Update, padded

_encode = msgspec.json.Encoder().encode
_decode_data = msgspec.json.Decoder(dict[str, Any]).decode

_insert_attempts = Insert(tables.attempts)
_update_attempts = Update(
    tables.attempts, "outcome", "ended_at", "status_code", "provider_message_id", "detail", "resolution"
)
_delete_attempt = sa.delete(tables.attempts).where(
    tables.attempts.c.email_id == sa.bindparam("of_email"), tables.attempts.c.number == sa.bindparam("of_number")
)
_update_deliveries = Update(
    tables.deliveries,
    "status", "reason", "due_at", "expires_at", "attempt_id", "lease_ends_at", "attempts", "provider", "tried",
    "declined_by", "round", "lapses", "version", "is_retry", "send_at", "not_tried", "lane",
)  # fmt: skip
_insert_events = Insert(tables.events)
_insert_searches = Insert(tables.searches, "ON CONFLICT DO NOTHING")
_ids: sa.BindParameter[str] = sa.bindparam("email_ids", expanding=True)
_select_deliveries = (
    sa.select(tables.deliveries)
    .where(tables.deliveries.c.email_id.in_(_ids))
    .order_by(tables.deliveries.c.email_id)  # whoever locks several does it in this order: no deadlocks
)
_lock_deliveries = _select_deliveries.with_for_update()
_select_attempts = (
    sa.select(tables.attempts)
    .where(tables.attempts.c.email_id.in_(_ids))
    .order_by(tables.attempts.c.email_id, tables.attempts.c.number)
)
_select_unasked = sa.select(tables.searches.c.attempt_id, tables.searches.c.email_id).where(
    tables.searches.c.attempt_id.in_(sa.bindparam("attempt_ids", expanding=True)), tables.searches.c.asked == 0
)
_lock_unasked = _select_unasked.order_by(tables.searches.c.attempt_id).with_for_update()


def load(connection: sa.Connection, email_ids: Iterable[EmailId], *, is_locked: bool = True) -> "Ledger":
    """The cases of these emails; what they say stays true until the transaction ends. Unknown ids are left out.

    `is_locked` False: only to look at, for Postgres lets others change them meanwhile.
    """
    ids = sorted(set(email_ids))
    if not ids:
        return Ledger({})
    which = {"email_ids": padded(ids)}
    # The lock first: whatever is read after it is what nobody else can change meanwhile.
    select = _lock_deliveries if is_locked else _select_deliveries
    deliveries = [delivery_of(row) for row in connection.execute(select, which)]
    attempts = attempts_of(connection, ids)
    doubts = sorted(a.id for of_email in attempts.values() for a in of_email if a.is_open_doubt)
    unasked: dict[EmailId, set[AttemptId]] = {}
    if doubts:  # locked: whoever is about to ask is waited for, and who comes later sees what becomes of it
        select = _lock_unasked if is_locked else _select_unasked
        for attempt_id, email_id in connection.execute(select, {"attempt_ids": padded(doubts)}):
            unasked.setdefault(email_id, set()).add(attempt_id)
    return Ledger(
        {
            d.email_id: Case(d, tuple(attempts.get(d.email_id, ())), frozenset(unasked.get(d.email_id, ())))
            for d in deliveries
        }
    )


def attempts_of(connection: sa.Connection, email_ids: Sequence[EmailId]) -> dict[EmailId, list[Attempt]]:
    """In order of number. Emails without any are left out."""
    attempts: dict[EmailId, list[Attempt]] = {}
    for row in connection.execute(_select_attempts, {"email_ids": padded(email_ids)}):
        attempt = attempt_of(row)
        attempts.setdefault(attempt.email_id, []).append(attempt)
    return attempts


class Ledger:
    """Cases of one transaction, and what is to be written about them at its end."""

    def __init__(self, cases: dict[EmailId, Case]) -> None:
        self._cases = cases
        self._new_attempts: list[Attempt] = []
        self._changed_attempts: dict[AttemptId, Attempt] = {}
        self._doubts: set[AttemptId] = set()
        self._dropped: list[Attempt] = []
        self._changed: dict[EmailId, Delivery] = {}
        self._long: set[EmailId] = set()
        """Perhaps more happened to them than is kept."""
        self.events: list[Event] = []
        """The timeline's entries."""
        self._searches: list[Search] = []
        self.traces: dict[EmailId, str] = {}
        """The emails' traceparents, as far as somebody knows them."""

    def case(self, email_id: EmailId) -> Case | None:
        """As it stands with all changes made so far."""
        return self._cases.get(email_id)

    def cases(self) -> list[Case]:
        return list(self._cases.values())

    def change(self, change: Change | None) -> None:
        """Take down what happened; later decisions of this transaction see it."""
        if change is None:
            return
        email_id = change.delivery.email_id
        case = self._cases.get(email_id, Case(change.delivery))
        if case.delivery.version // bounds.TRIM_EVERY < change.delivery.version // bounds.TRIM_EVERY:
            self._long.add(email_id)
        for attempt in change.attempts:
            before = case.attempt(attempt.id)
            if before is None:
                self._new_attempts.append(attempt)
                continue
            if before.is_open_doubt and attempt.id not in self._changed_attempts:
                self._doubts.add(attempt.id)
            self._changed_attempts[attempt.id] = attempt
        if change.dropped is not None and (dropped := case.attempt(change.dropped)) is not None:
            self._dropped.append(dropped)
        self._cases[email_id] = case.after(change)
        self._changed[email_id] = change.delivery
        self.events.extend(change.events)
        if change.search is not None:
            self._searches.append(change.search)

    def tell(self, events: Iterable[Event]) -> None:
        """Timeline entries about what changes nothing."""
        self.events.extend(events)

    def new_doubts(self) -> list[Attempt]:
        """Attempts that are in doubt after this transaction, and were not before it."""
        return [a for a in self._changed_attempts.values() if a.is_open_doubt and a.id not in self._doubts]

    def settled_doubts(self) -> list[Attempt]:
        """Attempts that were in doubt before this transaction, and are not after it."""
        return [attempt for id_ in self._doubts if not (attempt := self._changed_attempts[id_]).is_open_doubt]

    def write(self, connection: sa.Connection, new_id: NewId) -> None:
        """Write it all down: at most one statement per table and kind of change."""
        if self._dropped:
            keys = [{"of_email": a.email_id, "of_number": a.number} for a in self._dropped]
            connection.execute(_delete_attempt, keys)
        _insert_attempts.run(connection, [_attempt_row(a) for a in self._new_attempts])
        _update_attempts.run(connection, [_attempt_change(a) for a in self._changed_attempts.values()])
        _update_deliveries.run(connection, [_delivery_change(d) for d in self._changed.values()])
        _insert_events.run(connection, [event_row(e, new_id()) for e in self.events])
        _insert_searches.run(connection, [_search_row(s) for s in self._searches])
        for email_id in self._long:
            bounds.trim(connection, email_id, self._cases[email_id].delivery.attempts)


def _joined(names: Iterable[str]) -> str:
    return "".join(f"{name}," for name in names)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")[:-1])


def delivery_row(delivery: Delivery) -> Row:
    """All columns, in the table's order; likewise below."""
    d = delivery
    return (
        d.email_id, d.project, text_of(lane_of(d)), d.status.value, d.reason, d.due_at, d.expires_at, d.expires_in,
        d.on_doubt.value, d.attempt_timeout, _joined(d.own_providers), d.size_bytes, d.attempt_id, d.lease_ends_at,
        d.attempts, d.provider, _joined(d.tried), _joined(d.declined_by), d.round, d.lapses, d.version,
        d.stream, d.sender_domain, d.is_retry, d.is_test, d.send_at, d.not_tried,
    )  # fmt: skip


def _delivery_change(delivery: Delivery) -> Row:
    """The key, then what `_update_deliveries` changes."""
    d = delivery
    return (
        d.email_id, d.status.value, d.reason, d.due_at, d.expires_at, d.attempt_id, d.lease_ends_at, d.attempts,
        d.provider, _joined(d.tried), _joined(d.declined_by), d.round, d.lapses, d.version, d.is_retry, d.send_at,
        d.not_tried, text_of(lane_of(d)),
    )  # fmt: skip


def delivery_of(row: Iterable[Any]) -> Delivery:
    (
        email_id, project, _lane, status, reason, due_at, expires_at, expires_in, on_doubt, attempt_timeout,
        own_providers, size_bytes, attempt_id, lease_ends_at, attempts, provider, tried, declined_by, round_, lapses,
        version, stream, sender_domain, is_retry, is_test, send_at, not_tried,
    ) = row  # fmt: skip
    return Delivery(
        email_id=email_id,
        project=project,
        status=Status(status),
        reason=Reason(reason) if reason else None,
        due_at=due_at,
        expires_at=expires_at,
        expires_in=expires_in,
        on_doubt=OnDoubt(on_doubt),
        attempt_timeout=attempt_timeout,
        own_providers=_split(own_providers),
        size_bytes=size_bytes,
        attempt_id=attempt_id,
        lease_ends_at=lease_ends_at,
        attempts=attempts,
        provider=provider,
        tried=_split(tried),
        declined_by=_split(declined_by),
        round=round_,
        lapses=lapses,
        version=version,
        stream=stream,
        sender_domain=sender_domain,
        is_retry=bool(is_retry),
        is_test=bool(is_test),
        send_at=send_at,
        not_tried=not_tried,
    )


def _attempt_row(attempt: Attempt) -> Row:
    a = attempt
    return (
        a.email_id, a.number, a.id, a.provider, a.render_version, a.started_at, a.ended_at, a.outcome, a.status_code,
        a.provider_message_id, a.detail, a.resolution,
    )  # fmt: skip


def _attempt_change(attempt: Attempt) -> Row:
    a = attempt
    return (
        a.email_id, a.number, a.outcome, a.ended_at, a.status_code, a.provider_message_id, a.detail, a.resolution,
    )  # fmt: skip


def attempt_of(row: Iterable[Any]) -> Attempt:
    (
        email_id, number, id_, provider, render_version, started_at, ended_at, outcome, status_code,
        provider_message_id, detail, resolution,
    ) = row  # fmt: skip
    return Attempt(
        id=id_,
        email_id=email_id,
        number=number,
        provider=provider,
        started_at=started_at,
        render_version=render_version,
        outcome=Outcome(outcome) if outcome else None,
        ended_at=ended_at,
        status_code=status_code,
        provider_message_id=provider_message_id,
        detail=detail,
        resolution=Resolution(resolution) if resolution else None,
    )


def _search_row(search: Search) -> Row:
    s = search
    return s.attempt_id, s.email_id, s.provider, s.next_at, s.until, s.lease, s.asked, s.lost, s.told


def search_of(row: Iterable[Any]) -> Search:
    attempt_id, email_id, provider, next_at, until, lease, asked, lost, told = row
    return Search(
        attempt_id=attempt_id,
        email_id=email_id,
        provider=provider,
        next_at=next_at,
        until=until,
        lease=lease,
        asked=asked,
        lost=lost,
        told=told,
    )


def event_row(event: Event, event_id: str) -> Row:
    data = _encode(event.data).decode() if event.data else "{}"
    return event.email_id, event_id, event.type.value, event.at, event.provider, event.recipient, data


def event_of(row: Iterable[Any]) -> tuple[str, Event]:
    """With its id."""
    email_id, id_, type_, at, provider, recipient, data = row
    event = Event(
        email_id=email_id,
        type=EventType(type_),
        at=at,
        provider=provider,
        recipient=recipient,
        data=_decode_data(data),
    )
    return id_, event
