"""Asks providers what became of attempts in doubt, beside the sending and never in its way.

It has hands of its own, few for each provider, and each asks slowly. What may be asked, and when again, is decided by
`hes.searching`; what follows from an answer by `hes.policy`, in the storage. That the time of a search is over is the
janitor's affair: the policy acts then, whether or not anybody could ask.

Races, and how each ends:
- A look-up found nothing, the email is sent again, and then an event proves the first: `sent`, and `duplicate` if the
  second was taken too. That is what `on_doubt: resend` allows; a pending resend is dropped.
- Two resolvers: a question is claimed under a lease. One that stood still finds its time over before it asks; one that
  asks for too long may put nothing back, but an acceptance counts whenever it comes.
- A replay and the end of the search, or expiry: a replay has only the time that is left until then.
- A replay and a person who decides meanwhile: the person's word is final, and the replay's acceptance is evidence like
  any other. Whoever says `resend` while it is on its way takes on two copies.
"""

import logging
from collections.abc import Callable, Mapping

import anyio
import anyio.abc

from hes.actors.actor import Pulse, StorageTrouble
from hes.errors import StorageUnavailable
from hes.model import Monotonic
from hes.providers.finding import Doubt, Finding, Found, LooksUp, Replays
from hes.providers.provider import Provider
from hes.searching import Way
from hes.storage.searches import Asked, Asking
from hes.storage.storage import Storage
from hes.telemetry.telemetry import OFF, Telemetry
from hes.timeouts import AROUND_PASSES, fail_after

_log = logging.getLogger("hes.resolver")

HANDS = 4
"""Questions to one provider at a time."""
PAUSE_SECONDS = 0.5
"""How long a hand is in use at least: with all of them that is the most that a provider is asked."""
PATIENCE_SECONDS = 1.0
"""How much longer than its time-out a question may take before it is given up from outside."""
WRITE_AGAIN_SECONDS = 1.0


class Finder:
    """One provider's hands for questions."""

    def __init__(self, provider: Provider, *, timeout_seconds: float, may_replay: Callable[[], bool]) -> None:
        """`may_replay`: whether anything may be sent there now."""
        self.provider = provider
        self.timeout_seconds = timeout_seconds
        self.may_replay = may_replay
        self.in_use = 0
        self.rests_until = 0.0
        """On the monotonic clock: the provider takes no question before."""
        self._answers = True
        """It could be asked the last time."""

    def hands(self, now: float) -> int:
        return HANDS - self.in_use if now >= self.rests_until else 0

    async def ask(self, asking: Asking, seconds: float) -> Finding:
        doubt = Doubt(
            email=asking.email,
            attempt_id=asking.search.attempt_id,
            started_at=asking.started_at,
            render_version=asking.render_version,
        )
        if asking.way is Way.REPLAY and isinstance(self.provider, Replays):
            return await self.provider.replay(doubt, seconds)
        if asking.way is Way.LOOK_UP and isinstance(self.provider, LooksUp):
            return await self.provider.look_up(doubt, seconds)
        return Finding(found=Found.UNAVAILABLE, detail=f"{self.provider.name} has no {asking.way}")

    def tell(self, asking: Asking, finding: Finding) -> None:
        """To the log. Doubts are asked about for days: only what ends one is news, and that nothing can be asked."""
        name, attempt_id = self.provider.name, asking.search.attempt_id
        level = logging.INFO if finding.found is Found.ACCEPTED else logging.DEBUG
        told = (name, attempt_id, asking.way, finding.found, finding.detail)
        _log.log(level, "asked %s about attempt %s (%s): %s: %s", *told)
        answers = finding.found is not Found.UNAVAILABLE
        if self._answers and not answers:
            _log.warning("%s can't be asked about doubts, as about attempt %s: %s", name, attempt_id, finding.detail)
        elif answers and not self._answers:
            _log.info("%s answers questions about doubts again", name)
        self._answers = answers


class Resolver:
    """Mailbox: none; it looks for due questions once per period, and when a hand comes free.

    And for events that came too early to be told: they prove something too.
    """

    name = "resolver"

    def __init__(
        self,
        storage: Storage,
        finders: Mapping[str, Finder],
        trouble: StorageTrouble,
        *,
        period_seconds: float,
        lease_seconds: float,
        monotonic: Monotonic,
        telemetry: Telemetry = OFF,
    ) -> None:
        self._storage = storage
        self._finders = finders
        self._trouble = trouble
        self._period_seconds = period_seconds
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._telemetry = telemetry
        self.pulse = Pulse(monotonic)
        self._woken = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as hands:
            while True:
                self._woken = anyio.Event()
                try:
                    with self.pulse:
                        while await self._storage.inbox.match():
                            self.pulse.beat()
                        await self._claim(hands)
                except StorageUnavailable:
                    self._trouble.note()
                    await anyio.sleep(self._period_seconds)
                with anyio.move_on_after(self._period_seconds):
                    await self._woken.wait()

    async def _claim(self, hands: anyio.abc.TaskGroup) -> None:
        began_at = self._monotonic()  # the lease began, by our clock, at the latest when we asked for it
        free = {name: finder.hands(began_at) for name, finder in self._finders.items()}
        if not any(free.values()):
            return
        may_replay = {name: finder.may_replay() for name, finder in self._finders.items()}
        for asking in await self._storage.searches.claim(free, may_replay):
            finder = self._finders[asking.search.provider]
            finder.in_use += 1
            hands.start_soon(self._hand, finder, asking, began_at + min(asking.seconds, self._lease_seconds))

    async def _hand(self, finder: Finder, asking: Asking, deadline: float) -> None:
        """One question, and its answer written down. Must not raise: the hands share a task group."""
        try:
            free_at = self._monotonic() + PAUSE_SECONDS
            attempt_id = asking.search.attempt_id
            with self._telemetry.asking(asking.email, attempt_id, asking.search.provider) as question:
                finding = await self._ask(finder, asking, deadline)
                question.ended(finding.found)
                finder.tell(asking, finding)
            if finding.ask_again_seconds is not None:
                finder.rests_until = self._monotonic() + finding.ask_again_seconds
            await self._write(
                Asked(
                    search=asking.search,
                    way=asking.way,
                    answer=finding.found,
                    accepted=finding.found is Found.ACCEPTED,
                    provider_message_id=finding.provider_message_id,
                    ask_again_seconds=finding.ask_again_seconds,
                    detail=finding.detail,
                )
            )
            await anyio.sleep(max(0.0, free_at - self._monotonic()))
        finally:
            finder.in_use -= 1
            self._woken.set()

    async def _ask(self, finder: Finder, asking: Asking, deadline: float) -> Finding:
        seconds = min(finder.timeout_seconds, deadline - self._monotonic())
        if seconds <= 0:
            return Finding(found=Found.UNAVAILABLE, detail="HES was too slow to ask in time")
        try:
            with fail_after(seconds + PATIENCE_SECONDS, passes=2 * AROUND_PASSES):
                return await finder.ask(asking, seconds)
        except Exception:  # noqa: BLE001 (whatever an adapter raises, the doubt stays and its neighbours go on)
            _log.exception("a bug in asking %s about attempt %s", finder.provider.name, asking.search.attempt_id)
            return Finding(found=Found.UNAVAILABLE, detail="HES failed in the middle of the question; see its log")

    async def _write(self, asked: Asked) -> None:
        """Again until it is written: an acceptance must not get lost, and this hand asks nothing else meanwhile."""
        while True:
            try:
                return await self._storage.searches.answer(asked)
            except StorageUnavailable:
                self._trouble.note()
                await anyio.sleep(WRITE_AGAIN_SECONDS)
            except Exception:  # noqa: BLE001 (one that can't be written harms no neighbour: it is asked again)
                _log.exception("what was found out about attempt %s can't be written", asked.search.attempt_id)
                return None
