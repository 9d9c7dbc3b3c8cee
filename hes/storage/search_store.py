"""Searches in a SQL database: see `hes.storage.searches` for what is promised."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from msgspec.structs import replace

from hes import searching
from hes.case import Case, Search
from hes.ids import NewId
from hes.model import AttemptId, EmailId, Evidence, Millis
from hes.policy import Policy
from hes.searching import Question, Way
from hes.storage import tables
from hes.storage.batches import Update, padded
from hes.storage.chronicle import Chronicle, Write
from hes.storage.contents import contents
from hes.storage.database import Database
from hes.storage.ledger import load, search_of
from hes.storage.searches import Asked, Asking

_row = tables.searches.c
_select_due = (
    sa.select(tables.searches)
    .where(_row.provider == sa.bindparam("of"), _row.next_at <= sa.bindparam("now"))
    .order_by(_row.next_at)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_select_one = sa.select(tables.searches).where(_row.attempt_id == sa.bindparam("of")).with_for_update()
_update = Update(tables.searches, "next_at", "lease", "asked", "lost", "told")


class SearchStore:
    """`hes.storage.searches.Searches`."""

    def __init__(self, database: Database, chronicle: Chronicle, policy: Policy, new_id: NewId) -> None:
        self._database = database
        self._chronicle = chronicle
        self._policy = policy
        self._new_id = new_id

    async def claim(self, hands: Mapping[str, int], may_replay: Mapping[str, bool]) -> list[Asking]:
        def work(connection: sa.Connection, now: Millis) -> list[Asking]:
            due = [
                search_of(row)
                for provider, most in sorted(hands.items())
                if most > 0
                for row in connection.execute(_select_due, {"of": provider, "now": now, "most": most})
            ]
            if not due:
                return []
            # Not locked: whoever settles holds the delivery and then wants the search. What is decided here of an
            # email that somebody moves at this moment is no worse than if it had been decided a moment before.
            ledger = load(connection, (search.email_id for search in due), is_locked=False)
            emails = contents(connection, [search.email_id for search in due])
            over: list[AttemptId] = []
            changed: list[Search] = []
            asking: list[Asking] = []
            for search in due:
                case, email = ledger.case(search.email_id), emails.get(search.email_id)
                attempt = case.attempt(search.attempt_id) if case else None
                next_ = None
                if case is not None:
                    next_ = ask(self._policy, case, search, now, may_replay=may_replay.get(search.provider, True))
                if isinstance(next_, int):
                    changed.append(replace(search, next_at=next_, lease=None))
                elif next_ is None or attempt is None or email is None:
                    over.append(search.attempt_id)
                else:
                    taken = claimed(search, self._new_id(), now + round(self._policy.rules.lease_seconds * 1000))
                    changed.append(taken)
                    asking.append(
                        Asking(
                            search=taken,
                            way=next_.way,
                            seconds=next_.seconds,
                            email=email,
                            started_at=attempt.started_at,
                            render_version=attempt.render_version,
                        )
                    )
            _update.run(connection, [_change(search) for search in changed])
            if over:
                connection.execute(sa.delete(tables.searches).where(_row.attempt_id.in_(padded(over))))
            return asking

        return await self._database.write(work)

    async def answer(self, asked: Asked) -> None:
        search = asked.search

        def work(connection: sa.Connection, now: Millis, write: Write) -> None:
            ledger = load(connection, [EmailId(search.email_id)])
            case = ledger.case(search.email_id)
            if case is None:
                return
            if asked.accepted:
                ledger.change(self._policy.evidence(case, proof_of(asked), now))
                connection.execute(sa.delete(tables.searches).where(_row.attempt_id == search.attempt_id))
            else:
                known = connection.execute(_select_one, {"of": search.attempt_id}).one_or_none()
                if known is None or search_of(known).lease != search.lease:
                    return  # it came too late: somebody else asks now
                ledger.tell(searching.answered(case, search, asked.way, asked.answer, asked.detail, now))
                _update.run(connection, [_change(put_back(case, asked, now))])
            write(ledger)

        await self._chronicle.write(work)


def ask(policy: Policy, case: Case, search: Search, now: Millis, *, may_replay: bool) -> Question | Millis | None:
    """As `searching.question`; a replay that may not go out now waits."""
    next_ = searching.question(policy.rules, case, search, now)
    if isinstance(next_, Question) and next_.way is Way.REPLAY and not may_replay:
        return now + searching.LONGEST_PAUSE_WAITED_FOR_MS
    return next_


def claimed(search: Search, lease: str, until: Millis) -> Search:
    """In somebody's hands. Who had it before and did not put it back is lost."""
    return replace(search, lease=lease, next_at=until, asked=search.asked + 1, lost=searching.times_lost(search))


def put_back(case: Case, asked: Asked, now: Millis) -> Search:
    """After an answer that ended nothing."""
    return replace(
        asked.search,
        lease=None,
        next_at=searching.next_at(asked.search, case.delivery, now, asked.ask_again_seconds),
        told=searching.summary(asked.way, asked.answer),
    )


def proof_of(asked: Asked) -> Evidence:
    return Evidence(
        email_id=asked.search.email_id,
        attempt_id=asked.search.attempt_id,
        accepted=True,
        source=asked.way.value,
        provider_message_id=asked.provider_message_id,
        detail=asked.detail,
    )


def _change(search: Search) -> tuple[Any, ...]:
    s = search
    return s.attempt_id, s.next_at, s.lease, s.asked, s.lost, s.told
