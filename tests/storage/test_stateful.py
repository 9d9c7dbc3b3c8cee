"""Any order of whatever can happen to emails, on a real database, with several mailers: the invariants always hold.

Hypothesis chooses what happens next. After each step all that is stored is read and held against what it was before:
see `Lives.hold_against`. What is checked is what is promised, not what the policy decides.

There are no preconditions: several mailers that lease at once get now this, now that, and Hypothesis takes a choice
that depends on it for flaky. What can't be done now is left, or what it needs is done first.
"""

import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct
from msgspec.structs import replace

from hes.case import Means
from hes.errors import KeyReused, WrongState
from hes.model import (
    Attempt,
    AttemptId,
    Decision,
    Delivery,
    EmailId,
    Evidence,
    Leased,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Status,
)
from hes.policy import Policy
from hes.searching import Way
from hes.storage import tables
from hes.storage.accepting import KEY_LIFETIME_MS
from hes.storage.ledger import attempt_of, delivery_of
from hes.storage.records import Accepted
from hes.storage.searches import Asked, Asking
from hes.storage.sql import SqlStorage
from hes.transitions import TRANSITIONS
from tests import postgres
from tests.storage.harness import (
    DAY_SECONDS,
    KINDS,
    LEASE_SECONDS,
    RULES,
    SHOP,
    FakeClock,
    ended,
    new_email,
    next_id,
    postgres_without_hints,
    rooms,
)

OWNERS = (0, 1, 2)
"""Mailers. On SQLite they are one process."""

MOST = 6
"""Emails. With more of them less happens to each."""

WENT_OUT = {Status.SENT, Status.DELIVERED, Status.BOUNCED, Status.COMPLAINED}
SURELY_NOT = {Outcome.REJECTED, Outcome.DECLINED, Outcome.REFUSED, Outcome.THROTTLED, Outcome.UNAVAILABLE}

MOVES = {(before, target.status) for (before, _), targets in TRANSITIONS.items() for target in targets}
# One transaction may go through a doubt: it is told, but never seen from outside.
MOVES |= {(before, after) for before, via in MOVES for doubt, after in MOVES if via is doubt is Status.IN_DOUBT}


MEANS = {"a": Means(doubt_seconds=15, replay_seconds=600, look_up_seconds=DAY_SECONDS)}
"""Provider b can't be asked: about its doubts the sender's policy acts at once."""


def searching_policy() -> Policy:
    return Policy(replace(RULES, means=MEANS), random.Random(7))


class Life(Struct, frozen=True):
    """All that is stored of one email's way."""

    delivery: Delivery
    attempts: tuple[Attempt, ...]
    timeline: tuple[str, ...]

    def attempt(self, attempt_id: AttemptId) -> Attempt | None:
        return next((a for a in self.attempts if a.id == attempt_id), None)


class Hand(Struct, frozen=True):
    """What a mailer has in hand."""

    owner: int
    leased: Leased


class Question(Struct, frozen=True):
    """What a mailer asks a provider."""

    owner: int
    asking: Asking
    since: int
    until: int
    """It ends before that, answered or not."""


def read_all(connection: sa.Connection, _now: int) -> dict[EmailId, Life]:
    attempts: dict[EmailId, list[Attempt]] = {}
    for row in connection.execute(sa.select(tables.attempts).order_by(tables.attempts.c.number)):
        attempt = attempt_of(row)
        attempts.setdefault(attempt.email_id, []).append(attempt)
    events: dict[EmailId, list[str]] = {}
    for row in connection.execute(sa.select(tables.events).order_by(tables.events.c.id)):
        events.setdefault(row.email_id, []).append(row.type)
    deliveries = (delivery_of(row) for row in connection.execute(sa.select(tables.deliveries)))
    return {
        d.email_id: Life(d, tuple(attempts.get(d.email_id, ())), tuple(events.get(d.email_id, ()))) for d in deliveries
    }


@asynccontextmanager
async def on_sqlite(clock: FakeClock) -> AsyncIterator[list[SqlStorage]]:
    with tempfile.TemporaryDirectory() as folder:
        async with KINDS["sqlite"].open(Path(folder), searching_policy(), clock, next_id) as storage:
            assert isinstance(storage, SqlStorage)
            yield [storage] * len(OWNERS)


@asynccontextmanager
async def on_postgres(clock: FakeClock) -> AsyncIterator[list[SqlStorage]]:
    async with (
        postgres.database() as url,
        postgres_without_hints(url, clock, searching_policy) as one,
        postgres_without_hints(url, clock, searching_policy) as two,
        postgres_without_hints(url, clock, searching_policy) as three,
    ):
        yield [one, two, three]


owners = st.sampled_from(OWNERS)
choices = st.integers(0, 99)
"""One of however many there are."""


class Lives(RuleBasedStateMachine):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.clock = FakeClock()
        self._portal = anyio.from_thread.start_blocking_portal()
        self.portal = self._portal.__enter__()
        self._opened = self.portal.wrap_async_context_manager(kind(self.clock))
        self.storages: list[SqlStorage] = self._opened.__enter__()
        self.lives: dict[EmailId, Life] = {}
        self.hands: list[Hand] = []
        self.questions: list[Question] = []
        self.keys: dict[str, tuple[bytes, Accepted]] = {}

    def teardown(self) -> None:
        self._opened.__exit__(None, None, None)
        self._portal.__exit__(None, None, None)

    def some(self, *statuses: Status) -> list[EmailId]:
        return sorted(email_id for email_id, life in self.lives.items() if life.delivery.status in statuses)

    def call(self, owner: int, verb: str, *arguments: Any, **named: Any) -> Any:
        async def work() -> Any:
            return await getattr(self.storages[owner], verb)(*arguments, **named)

        return self.portal.call(work)

    # --- what happens --------------------------------------------------------------------------------------------

    @initialize(owner=owners, in_doubt=st.booleans())
    def begin(self, owner: int, *, in_doubt: bool) -> None:
        """One of each kind, in somebody's hands or already in doubt."""
        for on_doubt in OnDoubt:
            self.accept(owner, on_doubt, DAY_SECONDS, None, b"this")
        self.lease(owner, 2, 1, is_idle=True)
        self.hold_against()
        while in_doubt and self.hands:
            self.end(0, Outcome.IN_DOUBT, again=False)
            self.hold_against()

    @rule(
        owner=owners,
        on_doubt=st.sampled_from(OnDoubt),
        expires_in=st.sampled_from([60, DAY_SECONDS]),
        key=st.sampled_from([None, None, "one", "two"]),
        request=st.sampled_from([b"this", b"that"]),
    )
    def accept(self, owner: int, on_doubt: OnDoubt, expires_in: int, key: str | None, request: bytes) -> None:
        if len(self.lives) == MOST:
            return
        new = new_email(on_doubt=on_doubt, expires_in=expires_in, key=key, request=request)
        known = self.keys.get(key or "")
        is_known = known is not None and known[1].created_at > self.clock() - KEY_LIFETIME_MS
        try:
            answer = self.call(owner, "accept", new)
        except KeyReused:
            assert is_known
            assert known is not None
            assert known[0] != request
            return
        if is_known:
            assert known is not None
            assert (request, answer) == known, "the first answer again, to the letter"
            return
        assert answer == Accepted(new.email.id, Status.QUEUED, self.clock())
        if key is not None:
            self.keys[key] = request, answer
        self.lives[new.email.id] = life = self.read()[new.email.id]
        assert (life.delivery.status, life.attempts, life.timeline) == (Status.QUEUED, (), ("created", "queued"))

    @rule(owner=owners, a=st.integers(0, 2), b=st.integers(0, 2), is_idle=st.booleans())
    def lease(self, owner: int, a: int, b: int, *, is_idle: bool) -> None:
        self.take(self.give_out({owner: rooms(a=a, b=b)}, is_idle=is_idle), {"a": a, "b": b})

    @rule(a=st.integers(1, 2), b=st.integers(1, 2))
    def lease_together(self, a: int, b: int) -> None:
        """All mailers at once."""
        count = len(OWNERS)
        self.take(self.give_out({owner: rooms(a=a, b=b) for owner in OWNERS}), {"a": a * count, "b": b * count})

    def give_out(self, rooms_of: dict[int, Any], *, is_idle: bool = True) -> list[Hand]:
        found: list[Hand] = []

        async def lease(owner: int) -> None:
            leases = await self.storages[owner].lease(
                rooms_of[owner], size_budget=10**6, is_idle=is_idle, deadline=99.0
            )
            found.extend(Hand(owner, leased) for leased in leases.items)

        async def lease_all() -> None:
            async with anyio.create_task_group() as mailers:
                for owner in rooms_of:
                    mailers.start_soon(lease, owner)

        self.portal.call(lease_all)
        return found

    def take(self, hands: list[Hand], most: dict[str, int]) -> None:
        """I2 and I3: who may be given out."""
        assert len({hand.leased.email.id for hand in hands}) == len(hands), "leased twice at once"
        for leased in (hand.leased for hand in hands):
            life = self.lives[leased.email.id]
            assert not self.is_replayed(leased.email.id), "by now it may be with the provider that is asked again"
            most[leased.provider] -= 1
            assert most[leased.provider] >= 0, "more than there are hands"
            assert life.delivery.status is Status.QUEUED
            assert life.delivery.due_at <= self.clock() < life.delivery.expires_at
            assert not any(a.is_accepted for a in life.attempts), "somebody took it already"
            if life.delivery.on_doubt is not OnDoubt.RESEND:
                assert not any(a.is_open_doubt for a in life.attempts), "somebody may have taken it already"
            for attempt in life.attempts:
                is_excused = attempt.resolution is not None or life.delivery.on_doubt is OnDoubt.RESEND
                assert attempt.outcome in SURELY_NOT or is_excused
        self.hands += hands

    @rule(which=choices, again=st.booleans())
    def doubt(self, which: int, *, again: bool) -> None:
        self.end(which, Outcome.IN_DOUBT, again=again)

    @rule(which=choices, outcome=st.sampled_from([*Outcome, None]), again=st.booleans())
    def settle(self, which: int, outcome: Outcome | None, *, again: bool) -> None:
        self.end(which, outcome, again=again)

    def end(self, which: int, outcome: Outcome | None, *, again: bool) -> None:
        if not self.hands:
            self.lease(0, 2, 2, is_idle=True)
            self.hold_against()
        if not self.hands:
            return
        hand = self.hands.pop(which % len(self.hands))
        self.knows_otherwise(hand.leased.email.id)
        before = self.lives[hand.leased.email.id]
        told = [ended(hand.leased, outcome, self.clock())]
        lost = self.call(hand.owner, "settle", told, {}).lost
        after = self.read()[hand.leased.email.id]
        if before.delivery.attempt_id == hand.leased.attempt_id:
            assert lost == ()
            assert after.delivery.attempt_id is None
            settled = after.attempt(hand.leased.attempt_id)
            assert (settled and settled.outcome) is outcome or (settled is not None and settled.is_accepted)
        elif before.delivery.status is Status.SENDING:
            assert after.delivery.attempt_id == before.delivery.attempt_id, "another mailer has it in hand"
        else:
            late = after.attempt(hand.leased.attempt_id)
            is_evidence = late is not None and late.resolution is not None
            assert is_evidence or after.delivery.status is before.delivery.status
        if again:
            self.call(hand.owner, "settle", told, {})
            assert self.read()[hand.leased.email.id] == after, "an attempt settles once"

    @rule(owner=owners)
    def crash(self, owner: int) -> None:
        """It forgets what it has in hand."""
        self.hands = [hand for hand in self.hands if hand.owner != owner]
        self.questions = [question for question in self.questions if question.owner != owner]

    @rule(owner=owners, most=st.integers(1, 2))
    def ask(self, owner: int, most: int) -> None:
        """Questions about doubts are taken; when they are answered is another matter."""

        async def claim() -> list[Asking]:
            return await self.storages[owner].searches.claim({"a": most, "b": most}, {})

        asked = self.portal.call(claim)
        assert len(asked) <= most, "nobody can ask b"
        for asking in asked:
            life = self.lives[asking.email.id]
            attempt = life.attempt(asking.search.attempt_id)
            assert attempt is not None
            assert attempt.is_open_doubt
            assert attempt.provider == "a"
            others = [q for q in self.questions if q.asking.search.attempt_id == attempt.id]
            assert not any(self.clock() < q.since + LEASE_SECONDS * 1000 for q in others), "somebody is asking"
            if asking.way is Way.REPLAY:
                assert attempt == life.attempts[-1]
                assert life.delivery.status is Status.IN_DOUBT or life.delivery.reason is Reason.DOUBT
            now = self.clock()
            self.questions.append(Question(owner, asking, now, now + round(asking.seconds * 1000)))

    def is_replayed(self, email_id: EmailId) -> bool:
        return any(
            q.asking.email.id == email_id and q.asking.way is Way.REPLAY and self.clock() < q.until
            for q in self.questions
        )

    @rule(which=choices, accepted=st.booleans(), again=st.booleans())
    def answer(self, which: int, *, accepted: bool, again: bool) -> None:
        """However late."""
        if not self.questions:
            self.ask(0, 2)
        if not self.questions:
            return
        question = self.questions.pop(which % len(self.questions))
        search, way = question.asking.search, question.asking.way
        asked = Asked(search=search, way=way, answer="accepted" if accepted else "nothing", accepted=accepted)

        async def tell() -> None:
            await self.storages[question.owner].searches.answer(asked)

        before = self.lives[search.email_id]
        self.portal.call(tell)
        after = self.read()[search.email_id]
        attempt = after.attempt(search.attempt_id)
        assert attempt is not None
        if not accepted:
            assert (after.delivery, after.attempts) == (before.delivery, before.attempts), "absence proves nothing"
        else:
            assert attempt.is_accepted
            assert after.delivery.status in WENT_OUT or before.delivery.status is Status.SENDING
        if again:
            self.portal.call(tell)
            assert self.read()[search.email_id] == after, "the same again tells nothing new"

    def knows_otherwise(self, email_id: EmailId) -> None:
        """A person or the provider has said what became of it, so that it moves while it is asked about."""
        self.questions = [q for q in self.questions if q.asking.email.id != email_id or q.asking.way is Way.LOOK_UP]

    @rule(owner=owners, is_careful=st.booleans())
    def lapse(self, owner: int, *, is_careful: bool) -> None:
        """A lease's time goes by. Who sweeps knows what it has in hand itself, and may not have it swept."""
        self.clock.advance(LEASE_SECONDS + 1)
        held = {hand.leased.attempt_id for hand in self.hands if hand.owner == owner and is_careful}
        self.call(owner, "sweep", held)
        for email_id, life in self.read().items():
            before = self.lives[email_id].delivery
            is_kept = before.attempt_id in held or (before.lease_ends_at or 0) > self.clock()
            assert life.delivery.attempt_id == (before.attempt_id if is_kept else None)

    @rule(owner=owners, seconds=st.sampled_from([1, 20, 600]))
    def wait(self, owner: int, seconds: int) -> None:
        self.clock.advance(seconds)
        self.call(owner, "sweep")
        self.hold_against()
        self.call(owner, "sweep")  # what lapsed may have expired as well
        for life in self.read().values():
            is_over = life.delivery.expires_at <= self.clock()
            assert not (is_over and life.delivery.status in {Status.SCHEDULED, Status.QUEUED, Status.IN_DOUBT})

    @rule(owner=owners)
    def a_day_goes_by(self, owner: int) -> None:
        if self.some(Status.IN_DOUBT):
            self.wait(owner, DAY_SECONDS)

    @rule(owner=owners, which=choices, verb=st.sampled_from(["cancel", "send", "sent", "resend", "failed"]))
    def person(self, owner: int, which: int, verb: str) -> None:
        """Somebody decides, mostly where there is something to decide."""
        fit = {"cancel": self.some(Status.QUEUED), "send": self.some(Status.FAILED, Status.CANCELLED)}
        ids = fit.get(verb, self.some(Status.HELD, Status.IN_DOUBT)) or sorted(self.lives)
        email_id = ids[which % len(ids)]
        self.knows_otherwise(email_id)
        try:
            match verb:
                case "cancel":
                    self.call(owner, "cancel", SHOP, email_id)
                case "send":
                    self.call(owner, "send", SHOP, email_id, None)
                case _:
                    self.call(owner, "resolve", SHOP, email_id, Decision(verb), "ann")
        except WrongState:
            assert self.read() == self.lives, "refused, and nothing is changed"

    @rule(owner=owners, which=choices, accepted=st.booleans())
    def evidence(self, owner: int, which: int, *, accepted: bool) -> None:
        attempts = [a for email_id in sorted(self.lives) for a in self.lives[email_id].attempts]
        if not attempts:
            return
        attempt = attempts[which % len(attempts)]
        self.knows_otherwise(attempt.email_id)
        before = self.lives[attempt.email_id]
        told = Evidence(email_id=attempt.email_id, attempt_id=attempt.id, accepted=accepted, source="event")
        self.call(owner, "evidence", [told])
        after = self.read()[attempt.email_id]
        if before.delivery.status is Status.SENDING:
            assert after.delivery.attempt_id == before.delivery.attempt_id, "whatever ends that lease reads it"
        elif accepted:
            assert after.delivery.status in WENT_OUT
        self.call(owner, "evidence", [told])
        assert self.read()[attempt.email_id] == after, "the same again tells nothing new"

    # --- what always holds ---------------------------------------------------------------------------------------

    def read(self) -> dict[EmailId, Life]:
        async def work() -> dict[EmailId, Life]:
            return await self.storages[0]._database.read(read_all)

        return self.portal.call(work)

    @invariant()
    def hold_against(self) -> None:
        now = self.read()
        assert now.keys() == self.lives.keys(), "I1: nothing accepted is lost, and nothing else is there"
        for email_id, after in now.items():
            follows(self.lives[email_id], after)
            holds(after)
        self.lives = now


def follows(before: Life, after: Life) -> None:
    """What may become of it in one transaction."""
    old, new = before.delivery, after.delivery
    assert new.version > old.version or (new, after.attempts) == (old, before.attempts)
    news = after.timeline[len(before.timeline) :]
    assert new.version > old.version or set(news) <= {"in_doubt"}, "only a question without an answer changes nothing"
    assert new.status is old.status or (old.status, new.status) in MOVES
    assert after.timeline[: len(before.timeline)] == before.timeline, "nothing is struck out"
    for attempt in before.attempts:
        kept = after.attempt(attempt.id)
        if kept is None:
            assert attempt.outcome is None
            is_told = "not_tried" in after.timeline[len(before.timeline) :]
            assert is_told == (old.not_tried == 0), "the first in a row is told, and no other"
            continue
        assert (kept.number, kept.provider, kept.started_at) == (attempt.number, attempt.provider, attempt.started_at)
        assert attempt.outcome in {None, kept.outcome}, "an attempt ends once"
        assert kept.resolution is Resolution.ACCEPTED or attempt.resolution in {None, kept.resolution}


def holds(life: Life) -> None:
    """What is true of an email at any moment."""
    delivery, attempts = life.delivery, life.attempts
    is_leased = delivery.status is Status.SENDING
    assert is_leased == (delivery.attempt_id is not None) == (delivery.lease_ends_at is not None)
    assert [a.id for a in attempts if a.outcome is None] == ([delivery.attempt_id] if is_leased else [])
    assert [a.number for a in attempts] == list(range(1, delivery.attempts + 1))
    assert life.timeline.count("attempt") >= len([a for a in attempts if a.outcome is not None])
    is_taken, is_doubted = any(a.is_accepted for a in attempts), any(a.is_open_doubt for a in attempts)
    assert (delivery.reason is not None) == (delivery.status in {Status.HELD, Status.FAILED})
    match delivery.status:
        case Status.FAILED | Status.CANCELLED:
            assert not is_taken
            assert not is_doubted, "an email with an open doubt never ends failed or cancelled"
        case Status.SENT:
            assert is_taken or "resolved" in life.timeline
        case Status.QUEUED | Status.SCHEDULED:
            assert not is_taken
            assert not is_doubted or delivery.on_doubt is OnDoubt.RESEND
        case Status.IN_DOUBT:
            assert is_doubted
            assert not is_taken
        case Status.HELD:
            assert not is_taken


@pytest.mark.parametrize(("kind", "examples"), [(on_sqlite, 60), (on_postgres, 30)])
def test_whatever_happens_in_whatever_order(kind: Any, examples: int) -> None:
    run_state_machine_as_test(
        lambda: Lives(kind),  # type: ignore[arg-type]  # a factory is taken as well
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            phases=[Phase.generate],  # twenty steps are read sooner than they are made fewer
            suppress_health_check=list(HealthCheck),
        ),
    )
