"""Gets leased deliveries out through one provider.

A sender has a fixed number of hands. A hand is taken when a delivery is leased for it, and free again only when the
outcome is on disk: so leased means in flight, and nothing waits leased in a mailbox.

Left to others: whether anything may go there now (`hes.actors.gate`), who gets what (intake, `hes.routing`), what an
outcome means (`hes.policy`), how a provider is spoken to (`hes.providers`).
"""

import logging
from collections.abc import Collection

import anyio

from hes.actors.actor import Mailbox
from hes.actors.gate import Gate, Pass
from hes.model import Answer, AttemptId, Clock, Ended, GateStatus, Leased, Monotonic, Outcome, Room
from hes.providers.provider import Provider
from hes.telemetry.telemetry import OFF, Part, Telemetry, traceparent
from hes.timeouts import AROUND_PASSES, fail_after

_log = logging.getLogger("hes.sender")

PATIENCE_SECONDS = 1.0
"""How much longer than its time-out a call may take before it is given up from outside: providers keep their own."""


class Sender:
    """One provider's sender.

    Mailbox: Leased, never more than free hands. Reports one Ended for each. A call that has begun is never cancelled
    by a neighbour's fault; one that raises is a bug: logged, and in doubt, since nobody knows how far it got. An email
    that can't be written down never gets so far (`hes.providers.rendering`).
    """

    def __init__(
        self,
        provider: Provider,
        gate: Gate,
        mailbox: Mailbox[Leased],
        report: Mailbox[Ended],
        *,
        hands: int,
        timeout_seconds: float,
        clock: Clock,
        monotonic: Monotonic,
        telemetry: Telemetry = OFF,
    ) -> None:
        self.name = f"sender {provider.name}"
        self.gate = gate
        self._provider = provider
        self.mailbox = mailbox
        self._report = report
        self._hands = hands
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._telemetry = telemetry
        self._in_flight: dict[AttemptId, Leased] = {}
        self._passes: dict[AttemptId, Pass] = {}
        self.begun: dict[AttemptId, Leased] = {}
        self._is_stopping = False

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
        """What it can take now: hands that are free, as far as the gate lets anything through."""
        if self._is_stopping:
            return Room(hands=0)
        return self.gate.room(len(self._in_flight), self._provider.render_version, self._timeout_seconds)

    def status(self) -> GateStatus:
        """How it stands, for people."""
        return self.gate.status(self._provider.kind, len(self.begun))

    def take(self, leased: Leased) -> None:
        """Put it into a free hand; its lease is on disk."""
        self._in_flight[leased.attempt_id] = leased
        self._passes[leased.attempt_id] = self.gate.admit(leased)
        self.mailbox.tell(leased)

    def release(self, ended: Ended) -> None:
        """The outcome is on disk: the hand is free."""
        self._in_flight.pop(ended.attempt_id, None)

    def stop(self) -> None:
        """Begin no call any more. `run` ends when the calls in flight have ended."""
        self._is_stopping = True
        self.mailbox.close()

    async def run(self) -> None:
        """Ends when it was stopped and the calls in flight have ended."""
        for leased in list(self.begun.values()):  # cut off when the last run crashed
            self._tell(leased, Answer(outcome=Outcome.IN_DOUBT, detail="HES crashed in the middle of the call"))
        async with anyio.create_task_group() as hands:
            for _ in range(self._hands):
                hands.start_soon(self._hand)

    async def _hand(self) -> None:
        while True:
            try:
                leased = await self.mailbox.receive()
            except anyio.EndOfStream:
                return
            with self._telemetry.attempt(leased) as attempt:
                await self._send(leased, attempt)

    async def _send(self, leased: Leased, attempt: Part) -> None:
        """One call. Must not raise: the hands share a task group."""
        given = self._passes.pop(leased.attempt_id)
        if (objection := self._objection(leased, given)) is not None:
            self.gate.release(given)
            self._tell(leased, None, objection)
            return
        if leased.failed_over_from is not None:
            _log.info("email %s fails over from %s to %s", leased.email.id, leased.failed_over_from, leased.provider)
        self.begun[leased.attempt_id] = leased
        began_at = self._monotonic()
        is_over = False
        try:
            answer = await self._answer(leased)
            is_over = True
        finally:
            if not is_over:  # cancelled: that says nothing about the provider
                self.gate.release(given)
        attempt.ended(answer.outcome)
        is_believed = True
        if answer.is_ours:  # that says nothing about the provider either
            self.gate.release(given)
        else:
            is_believed = self.gate.record(given, leased.email.id, answer, self._monotonic() - began_at)
        level = logging.DEBUG if answer.outcome is Outcome.ACCEPTED else logging.INFO
        if _log.isEnabledFor(level):
            said = f"{answer.outcome}: {answer.detail}" if answer.detail else answer.outcome.value
            _log.log(level, "email %s, attempt %d at %s: %s", leased.email.id, leased.number, leased.provider, said)
        self._tell(leased, answer, is_believed=is_believed)

    def _objection(self, leased: Leased, given: Pass) -> str | None:
        if self._is_stopping:
            return "HES is stopping"
        if self._monotonic() + leased.timeout_seconds > leased.deadline:
            return "too little of the lease was left"
        return self.gate.objection(given)

    async def _answer(self, leased: Leased) -> Answer:
        try:
            with fail_after(leased.timeout_seconds + PATIENCE_SECONDS, passes=AROUND_PASSES):
                return await self._provider.send(leased.email, leased.attempt_id, leased.timeout_seconds)
        except TimeoutError:
            _log.warning("the call for email %s to %s did not end in time", leased.email.id, leased.provider)
            return Answer(outcome=Outcome.IN_DOUBT, detail="the call did not end in time")
        except Exception:  # noqa: BLE001 (whatever an adapter raises, the email is in doubt and its neighbours go on)
            _log.exception("a bug in sending email %s through %s", leased.email.id, leased.provider)
            return Answer(outcome=Outcome.IN_DOUBT, detail="HES failed in the middle of the call; see its log")

    def _tell(self, leased: Leased, answer: Answer | None, note: str = "", *, is_believed: bool = True) -> None:
        self.begun.pop(leased.attempt_id, None)
        self._report.tell(
            Ended(
                attempt_id=leased.attempt_id,
                email_id=leased.email.id,
                provider=leased.provider,
                ended_at=self._clock(),
                answer=answer,
                note=note,
                is_believed=is_believed,
                trace=traceparent(),
            )
        )
