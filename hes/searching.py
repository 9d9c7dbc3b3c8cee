"""Finding out about a doubt: for how long, what may be asked when, and what the timeline says of it. Pure.

There are two ways. A *replay* makes the attempt's own request again under its key: if the provider never saw the first
one, it takes the email now. So it is made only while nothing else can have become of the email: in doubt about its
last attempt, or held for that, and not expired. A *look-up* only reads, and goes on while the email may still move.

Only acceptance ends a doubt; every other answer ends nothing but this one question.
"""

from enum import StrEnum

from msgspec import Struct

from hes import timeline
from hes.case import Case, Means, Rules, Search
from hes.model import Attempt, Delivery, Event, EventType, Millis, Reason, Status
from hes.routing import POISON_LAPSES

FIRST_PAUSE_MS = 1000
"""Doubled from question to question."""
LONGEST_PAUSE_WAITED_FOR_MS = 4000
"""While the email waits for the answer."""
LONGEST_PAUSE_MS = 6 * 3600 * 1000
SHORTEST_REPLAY_MS = 500
"""With less time than that a replay would only make another doubt."""
LOST_REPLAYS = 2
"""So many processes that went away while they made one are enough: it may have been its doing."""

_MAY_STILL_MOVE = frozenset({Status.SCHEDULED, Status.QUEUED, Status.SENDING, Status.IN_DOUBT, Status.HELD})


class Way(StrEnum):
    """How a provider is asked."""

    REPLAY = "replay"
    LOOK_UP = "look-up"


class Question(Struct, frozen=True):
    """What may be asked now, and how long the answer may take."""

    way: Way
    seconds: float


def begin(rules: Rules, attempt: Attempt, now: Millis) -> Search | None:
    """None: the provider can't be asked."""
    means = rules.means.get(attempt.provider)
    if means is None:
        return None
    return Search(
        attempt_id=attempt.id,
        email_id=attempt.email_id,
        provider=attempt.provider,
        next_at=now,
        until=max(_replay_until(means, attempt), _look_up_until(means, attempt)),
    )


def budget(rules: Rules, delivery: Delivery, provider: str, now: Millis) -> Millis:
    """For how long the sender's policy does not act yet: never more than a quarter of the time left."""
    means = rules.means.get(provider)
    return 0 if means is None else max(0, min(round(means.doubt_seconds * 1000), (delivery.expires_at - now) // 4))


def question(rules: Rules, case: Case, search: Search, now: Millis) -> Question | Millis | None:
    """What is asked now; a time: nothing before then; None: nothing any more."""
    delivery, attempt = case.delivery, case.attempt(search.attempt_id)
    means = rules.means.get(search.provider)
    if attempt is None or not attempt.is_open_doubt or means is None or delivery.status not in _MAY_STILL_MOVE:
        return None
    if _may_replay(case, attempt, search):
        # It ends before anything else may become of the email: before the policy acts, and before it expires.
        ends_at = min(_replay_until(means, attempt), delivery.expires_at, _acts_at(delivery))
        if ends_at - now >= SHORTEST_REPLAY_MS:
            return Question(Way.REPLAY, (ends_at - now) / 1000)
    if now < _look_up_until(means, attempt):
        return Question(Way.LOOK_UP, rules.lease_seconds)
    if _may_replay(case, attempt, search) and now < min(_replay_until(means, attempt), delivery.expires_at):
        return now + FIRST_PAUSE_MS
    return None


def next_at(search: Search, delivery: Delivery, now: Millis, ask_again_seconds: float | None) -> Millis:
    """When it is asked again after an answer that ended nothing."""
    is_waited_for = delivery.status is Status.IN_DOUBT and delivery.due_at < delivery.expires_at
    longest = LONGEST_PAUSE_WAITED_FOR_MS if is_waited_for else LONGEST_PAUSE_MS
    pause = min(longest, FIRST_PAUSE_MS << min(search.asked - 1, 30))
    return now + max(pause, round((ask_again_seconds or 0.0) * 1000))


def answered(case: Case, search: Search, way: Way, answer: str, detail: str, now: Millis) -> tuple[Event, ...]:
    """What the timeline says of an answer that ended nothing: only what it did not say last time."""
    attempt = case.attempt(search.attempt_id)
    if attempt is None or not attempt.is_open_doubt or search.told == summary(way, answer):
        return ()
    about = {"attempt": attempt.number, "asked": way, "answer": answer, "detail": detail or None}
    return (timeline.entry(case.delivery, EventType.IN_DOUBT, now, search.provider, **about),)


def summary(way: Way, answer: str) -> str:
    """What `Search.told` remembers of it."""
    return f"{way}: {answer}"


def _may_replay(case: Case, attempt: Attempt, search: Search) -> bool:
    delivery = case.delivery
    is_unmoved = delivery.status is Status.IN_DOUBT or delivery.reason is Reason.DOUBT
    is_suspect = delivery.lapses >= POISON_LAPSES - 1 or times_lost(search) >= LOST_REPLAYS
    return is_unmoved and attempt.id == case.attempts[-1].id and not is_suspect


def is_replayed(rules: Rules, case: Case, doubt: Attempt) -> bool:
    """Or may be: then the provider may have taken that request, whatever became of the first."""
    means = rules.means.get(doubt.provider)
    return means is not None and means.replay_seconds > 0 and doubt.id not in case.unasked


def times_lost(search: Search) -> int:
    """With the one who had it last, if the search was not put back."""
    return search.lost + (search.lease is not None)


def _acts_at(delivery: Delivery) -> Millis:
    return delivery.due_at if delivery.status is Status.IN_DOUBT else delivery.expires_at


def _replay_until(means: Means, attempt: Attempt) -> Millis:
    return attempt.started_at + round(means.replay_seconds * 1000)


def _look_up_until(means: Means, attempt: Attempt) -> Millis:
    return attempt.started_at + round(means.look_up_seconds * 1000)
