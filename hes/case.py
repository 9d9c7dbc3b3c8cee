"""What decisions are made from, and what they come to. No I/O; the decisions themselves are in `hes.policy`."""

from collections.abc import Mapping

from msgspec import Struct

from hes.model import Attempt, AttemptId, Delivery, Event


class Case(Struct, frozen=True):
    """A delivery with all its attempts in order of number: what a decision is made from."""

    delivery: Delivery
    attempts: tuple[Attempt, ...] = ()

    @property
    def open_doubts(self) -> list[Attempt]:
        return [a for a in self.attempts if a.is_open_doubt]

    def attempt(self, attempt_id: AttemptId | None) -> Attempt | None:
        return next((a for a in self.attempts if a.id == attempt_id), None)

    def after(self, change: "Change") -> "Case":
        """The case as it stands once the change is written."""
        news = {a.id: a for a in change.attempts}
        kept = (news.pop(a.id, a) for a in self.attempts if a.id != change.dropped)
        return Case(change.delivery, (*kept, *news.values()))


class Change(Struct, frozen=True):
    """What is to be written, all of it or nothing."""

    delivery: Delivery
    events: tuple[Event, ...]
    attempts: tuple[Attempt, ...] = ()
    """Rows that are new or changed."""
    dropped: AttemptId | None = None
    """The row of an attempt that was never made."""


class Backoff(Struct, frozen=True):
    """How long an email waits between two rounds: seconds, doubled from round to round, at most so many."""

    base_seconds: float = 1.0
    cap_seconds: float = 600.0


class Rules(Struct, frozen=True, kw_only=True):
    """The settings that decisions depend on."""

    providers: tuple[str, ...]
    """Names of all configured providers, in the order of the configuration."""
    routes: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    """Stream -> ordered groups of providers. A stream without an entry uses all of them, by weight."""
    backoffs: Mapping[str, Backoff] = {}
    """By the provider that was tried last in a round."""
    daily_quotas: Mapping[str, int] = {}
    """How many emails a day (UTC) a provider may be given. Who is not named: any number."""
    lease_seconds: float = 30
