"""What follows from what: every move of an email, and when and where it is tried next. Pure: no I/O, no clock.

Storage calls this inside its transactions and writes down what comes back; nothing else in HES decides.

Which moves exist at all is the table in `hes.transitions`; here is when they are made. The public methods of `Policy`
are what can happen to an email: it is leased, its lease ends with an outcome (`settle`) or without one (`lapse`),
somebody finds something out (`evidence`). What people and time do is in `hes.interventions`.

Who takes an email next is decided in `hes.routing`.

What is in doubt stays so while its provider is asked (`hes.searching`); then the sender's policy acts.
"""

import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from hes import searching, timeline
from hes.case import Backoff, Case, Change, Rules
from hes.lanes import lane_of
from hes.model import (
    Answer,
    Attempt,
    AttemptId,
    Delivery,
    Ended,
    EventType,
    Evidence,
    Millis,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Room,
    Status,
)
from hes.routing import POISON_LAPSES, Routing
from hes.transitions import Cause, move

Rooms = Mapping[str, Room]

NOBODY_IS_SHUT: Rooms = MappingProxyType({})
"""For what is decided where the providers' gates are not known."""

NOT_WRITTEN = (
    "nobody wrote down how the call ended before its lease ran out: the process that was sending it went away or stood "
    "still, or the database was away or lost it in a failover"
)
PROCESS_DIED = "the process that was sending it ended before it wrote down how the call ended"

_BACKS_OFF = frozenset({Outcome.UNAVAILABLE, Outcome.IN_DOUBT, Outcome.REJECTED})
"""`rejected`: by a provider that is not believed, and nobody else is there to ask."""

WENT_OUT = frozenset({Status.SENT, Status.DELIVERED, Status.BOUNCED, Status.COMPLAINED})


class Policy:
    """All decisions. Randomness is passed in, for the jitter of the backoff."""

    def __init__(self, rules: Rules, rng: random.Random) -> None:
        self.rules = rules
        self.routing = Routing(rules)
        self._rng = rng

    # --- a lease and its end -------------------------------------------------------------------------------------

    def lease(
        self, delivery: Delivery, provider: str, attempt_id: AttemptId, render_version: int, now: Millis
    ) -> Change:
        """Give it into a provider's free hand. One that was tried in this round already begins the next one."""
        number = delivery.attempts + 1
        is_next_round = provider in delivery.tried
        leased = move(
            replace(delivery, tried=(), round=delivery.round + 1, is_retry=True) if is_next_round else delivery,
            Cause.LEASE,
            Status.SENDING,
            attempt_id=attempt_id,
            lease_ends_at=now + _millis(self.rules.lease_seconds),
            attempts=number,
            provider=provider,
        )
        attempt = Attempt(
            id=attempt_id,
            email_id=delivery.email_id,
            number=number,
            provider=provider,
            started_at=now,
            render_version=render_version,
        )
        events = () if leased.not_tried else timeline.begun(leased, attempt)
        return Change(leased, events, attempts=(attempt,))

    def settle(self, case: Case, ended: Ended, now: Millis, rooms: Rooms = NOBODY_IS_SHUT) -> Change | None:
        """A sender says how its attempt ended. None: nothing new.

        `rooms`: how the providers stand now, so that it does not wait for one that is shut.

        The fence: only the attempt that holds the lease settles the delivery. What comes after the lease was lost is
        evidence about that attempt, and moves the delivery only as evidence may.
        """
        attempt = case.attempt(ended.attempt_id)
        if attempt is None:
            return None  # not tried, and told before
        if not holds_lease(case, ended):
            return self._late(case, attempt, ended, now)
        if ended.answer is None and not attempt.is_accepted:
            return self._not_tried(case, attempt, ended, now)
        # Not tried, says the sender, and accepted, says the evidence: one of them is wrong, so it is in doubt at least.
        answer = ended.answer or Answer(outcome=Outcome.IN_DOUBT, detail=ended.note)
        over = replace(
            attempt,
            outcome=answer.outcome,
            ended_at=ended.ended_at,
            status_code=answer.status_code,
            provider_message_id=answer.provider_message_id or attempt.provider_message_id,
            detail=answer.detail or None,
        )
        return self._end_lease(case, over, now, rooms, is_believed=ended.is_believed)

    def _late(self, case: Case, attempt: Attempt, ended: Ended, now: Millis) -> Change | None:
        proof = _late_evidence(ended)
        if proof is None:
            return None
        if ended.answer is not None and ended.answer.outcome in (Outcome.DECLINED, Outcome.REJECTED):
            # It moves nothing any more, but that provider need not be asked again.
            case = replace(case, delivery=_declined(case.delivery, attempt.provider))
        return self.evidence(case, proof, now)

    def lapse(self, case: Case, now: Millis, detail: str = NOT_WRITTEN) -> Change:
        """The lease ran out, or its process is proven dead, and no outcome came. `detail` says which of them."""
        attempt = case.attempt(case.delivery.attempt_id)
        if attempt is None:
            raise ValueError(f"email {case.delivery.email_id} is leased without an attempt")
        over = replace(attempt, outcome=Outcome.IN_DOUBT, ended_at=now, detail=detail)
        lapsed = replace(case, delivery=replace(case.delivery, lapses=case.delivery.lapses + 1))
        return self._end_lease(lapsed, over, now, NOBODY_IS_SHUT, lapsed=True)

    def _not_tried(self, case: Case, attempt: Attempt, ended: Ended, now: Millis) -> Change:
        """No byte went out: the attempt never was. Kept evidence about earlier ones is read all the same.

        Once may happen to any email, and costs it nothing. From the second in a row on it waits, whatever the reason,
        and nothing more is told: should the reason stay, it must keep neither the database nor its timeline busy.
        """
        earlier = [a for a in case.attempts if a.id != attempt.id]
        times_before = case.delivery.not_tried
        free = replace(
            _unleased(case.delivery),
            attempts=case.delivery.attempts - 1,
            provider=earlier[-1].provider if earlier else None,
            not_tried=times_before + 1,
        )
        told = timeline.entry(free, EventType.NOT_TRIED, now, attempt.provider, why=ended.note)
        events = () if times_before else (told,)
        proof = _first_accepted(earlier)
        if proof is not None:
            sent = self._sent(free, Cause.EVIDENCE_ACCEPTED, proof, now, earlier)
            return replace(sent, events=(*events, *sent.events), dropped=attempt.id)
        pause = self._backoff(attempt.provider, times_before - 1) if times_before else 0
        queued = move(free, Cause.TRY_AGAIN, Status.QUEUED, due_at=now + _millis(pause))
        return Change(queued, events, dropped=attempt.id)

    def _end_lease(
        self,
        case: Case,
        over: Attempt,
        now: Millis,
        rooms: Rooms,
        *,
        is_believed: bool = True,
        lapsed: bool = False,
    ) -> Change:
        """What follows from the outcome of the attempt that held the lease."""
        free = replace(_unleased(case.delivery), not_tried=0)
        attempts = [over if a.id == over.id else a for a in case.attempts]
        # Evidence that came in while it was leased was kept for this moment, and the first proof counts.
        proof = _first_accepted(a for a in attempts if a.id != over.id) or (over if over.is_accepted else None)
        if proof is not None:
            cause = Cause.ACCEPTED if proof.outcome is Outcome.ACCEPTED else Cause.EVIDENCE_ACCEPTED
            change = self._sent(free, cause, proof, now, attempts)
        elif over.outcome is Outcome.REJECTED:
            change = self._rejected(free, over, attempts, now, rooms, is_believed=is_believed)
        elif over.is_open_doubt:
            change = self._doubt(free, over, now, rooms, lapsed=lapsed)
        else:
            change = self._try_again(free, over, attempts, now, rooms, lapsed=lapsed)
        events = (*timeline.begun_untold(case.delivery, over), *change.events)
        return replace(change, attempts=(over,), events=events)

    def _sent(
        self, delivery: Delivery, cause: Cause, proof: Attempt, now: Millis, attempts: Iterable[Attempt]
    ) -> Change:
        sent = move(delivery, cause, Status.SENT, provider=proof.provider)
        events = [timeline.entry(sent, EventType.SENT, now, proof.provider, attempt=proof.number)]
        taken = [a for a in attempts if a.is_accepted]
        if len(taken) > 1:
            events.append(timeline.duplicate(sent, taken, now))
        return Change(sent, tuple(events))

    def _rejected(
        self,
        delivery: Delivery,
        over: Attempt,
        attempts: Iterable[Attempt],
        now: Millis,
        rooms: Rooms,
        *,
        is_believed: bool,
    ) -> Change:
        is_heard_alone = not _also_rejected(attempts, over.provider) and self._is_another_usable(
            delivery, over.provider
        )
        if not is_believed and is_heard_alone:
            queued = move(self._next_try(delivery, over, now, rooms), Cause.TRY_AGAIN, Status.QUEUED)
            why = "the provider rejects everything of late; another is asked before this counts"
            return Change(queued, (timeline.queued(queued, now, over, why=why),))
        # One copy may be on its way already: then the email is not failed, whatever the second provider thinks of it.
        if any(a.is_open_doubt for a in attempts):
            held = move(delivery, Cause.REJECTED, Status.HELD, Reason.REJECTED_AFTER_DOUBT)
            return Change(held, (timeline.held(held, now, over),))
        failed = move(delivery, Cause.REJECTED, Status.FAILED, Reason.REJECTED)
        return Change(failed, (timeline.failed(failed, now, over),))

    def _is_another_usable(self, delivery: Delivery, provider: str) -> bool:
        return any(name != provider for name in self.routing.usable(lane_of(delivery)))

    def verdicts(self, case: Case, ended: Ended) -> list[tuple[str, bool]]:
        """Providers whose rejection of this email is judged by this outcome, each with whether it proves them wrong.

        One that was not believed is right as well if there was nobody else to ask.
        """
        outcome = ended.answer.outcome if ended.answer else None
        if outcome not in (Outcome.ACCEPTED, Outcome.REJECTED):
            return []
        others = _also_rejected(case.attempts, ended.provider)
        judged = [(name, outcome is Outcome.ACCEPTED) for name in others]
        if outcome is Outcome.REJECTED and (others or not self._is_another_usable(case.delivery, ended.provider)):
            judged.append((ended.provider, False))
        return judged

    def _try_again(
        self,
        delivery: Delivery,
        over: Attempt,
        attempts: Iterable[Attempt],
        now: Millis,
        rooms: Rooms,
        *,
        lapsed: bool,
    ) -> Change:
        """Surely not accepted, and not the email's fault: due again, at another provider or later."""
        if over.outcome is Outcome.DECLINED:
            delivery = _declined(delivery, over.provider)
            if not self.routing.usable(lane_of(delivery)):
                return self._no_provider(delivery, over, attempts, now)
        queued = move(self._next_try(delivery, over, now, rooms, lapsed=lapsed), Cause.TRY_AGAIN, Status.QUEUED)
        return Change(queued, (timeline.queued(queued, now, over),))

    def _no_provider(self, delivery: Delivery, over: Attempt, attempts: Iterable[Attempt], now: Millis) -> Change:
        if any(a.is_open_doubt for a in attempts):
            held = move(delivery, Cause.ALL_DECLINED, Status.HELD, Reason.DOUBT)
            return Change(held, (timeline.held(held, now, over),))
        failed = move(delivery, Cause.ALL_DECLINED, Status.FAILED, Reason.NO_PROVIDER)
        return Change(failed, (timeline.failed(failed, now, over),))

    def _doubt(self, delivery: Delivery, over: Attempt, now: Millis, rooms: Rooms, *, lapsed: bool) -> Change:
        """It may have been accepted. Where the provider can be asked it waits for that, else it is over at once."""
        doubted = move(delivery, Cause.DOUBT, Status.IN_DOUBT)
        search = searching.begin(self.rules, over, now)
        budget = 0 if delivery.lapses >= POISON_LAPSES else searching.budget(self.rules, delivery, over.provider, now)
        data = {"attempt": over.number, "detail": over.detail, "search_ms": budget or None}
        told = timeline.entry(doubted, EventType.IN_DOUBT, now, over.provider, **data)
        if budget:
            return Change(replace(doubted, due_at=now + budget), (told,), search=search)
        end = self._search_over(doubted, over, now, rooms, lapsed=lapsed)
        return replace(end, events=(told, *end.events), search=search)

    def search_over(self, case: Case, now: Millis) -> Change | None:
        """The time is over for which it was to stay in doubt. None: it is not, or it waits until it expires."""
        delivery = case.delivery
        if delivery.status is not Status.IN_DOUBT or not delivery.due_at <= now < delivery.expires_at:
            return None
        return self._search_over(delivery, case.open_doubts[-1], now, NOBODY_IS_SHUT, lapsed=False)

    def _search_over(self, delivery: Delivery, over: Attempt, now: Millis, rooms: Rooms, *, lapsed: bool) -> Change:
        """Nothing more can be found out: the sender's policy acts."""
        if delivery.lapses >= POISON_LAPSES:
            held = move(delivery, Cause.POISON, Status.HELD, Reason.POISON)
            return Change(held, (timeline.held(held, now, over),))
        if delivery.on_doubt is OnDoubt.HOLD:
            held = move(delivery, Cause.SEARCH_OVER_HOLD, Status.HELD, Reason.DOUBT)
            return Change(held, (timeline.held(held, now, over),))
        if delivery.on_doubt is OnDoubt.WAIT:
            return Change(replace(_touched(delivery), due_at=delivery.expires_at), ())
        waiting = self._next_try(delivery, over, now, rooms, lapsed=lapsed)
        queued = move(waiting, Cause.SEARCH_OVER_RESEND, Status.QUEUED)
        return Change(queued, (timeline.queued(queued, now, over, why="on_doubt is resend"),))

    def _next_try(
        self, delivery: Delivery, over: Attempt, now: Millis, rooms: Rooms = NOBODY_IS_SHUT, *, lapsed: bool = False
    ) -> Delivery:
        """At another provider at once; when there is none that is open, a new round.

        Only trouble of providers lengthens the backoff between rounds: `unavailable`, and doubt too, since a provider
        that answers nothing is as bad as one that is away. What says something about our account makes nobody wait:
        the gate does. A lapsed lease says nothing about the provider.
        """
        tried = (*delivery.tried, over.provider)
        if any(name not in tried for name in self.routing.open_ones(lane_of(delivery), rooms)):
            return replace(delivery, tried=tried, due_at=now)
        if lapsed or over.outcome not in _BACKS_OFF:
            return replace(delivery, tried=(), is_retry=False, due_at=now)
        pause = self._backoff(over.provider, delivery.round)
        return replace(
            delivery,
            tried=(),
            round=delivery.round + 1,
            is_retry=over.outcome is Outcome.UNAVAILABLE,
            due_at=now + _millis(pause),
        )

    def _backoff(self, provider: str, round_: int) -> float:
        """Exponential with full jitter: anything up to base * 2^round, at most the cap."""
        backoff = self.rules.backoffs.get(provider, Backoff())
        return self._rng.uniform(0, min(backoff.cap_seconds, backoff.base_seconds * 2.0 ** min(round_, 40)))

    # --- evidence ------------------------------------------------------------------------------------------------

    def evidence(self, case: Case, proof: Evidence, now: Millis) -> Change | None:
        """Somebody found out about a named attempt. None: it tells nothing new.

        An acceptance is believed even against an earlier "surely not" or a person's word; "surely not" only settles
        what is open, and says nothing once the request may have been made again.
        """
        attempt = case.attempt(proof.attempt_id)
        if attempt is None or attempt.is_accepted:
            return None
        is_in_flight = attempt.outcome is None and attempt.resolution is None
        is_open = attempt.is_open_doubt and not searching.is_replayed(self.rules, case, attempt)
        if not (proof.accepted or is_open or is_in_flight):
            return None
        settled = replace(
            attempt,
            resolution=Resolution.ACCEPTED if proof.accepted else Resolution.NOT_ACCEPTED,
            provider_message_id=attempt.provider_message_id or proof.provider_message_id,
        )
        known = case.after(Change(case.delivery, (), attempts=(settled,)))
        follows = self._proven(known, settled, now) if proof.accepted else self._disproven(known, settled, now)
        told = timeline.entry(
            follows.delivery,
            EventType.RESOLVED,
            now,
            attempt.provider,
            attempt=attempt.number,
            resolution=settled.resolution,
            source=proof.source,
            detail=proof.detail or None,
        )
        return replace(follows, events=(told, *follows.events), attempts=(settled,))

    def _proven(self, case: Case, proof: Attempt, now: Millis) -> Change:
        delivery = case.delivery
        if delivery.status is Status.SENDING:
            return Change(_touched(delivery), ())
        if delivery.status in WENT_OUT:
            taken = [a for a in case.attempts if a.is_accepted]
            return Change(_touched(delivery), (timeline.duplicate(delivery, taken, now),) if len(taken) > 1 else ())
        return self._sent(delivery, Cause.EVIDENCE_ACCEPTED, proof, now, case.attempts)

    def _disproven(self, case: Case, attempt: Attempt, now: Millis) -> Change:
        delivery = case.delivery
        if delivery.status not in (Status.IN_DOUBT, Status.HELD) or case.open_doubts:
            return Change(_touched(delivery), ())
        if delivery.status is Status.HELD and delivery.reason is Reason.REJECTED_AFTER_DOUBT:
            failed = move(delivery, Cause.EVIDENCE_NOT_ACCEPTED, Status.FAILED, Reason.REJECTED)
            return Change(failed, (timeline.failed(failed, now, attempt),))
        if delivery.status is Status.HELD and delivery.expires_at <= now:
            failed = move(delivery, Cause.EVIDENCE_NOT_ACCEPTED, Status.FAILED, Reason.EXPIRED)
            return Change(failed, (timeline.failed(failed, now, attempt),))
        waiting = self._next_try(delivery, replace(attempt, outcome=None), now)
        queued = move(waiting, Cause.EVIDENCE_NOT_ACCEPTED, Status.QUEUED)
        if not self.routing.usable(lane_of(queued)):
            return self._no_provider(queued, attempt, case.attempts, now)
        return Change(queued, (timeline.queued(queued, now, attempt),))


def holds_lease(case: Case, ended: Ended) -> bool:
    """Whether the delivery still carries that attempt as its lease."""
    return case.delivery.attempt_id == ended.attempt_id


def _also_rejected(attempts: Iterable[Attempt], but: str) -> list[str]:
    """Who else has rejected it."""
    return [a.provider for a in attempts if a.outcome is Outcome.REJECTED and a.provider != but]


def _late_evidence(ended: Ended) -> Evidence | None:
    """What an outcome tells that comes after its lease was lost. In doubt as before: nothing."""
    answer = ended.answer
    if answer is not None and answer.outcome is Outcome.IN_DOUBT:
        return None
    return Evidence(
        email_id=ended.email_id,
        attempt_id=ended.attempt_id,
        accepted=answer is not None and answer.outcome is Outcome.ACCEPTED,
        source="late outcome",
        provider_message_id=answer.provider_message_id if answer else None,
        detail=answer.detail if answer else ended.note,
    )


def _millis(seconds: float) -> Millis:
    return round(seconds * 1000)


def _touched(delivery: Delivery) -> Delivery:
    """Something about it was learned; it stays where it is."""
    return replace(delivery, version=delivery.version + 1)


def _declined(delivery: Delivery, provider: str) -> Delivery:
    """That provider never gets it again."""
    return replace(delivery, declined_by=(*delivery.declined_by, provider))


def _unleased(delivery: Delivery) -> Delivery:
    return replace(delivery, attempt_id=None, lease_ends_at=None)


def _first_accepted(attempts: Iterable[Attempt]) -> Attempt | None:
    return next((a for a in attempts if a.is_accepted), None)
