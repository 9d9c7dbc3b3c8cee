"""The two tables: every row that there is, and nothing else."""

import itertools

import pytest

from hes.model import Delivery, EmailId, OnDoubt, Outcome, Reason, Status
from hes.transitions import GATE_EFFECTS, TRANSITIONS, Cause, GateEffect, Target, allows, move

# from | by | to, written down a second time and by hand: a slip in the table can't excuse itself.
ROWS = """
- | accept | draft
- | accept | scheduled
- | accept | queued
- | all suppressed | failed suppressed
draft | send | queued
draft | send | scheduled
draft | cancel | cancelled
scheduled, queued | due and leased | sending
draft | a draft's time is over | cancelled
scheduled, queued | cancel | cancelled
scheduled, queued | expiry | failed expired
scheduled, queued | expiry | held expired_in_doubt
scheduled | promote | queued
scheduled | reschedule | scheduled
scheduled | reschedule | queued
scheduled, queued | evidence: accepted | sent
scheduled, queued | declined by all usable | failed no_provider
scheduled, queued | declined by all usable | held doubt
scheduled, queued | all suppressed | failed suppressed
sending | accepted | sent
sending | evidence: accepted | sent
sending | rejected | failed rejected
sending | rejected | held rejected_after_doubt
sending | declined, refused, throttled, unavailable, not_tried | queued
sending | declined by all usable | failed no_provider
sending | declined by all usable | held doubt
sending | in_doubt or lease lapsed | in_doubt
in_doubt | evidence: accepted | sent
in_doubt | evidence: surely not | queued
in_doubt | search over: resend | queued
in_doubt | search over: hold | held doubt
in_doubt | expiry | held expired_in_doubt
in_doubt | poison | held poison
in_doubt, held | resolve: sent | sent
in_doubt, held | resolve: resend | queued
in_doubt, held | resolve: failed | failed operator
held | evidence: accepted | sent
held | evidence: surely not | queued
held | evidence: surely not | failed expired
held | evidence: surely not | failed rejected
failed, cancelled | send again | queued
failed, cancelled | send again | scheduled
failed, cancelled | evidence: accepted | sent
failed | failed by a provider no longer believed | queued
sent | events | delivered
sent | events | bounced
sent | events | complained
delivered | events | bounced
delivered, bounced | events | complained
scheduled, queued, sending, in_doubt | hes db restored | held restored
"""


def rows() -> list[tuple[Status | None, Cause, Target]]:
    found = []
    for line in ROWS.strip().splitlines():
        before, cause, after = (part.strip() for part in line.split("|"))
        status, _, reason = after.partition(" ")
        target = Target(Status(status), Reason(reason) if reason else None)
        names = before.split(", ")
        found += [(None if name == "-" else Status(name), Cause(cause), target) for name in names]
    return found


def delivery(status: Status) -> Delivery:
    return Delivery(
        email_id=EmailId("1"),
        project="p",
        status=status,
        due_at=0,
        expires_at=1,
        expires_in=1,
        on_doubt=OnDoubt.RESEND,
        attempt_timeout=1,
    )


def test_the_table_has_these_rows_and_no_others() -> None:
    table = {(before, cause, to) for (before, cause), targets in TRANSITIONS.items() for to in targets}
    assert table == set(rows())


@pytest.mark.parametrize(("before", "cause", "target"), [row for row in rows() if row[0] is not None])
def test_each_row_moves_and_makes_a_new_version(before: Status, cause: Cause, target: Target) -> None:
    moved = move(delivery(before), cause, target.status, target.reason, due_at=7)
    assert (moved.status, moved.reason, moved.due_at, moved.version) == (target.status, target.reason, 7, 2)


def test_nothing_else_moves() -> None:
    known = set(rows())
    for before, cause, status, reason in itertools.product(Status, Cause, Status, [None, *Reason]):
        if (before, cause, Target(status, reason)) in known:
            continue
        with pytest.raises(ValueError, match="no move"):
            move(delivery(before), cause, status, reason)


def test_allows_says_whether_there_is_a_row_at_all() -> None:
    known = {(before, cause) for before, cause, _ in rows()}
    for before, cause in itertools.product(Status, Cause):
        assert allows(before, cause) == ((before, cause) in known)


def test_every_status_is_reached_and_every_reason_is_given() -> None:
    targets = {target for *_, target in rows()}
    assert {target.status for target in targets} == set(Status)
    assert {target.reason for target in targets} == {None, *Reason}


@pytest.mark.parametrize(
    ("outcome", "effect"),
    [
        (Outcome.ACCEPTED, GateEffect.GOOD),
        (Outcome.REJECTED, GateEffect.GOOD),
        (Outcome.DECLINED, GateEffect.GOOD),
        (Outcome.REFUSED, GateEffect.SHUT),
        (Outcome.THROTTLED, GateEffect.SLOWED),
        (Outcome.UNAVAILABLE, GateEffect.BAD),
        (Outcome.IN_DOUBT, GateEffect.BAD),
    ],
)
def test_what_an_outcome_says_of_the_provider(outcome: Outcome, effect: GateEffect) -> None:
    assert GATE_EFFECTS[outcome] is effect


def test_every_outcome_says_something_of_the_provider() -> None:
    assert set(GATE_EFFECTS) == set(Outcome)
