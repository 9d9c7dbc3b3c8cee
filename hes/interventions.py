"""What people, time and better knowledge do to an email beside its way through a provider's hands. Pure.

Like `hes.policy` this is called inside storage's transactions, and makes only moves that `hes.transitions` has.
"""

from msgspec.structs import replace

from hes import searching, timeline
from hes.case import Case, Change, Rules
from hes.errors import WrongState
from hes.lanes import lane_of
from hes.model import Decision, Delivery, EventType, Millis, Outcome, Reason, Resolution, Status
from hes.routing import POISON_LAPSES, Routing
from hes.transitions import Cause, allows, move


def cancel(case: Case, now: Millis) -> Change | None:
    """None: it is cancelled already. Raises WrongState."""
    delivery = case.delivery
    if delivery.status is Status.CANCELLED:
        return None
    if case.open_doubts:
        can_resolve = allows(delivery.status, Cause.RESOLVE_SENT)
        then = "; decide with POST /v1/emails/{id}/resolve" if can_resolve else ""
        raise WrongState(f"a provider may have taken this email already{then}")
    if not allows(delivery.status, Cause.CANCEL):
        raise WrongState(f"an email that is `{delivery.status}` can't be cancelled")
    cancelled = move(delivery, Cause.CANCEL, Status.CANCELLED)
    return Change(cancelled, (timeline.entry(cancelled, EventType.CANCELLED, now),))


def resolve(case: Case, decision: Decision, now: Millis, by: str) -> Change:
    """A person decides; every open doubt is closed as `operator`. Raises WrongState."""
    delivery = case.delivery
    if not allows(delivery.status, Cause.RESOLVE_SENT):
        raise WrongState(
            f"an email that is `{delivery.status}` has nothing to resolve; only `held` and `in_doubt` have"
        )
    closed = tuple(replace(a, resolution=Resolution.OPERATOR) for a in case.open_doubts)
    told = timeline.entry(
        delivery, EventType.RESOLVED, now, decision=decision, by=by, attempts=[a.number for a in closed]
    )
    if decision is Decision.SENT:
        provider = closed[-1].provider if closed else delivery.provider
        sent = move(delivery, Cause.RESOLVE_SENT, Status.SENT, provider=provider)
        return Change(sent, (told, timeline.entry(sent, EventType.SENT, now, provider)), attempts=closed)
    if decision is Decision.FAILED:
        failed = move(delivery, Cause.RESOLVE_FAILED, Status.FAILED, Reason.OPERATOR)
        return Change(failed, (told, timeline.failed(failed, now)), attempts=closed)
    is_over = delivery.expires_at <= now
    queued = move(
        delivery,
        Cause.RESOLVE_RESEND,
        Status.QUEUED,
        due_at=now,
        tried=(),
        declined_by=(),  # a person may know better
        is_retry=False,
        expires_at=now + delivery.expires_in * 1000 if is_over else delivery.expires_at,
        # A suspect stays one: it gets one more try, alone again.
        lapses=min(delivery.lapses, POISON_LAPSES - 1),
        not_tried=0,
    )
    return Change(queued, (told, timeline.queued(queued, now)), attempts=closed)


def send(case: Case, send_at: Millis | None, now: Millis) -> Change:
    """A person wants it sent: a draft, what is scheduled, or once more what failed or was cancelled.

    `send_at` None: now, or when a draft says itself. Raises WrongState.
    """
    delivery = case.delivery
    if case.open_doubts:
        raise WrongState("a provider may have taken this email already; it can't be sent again while that is open")
    cause = next((c for c in (Cause.SEND, Cause.PROMOTE, Cause.SEND_AGAIN) if allows(delivery.status, c)), None)
    if cause is None:
        raise WrongState(f"an email that is `{delivery.status}` can't be sent; drafts, scheduled, failed ones can")
    if cause is Cause.PROMOTE and send_at is not None:
        return reschedule(case, send_at, now)
    if cause is Cause.SEND and send_at is None:
        send_at = delivery.send_at
    is_later = send_at is not None and send_at > now
    due_at = max(now, send_at or now)
    sent = move(
        delivery,
        cause,
        Status.SCHEDULED if is_later else Status.QUEUED,
        send_at=send_at,
        due_at=due_at,
        expires_at=due_at + delivery.expires_in * 1000,
        tried=(),
        declined_by=(),  # a person may know better
        is_retry=False,
        round=0,
        lapses=min(delivery.lapses, POISON_LAPSES - 1),
        not_tried=0,
    )
    told = timeline.scheduled(sent, EventType.SCHEDULED, now) if is_later else timeline.queued(sent, now)
    return Change(sent, (told,))


def reschedule(case: Case, send_at: Millis, now: Millis) -> Change:
    """Another time for what is scheduled. Raises WrongState."""
    delivery = case.delivery
    if not allows(delivery.status, Cause.RESCHEDULE):
        raise WrongState(f"an email that is `{delivery.status}` has no time that could be changed")
    due_at = max(now, send_at)
    moved = move(
        delivery,
        Cause.RESCHEDULE,
        Status.SCHEDULED if send_at > now else Status.QUEUED,
        send_at=send_at,
        due_at=due_at,
        expires_at=due_at + delivery.expires_in * 1000,
    )
    return Change(moved, (timeline.scheduled(moved, EventType.RESCHEDULED, now),))


def check_edit(delivery: Delivery) -> None:
    """Its content can still be another one. Raises WrongState."""
    if delivery.status is not Status.DRAFT:
        raise WrongState(f"an email that is `{delivery.status}` can't be edited; only a draft can")


def expire(case: Case, now: Millis) -> Change | None:
    """Its time is over. None: it is not, or nothing follows from it."""
    delivery = case.delivery
    if delivery.expires_at > now or not allows(delivery.status, Cause.EXPIRY):
        return None
    if case.open_doubts:
        held = move(delivery, Cause.EXPIRY, Status.HELD, Reason.EXPIRED_IN_DOUBT)
        return Change(held, (timeline.held(held, now),))
    failed = move(delivery, Cause.EXPIRY, Status.FAILED, Reason.EXPIRED)
    return Change(failed, (timeline.failed(failed, now),))


def expires_at(rules: Rules, delivery: Delivery) -> Millis | None:
    """When an email is given up; a draft: when it is dropped, counted from its last edit, or from its own `send_at`.

    None: never.
    """
    if delivery.status is not Status.DRAFT:
        return delivery.expires_at
    return None if rules.keep_drafts_ms is None else delivery.due_at + rules.keep_drafts_ms


def drop_draft(rules: Rules, case: Case, now: Millis) -> Change | None:
    """Nobody has edited or sent it for long. None: it is no draft, or young."""
    delivery = case.delivery
    over_at = expires_at(rules, delivery)
    if over_at is None or over_at > now or not allows(delivery.status, Cause.DRAFT_IS_OLD):
        return None
    cancelled = move(delivery, Cause.DRAFT_IS_OLD, Status.CANCELLED)
    why = "nobody edited or sent this draft before its time was over"
    return Change(cancelled, (timeline.entry(cancelled, EventType.CANCELLED, now, why=why),))


def disbelieve(routing: Routing, case: Case, provider: str, now: Millis) -> Change | None:
    """That provider rejected everything, so what it said of this email counts for nothing. None: nothing follows.

    Another is asked, if the email's time is not over and there is another.
    """
    delivery = case.delivery
    if delivery.reason is not Reason.REJECTED or delivery.expires_at <= now or case.open_doubts:
        return None
    last = case.attempts[-1] if case.attempts else None
    is_its_word = last is not None and last.provider == provider and last.outcome is Outcome.REJECTED
    if not is_its_word or all(name == provider for name in routing.usable(lane_of(delivery))):
        return None
    queued = move(delivery, Cause.NOT_BELIEVED, Status.QUEUED, tried=(provider,), due_at=now)
    why = f"{provider} rejects everything, so its word does not count"
    return Change(queued, (timeline.queued(queued, now, last, why=why),))


ON_THEIR_WAY = tuple(status for status in Status if allows(status, Cause.RESTORED))


def restore(rules: Rules, case: Case, now: Millis) -> Change | None:
    """The database is a backup of earlier: whatever was on its way then may have gone out since. None: it was not.

    A person decides about it. What was in a provider's hands is in doubt, and looked up.
    """
    delivery = case.delivery
    if not allows(delivery.status, Cause.RESTORED):
        return None
    detail = "the database was restored from a backup made while this call was being made"
    in_hand = case.attempt(delivery.attempt_id)
    over = () if in_hand is None else (replace(in_hand, outcome=Outcome.IN_DOUBT, ended_at=now, detail=detail),)
    begun = () if in_hand is None else timeline.begun_untold(delivery, in_hand)
    free = replace(delivery, attempt_id=None, lease_ends_at=None, not_tried=0)
    held = move(free, Cause.RESTORED, Status.HELD, Reason.RESTORED)
    search = searching.begin(rules, over[0], now) if over else None
    return Change(held, (*begun, timeline.held(held, now)), attempts=over, search=search)
