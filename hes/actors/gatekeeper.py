"""Keeps the gates and the storage of one mind.

What a gate has come to know about a provider's account is written down, so that it outlives the process. When a gate
opens, what waits for that provider is pulled forward; when a provider is not believed any more, its victims go back
into the queue. And an operator's word goes to disk first, then to the gate.
"""

import logging
from collections.abc import Mapping, Sequence

import anyio
from msgspec.structs import replace

from hes.actors.actor import StorageTrouble
from hes.actors.gate import Gate
from hes.actors.intake import Intake
from hes.actors.news import News
from hes.actors.sender import Sender
from hes.errors import StorageUnavailable
from hes.model import Clock, Fact, FactKind, GateState, GateStatus
from hes.storage.storage import Storage

_log = logging.getLogger("hes.gatekeeper")

RETRY_SECONDS = 1.0
LOADING_SECONDS = 5.0
DAY_MS = 24 * 3600 * 1000


class Gatekeeper:
    """Mailbox: none, only `wake`."""

    name = "gatekeeper"

    def __init__(
        self,
        storage: Storage,
        senders: Mapping[str, Sender],
        intake: Intake,
        trouble: StorageTrouble,
        *,
        names: Sequence[str],
        daily_quotas: Mapping[str, int],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._senders = senders
        self._intake = intake
        self._trouble = trouble
        self._names = names
        self._daily_quotas = daily_quotas
        self._clock = clock
        self._woken = anyio.Event()
        self._is_loaded = anyio.Event()
        self._one_writer = anyio.Lock()
        """News are taken and written in one go: an older word must never be written after a newer one."""

    def wake(self) -> None:
        """A gate has news."""
        self._woken.set()

    async def load(self) -> None:
        """Tell the gates what was known before this process began. Waits for the storage, however long."""
        for fact in await self._facts():
            if (sender := self._senders.get(fact.provider)) is not None:
                sender.gate.learn(fact)
        self._is_loaded.set()

    async def _facts(self) -> list[Fact]:
        while True:
            try:
                return await self._storage.facts()
            except StorageUnavailable as error:
                self._trouble.note()
                _log.warning("what is known of the providers can't be read: %s", error)
            await anyio.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            for sender in self._senders.values():
                if not await self._write_down(sender.gate):
                    await anyio.sleep(RETRY_SECONDS)
                    self.wake()

    async def _write_down(self, gate: Gate) -> bool:
        async with self._one_writer:
            news = gate.take_news()
            try:
                await self._follow(gate, news)
            except StorageUnavailable:
                self._trouble.note()
                gate.return_news(news)
                return False
            return True

    async def _follow(self, gate: Gate, news: News) -> None:
        if news.stated or news.withdrawn:
            await self._storage.state_facts(list(news.stated.values()), sorted(news.withdrawn))
        if news.victims:
            count = await self._storage.disbelieve(gate.name, news.victims)
            _log.warning("%d emails that %s had rejected are queued again", count, gate.name)
        if news.opened:
            while await self._storage.pull_forward([gate.name]):
                pass
        if news:
            self._intake.wake()

    # --- the operator's hand -------------------------------------------------------------------------------------

    async def _loaded(self) -> None:
        """The first moments of a process: what is said of a gate before it has learned would be wrong."""
        with anyio.move_on_after(LOADING_SECONDS):
            return await self._is_loaded.wait()
        raise StorageUnavailable("what is known of the providers could not be read yet")

    async def pause(self, name: str, by: str) -> None:
        """Nothing goes to that provider until `resume`, whatever is restarted meanwhile."""
        await self._loaded()
        if self._senders[name].gate.is_paused:
            return
        fact = Fact(
            provider=name,
            kind=FactKind.PAUSED,
            reason=f"paused by {by}",
            since=self._clock(),
            by=by,
        )
        await self._storage.state_facts([fact])
        self._senders[name].gate.pause(fact)

    async def resume(self, name: str, by: str) -> None:
        """Undo `pause`. Nothing changes for one that is not paused."""
        await self._loaded()
        await self._storage.state_facts([], [(name, FactKind.PAUSED, "")])
        self._senders[name].gate.resume()
        _log.warning("%s: resumed by %s", name, by)

    async def reset(self, name: str, by: str) -> None:
        """Forget what was learned of it, refusals included: it is used again at once. A pause stays."""
        await self._loaded()
        self._senders[name].gate.reset()
        _log.warning("%s: reset by %s", name, by)
        if not await self._write_down(self._senders[name].gate):
            raise StorageUnavailable("the reset is in force, but could not be written down yet")

    async def status(self) -> list[GateStatus]:
        """How each provider stands, in the order of the configuration."""
        await self._loaded()
        used = await self._storage.quotas_used()
        return [self._with_quota(self._senders[name].status(), used) for name in self._names]

    def _with_quota(self, status: GateStatus, used: Mapping[str, int]) -> GateStatus:
        quota = self._daily_quotas.get(status.name)
        if quota is None:
            return status
        left = max(0, quota - used.get(status.name, 0))
        status = replace(status, daily_quota=quota, quota_left=left)
        if left or status.state not in (GateState.UP, GateState.SLOWED):
            return status
        midnight = (self._clock() // DAY_MS + 1) * DAY_MS
        reason = f"its daily quota of {quota} is used up"
        return replace(status, state=GateState.REFUSED, reason=reason, until=midnight)
