"""How fast and how much a provider is asked: calls at once, emails a second, its share of the traffic, retries.

Each of these learns from one provider's answers and knows nothing of the others. Times are seconds of a clock that
never goes back, handed in with each call.
"""

import math
from collections import deque

FEWEST_AT_ONCE = 2.0
"""Calls at once after a recovery, and the least that a struggling provider is left."""
CUT = 0.7
"""What is left of the calls at once after a failure that overload may have caused."""
OVERLOAD_SHARE = 0.2
"""Up to this share of failures nobody thinks of overload."""


class Concurrency:
    """Calls at once: additive increase, multiplicative decrease (RFC 5681 does the same with packets).

    It grows only while it is used, and by doubling per round trip after a recovery, until the first failure.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(ceiling)
        self._least = min(FEWEST_AT_ONCE, self._ceiling)
        self._doubles_below = self._ceiling
        self.limit = self._ceiling
        self.epoch = 0
        """Grows with each cut. What was begun before a cut says nothing about what is left after it."""

    def reset(self) -> None:
        self.limit = self._doubles_below = self._ceiling

    def restart(self) -> None:
        """Begin small, and double."""
        self.limit, self._doubles_below = self._least, self._ceiling

    def good(self, rank: int) -> None:
        """`rank`: how many calls were in flight when it began, itself included."""
        if rank < self.limit / 2:
            return
        step = 1.0 if self.limit < self._doubles_below else 1.0 / self.limit
        self.limit = min(self._ceiling, self.limit + step)

    def bad(self, rank: int, epoch: int) -> None:
        if epoch != self.epoch:
            return
        self.epoch += 1
        self.limit = self._doubles_below = max(self._least, CUT * min(self.limit, rank))


class Tally:
    """How many within the last stretch of time, in steps."""

    def __init__(self, step_seconds: float, steps: int) -> None:
        self._step_seconds = step_seconds
        self._steps = steps
        self._counts: deque[list[int]] = deque()  # [step, count]

    def add(self, now: float) -> None:
        step = int(now / self._step_seconds)
        if not self._counts or self._counts[-1][0] != step:
            self._counts.append([step, 0])
            self._forget(step)
        self._counts[-1][1] += 1

    def total(self, now: float) -> int:
        self._forget(int(now / self._step_seconds))
        return sum(count for _, count in self._counts)

    def clear(self) -> None:
        self._counts.clear()

    def _forget(self, step: int) -> None:
        while self._counts and self._counts[0][0] <= step - self._steps:
            self._counts.popleft()


class Rate:
    """Emails a second: what is configured, and what a provider that told us to slow down was seen to allow.

    After such a word we stay a little below what went well in the second before it, for half a minute; then we feel
    our way up, and forget the word when four times as much goes well.
    """

    SMOOTH_SECONDS = 0.1
    """What the bucket holds besides one; more at once would be a burst, and with less a late look would lose some."""
    QUIET_SECONDS = 30.0
    ENOUGH = 5
    """With fewer emails in the second before, nothing was learned about a rate."""

    def __init__(self, per_second: float | None, now: float) -> None:
        self._configured = self._own = per_second
        self._allowed: float | None = None
        self._seen = 0.0  # what went well in the second before the last word, as far as it is known by now
        self._told_at = self._asked_at = -math.inf
        self._resumed_at = now
        self._accepted = Tally(0.1, 10)
        self._tokens = 1.0
        self._is_full = False
        """At the last look."""
        self._filled_at = now

    def limit(self, now: float) -> float | None:
        """Emails a second now; None: as many as there are."""
        learned = self._learned(now)
        if learned is None or self._own is None:
            return learned or self._own
        return min(learned, self._own)

    def share(self, part: float) -> None:
        """Of the configured rate so much is ours. What was learned, was learned with our neighbours at work."""
        self._own = None if self._configured is None else self._configured * part

    def tokens(self, now: float) -> float:
        """How many may go now. Infinite without a limit."""
        limit = self.limit(now)
        if limit is None:
            return math.inf
        if now > self._filled_at:  # not while it rests
            most = self._most(limit)
            self._tokens = min(most, self._tokens + (now - self._filled_at) * limit)
            self._is_full = self._tokens >= most
            self._filled_at = now
        return self._tokens

    def take(self, now: float) -> None:
        if self.tokens(now) < math.inf:
            self._tokens -= 1.0
            self._is_full = False

    def seconds_to_next(self, now: float) -> float:
        """Until it is worth to look again; infinite if time changes nothing."""
        limit = self.limit(now)
        if limit is None or self._is_full:
            return math.inf  # more time changes nothing
        return max((1.0 - self.tokens(now)) / limit, self.SMOOTH_SECONDS / 2)

    def accepted(self, began_at: float, now: float) -> None:
        self._accepted.add(now)
        if began_at <= self._asked_at and now > self._told_at:
            # It was asked before what we were told for, and counted as much. What was asked later belongs to the
            # second after: with it a slow provider would seem to allow more than it does.
            self._seen += 1.0
            self._learn()

    def told_to_slow_down(self, began_at: float, now: float, rest_seconds: float) -> None:
        """What was begun before the last such word, or while it was told, tells nothing new."""
        if began_at > self._told_at:
            self._seen = float(self._accepted.total(now))
            self._learn()
            self._told_at, self._asked_at = now, began_at
            self._tokens = 1.0
        self._resumed_at = self._filled_at = max(self._resumed_at, now + rest_seconds)

    def reset(self, now: float) -> None:
        """Forget what was learned, the rest too."""
        self._allowed = None
        self._told_at = self._asked_at = -math.inf
        self._resumed_at = self._filled_at = now
        self._tokens = 1.0

    def _most(self, limit: float) -> float:
        return 1.0 + limit * self.SMOOTH_SECONDS

    def _learn(self) -> None:
        if self._seen >= self.ENOUGH:  # else what was known before stays
            self._allowed = self._seen

    def _learned(self, now: float) -> float | None:
        if self._allowed is None:
            return None
        allowed = self._allowed
        since = max(0.0, now - self._resumed_at)
        if since < self.QUIET_SECONDS:
            return allowed * (0.96 - 0.11 * math.exp(-since / 3.0))
        grown = allowed * 0.96 * math.exp(0.03 * (since - self.QUIET_SECONDS))
        if grown > 4 * allowed:
            self._allowed = None
            return None
        return grown


class Health:
    """How well a provider does, as a factor on its weight: 1 is normal, and it never goes below a twentieth.

    It shrinks with the share of failures, and when answers take more than twice as long as is normal for this provider
    (and more than a fifth of a second). What it knows fades, so that a provider gets its share back even if too little
    goes there to prove anything. Times are compared by their logarithms, so that what is normal is the usual time and
    neither the fastest nor the mean of a few very slow ones.
    """

    LEAST = 0.05
    FADE_SECONDS = 30.0
    ENOUGH = 20
    """So many answers before "normal" means anything."""
    GETS_USED_TO_SECONDS = 1200.0
    """How slowly another pace becomes normal."""
    SHORTEST = 0.1
    """Seconds: below it, all answers are equally fast."""

    def __init__(self, now: float) -> None:
        self._at = self._answered_at = now
        self.error_rate = 0.0
        self._slowness = 0.0  # logarithm of recent / normal
        self._normal = 0.0  # logarithm of seconds
        self._answers = 0

    def good(self, seconds: float, now: float) -> None:
        """An email was taken, after so long."""
        self._fade(now)
        self.error_rate *= 0.95
        self._answers += 1
        took = math.log(max(seconds, self.SHORTEST))
        used_to_it = 1.0 - math.exp((self._answered_at - now) / self.GETS_USED_TO_SECONDS)
        self._normal += max(used_to_it, 1.0 / self._answers if self._answers <= self.ENOUGH else 0.0) * (
            took - self._normal
        )
        self._answered_at = now
        self._slowness += 0.1 * (took - self._normal - self._slowness)

    def answered(self, now: float) -> None:
        """It works, but took no email: that says nothing about its pace."""
        self._fade(now)
        self.error_rate *= 0.95

    def bad(self, now: float) -> None:
        self._fade(now)
        self.error_rate += 0.05 * (1.0 - self.error_rate)

    def errors(self, now: float) -> float:
        """The share of failures, as far as it has not faded."""
        self._fade(now)
        return self.error_rate

    def factor(self, now: float) -> float:
        self._fade(now)
        factor = (1.0 - self.error_rate) ** 3 if self.error_rate > 0.01 else 1.0
        if self._answers >= self.ENOUGH and self._slowness > math.log(2.0):
            factor *= 2.0 / math.exp(self._slowness)
        return max(self.LEAST, factor)

    def _fade(self, now: float) -> None:
        left = math.exp((self._at - now) / self.FADE_SECONDS)
        self._at = now
        self.error_rate *= left
        self._slowness *= left


class Carried:
    """The most calls at once of which one went well, of late: what a provider was seen to carry."""

    ALWAYS = 8
    """So many at once any provider is thought to carry: failures among them are its own, and no overload."""
    STRETCH_SECONDS = 10.0

    def __init__(self) -> None:
        self._most = [0, 0]  # in this stretch of time, and in the one before
        self._stretch = 0

    def add(self, rank: int, now: float) -> None:
        self._roll(now)
        self._most[0] = max(self._most[0], rank)

    def most(self, now: float) -> int:
        self._roll(now)
        return max(self.ALWAYS, *self._most)

    def _roll(self, now: float) -> None:
        stretch = int(now / self.STRETCH_SECONDS)
        if stretch != self._stretch:
            self._most = [0, self._most[0] if stretch == self._stretch + 1 else 0]
            self._stretch = stretch


class RetryBudget:
    """How many emails of later rounds a provider may get, so that retries never become its main traffic."""

    FULL = 100.0
    PER_SUCCESS = 0.1
    PER_SECOND = 1.0

    def __init__(self, now: float) -> None:
        self._left = self.FULL
        self._at = now

    def left(self, now: float) -> int:
        self._left = min(self.FULL, self._left + (now - self._at) * self.PER_SECOND)
        self._at = now
        return int(self._left)

    def spend(self) -> None:
        self._left = max(0.0, self._left - 1.0)

    def refill(self) -> None:
        """It works again: what was spent on its trouble counts no more."""
        self._left = self.FULL

    def give_back(self) -> None:
        """What was spent for a call that was not made."""
        self._left = min(self.FULL, self._left + 1.0)

    def success(self) -> None:
        self._left = min(self.FULL, self._left + self.PER_SUCCESS)
