"""Keeps the gates and the storage of one mind.

What a gate has come to know about a provider's account is written down, so that it outlives the process and others
hear of it; what others have written down is told to the gate. When a gate opens, what waits for that provider is
pulled forward; when a provider is not believed any more, its victims go back into the queue.
"""

import logging
from collections.abc import Callable, Mapping

import anyio

from hes.actors.actor import Pulse, StorageTrouble
from hes.actors.gate import Gate
from hes.actors.intake import Intake
from hes.actors.news import News
from hes.actors.sender import Sender
from hes.errors import StorageUnavailable
from hes.model import Fact, FactKey, FactKind, GateStatus, Millis, Monotonic
from hes.storage.storage import Storage

_log = logging.getLogger("hes.gatekeeper")

RETRY_SECONDS = 1.0
LOADING_SECONDS = 5.0


class Gatekeeper:
    """Mailbox: none, only `wake`.

    `listen_seconds`: how often it looks at what other processes have written; None: there are no others.
    `tell_others`: is called when there is something new for them.
    """

    name = "gatekeeper"

    def __init__(
        self,
        storage: Storage,
        senders: Mapping[str, Sender],
        intake: Intake,
        trouble: StorageTrouble,
        *,
        listen_seconds: float | None,
        tell_others: Callable[[], None],
        monotonic: Monotonic,
    ) -> None:
        self._storage = storage
        self._senders = senders
        self._intake = intake
        self._trouble = trouble
        self._listen_seconds = listen_seconds
        self._tell_others = tell_others
        self.pulse = Pulse(monotonic)
        self._woken = anyio.Event()
        self._is_loaded = anyio.Event()
        self._known: dict[FactKey, Fact] = {}
        """What is written down, as far as it was told to the gates or comes from them."""
        self._one_at_a_time = anyio.Lock()
        """What is written or read is told in one go: an older word must never come after a newer one."""

    def wake(self) -> None:
        """A gate has news, or another process has."""
        self._woken.set()

    async def load(self) -> None:
        """Tell the gates what was known before this process began. Waits for the storage, however long."""
        while not self._is_loaded.is_set():
            try:
                await self.listen()
            except StorageUnavailable as error:
                _log.warning("what is known of the providers can't be read: %s", error)
                await anyio.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        while True:
            with anyio.move_on_after(self._listen_seconds):
                await self._woken.wait()
            self._woken = anyio.Event()
            try:
                with self.pulse:
                    if self._listen_seconds is not None:
                        await self.listen()
                    for sender in self._senders.values():
                        await self._write_down(sender.gate)
            except StorageUnavailable:
                await anyio.sleep(RETRY_SECONDS)
                self.wake()

    # --- from the gates to the storage ---------------------------------------------------------------------------

    async def _write_down(self, gate: Gate) -> None:
        async with self._one_at_a_time:
            news = gate.take_news()
            try:
                await self._follow(gate, news)
            except StorageUnavailable:
                self._trouble.note()
                gate.return_news(news)
                raise

    async def _follow(self, gate: Gate, news: News) -> None:
        if news.stated or news.withdrawn:
            await self._storage.state_facts(list(news.stated.values()), sorted(news.withdrawn))
            self._known |= news.stated
            for key in news.withdrawn:
                self._known.pop(key, None)
            self._tell_others()
        if news.victims:
            count = await self._storage.disbelieve(gate.name, news.victims)
            _log.warning("%d emails that %s had rejected are queued again", count, gate.name)
        if news.opened:
            while await self._storage.pull_forward([gate.name]):
                self.pulse.beat()
        if news:
            self._intake.wake()

    # --- from the storage to the gates ---------------------------------------------------------------------------

    async def listen(self) -> None:
        """Read what is written down, and tell the gates what of it is new. Raises StorageUnavailable."""
        async with self._one_at_a_time:
            try:
                facts = await self._storage.facts()
            except StorageUnavailable:
                self._trouble.note()
                raise
            self._teach(standing(facts))
            self._is_loaded.set()

    def _teach(self, facts: Mapping[FactKey, Fact]) -> None:
        before, self._known = self._known, dict(facts)
        new = [fact for key, fact in facts.items() if fact != before.get(key)]
        gates = {name: sender.gate for name, sender in self._senders.items()}
        for fact in new:  # a reset first: what else is new, became known after it
            if fact.kind is FactKind.RESET and fact.provider in gates and self._is_loaded.is_set():
                gates[fact.provider].reset()
        for key in before.keys() - facts.keys():
            if key[0] in gates:
                gates[key[0]].unlearn(key)
        for fact in new:
            if fact.kind is not FactKind.RESET and fact.provider in gates:
                gates[fact.provider].learn(fact)

    async def status(self) -> list[GateStatus]:
        """How each provider stands, as this process sees it."""
        with anyio.move_on_after(LOADING_SECONDS):  # what is said of a gate before it has learned would be wrong
            await self._is_loaded.wait()
            return [sender.status() for sender in self._senders.values()]
        raise StorageUnavailable("what is known of the providers could not be read yet")


def standing(facts: list[Fact]) -> dict[FactKey, Fact]:
    """Without what was learned before an operator wanted it forgotten; a process that was slow may have written it."""
    reset_at: dict[str, Millis] = {fact.provider: fact.since for fact in facts if fact.kind is FactKind.RESET}
    lasting = (FactKind.PAUSED, FactKind.RESET)
    return {f.key: f for f in facts if f.kind in lasting or f.since >= reset_at.get(f.provider, 0)}
