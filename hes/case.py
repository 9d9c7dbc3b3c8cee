"""What decisions are made from, and what they come to. No I/O; the decisions themselves are in `hes.policy`."""

from collections.abc import Mapping

from msgspec import Struct

from hes.model import Attempt, AttemptId, Delivery, EmailId, Event, Millis


class Case(Struct, frozen=True):
    """A delivery with all its attempts in order of number: what a decision is made from."""

    delivery: Delivery
    attempts: tuple[Attempt, ...] = ()
    unasked: frozenset[AttemptId] = frozenset()
    """Doubts with a search in which nobody has been asked yet: no request was made again."""

    @property
    def open_doubts(self) -> list[Attempt]:
        return [a for a in self.attempts if a.is_open_doubt]

    def attempt(self, attempt_id: AttemptId | None) -> Attempt | None:
        return next((a for a in self.attempts if a.id == attempt_id), None)

    def after(self, change: "Change") -> "Case":
        """The case as it stands once the change is written."""
        news = {a.id: a for a in change.attempts}
        kept = (news.pop(a.id, a) for a in self.attempts if a.id != change.dropped)
        begun = {change.search.attempt_id} if change.search is not None else set()
        return Case(change.delivery, (*kept, *news.values()), self.unasked | begun)


class Search(Struct, frozen=True, kw_only=True):
    """That a provider is asked what became of an attempt in doubt: when, and what came of it so far."""

    attempt_id: AttemptId
    email_id: EmailId
    provider: str
    next_at: Millis
    """Not asked before. While somebody is asking, it is theirs until then."""
    until: Millis
    """From then on the provider knows nothing of the attempt any more."""
    lease: str | None = None
    """Who is asking now."""
    asked: int = 0
    lost: int = 0
    """How often somebody began to ask and went away without an answer."""
    told: str = ""
    """What the timeline says last about it."""


class Change(Struct, frozen=True):
    """What is to be written, all of it or nothing."""

    delivery: Delivery
    events: tuple[Event, ...]
    attempts: tuple[Attempt, ...] = ()
    """Rows that are new or changed."""
    dropped: AttemptId | None = None
    """The row of an attempt that was never made."""
    search: Search | None = None
    """A doubt that is looked into from now on."""


class Backoff(Struct, frozen=True):
    """How long an email waits between two rounds: seconds, doubled from round to round, at most so many."""

    base_seconds: float = 1.0
    cap_seconds: float = 600.0


class Means(Struct, frozen=True, kw_only=True):
    """How a provider lets us find out about a doubt. Seconds."""

    doubt_seconds: float
    """How long the email waits for it at most."""
    replay_seconds: float = 0.0
    """For how long after an attempt began its request can be made again under its key; 0: not at all."""
    look_up_seconds: float = 0.0
    """Likewise for how long its records can be searched."""


class Rules(Struct, frozen=True, kw_only=True):
    """The settings that decisions depend on."""

    providers: tuple[str, ...]
    """Names of all configured providers, in the order of the configuration."""
    default_group: tuple[str, ...] = ()
    """Who takes turns by weight where neither the email nor a route names anybody; empty: all of them."""
    routes: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    """Stream -> ordered groups of providers. A stream without an entry uses the default group."""
    backoffs: Mapping[str, Backoff] = {}
    """By the provider that was tried last in a round."""
    daily_quotas: Mapping[str, int] = {}
    """How many emails a day (UTC) a provider may be given. Who is not named: any number."""
    lease_seconds: float = 30
    call_seconds: float = 28
    """How long a call to a provider may take at most: a lease outlasts it."""
    means: Mapping[str, Means] = {}
    """Of the providers that have any."""
    keep_drafts_ms: Millis | None = None
    """For how long a draft is kept that nobody edits or sends; None: for ever."""
