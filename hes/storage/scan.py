"""Going through a project's emails for those that a filter fits, the newest first, in small steps and for a while only.

Whatever is asked for, some index holds the emails that can fit in the order of their ids: the recipient's, those with
that `reference`, those of a rare status, a test key's, else the project's. The scan takes some of them at a time, more
with each step, and looks at the rest of the filter there. When its time is over it ends where it is, and the next page
goes on from there. So no filter needs an index of its own, which every email would pay for as it is accepted, and none
can hold a connection for long. Given up for that: a page may be short, or empty, though there are more.
"""

from collections.abc import Callable, Collection, Sequence

import sqlalchemy as sa
from msgspec import Struct

from hes.ids import first_id_at
from hes.model import EmailId, Status
from hes.storage import tables
from hes.storage.records import ListQuery, Reach

LONGEST_STEP = 20_000
"""Some tens of milliseconds."""
GROWTH = 8
FEW = 5000
"""So many that wait or are in flight are sorted; if there are more, the newest are among the project's newest."""
OFF_BY_MS = 3600_000
"""An id's time is that of the process that made it, `created_at` the storage's: so far they may be from each other."""

_email = tables.emails.c
_delivery = tables.deliveries.c
_recipient = tables.recipients.c

_ASIDE = frozenset(Status) - {Status.QUEUED, Status.SENDING, Status.SENT, Status.DELIVERED}
"""Those of `tables.IS_ASIDE`."""
_IN_NO_ORDER = {Status.QUEUED: tables.IS_WAITING, Status.SENDING: tables.IS_LEASED}
"""The indexes that hold them are made for the queue."""
_MANY = 1_000_000_000
"""As good as no limit, but one all the same: SQLite then looks there first."""
_BEFORE_ALL, _BEHIND_ALL = "", "g"
"""Ids begin with a hexadecimal digit."""

Candidates = sa.Select[str] | sa.CompoundSelect[str]


class Found(Struct, frozen=True):
    """The ids of emails that fit, newest first."""

    email_ids: tuple[EmailId, ...] = ()
    behind: EmailId | None = None
    """Where to go on; None: there are no more."""


def scan(
    connection: sa.Connection,
    reach: Reach,
    query: ListQuery,
    conditions: Sequence[sa.ColumnElement[bool]],
    statuses: Collection[Status],
    is_over: Callable[[], bool],
) -> Found:
    """The newest ones, `query.limit` at most.

    `conditions`: what must hold of the email's rows in `emails` and `deliveries`, besides that they are the project's.
    `statuses`: those that the conditions leave. `is_over`: asked between two steps; the first one is always made.
    When the time is over it goes on at a second, and not behind the email that was looked at last: that one may be out
    of the reach, and the cursor would tell its id.
    """
    few = _few(connection, reach, query, statuses)
    project = reach.project
    every = _newest_first(_between(_email.id, _email.project == project)) if few is None else few
    found: list[EmailId] = []
    before, end, step = _before(query), _from(query), query.limit + 1
    while True:
        stretch = {"before": before, "first": end}
        last = connection.execute(every.limit(1).offset(step - 1), stretch).scalar_one_or_none()
        if last is not None:
            bound = _at_its_second(last)
            last = bound if bound > end else None
        missing = query.limit + 1 - len(found)
        fitting = _of_all(project) if few is None else _of_few(few.limit(_MANY), project)
        some = fitting.where(*conditions).limit(missing)
        found += map(EmailId, connection.execute(some, stretch | {"first": last or end}).scalars())
        if len(found) > query.limit:
            return Found(tuple(found[:-1]), found[-2])
        if last is None:
            return Found(tuple(found))
        if is_over():
            return Found(tuple(found), EmailId(last))
        before, step = last, min(GROWTH * step, LONGEST_STEP)


def _at_its_second(email_id: str) -> str:
    """Smaller than all ids of that second, and an id by its form."""
    at = int(email_id.replace("-", "")[:12], 16)
    return f"{first_id_at(at - at % 1000)}-7000-8000-000000000000"


def _before(query: ListQuery) -> str:
    """Only ids before this."""
    of_time = _BEHIND_ALL if query.created_before is None else first_id_at(query.created_before + OFF_BY_MS)
    return min(query.before or _BEHIND_ALL, of_time)


def _from(query: ListQuery) -> str:
    """Only ids from this on."""
    return _BEFORE_ALL if query.created_after is None else first_id_at(query.created_after - OFF_BY_MS)


def _of_all(project: str) -> sa.Select[str]:
    joined = sa.join(tables.emails, tables.deliveries, _delivery.email_id == _email.id)
    return _between(_email.id, _email.project == project).select_from(joined).order_by(_email.id.desc())


def _of_few(few: Candidates, project: str) -> sa.Select[str]:
    """So written that SQLite has no other index to begin with: it might go through all of the project's after all."""
    id_ = few.subquery("few").c.id
    return (
        sa.select(id_)
        .join(tables.emails, _email.id == id_)
        .join(tables.deliveries, _delivery.email_id == id_)
        .where(_delivery.project == project)
        .order_by(id_.desc())
    )


def _few(connection: sa.Connection, reach: Reach, query: ListQuery, statuses: Collection[Status]) -> Candidates | None:
    """All that can fit, newest first, if an index holds them and not much else; None: that is all of the project's."""
    project = reach.project
    if query.reference is not None:
        return _newest_first(_between(_email.id, _email.project == project, _email.reference == query.reference))
    if query.to is not None:
        return _newest_first(_between(_recipient.email_id, _recipient.email == query.to))
    by_status = [_of_status(connection, project, status) for status in sorted(statuses)]
    known = [some for some in by_status if some is not None]
    if len(known) == len(by_status):
        return _newest_first(sa.union_all(*known))
    if reach.only_test:
        return _newest_first(_between(_delivery.email_id, _delivery.project == project, sa.text(tables.IS_TEST)))
    return None


def _of_status(connection: sa.Connection, project: str, status: Status) -> sa.Select[str] | None:
    of_project = _delivery.project == project, _delivery.status == status.value
    if status in _ASIDE:
        return _between(_delivery.email_id, *of_project, sa.text(tables.IS_ASIDE))
    if status not in _IN_NO_ORDER:
        return None
    all_there = (
        sa.select(_delivery.email_id, _delivery.project, _delivery.status)
        .where(sa.text(_IN_NO_ORDER[status]))
        .limit(FEW + 1)
        .subquery("all_there")
    )
    if connection.execute(sa.select(sa.func.count()).select_from(all_there)).scalar_one() > FEW:
        return None
    there = all_there.c
    return _between(there.email_id, there.project == project, there.status == status.value)


def _between(id_: sa.ColumnElement[str], *conditions: sa.ColumnElement[bool] | sa.TextClause) -> sa.Select[str]:
    return sa.select(id_.label("id")).where(*conditions, id_ < sa.bindparam("before"), id_ >= sa.bindparam("first"))


def _newest_first(candidates: Candidates) -> Candidates:
    return candidates.order_by(sa.desc("id"))
