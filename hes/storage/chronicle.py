"""Transactions that change emails: what they changed is told once it is committed, in the log and in the metrics.

One place for it, whoever makes the change: a sender's outcome, an event, a look-up, a person, time. A transaction that
fails or is made anew tells nothing of what was not written.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import sqlalchemy as sa

from hes.ids import NewId
from hes.model import EmailId, Event, EventType, Millis, Reason
from hes.storage.contents import traces
from hes.storage.database import Database
from hes.storage.ledger import Ledger
from hes.telemetry import names
from hes.telemetry.telemetry import Telemetry, within

T = TypeVar("T")

Write = Callable[[Ledger], None]
"""Writes a ledger down, at the end of the work on it."""

_log = logging.getLogger("hes.emails")

_LEVELS = {
    EventType.IN_DOUBT: logging.WARNING,
    EventType.RESOLVED: logging.INFO,
    EventType.HELD: logging.WARNING,
    EventType.FAILED: logging.INFO,
    EventType.DUPLICATE: logging.WARNING,
    EventType.CANCELLED: logging.INFO,
    EventType.BOUNCED: logging.INFO,
    EventType.COMPLAINED: logging.INFO,
}
"""What of the timeline is told in the log. A sender tells how its attempts end, and the request what it accepts."""
_SAID = ("reason", "decision", "resolution", "source", "by", "attempts", "detail")
"""What a line says of an entry's data, as far as it has it. None of these holds an address."""


class Chronicle:
    """The database, for work that writes ledgers."""

    def __init__(self, database: Database, new_id: NewId, telemetry: Telemetry) -> None:
        self._database = database
        self._new_id = new_id
        self._telemetry = telemetry

    async def write(self, work: Callable[[sa.Connection, Millis, Write], T]) -> T:
        """`Database.write`, and tell what was written."""
        told: list[tuple[Ledger, Millis]] = []

        def whole(connection: sa.Connection, now: Millis) -> T:
            told.clear()  # it is made anew if another transaction was in the way

            def write(ledger: Ledger) -> None:
                ledger.write(connection, self._new_id)
                self.know_traces(connection, ledger, (event.email_id for event in _lines(ledger)))
                told.append((ledger, now))

            return work(connection, now, write)

        result = await self._database.write(whole)
        for ledger, now in told:
            self._tell(ledger, now)
        return result

    def know_traces(self, connection: sa.Connection, ledger: Ledger, email_ids: Iterable[EmailId]) -> None:
        """Read the traces of these emails as far as they are not known; nothing where nothing is traced."""
        if self._telemetry.has_traces:
            missing = {email_id for email_id in email_ids if email_id not in ledger.traces}
            ledger.traces.update(traces(connection, sorted(missing)))

    def _tell(self, ledger: Ledger, now: Millis) -> None:
        for attempt in ledger.new_doubts():
            self._telemetry.count(names.DOUBTS, provider=attempt.provider)
        for attempt in ledger.settled_doubts():
            if attempt.resolution is not None and attempt.ended_at is not None:
                lasted = max(0, now - attempt.ended_at) / 1000
                self._telemetry.record(names.DOUBT_SECONDS, lasted, attempt.provider, attempt.resolution.value)
        self._telemetry.count(names.EXPIRED, sum(_is_expiry(event) for event in ledger.events))
        for event in _lines(ledger):
            with within(ledger.traces.get(event.email_id, "")):
                _log.log(_LEVELS[event.type], "email %s: %s", event.email_id, _said(event))


def _lines(ledger: Ledger) -> list[Event]:
    return [event for event in ledger.events if event.type in _LEVELS]


def _is_expiry(event: Event) -> bool:
    return event.type is EventType.FAILED and event.data.get("reason") == Reason.EXPIRED


def _said(event: Event) -> str:
    number = event.data.get("attempt")
    of_attempt = f", attempt {number}" if number is not None else ""
    at = f" at {event.provider}" if event.provider is not None else ""
    why = ", ".join(str(event.data[key]) for key in _SAID if event.data.get(key))
    return f"{event.type}{of_attempt}{at}" + (f": {why}" if why else "")
