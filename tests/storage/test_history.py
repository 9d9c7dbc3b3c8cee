"""An email's history: read page by page, and bounded, whatever goes on and on."""

from typing import Any

import pytest

from hes.model import EmailId, EventType, Leased, OnDoubt, Outcome, Status
from hes.storage import bounds
from hes.storage.records import StoredEmail
from hes.storage.sql import SqlStorage
from hes.told import EventKind, ProviderEvent, Told
from tests.storage.harness import SHOP, Bench, new_email, next_id, only_sql, told

PAGES = ("hes.storage.book.HISTORY_PAGE", "tests.simulation.memory.HISTORY_PAGE")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test reaches."""
    for name, value in {
        "TRIM_EVERY": 4,
        "FIRST_ATTEMPTS": 2,
        "NEWEST_ATTEMPTS": 4,
        "FIRST_ENTRIES": 4,
        "NEWEST_ENTRIES": 8,
        "OF_A_TYPE": 3,
    }.items():
        monkeypatch.setattr(bounds, name, value)


async def tried(bench: Bench, *outcomes: Outcome, **fields: Any) -> Leased:
    """An email that was tried so often, and is in a provider's hands once more."""
    leased = await bench.leased(own_providers=("a",), on_doubt=OnDoubt.RESEND, **fields)
    for outcome in outcomes:
        await bench.settle(leased, outcome)
        bench.clock.advance(600)
        leased = await bench.lease()
    return leased


async def opened(sql: SqlStorage, leased: Leased, count: int, kind: EventKind = EventKind.OPENED) -> None:
    known = {"vendor_type": "v", "at": 5, "hes_id": leased.email.id, "hes_attempt": leased.attempt_id}
    events = [ProviderEvent(kind=kind, dedup_id=next_id(), recipient="ann@example.net", **known) for _ in range(count)]  # type: ignore[arg-type]
    assert (await sql.inbox.take("a", Told(tuple(events)))).new == count


def not_kept(stored: StoredEmail) -> list[tuple[str, int]]:
    return [(e.type.value, e.data["not_kept"]) for _, e in stored.events if "not_kept" in e.data]


async def test_a_long_history_is_read_from_its_end_page_by_page(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    leased = await tried(bench, *[Outcome.UNAVAILABLE] * 6)
    whole = await bench.read(leased)
    assert not whole.has_older_attempts
    assert not whole.has_older_events
    for name in PAGES:
        monkeypatch.setattr(name, 3)
    attempts, events = list[Any](), list[Any]()
    before: dict[str, Any] = {}
    while True:
        page = await bench.storage.read(SHOP, leased.email.id, **before)
        assert len(page.attempts) <= 3
        assert len(page.events) <= 3
        attempts = [*page.attempts, *attempts]
        events = [*page.events, *events]
        if not (page.has_older_attempts or page.has_older_events):
            break
        before = {"attempts_before": attempts[0].number, "events_before": events[0][0]}
    assert attempts == list(whole.attempts)
    assert events == list(whole.events)


@only_sql
@pytest.mark.usefixtures("short")
async def test_what_is_told_over_and_over_is_counted_and_not_kept(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.ACCEPTED)
    await opened(sql, leased, 2)
    await opened(sql, leased, 5)
    stored = await bench.read(leased)
    assert told(stored).count("opened") == 3
    assert stored.delivery.status is Status.DELIVERED
    assert not_kept(stored) == [("opened", 4)]
    for _ in range(3):
        await opened(sql, leased, 10)
    await opened(sql, leased, 2, EventKind.CLICKED)
    stored = await bench.read(leased)
    assert not_kept(stored) == [("opened", 34)]
    assert (told(stored).count("opened"), told(stored).count("clicked")) == (3, 2)
    await opened(sql, leased, 5, EventKind.BOUNCED)
    assert told(await bench.read(leased)).count("bounced") == 4, "one changes something, and is told whatever there is"
    assert (await bench.status(leased))[0] is Status.BOUNCED


@only_sql
@pytest.mark.usefixtures("short")
async def test_of_many_tries_the_first_and_the_newest_are_kept_and_what_matters_in_between(
    bench: Bench, sql: SqlStorage
) -> None:
    outcomes = [Outcome.UNAVAILABLE] * 30
    outcomes[10] = Outcome.IN_DOUBT
    leased = await tried(bench, *outcomes)
    assert leased.number == 31
    stored = await bench.read(leased)
    numbers = [attempt.number for attempt in stored.attempts]
    assert len(numbers) < 12
    assert numbers[:3] == [1, 2, 11], "11 is in doubt"
    assert numbers[-4:] == [28, 29, 30, 31]
    assert len(stored.events) < 30
    assert told(stored)[0] == "created"
    assert "in_doubt" in told(stored)
    [(_, missing)] = not_kept(stored)
    plain = ("attempt", "queued")
    kept = sum(type_ in plain for type_ in told(stored))
    assert kept + missing == 1 + 31 + 30, "queued at first, each attempt, and what followed from each but the last"
    await bench.settle(leased, Outcome.ACCEPTED)
    assert (await bench.status(leased))[0] is Status.SENT


@only_sql
@pytest.mark.usefixtures("short")
async def test_a_caller_can_not_make_a_history_as_long_as_one_likes(bench: Bench, sql: SqlStorage) -> None:
    new = new_email()
    await sql.accept(new)
    for _ in range(20):
        await sql.cancel(SHOP, new.email.id)
        await sql.send(SHOP, new.email.id, bench.clock() + 60_000)
        await sql.reschedule(SHOP, new.email.id, bench.clock() + 90_000, None)
    stored = await bench.read(EmailId(new.email.id))
    assert len(stored.events) < 20
    assert {type_ for type_, _ in not_kept(stored)} <= {"cancelled", "scheduled", "rescheduled"}
    assert stored.events[-1][1].type is EventType.RESCHEDULED
