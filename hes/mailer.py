"""The actors that get emails out, wired: what a process of the role `mailer` or `all` does.

storage ◀─ lease ─ intake ─▶ sender ─▶ provider       (per provider, per free hand)
   ▲                            │
   └── settle ── reporter ◀─────┘  then the hand is free, and the intake is woken

gatekeeper: what the gates learn, here and elsewhere   janitor: lapsed leases, expiry, old keys
resolver: asks providers about doubts                  supervisor: above all of them
"""

import logging
import random
import time
from collections.abc import Sequence

import anyio

from hes.actors.actor import Mailbox, StorageTrouble
from hes.actors.gate import Gate
from hes.actors.gatekeeper import Gatekeeper
from hes.actors.intake import Intake
from hes.actors.janitor import Janitor
from hes.actors.reporter import Reporter
from hes.actors.resolver import Finder, Resolver
from hes.actors.sender import Sender
from hes.actors.supervisor import Supervisor
from hes.actors.vitals import MailerVitals
from hes.configured import all_providers, gate_settings
from hes.errors import StorageUnavailable
from hes.model import Clock, Ended, Leased, Monotonic
from hes.providers.provider import Provider
from hes.settings import Settings
from hes.storage.hints import Hint
from hes.storage.storage import Storage
from hes.telemetry.telemetry import OFF, Telemetry

LISTEN_SECONDS = 1.0
"""How often a process looks by itself at what others have found out about the providers."""
UNFIT_SECONDS = 1.0
"""How long nothing is sent before the storage is looked at again."""

_log = logging.getLogger("hes.mailer")


class Mailer:
    """The actors that get emails out, wired."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        providers: Sequence[Provider],
        clock: Clock,
        rng: random.Random,
        monotonic: Monotonic = time.monotonic,
        telemetry: Telemetry = OFF,
    ) -> None:
        """`providers`: as `make_providers` makes them; closed by `aclose`."""
        self.trouble = trouble = StorageTrouble(monotonic)
        self._storage = storage
        self._senders: dict[str, Sender] = {}
        self.intake = Intake(
            storage,
            self._senders,
            trouble,
            poll_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            rng=rng,
        )
        self.gatekeeper = Gatekeeper(
            storage,
            self._senders,
            self.intake,
            trouble,
            listen_seconds=LISTEN_SECONDS if storage.is_shared else None,
            tell_others=lambda: storage.hints.tell(Hint.FACTS),
            monotonic=monotonic,
        )
        storage.hints.listen(Hint.DUE, self.intake.wake)
        storage.hints.listen(Hint.FACTS, self.gatekeeper.wake)
        configured = {one.name: one for one in all_providers(settings)}
        self._outcomes = Mailbox[Ended](sum(one.max_in_flight for one in configured.values()))
        self._leased: list[Mailbox[Leased]] = []
        self._providers = providers
        for provider in providers:
            one = configured[provider.name]
            mailbox = Mailbox[Leased](one.max_in_flight)
            gate = Gate(
                one.name,
                gate_settings(one),
                clock=clock,
                monotonic=monotonic,
                rng=rng,
                changed=self.gatekeeper.wake,
            )
            self._leased.append(mailbox)
            self._senders[one.name] = Sender(
                provider,
                gate,
                mailbox,
                self._outcomes,
                hands=one.max_in_flight,
                timeout_seconds=one.attempt_timeout,
                clock=clock,
                monotonic=monotonic,
                telemetry=telemetry,
            )
        self._reporter = Reporter(
            storage, self._outcomes, self._senders, trouble, monotonic=monotonic, wake=self.intake.wake
        )
        self._janitor = Janitor(
            storage,
            self._reporter,
            trouble,
            held=lambda: [attempt_id for sender in self._senders.values() for attempt_id in sender.in_hand],
            period_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            keep_contents_days=settings.retention_content,
            keep_history_days=settings.retention_history,
            monotonic=monotonic,
            rng=rng,
        )
        self._resolver = Resolver(
            storage,
            {p.name: self._finder(p, configured[p.name].attempt_timeout) for p in providers},
            trouble,
            period_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            telemetry=telemetry,
        )
        actors = (self.intake, self._reporter, self._janitor, self.gatekeeper, self._resolver)
        self.vitals = MailerVitals(self._senders, self._outcomes, actors, monotonic)
        self._supervisor = Supervisor(monotonic, rng)

    def _finder(self, provider: Provider, timeout_seconds: float) -> Finder:
        gate = self._senders[provider.name].gate
        return Finder(provider, timeout_seconds=timeout_seconds, may_replay=lambda: not gate.is_paused)

    def share(self, part: float) -> None:
        """So much of what is configured for all processes together is this one's."""
        for sender in self._senders.values():
            sender.gate.share(part)

    async def run(self) -> None:
        """Work until `stop`, then let what is in flight end, and write down how. Raises what an actor died of."""
        if not await self._storage_fits():
            return
        await self.gatekeeper.load()
        async with anyio.create_task_group() as others:
            others.start_soon(self._supervisor.run, self._janitor)
            others.start_soon(self._supervisor.run, self.gatekeeper)
            others.start_soon(self._supervisor.run, self._resolver)
            async with anyio.create_task_group() as writing:
                writing.start_soon(self._supervisor.run, self._reporter)
                async with anyio.create_task_group() as sending:
                    for sender in self._senders.values():
                        sending.start_soon(self._supervisor.run, sender)
                    await self._supervisor.run(self.intake)
                    for sender in self._senders.values():  # only now: what was leased last still found its hand
                        sender.stop()
                self._outcomes.close()  # upstream first: nobody is left who could tell the reporter anything
            others.cancel_scope.cancel()

    async def _storage_fits(self) -> bool:
        """Wait until its schema is the one that this version needs; False: `stop` came first."""
        told = ""
        while not self.intake.is_stopped:
            try:
                await self._storage.check()
            except StorageUnavailable as error:
                self.trouble.note()
                if str(error) != told:
                    _log.warning("nothing is sent yet: %s", error)
                told = str(error)
                await anyio.sleep(UNFIT_SECONDS)
            else:
                return True
        return False

    def stop(self) -> None:
        """Lease nothing more. `run` ends when the calls in flight have, and their outcomes are written."""
        self.intake.stop()

    @property
    def in_flight(self) -> int:
        return sum(sender.in_flight for sender in self._senders.values())

    async def aclose(self) -> None:
        self._outcomes.discard()
        for mailbox in self._leased:
            mailbox.discard()
        for provider in self._providers:
            await provider.aclose()
