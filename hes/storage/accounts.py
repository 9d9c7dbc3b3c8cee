"""What storage keeps about providers: facts about their accounts, daily quotas, and what waits for one of them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from msgspec.structs import replace

from hes import lanes
from hes.model import Fact, FactKey, FactKind, Millis, Room, Status
from hes.routing import Routing
from hes.storage import tables
from hes.storage.batches import Insert, padded
from hes.storage.claiming import waiting_lanes

PULLED_AT_ONCE = 500

_DAY_MS = 24 * 3600 * 1000

_state = tables.provider_state.c
_state_facts = Insert(
    tables.provider_state,
    "ON CONFLICT (provider, kind, sender_domain) DO UPDATE SET reason = excluded.reason, since = excluded.since, "
    "until = excluded.until, changed_by = excluded.changed_by",
)
_quota = tables.provider_quota.c
_take = Insert(
    tables.provider_quota,
    "ON CONFLICT (provider) DO UPDATE SET day = excluded.day, given = excluded.given + "
    "CASE WHEN provider_quota.day = excluded.day THEN provider_quota.given ELSE 0 END RETURNING provider, given",
)
_row = tables.deliveries.c


def facts(connection: sa.Connection, _now: Millis = 0) -> list[Fact]:
    return [
        Fact(
            provider=row.provider,
            kind=FactKind(row.kind),
            sender_domain=row.sender_domain,
            reason=row.reason,
            since=row.since,
            until=row.until,
            by=row.changed_by,
        )
        for row in connection.execute(sa.select(tables.provider_state))
    ]


def state_facts(connection: sa.Connection, stated: Collection[Fact], withdrawn: Collection[FactKey]) -> None:
    if withdrawn:
        key = sa.tuple_(_state.provider, _state.kind, _state.sender_domain)
        connection.execute(sa.delete(tables.provider_state).where(key.in_(padded(sorted(withdrawn)))))
    rows = [
        (fact.provider, fact.kind.value, fact.sender_domain, fact.reason, fact.since, fact.until, fact.by)
        for fact in sorted(stated, key=lambda fact: fact.key)
    ]
    _state_facts.run(connection, rows)


def pull_forward(connection: sa.Connection, now: Millis, routing: Routing, providers: Collection[str]) -> int:
    """What waits for its next round, in lanes that one of these may take from. `scheduled` is left alone."""
    lanes_ = (lane for lane, _ in waiting_lanes(connection))
    theirs = [lane for lane in lanes_ if not set(providers).isdisjoint(routing.usable(lanes.parse(lane)))]
    if not theirs:
        return 0
    some = (
        sa.select(_row.email_id)
        .where(
            sa.text(tables.IS_WAITING),
            _row.lane.in_(theirs),
            _row.due_at > now,
            _row.status == Status.QUEUED.value,
        )
        .limit(PULLED_AT_ONCE)
        .with_for_update(skip_locked=True)  # what somebody leases just now needs no pulling
    )
    return connection.execute(sa.update(tables.deliveries).where(_row.email_id.in_(some)).values(due_at=now)).rowcount


def quotas_used(connection: sa.Connection, now: Millis) -> dict[str, int]:
    today = sa.select(_quota.provider, _quota.given).where(_quota.day == now // _DAY_MS)
    return {row.provider: row.given for row in connection.execute(today)}


class QuotaTaken(Exception):
    """Another process has used up a daily quota since this transaction looked: it must be undone, and begin anew."""


class Quotas:
    """The daily quotas within one claim: counted in its transaction, so that no crash and no neighbour miscounts."""

    def __init__(self, connection: sa.Connection, daily: Mapping[str, int], now: Millis) -> None:
        self._connection = connection
        self._daily = daily
        self._day = now // _DAY_MS
        self._used = quotas_used(connection, now) if daily else {}

    def limit(self, rooms: Mapping[str, Room]) -> Mapping[str, Room]:
        """The rooms, with no more hands than are left of a quota. A used-up one is shut: nobody waits for it."""
        if not self._daily:
            return rooms
        return {name: self._limited(name, room) for name, room in rooms.items()}

    def _limited(self, name: str, room: Room) -> Room:
        if name not in self._daily:
            return room
        left = max(0, self._daily[name] - self._used.get(name, 0))
        return replace(room, hands=min(room.hands, left), is_shut=room.is_shut or left == 0)

    def take(self, providers: Iterable[str]) -> None:
        """So many are given to them by this transaction. Raises QuotaTaken if others had them first."""
        counts = Counter(name for name in providers if name in self._daily)
        rows = [(name, self._day, count) for name, count in sorted(counts.items())]  # locked in this order by everybody
        for row in _take.run(self._connection, rows):
            if row.given > self._daily[row.provider]:
                raise QuotaTaken(row.provider)
