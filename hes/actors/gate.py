"""One provider's gate: whether an email may go there now, learned from what became of those before it.

Inside is a pybreaker, which counts failures in a row. All time is the gate's own, and so are the rules that a breaker
around an `await` would break: a call asks before it begins (`admit`) and tells after it ended (`record`), a call that
was cancelled or not made tells nothing (`release`), one probe goes out at a time, and what began before the gate last
changed does not count any more.

A gate is shut as `down` (it fails) or `refused` (it does not want our account); then one email at a time finds out
whether it works again, at growing intervals. A refusal of one sender domain shuts the gate for that domain only.
What it decides about the email itself is nothing: that is `hes.policy`.
"""

import contextlib
import logging
import math
import random
from collections.abc import Callable

import pybreaker
from msgspec import Struct

from hes.actors.domains import RefusedDomains
from hes.actors.news import News
from hes.actors.pace import OVERLOAD_SHARE, Carried, Concurrency, Health, Rate, RetryBudget, Tally
from hes.model import (
    Answer,
    Clock,
    EmailId,
    Fact,
    FactKey,
    FactKind,
    GateState,
    GateStatus,
    Leased,
    Millis,
    Monotonic,
    Outcome,
    Room,
    Scope,
)
from hes.transitions import GATE_EFFECTS, GateEffect

_log = logging.getLogger("hes.gate")

LONGEST_SHUT_SECONDS = 300.0
JITTER = 0.2
THROTTLED_SECONDS = 1.0
"""How long a provider rests that slows us down without saying for how long."""
SHARE, LEAST_CALLS, WITHIN_SECONDS = 0.5, 20, 10
"""So large a share of failures among so many calls within so many seconds shuts a gate, though none are in a row."""
STREAK = 5
"""After so many rejected emails in a row a provider is not believed any more."""
REJECTS_EVERYTHING = "it rejects everything"
_SUSPECT = f"its last {STREAK} answers were rejections: others are asked too, and it gets one email at a time"
WARN_SECONDS = 60.0
"""That it rejects a lot is said no more often."""
HEALTHY_SHARE = 0.02
"""Of failures: below it retries need no budget."""
WORTH_KEEPING_SECONDS = 5.0
"""A shorter rest need not outlive the process."""


class GateSettings(Struct, frozen=True, kw_only=True):
    """What an operator decides of one provider."""

    fail_max: int = 5
    open_seconds: float = 10.0
    max_in_flight: int = 64
    rate_per_second: float | None = None
    weight: float = 1.0


class Pass(Struct, frozen=True, kw_only=True):
    """Leave for one call."""

    generation: int
    is_probe: bool
    rank: int
    """How many had leave when this was given, itself included."""
    carried: int
    """The most calls at once that went well by then."""
    epoch: int
    given_at: float
    sender_domain: str
    costs_retry: bool
    """It took from the retry budget."""


class _Closure(Struct, kw_only=True):
    """Why the gate is shut."""

    state: GateState
    reason: str
    since: Millis
    until: float
    """On the monotonic clock; infinite: until somebody says so."""
    times: int
    """How often in a row it was shut."""


_SHUT_MEANWHILE = -1
"""A generation that never is."""


class _Failed(Exception):
    """Tells the breaker that a call failed."""


class Gate:
    """See the module. `changed` is called when there is news or room; it must return at once."""

    def __init__(
        self,
        name: str,
        settings: GateSettings,
        *,
        clock: Clock,
        monotonic: Monotonic,
        rng: random.Random,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng
        self._changed = changed
        now = monotonic()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=settings.fail_max, reset_timeout=0, throw_new_error_on_trip=False
        )
        self._generation = 0
        self._out = 0
        self._probe: Pass | None = None
        self._shut: _Closure | None = None
        self._domains = RefusedDomains(self._interval)
        self._paused: _Closure | None = None
        self._rests_until = -math.inf
        self._rest_reason = ""
        self._slowed_since: Millis = 0
        self._since = clock()
        self._openings = 0
        self._streak: dict[EmailId, None] = {}
        self._concurrency = Concurrency(settings.max_in_flight)
        self._rate = Rate(settings.rate_per_second, now)
        self._health = Health(now)
        self._budget = RetryBudget(now)
        self._good, self._bad = Tally(1.0, WITHIN_SECONDS), Tally(1.0, WITHIN_SECONDS)
        self._accepted = Tally(1.0, 60)
        self._carried = Carried()
        self._is_liar = False
        """Shut because it rejects everything."""
        self._warned_at = -math.inf
        self._news = News()

    # --- before a call -------------------------------------------------------------------------------------------

    def room(self, in_flight: int, render_version: int, timeout_seconds: float) -> Room:
        """What may be leased for it now, with so many hands in use."""
        now = self._monotonic()
        hands = 0
        is_probe = False
        if self._is_shut():
            is_probe = self._probe_is_due(now)
            hands = int(is_probe and in_flight < self._settings.max_in_flight)
        elif now >= self._rests_until:
            most = 1 if self._is_suspected() else self._concurrency.limit
            hands = int(min(most - in_flight, self._rate.tokens(now)))
        return Room(
            hands=max(0, hands),
            render_version=render_version,
            timeout_seconds=timeout_seconds,
            weight=self._settings.weight * self._health.factor(now),
            is_shut=self._is_shut() or now < self._rests_until,
            is_probe=is_probe,
            is_refused=self._is_refused(),
            closed_domains=self._domains.closed(now),
            probing_domains=self._domains.due(now),
            retries=self._retries_left(now),
        )

    def seconds_to_next(self) -> float:
        """Until time alone changes the room; infinite if it does not."""
        now = self._monotonic()
        if self._paused is not None:
            return math.inf
        if self._shut is not None:
            probe_at = self._probe_at(self._shut)
            return probe_at - now if now < probe_at else math.inf
        if now < self._rests_until:
            return self._rests_until - now
        return self._rate.seconds_to_next(now)

    def admit(self, leased: Leased) -> Pass:
        """Leave for an email that was leased as `room` allowed."""
        now = self._monotonic()
        self._out += 1
        self._rate.take(now)
        costs_retry = leased.is_retry and not self._is_healthy(now)
        if costs_retry:
            self._budget.spend()
        domain = leased.email.sender.domain
        is_probe = self._probe_is_due(now)
        given = Pass(
            generation=self._generation if is_probe or not self._is_shut() else _SHUT_MEANWHILE,
            is_probe=is_probe,
            rank=self._out,
            carried=self._carried.most(now),
            epoch=self._concurrency.epoch,
            given_at=now,
            sender_domain=domain,
            costs_retry=costs_retry,
        )
        if is_probe:
            self._probe = given
        self._domains.admit(domain, given, now)
        return given

    def objection(self, given: Pass) -> str | None:
        """Why the call must not begin after all; None: it may."""
        if given.generation != self._generation:
            return "the provider's gate was shut meanwhile"
        if self._paused is not None:
            return "the provider was paused meanwhile"
        if self._monotonic() < self._rests_until:
            return "the provider has told us to wait"
        return None

    # --- after a call --------------------------------------------------------------------------------------------

    def release(self, given: Pass) -> None:
        """The call was not made, or cut off: it tells nothing, and a retry of it is not counted."""
        self._end(given)
        self._domains.release(given.sender_domain, given)
        if given.costs_retry:
            self._budget.give_back()

    def record(self, given: Pass, email_id: EmailId, answer: Answer, seconds: float) -> bool:
        """What became of the call. Returns whether a `rejected` is to be believed."""
        now = self._monotonic()
        self._end(given)
        outcome = answer.outcome
        if outcome is Outcome.ACCEPTED:
            self._accepted.add(now)
            self._rate.accepted(given.given_at, now)
            self._budget.success()
        elif outcome is Outcome.THROTTLED:  # told is told, however long ago the question was
            self._rest(given, answer, now)
        is_believed = outcome is not Outcome.REJECTED or not (self._is_suspected() or self._is_liar)
        if given.generation == self._generation:
            self._learn_from(given, email_id, answer, seconds, now, is_believed=is_believed)
        self._domains.end(given.sender_domain, given, now)
        return is_believed

    def _learn_from(
        self, given: Pass, email_id: EmailId, answer: Answer, seconds: float, now: float, *, is_believed: bool
    ) -> None:
        outcome = answer.outcome
        match GATE_EFFECTS[outcome]:
            case GateEffect.SHUT:
                self._refused(given, answer, now)
            case GateEffect.SLOWED:
                if not self._is_refused():  # whether our account is wanted again, a "slow down" does not say
                    self._recover("it answers")
            case GateEffect.BAD:
                self._failed(given, answer, now)
            case GateEffect.GOOD:
                self._went_well(given, outcome, seconds, now)
        if outcome is not Outcome.REJECTED:
            self._streak.clear()
        elif is_believed:
            self._streak[email_id] = None
            self._warn_of_streak(now)

    def judge(self, *, is_liar: bool) -> None:
        """Another provider has said what it thinks of an email that this one rejected and was not believed."""
        if len(self._streak) < STREAK:
            return
        if is_liar:
            self._news.victims += self._streak
            self._is_liar = True
            self._shut_as_refused(REJECTS_EVERYTHING, None, self._monotonic())
        self._streak.clear()

    # --- the operator's hand -------------------------------------------------------------------------------------

    def pause(self, fact: Fact) -> None:
        """Nothing goes there until `resume`."""
        self._paused = _Closure(state=GateState.PAUSED, reason=fact.reason, since=fact.since, until=math.inf, times=1)
        _log.warning("%s: %s", self.name, fact.reason)

    @property
    def is_paused(self) -> bool:
        return self._paused is not None

    def resume(self) -> None:
        if self._paused is not None:
            self._paused = None
            self._since = self._clock()
            self._opened()

    def reset(self) -> None:
        """Forget all that was learned, and begin anew. A pause stays. What was written down of it, others withdraw."""
        now = self._monotonic()
        self._generation += 1
        self._breaker.close()
        self._news.stated.clear()
        self._shut = self._probe = None
        self._is_liar = False
        self._domains.clear()
        self._streak.clear()
        self._openings = 0
        self._rests_until = -math.inf
        self._since = self._clock()
        self._concurrency.reset()
        self._rate.reset(now)
        self._health = Health(now)
        self._budget.refill()
        self._good.clear()
        self._bad.clear()
        self._opened()

    def learn(self, fact: Fact) -> None:
        """What others know: processes before this one, and those beside it."""
        if fact.kind is FactKind.PAUSED:
            self.pause(fact)
            return
        ahead = max(0.0, (fact.until - self._clock()) / 1000) if fact.until is not None else 0.0
        until = self._monotonic() + ahead
        if fact.kind is FactKind.THROTTLED:
            self._rests_until, self._rest_reason, self._slowed_since = until, fact.reason, fact.since
            self._changed()
            return
        if fact.sender_domain:
            self._domains.learn(fact.sender_domain, fact.reason, fact.since, until)
            return
        if not self._is_refused():
            _log.warning("%s refuses us, as is known; it is asked again in %.0f s: %s", self.name, ahead, fact.reason)
        self._is_liar = fact.reason == REJECTS_EVERYTHING
        self._close(_Closure(state=GateState.REFUSED, reason=fact.reason, since=fact.since, until=until, times=1))

    def unlearn(self, key: FactKey) -> None:
        """Another process, or an operator, found out that this holds no more."""
        _, kind, domain = key
        if kind is FactKind.PAUSED:
            self.resume()
        elif kind is FactKind.REFUSED and domain:
            self._domains.open(domain)
            self._opened()
        elif kind is FactKind.REFUSED and self._is_refused():
            self._reopen("another process found that it takes our emails again")

    def share(self, part: float) -> None:
        """So much of the configured rate is this process's; the rest is its neighbours'."""
        self._rate.share(part)

    def take_news(self) -> News:
        """What is to be written down; it is told once."""
        news, self._news = self._news, News()
        return news

    def return_news(self, news: News) -> None:
        """It could not be written: told again, unless something newer is known."""
        self._news = news.then(self._news)

    def status(self, kind: str, in_flight: int) -> GateStatus:
        """How it stands, for people."""
        now = self._monotonic()
        state, reason, since, until = self._standing(now)
        return GateStatus(
            name=self.name,
            kind=kind,
            state=state,
            reason=reason,
            since=since,
            until=until,
            weight=self._settings.weight,
            effective_weight=round(self._settings.weight * self._health.factor(now), 3),
            in_flight=in_flight,
            in_flight_limit=int(self._concurrency.limit),
            rate_limit=round(limit, 1) if (limit := self._rate.limit(now)) is not None else None,
            sent_last_minute=self._accepted.total(now),
            error_rate=round(self._health.errors(now), 3),
            retries_left=self._retries_left(now),
            refused_sender_domains=self._domains.names,
        )

    # --- inside --------------------------------------------------------------------------------------------------

    def _is_shut(self) -> bool:
        return self._paused is not None or self._shut is not None

    def _probe_is_due(self, now: float) -> bool:
        if self._paused is not None or self._shut is None or self._probe is not None:
            return False
        return now >= self._probe_at(self._shut)

    def _probe_at(self, shut: _Closure) -> float:
        return max(shut.until, self._rests_until)

    def _end(self, given: Pass) -> None:
        self._out -= 1
        if given is self._probe:
            self._probe = None

    def _is_refused(self) -> bool:
        return self._shut is not None and self._shut.state is GateState.REFUSED

    def _is_suspected(self) -> bool:
        """It has rejected so much in a row that others are asked, and it gets one email at a time."""
        return len(self._streak) >= STREAK

    def _warn_of_streak(self, now: float) -> None:
        if self._is_suspected() and now >= self._warned_at + WARN_SECONDS:
            self._warned_at = now
            _log.warning("%s: %s", self.name, _SUSPECT)

    def _is_healthy(self, now: float) -> bool:
        return self._health.errors(now) < HEALTHY_SHARE

    def _retries_left(self, now: float) -> int:
        """The budget keeps retries from adding to trouble; where there is none, they are as welcome as any email."""
        return int(RetryBudget.FULL) if self._is_healthy(now) else self._budget.left(now)

    def _standing(self, now: float) -> tuple[GateState, str | None, Millis, Millis | None]:
        if self._paused is not None:
            return GateState.PAUSED, self._paused.reason, self._paused.since, None
        if (shut := self._shut) is not None:
            probe_at = self._probe_at(shut)
            is_probing = now >= probe_at
            state = GateState.PROBING if is_probing and shut.state is GateState.DOWN else shut.state
            return state, shut.reason, shut.since, None if is_probing else self._wall(probe_at, now)
        if now < self._rests_until:
            return GateState.SLOWED, self._rest_reason, self._slowed_since, self._wall(self._rests_until, now)
        if self._health.factor(now) < 0.5:
            return GateState.SLOWED, "it fails often, or answers slowly: others get its share", self._since, None
        return GateState.UP, _SUSPECT if self._is_suspected() else None, self._since, None

    def _wall(self, at: float, now: float) -> Millis:
        return self._clock() + round((at - now) * 1000)

    def _went_well(self, given: Pass, outcome: Outcome, seconds: float, now: float) -> None:
        self._carried.add(given.rank, now)
        self._concurrency.good(given.rank)
        self._good.add(now)
        if outcome is Outcome.ACCEPTED:
            self._health.good(seconds, now)
            self._took(given)
        else:
            self._health.answered(now)
        if not given.is_probe:
            self._breaker.call(lambda: None)
        elif outcome is Outcome.REJECTED and self._is_liar:
            self._shut_as_refused(REJECTS_EVERYTHING, None, now)  # still does
        else:
            self._recover("a probe went well")

    def _took(self, given: Pass) -> None:
        if self._domains.is_probe(given.sender_domain, given):
            self._domains.open(given.sender_domain)
            _log.warning("%s takes emails from %s again", self.name, given.sender_domain)
            self._withdraw(given.sender_domain)
            self._opened()

    def _failed(self, given: Pass, answer: Answer, now: float) -> None:
        self._health.bad(now)
        if self._health.error_rate > OVERLOAD_SHARE:
            self._concurrency.bad(given.rank, given.epoch)
        if given.is_probe and self._shut is not None and self._is_refused():
            self._shut_as_refused(self._shut.reason, None, now)  # it is away just now; that does not end a refusal
            return
        if given.is_probe:
            self._trip(f"a probe failed: {answer.detail}", now)
            return
        if given.rank > max(given.carried, self._carried.most(now)):
            return  # more than it was ever seen to carry: that is overload, and fewer at once is the answer to it
        self._bad.add(now)
        if self._tell_breaker_failed():
            self._trip(f"{self._settings.fail_max} failures in a row, the last: {answer.detail}", now)
        elif (bad := self._bad.total(now)) >= SHARE * (calls := bad + self._good.total(now)) and calls >= LEAST_CALLS:
            self._trip(f"{bad} of {calls} calls failed within {WITHIN_SECONDS} s, the last: {answer.detail}", now)

    def _tell_breaker_failed(self) -> bool:
        """Whether that opened it."""

        def fail() -> None:
            raise _Failed

        with contextlib.suppress(_Failed):
            self._breaker.call(fail)
        return bool(self._breaker.current_state == pybreaker.STATE_OPEN)

    def _trip(self, reason: str, now: float) -> None:
        """Shut as `down`: the third time in a row for twice as long, and so on."""
        self._openings += 1
        seconds = self._interval(max(1, self._openings - 1))
        since = self._shut.since if self._shut is not None else self._clock()
        self._close(_Closure(state=GateState.DOWN, reason=reason, since=since, until=now + seconds, times=1))
        level = logging.WARNING if self._openings == 1 else logging.INFO
        _log.log(level, "%s is down, nothing goes there for %.0f s: %s", self.name, seconds, reason)

    def _refused(self, given: Pass, answer: Answer, now: float) -> None:
        if answer.scope is Scope.PROVIDER:
            self._shut_as_refused(answer.detail or "it refuses our account", answer.retry_after_seconds, now)
            return
        domain = given.sender_domain
        self._recover("it answers")
        is_known = domain in self._domains
        if is_known and not self._domains.is_probe(domain, given):
            return  # asked before it was closed
        if not is_known:
            _log.error("%s refuses emails from %s: %s", self.name, domain, answer.detail)
        until, since = self._domains.refuse(domain, answer.detail, answer.retry_after_seconds, now, self._clock())
        if (forgotten := self._domains.overflow()) is not None:
            self._withdraw(forgotten)
        self._state(FactKind.REFUSED, domain, answer.detail, since, until, now)

    def _shut_as_refused(self, reason: str, seconds: float | None, now: float) -> None:
        """At once, and loud the first time; tried again at growing intervals."""
        known = self._shut if self._is_refused() else None
        times = known.times + 1 if known is not None else 1
        seconds = seconds or self._interval(times)
        since = known.since if known is not None else self._clock()
        closure = _Closure(state=GateState.REFUSED, reason=reason, since=since, until=now + seconds, times=times)
        self._close(closure)
        self._state(FactKind.REFUSED, "", reason, since, closure.until, now)
        level = logging.ERROR if known is None else logging.INFO
        _log.log(level, "%s refuses us; it is asked again in %.0f s: %s", self.name, seconds, reason)

    def _close(self, closure: _Closure) -> None:
        self._generation += 1
        self._probe = None
        self._shut = closure
        self._breaker.open()

    def _recover(self, why: str) -> None:
        """It works: begin with few calls at once."""
        if self._shut is None:
            return
        if self._is_refused():
            self._withdraw("")
        self._reopen(why)

    def _reopen(self, why: str) -> None:
        self._is_liar = False
        self._generation += 1
        self._breaker.close()  # not by a success: an open breaker looks at the wall clock, which may have gone back
        self._shut = None
        self._openings = 0
        self._since = self._clock()
        self._streak.clear()
        self._good.clear()
        self._bad.clear()
        self._concurrency.restart()
        self._budget.refill()
        _log.warning("%s is used again: %s", self.name, why)
        self._opened()

    def _rest(self, given: Pass, answer: Answer, now: float) -> None:
        seconds = answer.retry_after_seconds or THROTTLED_SECONDS
        if now >= self._rests_until:
            self._slowed_since = self._clock()
            _log.info("%s told us to slow down and rests for %.1f s: %s", self.name, seconds, answer.detail)
        self._rests_until = max(self._rests_until, now + seconds)
        self._rest_reason = answer.detail or "it told us to slow down"
        self._rate.told_to_slow_down(given.given_at, now, seconds)
        if self._rate.limit(now) is None:  # too little to learn a rate from: begin anew with few at once
            self._concurrency.restart()
        if seconds >= WORTH_KEEPING_SECONDS:
            self._state(FactKind.THROTTLED, "", self._rest_reason, self._slowed_since, self._rests_until, now)

    def _interval(self, times: int) -> float:
        seconds = min(LONGEST_SHUT_SECONDS, self._settings.open_seconds * 2.0 ** min(times - 1, 40))
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def _state(self, kind: FactKind, domain: str, reason: str, since: Millis, until: float, now: float) -> None:
        fact = Fact(
            provider=self.name,
            kind=kind,
            sender_domain=domain,
            reason=reason,
            since=since,
            until=self._wall(until, now),
            by="the provider",
        )
        self._news.state(fact)
        self._changed()

    def _withdraw(self, domain: str) -> None:
        self._news.withdraw((self.name, FactKind.REFUSED, domain))
        self._changed()

    def _opened(self) -> None:
        self._news.opened |= not self._is_shut()
        self._changed()
