"""Claiming: which due deliveries are looked at, at a cost that grows neither with the backlog nor with history.

`deliveries_waiting` is an index by lane and due time over what waits and nothing else. The claim walks the heads of
some lanes, a different stretch each time, keeps those of which something is due and somebody can take it now, and reads
a few rows of each. What fills the other lanes is never touched.

It does not begin at the very head, but where the last claim found the first one waiting. On Postgres what was claimed
leaves its entry in the index until vacuum takes it away, and that waits for the oldest snapshot, be it a dump of many
hours: measured, a claim that walks over 100,000 of them takes five times as long as one that does not.
"""

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise, zip_longest
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from hes import lanes
from hes.model import Delivery, EmailId, Millis, Room
from hes.probing import NONE_TRIED, Tries, probing
from hes.routing import Routing
from hes.storage import tables
from hes.storage.batches import Rows, padded
from hes.storage.ledger import attempts_of, delivery_of

LANES = 64
"""How many lanes are looked at together."""

STRETCHES = 16
"""Of so many lanes each one claim goes through if nobody can take anything; the next claim goes on there."""

PROBE_CHOICE = 20
"""Among so many emails the one is chosen that finds out whether a provider works again."""

SLACK_MS = 10_000
"""What is due since less than this may still be missing: its transaction can take so long (`hes.storage.postgres`)."""

FORGET_MS = 60_000
"""After so long everything is looked up from the very head, so that whatever came in behind us is found then."""

END = "~"
"""Behind all lanes: they are JSON arrays."""

_row = tables.deliveries.c
_waiting = sa.text(tables.IS_WAITING)


def _next_lane(after: sa.ColumnElement[Any] | sa.ScalarSelect[Any]) -> sa.ScalarSelect[Any]:
    between = _waiting, _row.lane > after, _row.lane < sa.bindparam("before")
    return sa.select(_row.lane).where(*between).order_by(_row.lane).limit(1).scalar_subquery()


def _select_lanes() -> sa.Select[Any]:
    """The lanes between two, and when the first of each is due; a loose index scan, a few steps for each lane."""
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
_known = Rows([_row.lane, _row.due_at, _row.lane])
# For each known lane: the first that waits there, from its head on; and any lane between it and the next known one.
_LOOK = f"""
SELECT lane, before,
    (SELECT d.due_at FROM deliveries d WHERE {tables.IS_WAITING} AND d.lane = known.lane AND d.due_at >= known.head
        ORDER BY d.due_at LIMIT 1),
    (SELECT d.lane FROM deliveries d WHERE {tables.IS_WAITING} AND d.lane > known.lane AND d.lane < known.before
        ORDER BY d.lane LIMIT 1)
FROM known"""  # noqa: S608 (constants only)


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
                _row.due_at >= sa.bindparam(f"head{n}"),
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


def _page(connection: sa.Connection, after: str, before: str = END) -> list[tuple[str, Millis]]:
    bounds = {"after": after, "before": before, "most": LANES}
    return [(lane, due_at) for lane, due_at in connection.execute(_lanes, bounds)]


class Due(Struct, frozen=True):
    """What a claim found."""

    deliveries: Sequence[Delivery] = ()
    """In the order of turns: one of each lane, then the next of each."""
    tries: Tries = NONE_TRIED
    """Read only if somebody probes."""
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
        self._known: list[str] = []
        """Lanes that were seen of late, in order."""
        self._heads: dict[str, Millis] = {}
        """From when on something may wait in each of them."""
        self._learned_at: Millis = 0

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
        is_probe = bool(probing(rooms))
        each = max(PROBE_CHOICE if is_probe else 1, -(-most // len(with_room)))
        places = [*with_room, *[""] * (len(padded(with_room)) - len(with_room))]  # there is no lane without a name
        bounds: dict[str, Any] = {f"lane{n}": lane for n, lane in enumerate(places)}
        bounds |= {f"head{n}": self._heads.get(lane, 0) for n, lane in enumerate(places)}
        bounds |= {"now": now, "each": each, "passed_over": padded(sorted(passed_over))}
        by_lane: dict[str, list[Delivery]] = {lane: [] for lane in with_room}
        for row in connection.execute(_select_due(len(places)), bounds):
            by_lane[row.lane].append(delivery_of(row))
        turns = chain.from_iterable(zip_longest(*by_lane.values()))
        deliveries = [delivery for delivery in turns if delivery is not None]
        tried = [delivery.email_id for delivery in deliveries if delivery.attempts] if is_probe else []
        return Due(
            deliveries,
            attempts_of(connection, tried) if tried else NONE_TRIED,
            more_rows=any(len(rows) == each for rows in by_lane.values()),
            more_lanes=bool(self._after),
        )

    def _next_lanes_with_room(self, connection: sa.Connection, now: Millis, rooms: Mapping[str, Room]) -> list[str]:
        """Of the next stretch of lanes in which there are any; once around, and at most some stretches."""
        is_last_round = not self._after
        for _ in range(STRETCHES):
            seen = self._look(connection, now)
            due = ((lane, now - due_at) for lane, due_at in seen if due_at <= now)
            with_room = [lane for lane, waited in due if self._routing.takers(lanes.parse(lane), rooms, waited)]
            if with_room:
                return with_room
            if not self._after:
                if is_last_round:
                    break
                is_last_round = True
        return []

    def _look(self, connection: sa.Connection, now: Millis) -> list[tuple[str, Millis]]:
        """The next lanes, with when the first of each is due."""
        if not 0 <= now - self._learned_at < FORGET_MS:
            self._known, self._heads, self._learned_at = [], {}, now
        first = bisect_right(self._known, self._after)
        lanes_ = [self._after, *self._known[first : first + LANES]]
        before = self._known[first + LANES] if first + LANES < len(self._known) else END
        rows = [(lane, self._heads.get(lane, 0), following) for lane, following in pairwise([*lanes_, before])]
        seen: list[tuple[str, Millis]] = []
        end = lanes_[-1] if before != END else ""
        for source, values in _known.portions(connection, rows):
            found = connection.exec_driver_sql(f"WITH known (lane, head, before) AS ({source}) {_LOOK}", values)
            for lane, following, due_at, unknown in sorted(found.all(), key=lambda row: row[0]):
                if lane in self._heads:
                    self._heads[lane] = min(due_at or now, now - SLACK_MS)
                if lane != self._after and due_at is not None:
                    seen.append((lane, due_at))
                if unknown is None:
                    continue
                news = _page(connection, lane, following)
                seen += news
                for new, due in news:
                    if new not in self._heads:  # else another claim came upon it at the same time
                        insort(self._known, new)
                    self._heads[new] = min(due, now - SLACK_MS)
                if len(news) == LANES:  # there may be more of them: the next look goes on there
                    end = news[-1][0]
                    break
        self._after = end
        return seen
