"""Gets leased deliveries out through one provider.

A sender has a fixed number of hands. A hand is taken when a delivery is leased for it, and free again only when the
outcome is on disk: so leased means in flight, and nothing waits leased in a mailbox.

Left to others: who gets what (intake, policy), what an outcome means (policy), how a provider is spoken to
(`hes.providers`).
"""

import logging
from collections.abc import Collection

import anyio

from hes.actors.actor import Mailbox
from hes.model import Answer, AttemptId, Clock, Ended, Leased, Monotonic, Outcome, Scope
from hes.providers.provider import Provider
from hes.storage.storage import Room

_log = logging.getLogger("hes.sender")

THROTTLED_SECONDS = 1.0
"""How long a provider rests that slows us down without saying for how long."""
PATIENCE_SECONDS = 1.0
"""How much longer than its time-out a call may take before it is given up from outside: providers keep their own."""


class Sender:
    """One provider's sender.

    Mailbox: Leased, never more than free hands. Reports one Ended for each. A call that has begun is never cancelled
    by a neighbour's fault; one that raises is a bug: logged, and in doubt, since nobody knows how far it got.
    """

    def __init__(
        self,
        provider: Provider,
        mailbox: Mailbox[Leased],
        report: Mailbox[Ended],
        *,
        hands: int,
        refused_seconds: float,
        clock: Clock,
        monotonic: Monotonic,
    ) -> None:
        self.name = f"sender {provider.name}"
        self._provider = provider
        self._mailbox = mailbox
        self._report = report
        self._hands = hands
        self._clock = clock
        self._monotonic = monotonic
        self._in_flight: dict[AttemptId, Leased] = {}
        self._begun: dict[AttemptId, Leased] = {}
        self._is_stopping = False
        self._refused_seconds = refused_seconds
        self._rests_until = 0.0

    @property
    def in_hand(self) -> Collection[AttemptId]:
        """The attempts whose outcome is not on disk yet."""
        return self._in_flight.keys()

    @property
    def in_flight(self) -> int:
        """Hands in use."""
        return len(self._in_flight)

    @property
    def bytes_in_flight(self) -> int:
        return sum(leased.size_bytes for leased in self._in_flight.values())

    def room(self) -> Room:
        """Free hands now; none while the provider has told us to wait."""
        free = 0 if self._is_stopping or self._is_resting() else self._hands - len(self._in_flight)
        return Room(free, self._provider.render_version)

    def take(self, leased: Leased) -> None:
        """Put it into a free hand; its lease is on disk."""
        self._in_flight[leased.attempt_id] = leased
        self._mailbox.tell(leased)

    def release(self, ended: Ended) -> None:
        """The outcome is on disk: the hand is free."""
        self._in_flight.pop(ended.attempt_id, None)

    def stop(self) -> None:
        """Begin no call any more. `run` ends when the calls in flight have ended."""
        self._is_stopping = True
        self._mailbox.close()

    async def run(self) -> None:
        """Ends when it was stopped and the calls in flight have ended."""
        for leased in list(self._begun.values()):  # cut off when the last run crashed
            self._tell(leased, Answer(outcome=Outcome.IN_DOUBT, detail="HES crashed in the middle of the call"))
        async with anyio.create_task_group() as hands:
            for _ in range(self._hands):
                hands.start_soon(self._hand)

    async def _hand(self) -> None:
        while True:
            try:
                leased = await self._mailbox.receive()
            except anyio.EndOfStream:
                return
            await self._send(leased)

    async def _send(self, leased: Leased) -> None:
        """One call. Must not raise: the hands share a task group."""
        if self._is_stopping:
            self._tell(leased, None, "HES is stopping")
            return
        if self._is_resting():
            self._tell(leased, None, "the provider has told us to wait")
            return
        if self._monotonic() + leased.timeout_seconds > leased.deadline:
            self._tell(leased, None, "too little of the lease was left")
            return
        self._begun[leased.attempt_id] = leased
        try:
            with anyio.fail_after(leased.timeout_seconds + PATIENCE_SECONDS):
                answer = await self._provider.send(leased.email, leased.attempt_id, leased.timeout_seconds)
        except Exception:  # noqa: BLE001 (whatever an adapter raises, the email is in doubt and its neighbours go on)
            _log.exception("a bug in sending email %s through %s", leased.email.id, leased.provider)
            answer = Answer(outcome=Outcome.IN_DOUBT, detail="HES failed in the middle of the call; see its log")
        self._heed(answer)
        if answer.outcome is not Outcome.ACCEPTED:
            level = logging.WARNING if answer.outcome is Outcome.IN_DOUBT else logging.INFO
            told = (leased.email.id, leased.number, leased.provider, answer.outcome, answer.detail)
            _log.log(level, "email %s, attempt %d at %s: %s: %s", *told)
        self._tell(leased, answer)

    def _is_resting(self) -> bool:
        return self._monotonic() < self._rests_until

    def _heed(self, answer: Answer) -> None:
        """Ask no more for as long as we were told to, whoever's email it was: that is about the account."""
        if answer.outcome is Outcome.THROTTLED:
            seconds = answer.retry_after_seconds or THROTTLED_SECONDS
        elif answer.outcome is Outcome.REFUSED and answer.scope is Scope.PROVIDER:
            seconds = answer.retry_after_seconds or self._refused_seconds
            _log.error("%s refuses us; it is asked again in %.0f s: %s", self._provider.name, seconds, answer.detail)
        else:
            return
        self._rests_until = max(self._rests_until, self._monotonic() + seconds)

    def _tell(self, leased: Leased, answer: Answer | None, note: str = "") -> None:
        self._begun.pop(leased.attempt_id, None)
        self._report.tell(
            Ended(
                attempt_id=leased.attempt_id,
                email_id=leased.email.id,
                provider=leased.provider,
                ended_at=self._clock(),
                answer=answer,
                note=note,
            )
        )
