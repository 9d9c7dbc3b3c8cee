"""Claiming: which due deliveries are looked at, at a cost that grows neither with the backlog nor with history.

`deliveries_waiting` is an index by lane and due time over what waits and nothing else. The claim walks the heads of
some lanes, a different stretch each time, keeps those of which something is due and somebody can take it now, and reads
a few rows of each. What fills the other lanes is never touched.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from hes import lanes
from hes.model import Delivery, EmailId, Millis, Room
from hes.routing import Routing
from hes.storage import tables
from hes.storage.batches import padded
from hes.storage.ledger import delivery_of

LANES = 64
"""How many lanes are looked at together."""

STRETCHES = 16
"""Of so many lanes each one claim goes through if nobody can take anything; the next claim goes on there."""

PROBE_CHOICE = 20
"""Among so many emails the one is chosen that finds out whether a provider works again."""

_row = tables.deliveries.c
_waiting = sa.text(tables.IS_WAITING)


def _next_lane(after: sa.ColumnElement[Any] | sa.ScalarSelect[Any]) -> sa.ScalarSelect[Any]:
    return sa.select(_row.lane).where(_waiting, _row.lane > after).order_by(_row.lane).limit(1).scalar_subquery()


def _select_lanes() -> sa.Select[Any]:
    """The lanes behind one, and when the first of each is due; a loose index scan, a few steps for each lane."""
    found = sa.select(_next_lane(sa.bindparam("after")).label("lane"), sa.literal(1).label("n")).cte(
        "lanes", recursive=True
    )
    behind = sa.select(_next_lane(found.c.lane), found.c.n + 1).where(
        found.c.lane.is_not(None), found.c.n < sa.bindparam("most", type_=sa.Integer)
    )
    found = found.union_all(behind)
    first_due = (
        sa.select(_row.due_at)
        .where(_waiting, _row.lane == found.c.lane)
        .order_by(_row.due_at)
        .limit(1)
        .correlate(found)
        .scalar_subquery()
    )
    return sa.select(found.c.lane, first_due).where(found.c.lane.is_not(None))


_lanes = _select_lanes()


@lru_cache(maxsize=LANES)
def _select_due(count: int) -> sa.CompoundSelect[Any]:
    """The first rows of so many lanes, each in its own order."""
    heads = []
    for n in range(count):
        head = (
            sa.select(tables.deliveries)
            .where(
                _waiting,
                _row.lane == sa.bindparam(f"lane{n}"),
                _row.due_at <= sa.bindparam("now"),
                _row.expires_at > sa.bindparam("now"),
                _row.email_id.not_in(sa.bindparam("passed_over", expanding=True)),
            )
            .order_by(_row.due_at)
            .limit(sa.bindparam("each"))
            .with_for_update(skip_locked=True)
            .subquery()
        )
        heads.append(sa.select(head))
    return sa.union_all(*heads)


def waiting_lanes(connection: sa.Connection) -> Iterator[tuple[str, Millis]]:
    """All lanes in which anything waits, with when the first of it is due."""
    after = ""
    while page := _page(connection, after):
        yield from page
        after = page[-1][0]


def _page(connection: sa.Connection, after: str) -> list[tuple[str, Millis]]:
    return [(lane, due_at) for lane, due_at in connection.execute(_lanes, {"after": after, "most": LANES})]


class Due(Struct, frozen=True):
    """What a claim found."""

    deliveries: Sequence[Delivery] = ()
    """In the order of turns: one of each lane, then the next of each."""
    more_rows: bool = False
    """One of the lanes looked at may hold more than these."""
    more_lanes: bool = False
    """There are lanes behind those looked at."""


class Claim:
    """Remembers where the last claim stopped, so that all lanes get their turn."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._after = ""
        """The last lane that was looked at; nothing: the look before came to the end."""
        self._first = ""
        """Whose turn was first."""

    def due(
        self, connection: sa.Connection, now: Millis, rooms: Mapping[str, Room], passed_over: Collection[EmailId]
    ) -> Due:
        """Some of what is due and can be taken now, enough for all hands if there is so much."""
        with_room = self._next_lanes_with_room(connection, now, rooms)
        if not with_room:
            return Due(more_lanes=bool(self._after))
        with_room.sort(key=lambda lane: (lane <= self._first, lane))
        self._first = with_room[0]
        most = sum(room.hands for room in rooms.values()) + 1
        is_probe = any(room.is_probe and room.hands for room in rooms.values())
        each = max(PROBE_CHOICE if is_probe else 1, -(-most // len(with_room)))
        places = [*with_room, *[""] * (len(padded(with_room)) - len(with_room))]  # there is no lane without a name
        bounds: dict[str, Any] = {f"lane{n}": lane for n, lane in enumerate(places)}
        bounds |= {"now": now, "each": each, "passed_over": padded(sorted(passed_over))}
        by_lane: dict[str, list[Delivery]] = {lane: [] for lane in with_room}
        for row in connection.execute(_select_due(len(places)), bounds):
            by_lane[row.lane].append(delivery_of(row))
        turns = chain.from_iterable(zip_longest(*by_lane.values()))
        return Due(
            [delivery for delivery in turns if delivery is not None],
            more_rows=any(len(rows) == each for rows in by_lane.values()),
            more_lanes=bool(self._after),
        )

    def _next_lanes_with_room(self, connection: sa.Connection, now: Millis, rooms: Mapping[str, Room]) -> list[str]:
        """Of the next stretch of lanes in which there are any; at most some stretches are looked at."""
        for _ in range(STRETCHES):
            seen = _page(connection, self._after)
            self._after = seen[-1][0] if len(seen) == LANES else ""
            due = ((lane, now - due_at) for lane, due_at in seen if due_at <= now)
            with_room = [lane for lane, waited in due if self._routing.takers(lanes.parse(lane), rooms, waited)]
            if with_room or not self._after:
                return with_room
        return []
