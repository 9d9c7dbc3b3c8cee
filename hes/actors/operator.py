"""The operator's hand on the providers, and how they stand, whichever processes send.

A word goes to disk first; from there it comes to the gates of all processes, and at once to those of this one.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from hes.actors.gatekeeper import standing
from hes.model import Clock, Fact, FactKey, FactKind, GateState, GateStatus, Millis, Node, ProviderStatus
from hes.storage.storage import Storage

_log = logging.getLogger("hes.operator")

DAY_MS = 24 * 3600 * 1000


class Operator:
    """`here`: this process, if it sends; `told`: is awaited when a word is on disk."""

    def __init__(
        self,
        storage: Storage,
        *,
        kinds: Mapping[str, str],
        weights: Mapping[str, float],
        daily_quotas: Mapping[str, int],
        here: Callable[[], Awaitable[Node | None]],
        told: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`kinds`: of each configured provider, in the order of the configuration."""
        self._storage = storage
        self._kinds = kinds
        self._weights = weights
        self._daily_quotas = daily_quotas
        self._here = here
        self._told = told
        self._clock = clock

    async def pause(self, name: str, by: str) -> None:
        """Nothing goes to that provider until `resume`, whatever is restarted meanwhile."""
        if (name, FactKind.PAUSED, "") not in await self._facts():
            await self._state(name, FactKind.PAUSED, f"paused by {by}", by)
        await self._told()

    async def resume(self, name: str, by: str) -> None:
        """Undo `pause`. Nothing changes for one that is not paused."""
        _log.warning("%s: resumed by %s", name, by)
        await self._storage.state_facts([], [(name, FactKind.PAUSED, "")])
        await self._told()

    async def reset(self, name: str, by: str) -> None:
        """Forget what was learned of it, refusals included: it is used again at once. A pause stays."""
        _log.warning("%s: reset by %s", name, by)
        learned = [key for key in await self._facts() if key[0] == name and key[1] is not FactKind.PAUSED]
        await self._state(name, FactKind.RESET, f"reset by {by}", by, learned)
        await self._told()

    async def _state(self, name: str, kind: FactKind, reason: str, by: str, withdrawn: Sequence[FactKey] = ()) -> None:
        fact = Fact(provider=name, kind=kind, reason=reason, since=self._clock(), by=by)
        await self._storage.state_facts([fact], withdrawn)

    async def _facts(self) -> dict[FactKey, Fact]:
        return standing(await self._storage.facts())

    async def status(self) -> list[ProviderStatus]:
        """How each provider stands, in the order of the configuration."""
        here = await self._here()
        others = [node for node in await self._storage.nodes() if here is None or node.id != here.id]
        nodes = [*([here] if here is not None else []), *others]
        used = await self._storage.quotas_used()
        facts = await self._facts()
        return [self._status(name, nodes, facts, used) for name in self._kinds]

    def _status(
        self, name: str, nodes: Sequence[Node], facts: Mapping[FactKey, Fact], used: Mapping[str, int]
    ) -> ProviderStatus:
        seen = {node: gate for node in nodes for gate in node.gates if gate.name == name}
        together = _together(list(seen.values())) if seen else self._unseen(name)
        paused = facts.get((name, FactKind.PAUSED, ""))
        if paused is not None:
            paused_at = {"state": GateState.PAUSED, "reason": paused.reason, "since": paused.since, "until": None}
            together = replace(together, **paused_at)
        return ProviderStatus(gate=self._with_quota(together, used), nodes=tuple(seen.items()))

    def _unseen(self, name: str) -> GateStatus:
        """No process that sends is there."""
        return GateStatus(
            name=name,
            kind=self._kinds[name],
            state=GateState.DOWN,
            reason="no process that sends is there",
            since=self._clock(),
            until=None,
            weight=self._weights[name],
            effective_weight=0.0,
            in_flight=0,
            in_flight_limit=0,
            rate_limit=None,
            sent_last_minute=0,
            error_rate=0.0,
            retries_left=0,
            refused_sender_domains=(),
        )

    def _with_quota(self, status: GateStatus, used: Mapping[str, int]) -> GateStatus:
        quota = self._daily_quotas.get(status.name)
        if quota is None:
            return status
        left = max(0, quota - used.get(status.name, 0))
        status = replace(status, daily_quota=quota, quota_left=left)
        if left or status.state not in (GateState.UP, GateState.SLOWED):
            return status
        midnight: Millis = (self._clock() // DAY_MS + 1) * DAY_MS
        reason = f"its daily quota of {quota} is used up"
        return replace(status, state=GateState.REFUSED, reason=reason, until=midnight)


_WORST_FIRST = (GateState.PAUSED, GateState.REFUSED, GateState.PROBING, GateState.SLOWED, GateState.DOWN, GateState.UP)
"""Of what all must agree on the word of one counts; what fails at some and works at others is `slowed`."""


def _together(gates: Sequence[GateStatus]) -> GateStatus:
    """How one provider stands, as all who send see it."""
    if len(gates) == 1:
        return gates[0]
    worst = min(gates, key=lambda gate: _WORST_FIRST.index(gate.state))
    state, reason = worst.state, worst.reason
    differing = sum(gate.state is worst.state for gate in gates)
    if state is GateState.DOWN and differing < len(gates):
        state, reason = GateState.SLOWED, f"down at {differing} of {len(gates)} processes that send: {worst.reason}"
    limits = [gate.rate_limit for gate in gates]
    return replace(
        worst,
        state=state,
        reason=reason,
        effective_weight=round(sum(gate.effective_weight for gate in gates) / len(gates), 3),
        in_flight=sum(gate.in_flight for gate in gates),
        in_flight_limit=sum(gate.in_flight_limit for gate in gates),
        rate_limit=None if None in limits else sum(limit for limit in limits if limit is not None),
        sent_last_minute=sum(gate.sent_last_minute for gate in gates),
        error_rate=round(sum(gate.error_rate for gate in gates) / len(gates), 3),
        retries_left=sum(gate.retries_left for gate in gates),
        refused_sender_domains=tuple(sorted({domain for gate in gates for domain in gate.refused_sender_domains})),
    )
