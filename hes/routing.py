"""Who gets what: which providers may take an email now, and which of them does. Pure, like `hes.policy`.

An email's providers come in ordered groups: its own list (each name a group), else the route of its stream, else one
group of all that send. The first group in which anybody has a free hand takes it; within a group the providers take
turns by weight. Retry and failover are nothing special here: who was tried in this round simply is no candidate.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from hes.case import Rules
from hes.lanes import Lane, lane_of
from hes.model import Delivery, Millis, Room
from hes.probing import NONE_TRIED, Tries, best_probes_first
from hes.rotation import Rotation

POISON_LAPSES = 3
"""In flight at so many crashes: held, whatever the policy."""

BUSY_PATIENCE_MS = 2000
"""How long an email waits for a hand of a provider that it was not tried at yet, while one that it was tried at has
one. It costs that email a round; waiting on could cost it its life."""

OUTBOX = "outbox"
"""The built-in provider of what test keys send: always there, and in no route unless it is configured."""

OTHERS_BEFORE_A_SUSPECT = 200
"""While others are due, so many of them go between two suspects: each makes all the others wait for its call to end."""


class _Hands:
    """What is left of the rooms while emails are given out."""

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self._rooms = rooms
        self._hands = {name: room.hands for name, room in rooms.items()}
        self._retries = {name: room.retries for name, room in rooms.items()}
        self._probed: set[tuple[str, str]] = set()

    def is_free(self, name: str, lane: Lane) -> bool:
        return (
            self._hands.get(name, 0) > 0
            and lane.sender_domain not in self._rooms[name].closed_domains
            and (name, lane.sender_domain) not in self._probed
            and not (lane.is_retry and self._retries[name] <= 0)
        )

    def take(self, name: str, delivery: Delivery) -> None:
        self._hands[name] -= 1
        self._retries[name] -= delivery.is_retry
        if delivery.sender_domain in self._rooms[name].probing_domains:
            self._probed.add((name, delivery.sender_domain))


class Given(Struct, frozen=True):
    """A due delivery, and whose hand it goes into."""

    delivery: Delivery
    provider: str


class Routing:
    """Remembers whose turn it is."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._rotation = Rotation()
        self._since_suspect = 0

    def groups(self, lane: Lane) -> list[list[str]]:
        """Providers that may ever take what is in this lane, in groups, the preferred first."""
        if lane.is_test:
            return [[OUTBOX]] if OUTBOX not in lane.declined_by else [[]]
        if lane.own_providers:
            groups: Sequence[Sequence[str]] = [[name] for name in lane.own_providers]
        else:
            groups = self._rules.routes.get(lane.stream) or [self._rules.default_group or self._rules.providers]
        known = self._rules.providers
        return [[n for n in group if n in known and n not in lane.declined_by] for group in groups]

    def usable(self, lane: Lane) -> list[str]:
        return [name for group in self.groups(lane) for name in group]

    def open_ones(self, lane: Lane, rooms: Mapping[str, Room]) -> list[str]:
        """Those that are not shut for it, be they busy, and whether or not they were tried."""
        return [name for name in self.usable(lane) if not _is_shut(rooms.get(name), lane)]

    def takers(self, lane: Lane, rooms: Mapping[str, Room], waited_ms: Millis) -> list[str]:
        """Who can take it now: those with a free hand in the first group where anybody has one.

        Who was tried in this round waits for the next; but if all others are shut there is nobody to wait for, and if
        they are only busy, it is not waited for ever. `waited_ms`: for how long it has been due.
        """
        return self._takers(lane, rooms, _Hands(rooms), waited_ms)

    def _takers(self, lane: Lane, rooms: Mapping[str, Room], hands: _Hands, waited_ms: Millis) -> list[str]:
        groups = self.groups(lane)
        if not lane.tried:
            return _first_free(groups, lane, hands)
        fresh = [[name for name in group if name not in lane.tried] for group in groups]
        if free := _first_free(fresh, lane, hands):
            return free
        is_nobody_open = all(_is_shut(rooms.get(name), lane) for group in fresh for name in group)
        return _first_free(groups, lane, hands) if is_nobody_open or waited_ms >= BUSY_PATIENCE_MS else []

    def give_out(
        self,
        due: Sequence[Delivery],
        rooms: Mapping[str, Room],
        size_budget: int,
        now: Millis,
        *,
        is_idle: bool,
        tries: Tries = NONE_TRIED,
    ) -> list[Given] | None:
        """Which of the due deliveries go into whose free hands, in their order.

        A suspect, in flight at all crashes but the last that is allowed, goes alone and only while nothing else is in
        flight (`is_idle`). It gets its turn when nothing else is due, or after so many others; None: it is its turn
        and not idle yet, so nothing may be given out now. `tries`: as `best_probes_first` wants them.
        """
        hands = _Hands(rooms)
        weights = {name: room.weight for name, room in rooms.items()}
        given: list[Given] = []
        suspect: Given | None = None
        for delivery in best_probes_first(due, rooms, tries):
            takers = self._takers(lane_of(delivery), rooms, hands, now - delivery.due_at)
            if not takers:
                continue
            if delivery.lapses >= POISON_LAPSES - 1:
                suspect = suspect or Given(delivery, takers[0])
                continue
            if delivery.size_bytes > size_budget and not (is_idle and not given):
                break
            provider = self._rotation.pick(takers, weights)
            size_budget -= delivery.size_bytes
            hands.take(provider, delivery)
            given.append(Given(delivery, provider))
        if suspect is not None and (not given or self._since_suspect >= OTHERS_BEFORE_A_SUSPECT):
            if not is_idle:
                return None
            self._since_suspect = 0
            return [suspect]
        self._since_suspect += len(given)
        return given


def _first_free(groups: Sequence[Sequence[str]], lane: Lane, hands: _Hands) -> list[str]:
    for group in groups:
        if free := [name for name in group if hands.is_free(name, lane)]:
            return free
    return []


def _is_shut(room: Room | None, lane: Lane) -> bool:
    return room is not None and (room.is_shut or lane.sender_domain in room.closed_domains)
