"""Providers' events in a SQL database: see `hes.storage.inbox` for what is promised.

An event is known by the provider's id for it, kept for some days. Providers that share the key of their webhooks are
one account: what comes to one's address may be about the emails of any of them, is known under the first one's name,
and counts once, whichever address it comes to. A nonce belongs to the key itself.

One that comes before our own commit of what it is about (an answer that is on its way still, a lease that has not
ended) waits in the same row and is tried again, less and less often; one that nothing fits for too long is of somebody
else who uses the account.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from hes import reports
from hes.model import EmailId, Event, Millis, Status
from hes.policy import Policy
from hes.reports import Standing
from hes.storage import bounds, tables
from hes.storage.batches import Insert, Row, Update, padded
from hes.storage.chronicle import Chronicle, Write
from hes.storage.inbox import Taken
from hes.storage.ledger import Ledger, load
from hes.telemetry import names
from hes.telemetry.telemetry import Telemetry
from hes.told import ProviderEvent, Told

AT_ONCE = 500
"""Of one transaction."""
FIRST_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 3600_000
OURS_WAITS_MS = 24 * 3600_000
"""One that carries our ids."""
STRANGE_WAITS_MS = 600_000
"""One that does not: all that it can be early for is the commit of the answer with the provider's id."""
NEWEST = 200
"""So many of a recipient's emails are looked through for the provider's id."""
UNKNOWN = "unknown"
"""A kind of event that HES does not know, in the metrics."""

Pair = tuple[str, ProviderEvent]
"""Provider, and what it told."""

_row = tables.provider_events.c
_recipient = tables.recipients.c
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ProviderEvent).decode
_insert = Insert(tables.provider_events, "ON CONFLICT DO NOTHING RETURNING dedup_id")
_update = Update(tables.provider_events, "event", "due_at")
_update_recipients = Update(tables.recipients, "status")
_select_waiting = (
    sa.select(_row.provider, _row.dedup_id, _row.received_at, _row.event)
    .where(sa.text(tables.IS_WAITING_EVENT), _row.due_at <= sa.bindparam("now"))
    .order_by(_row.due_at)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)
)
_select_standings = sa.select(_recipient.email_id, _recipient.position, _recipient.email, _recipient.status).where(
    _recipient.email_id.in_(sa.bindparam("email_ids", expanding=True))
)
_newest_of = (
    sa.select(_recipient.email_id)
    .where(_recipient.email.in_(sa.bindparam("addresses", expanding=True)))
    .order_by(_recipient.email_id.desc())
    .limit(NEWEST)
)
_select_by_their_id = (
    sa.select(tables.attempts.c.email_id)
    .where(
        tables.attempts.c.email_id.in_(_newest_of),
        tables.attempts.c.provider.in_(sa.bindparam("of", expanding=True)),
        tables.attempts.c.provider_message_id == sa.bindparam("message_id"),
    )
    .limit(1)
)


class EventStore:
    """`hes.storage.inbox.Inbox`."""

    def __init__(self, chronicle: Chronicle, policy: Policy, telemetry: Telemetry) -> None:
        self._chronicle = chronicle
        self._policy = policy
        self._telemetry = telemetry

    async def take(self, provider: str, told: Told) -> Taken:
        if told.nonce:  # good once, so that all of it is taken or nothing
            return await self._take(provider, told)
        new = waiting = 0
        for first in range(0, len(told.events), AT_ONCE):  # what is repeated if a later one fails, is known then
            taken = await self._take(provider, replace(told, events=told.events[first : first + AT_ONCE]))
            new, waiting = new + taken.new, waiting + taken.waiting
        return Taken(new, waiting)

    async def _take(self, provider: str, told: Told) -> Taken:
        told_of: list[str] = []
        kinds: Counter[str] = Counter()
        known_as, nonces_of = told.providers[0] if told.providers else provider, told.signer or provider
        others = told.providers if len(told.providers) > 1 else ()

        def work(connection: sa.Connection, now: Millis, write: Write) -> Taken:
            told_of.clear()
            kinds.clear()
            nonce = [(nonces_of, f"nonce/{told.nonce}", now, "nonce", None, None)] if told.nonce else []
            if nonce and not _insert.run(connection, nonce):
                return Taken()
            by_id: dict[str, ProviderEvent] = {}
            for event in told.events:  # of twins in one POST the first counts
                by_id.setdefault(event.dedup_id, replace(event, providers=others) if others else event)
            rows = [_event_row(known_as, event, now) for _, event in sorted(by_id.items())]
            new = {row.dedup_id for row in _insert.run(connection, rows)}
            # What is not understood is kept as it came, and nothing follows from it.
            fresh = [(known_as, e) for e in by_id.values() if e.dedup_id in new and e.kind is not None]
            kinds.update(e.kind.value if e.kind else UNKNOWN for e in by_id.values() if e.dedup_id in new)
            waiting = self._tell(connection, now, fresh, write, told_of)
            due = now + FIRST_PAUSE_MS
            _update.run(connection, [(of, e.dedup_id, _encode(e).decode(), due) for of, e in waiting])
            return Taken(new=len(new), waiting=len(waiting))

        with self._telemetry.batch("record") as batch:
            taken = await self._chronicle.write(work)
            batch.holds(told_of)
        for kind, count in kinds.items():
            self._telemetry.count(names.EVENTS, count, provider=provider, event=kind)
        return taken

    async def match(self) -> int:
        told_of: list[str] = []

        def work(connection: sa.Connection, now: Millis, write: Write) -> int:
            told_of.clear()
            rows = connection.execute(_select_waiting, {"now": now}).all()
            received = {(row.provider, row.dedup_id): row.received_at for row in rows}
            pairs = [(row.provider, _decode(row.event)) for row in rows]
            waiting = self._tell(connection, now, pairs, write, told_of)
            again = {(of, e.dedup_id): e for of, e in waiting}
            changes: list[Row] = []
            for key, at in received.items():
                due_at = _due_again(again[key], now - at, now) if key in again else None
                changes.append((*key, _encode(again[key]).decode() if due_at else None, due_at))
            _update.run(connection, changes)
            return len(rows) - len(waiting)

        with self._telemetry.batch("record") as batch:
            told = await self._chronicle.write(work)
            batch.holds(told_of)
        return told

    def _tell(
        self, connection: sa.Connection, now: Millis, pairs: Sequence[Pair], write: Write, told_of: list[str]
    ) -> list[Pair]:
        """Write what follows from these. Returns those that must wait.

        `told_of`: gets the trace of each email that something was told of, "" for one without.
        """
        email_ids = [_email_id(connection, provider, event) for provider, event in pairs]
        ledger = load(connection, (email_id for email_id in email_ids if email_id is not None))
        standings = _standings(connection, (case.delivery.email_id for case in ledger.cases()))
        changed: dict[tuple[str, int], Standing] = {}
        waiting: list[Pair] = []
        known: dict[EmailId, None] = {}
        entries: list[Event] = []
        for pair, email_id in zip(pairs, email_ids, strict=True):
            if email_id is None or not self._tell_one(ledger, standings, changed, entries, email_id, pair, now):
                waiting.append(pair)
            else:
                known[email_id] = None
        self._chronicle.know_traces(connection, ledger, known)
        told_of.extend(ledger.traces.get(email_id, "") for email_id in known)
        ledger.tell(bounds.bounded(connection, entries))
        write(ledger)
        rows = [(*key, s.status and s.status.value) for key, s in sorted(changed.items())]
        _update_recipients.run(connection, rows)
        return waiting

    def _tell_one(
        self,
        ledger: Ledger,
        standings: dict[str, list[Standing]],
        changed: dict[tuple[str, int], Standing],
        entries: list[Event],
        email_id: EmailId,
        pair: Pair,
        now: Millis,
    ) -> bool:
        """Whether it could be told. `entries`: gets what is told of it and changes nothing."""
        provider, event = pair
        case = ledger.case(email_id)
        attempt = reports.attempt_of(case, provider, event) if case else None
        if case is None or attempt is None:
            return False
        if (proof := reports.evidence(attempt, event)) is not None:
            ledger.change(self._policy.evidence(case, proof, now))
        case = ledger.case(email_id) or case
        of_email = standings.get(email_id, [])
        report = reports.report(case, of_email, attempt, event, now)
        if report is None:
            return False
        ledger.change(report.change)
        if report.standings:
            ledger.tell(report.entries)
        else:
            entries += report.entries
        for standing in report.standings:
            changed[email_id, standing.position] = standing
        news = {s.position: s for s in report.standings}
        standings[email_id] = [news.get(s.position, s) for s in of_email]
        return True


def _event_row(provider: str, event: ProviderEvent, now: Millis) -> Row:
    kept = _encode(replace(event, recipient=None)).decode() if event.kind is None else None
    return provider, event.dedup_id, now, event.vendor_type, kept, None


def _due_again(event: ProviderEvent, age_ms: Millis, now: Millis) -> Millis | None:
    """None: it has waited for long enough."""
    if age_ms >= (OURS_WAITS_MS if event.hes_id else STRANGE_WAITS_MS):
        return None
    return now + min(LONGEST_PAUSE_MS, max(FIRST_PAUSE_MS, age_ms))


def _email_id(connection: sa.Connection, provider: str, event: ProviderEvent) -> EmailId | None:
    """By our id; else by the provider's, among the recipient's emails, so that it needs no index of its own."""
    if event.hes_id is not None:
        return EmailId(event.hes_id)
    if event.provider_message_id is None or event.recipient is None:
        return None
    addresses = padded([event.recipient, event.recipient.lower()])
    of = padded(event.providers or (provider,))
    by = {"addresses": addresses, "of": of, "message_id": event.provider_message_id}
    found = connection.execute(_select_by_their_id, by).scalar_one_or_none()
    return EmailId(found) if found is not None else None


def _standings(connection: sa.Connection, email_ids: Iterable[EmailId]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = {}
    ids = sorted(email_ids)
    if not ids:
        return found
    for row in connection.execute(_select_standings, {"email_ids": padded(ids)}):
        standing = Standing(row.position, row.email, Status(row.status) if row.status else None)
        found.setdefault(row.email_id, []).append(standing)
    return found
