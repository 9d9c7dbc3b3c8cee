"""How the actors of a mailer stand: gates, hands and mailboxes for the gauges, and who is at one thing for how long."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from hes.actors.actor import Mailbox, Pulse
from hes.actors.sender import Sender
from hes.model import Ended, GateState, Monotonic
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.telemetry.telemetry import Values


class HasPulse(Protocol):
    """An actor that tells when it begins a piece of work."""

    name: str
    pulse: Pulse


class MailerVitals:
    """`outcomes`: the reporter's mailbox. `actors`: those besides the senders."""

    def __init__(
        self, senders: Mapping[str, Sender], outcomes: Mailbox[Ended], actors: Sequence[HasPulse], monotonic: Monotonic
    ) -> None:
        self._senders = senders
        self._outcomes = outcomes
        self._actors = actors
        self._monotonic = monotonic

    def gauges(self) -> Iterator[tuple[Metric, Values]]:
        """Each with what it shows now."""
        gates = [sender.status() for sender in self._senders.values()]
        yield (
            names.GATE,
            [
                (int(gate.state is state), {names.PROVIDER: gate.name, names.STATE: state.value})
                for gate in gates
                for state in GateState
            ],
        )
        yield names.HANDS, [(sender.in_flight, {names.PROVIDER: name}) for name, sender in self._senders.items()]
        yield names.HANDS_LIMIT, [(gate.in_flight_limit, {names.PROVIDER: gate.name}) for gate in gates]
        fills = {"reporter": self._outcomes.fill} | {s.name: s.mailbox.fill for s in self._senders.values()}
        yield names.MAILBOX, [(fill, {names.ACTOR: name}) for name, fill in fills.items()]

    def busy_seconds(self) -> dict[str, float]:
        """For how long each has been at its present piece of work; a sender: with a call beyond its lease."""
        busy = {actor.name: actor.pulse.busy_seconds() for actor in self._actors}
        now = self._monotonic()
        for sender in self._senders.values():
            deadlines = (leased.deadline for leased in sender.begun.values())
            busy[sender.name] = max(0.0, now - min(deadlines, default=now))
        return busy
