"""What SQLite and Postgres share: all of the storage's verbs, written with SQLAlchemy Core.

A kind of database adds only how a write transaction begins, what time it is, and what its errors mean
(`hes.storage.database`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from hes import interventions
from hes.case import Case, Change
from hes.errors import CommitUnknown, StorageUnavailable, WrongState
from hes.ids import NewId
from hes.model import (
    Address,
    AttemptId,
    Decision,
    EmailId,
    Ended,
    Evidence,
    Fact,
    FactKey,
    Leased,
    Millis,
    Monotonic,
    Node,
    Room,
    Status,
)
from hes.policy import NOT_WRITTEN, PROCESS_DIED, Policy, holds_lease
from hes.routing import Given
from hes.storage import accepting, accounts, book, cluster, retention, tables
from hes.storage.accounts import Quotas, QuotaTaken
from hes.storage.batches import Insert
from hes.storage.chronicle import Chronicle, Write
from hes.storage.claiming import Claim, Due
from hes.storage.contents import contents, decode_email, still_there
from hes.storage.database import Database, Priority
from hes.storage.event_store import EventStore
from hes.storage.groups import GroupCommit
from hes.storage.hints import Hints, NoHints
from hes.storage.keys import KeyStore
from hes.storage.ledger import Ledger, attempt_of, delivery_of, event_of, load
from hes.storage.migrations import SCHEMA_VERSION
from hes.storage.records import (
    Accepted,
    BatchItem,
    IdempotencyKey,
    Leases,
    ListQuery,
    Many,
    NewEmail,
    Page,
    Presence,
    Queue,
    Reach,
    Settled,
    StoredEmail,
    Swept,
    Verdict,
    Waiting,
    leased,
)
from hes.storage.search_store import SearchStore
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.telemetry.telemetry import OFF, Telemetry, Values, note

T = TypeVar("T")

BATCH = 500
"""How many rows one transaction of settling, sweeping or pruning touches at most."""

SEARCH_SECONDS = 1.0
"""For how long a list is looked for at a time; of what takes longer the next page goes on."""

_decode_tags = msgspec.json.Decoder(dict[str, str]).decode
CANCELLABLE = frozenset({Status.DRAFT, Status.SCHEDULED, Status.QUEUED})
RESOLVABLE = frozenset({Status.HELD, Status.IN_DOUBT})
"""Which of those that a filter fits are looked at."""

EVENT_KEPT_MS = 7 * 24 * 3600 * 1000
"""For how long a provider's event is known again. They repeat one for a day at most."""

_log = logging.getLogger("hes.storage")

_select_lapsed = (
    sa.select(tables.deliveries.c.email_id, tables.deliveries.c.attempt_id)
    .where(sa.text(tables.IS_LEASED), tables.deliveries.c.lease_ends_at <= sa.bindparam("now"))
    .order_by(tables.deliveries.c.lease_ends_at)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)  # what others have in hand just now is swept by them, or next time
)
_select_expired = (
    sa.select(tables.deliveries.c.email_id)
    .where(sa.text(tables.CAN_EXPIRE), tables.deliveries.c.expires_at <= sa.bindparam("now"))
    .order_by(tables.deliveries.c.expires_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_select_searched = (
    sa.select(tables.deliveries.c.email_id)
    .where(sa.text(tables.IS_IN_DOUBT), tables.deliveries.c.due_at <= sa.bindparam("now"))
    .order_by(tables.deliveries.c.due_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)


class SqlStorage:
    """`hes.storage.storage.Storage` over a SQL database; see there for what each verb promises.

    `accepts.run` must run beside it for as long as it is used.
    """

    def __init__(
        self,
        database: Database,
        policy: Policy,
        new_id: NewId,
        hints: Hints | None = None,
        telemetry: Telemetry = OFF,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        """`hints`: to other processes over the same database; None: there are none."""
        self._monotonic = monotonic
        self.is_shared = hints is not None
        self.hints: Hints = hints or NoHints()
        self._database = database
        self._policy = policy
        self._new_id = new_id
        self._telemetry = telemetry
        self._chronicle = Chronicle(database, new_id, telemetry)
        self.node_id = new_id()
        """Of this process."""
        self.keys = KeyStore(database, new_id)
        self.searches = SearchStore(database, self._chronicle, policy, new_id)
        self.inbox = EventStore(self._chronicle, policy, telemetry)
        self.accepts = GroupCommit(self._accept_group, limit=200, queue_limit=2000)
        self._claim = Claim(policy.routing)
        self._unreadable: set[EmailId] = set()
        """Due, but their content can't be read: passed over from then on, or they would keep hands from the others."""
        self._unknown: list[Ended] = []
        """What a claim has leased, or not: nobody knows what became of its COMMIT, so nobody has it in hand."""

    def vitals(self) -> Iterator[tuple[Metric, Values]]:
        """How the pool and the group commit stand, for the gauges."""
        used, idle, most = self._database.connections()
        of_pool = {names.POOL: self._database.name}
        by_state = (("used", used), ("idle", idle))
        yield names.CONNECTIONS, [(n, {**of_pool, names.CONNECTION_STATE: state}) for state, n in by_state]
        yield names.CONNECTIONS_MAX, [(most, of_pool)]
        yield names.COMMITS, [(self.accepts.in_flight, {})]

    # --- accepting -----------------------------------------------------------------------------------------------

    async def accept(self, new: NewEmail) -> Accepted:
        accepted = await self.accepts.submit(new)
        note(names.EMAIL, accepted.id)
        _log.debug("email %s is accepted: %s", accepted.id, accepted.status)
        return accepted

    async def _accept_group(self, group: Sequence[NewEmail]) -> list[Accepted | Exception]:
        def work(connection: sa.Connection, now: Millis) -> list[Accepted | Exception]:
            return accepting.write(connection, now, group, self._new_id)

        with self._telemetry.batch("accept") as batch:
            batch.holds([new.email.trace for new in group])
            return await self._database.write(work)

    async def accept_batch(
        self, reach: Reach, items: Sequence[NewEmail | BatchItem], key: IdempotencyKey | None
    ) -> list[BatchItem]:
        def work(connection: sa.Connection, now: Millis) -> list[BatchItem]:
            return accepting.write_batch(connection, now, reach, items, key, self._new_id)

        with self._telemetry.batch("accept") as batch:
            batch.holds([item.email.trace for item in items if isinstance(item, NewEmail)])
            results = await self._database.write(work)
        count = sum(result.accepted is not None for result in results)
        note(names.MESSAGES, count)
        _log.debug("%d emails of a batch of %d are accepted", count, len(items))
        return results

    async def first_answer(self, reach: Reach, key: IdempotencyKey, kind: type[T]) -> T | None:
        def work(connection: sa.Connection, now: Millis) -> T | None:
            return accepting.first_answer(connection, now, reach, key, kind)

        return await self._database.read(work)

    async def waiting(self) -> Waiting:
        return await self._database.read(lambda connection, _: book.waiting(connection))

    async def stored_bytes(self) -> dict[str, int]:
        return await self._database.read(lambda connection, _: book.stored_bytes(connection))

    async def queue(self) -> Queue:
        return await self._database.read(book.queue)

    # --- leasing -------------------------------------------------------------------------------------------------

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        if not any(room.hands > 0 for room in rooms.values()):
            return Leases()
        await self._give_back_unknown()
        began: Millis = 0
        items: list[Leased] = []

        def work(connection: sa.Connection, now: Millis, write: Write) -> Leases:
            nonlocal began, items
            began, items = now, []
            quotas = Quotas(connection, self._policy.rules.daily_quotas, now)
            free = quotas.limit(rooms)
            while True:
                due = self._claim.due(connection, now, free, self._unreadable)
                given = self._give_out(due, free, size_budget, now, is_idle=is_idle)
                while given and (asked := self._asked_by_others(connection, now, given, free)):
                    free = cluster.without_probes(free, asked)
                    given = self._give_out(due, free, size_budget, now, is_idle=is_idle)
                if not given:
                    return Leases(more=due.more_lanes and given is not None)
                email_ids = [one.delivery.email_id for one in given]
                emails = contents(connection, email_ids)
                if len(emails) == len(email_ids):
                    break
                self._unreadable.update(set(email_ids) - emails.keys())
            ledger = Ledger({})
            for one in given:
                room = rooms[one.provider]
                attempt_id = AttemptId(self._new_id())
                change = self._policy.lease(one.delivery, one.provider, attempt_id, room.render_version, now)
                ledger.change(change)
                email = emails[one.delivery.email_id]
                items.append(leased(change, email, room, deadline, self._policy.rules.call_seconds))
            write(ledger)
            quotas.take(one.provider for one in given)
            return Leases(tuple(items), more=due.more_rows or due.more_lanes or len(due.deliveries) > len(items))

        with self._telemetry.batch("lease") as batch:
            while True:
                try:
                    leases = await self._chronicle.write(work)
                except QuotaTaken as error:
                    _log.debug("the quota of %s was used up by another process; the claim begins anew", error)
                except CommitUnknown:
                    self._unknown += [_not_tried(leased, began) for leased in items]
                    raise
                else:
                    batch.holds([leased.email.trace for leased in leases.items])
                    return leases

    def _give_out(
        self, due: Due, free: Mapping[str, Room], size_budget: int, now: Millis, *, is_idle: bool
    ) -> list[Given] | None:
        give_out = self._policy.routing.give_out
        return give_out(due.deliveries, free, size_budget, now, is_idle=is_idle, tries=due.tries)

    async def _give_back_unknown(self) -> None:
        """Else it would stay leased, and its lapse would be told as a doubt that nobody has."""
        if unknown := tuple(self._unknown):
            await self.settle(unknown, {})
            self._unknown = [ended for ended in self._unknown if ended not in unknown]

    def _asked_by_others(
        self, connection: sa.Connection, now: Millis, given: Sequence[Given], rooms: Mapping[str, Room]
    ) -> set[cluster.Probe]:
        """What of that would find out what another node is finding out; the right to the rest is taken."""
        probes = {probe for one in given if (probe := _probe(one, rooms[one.provider])) is not None}
        if not probes:
            return set()
        until = now + round(self._policy.rules.lease_seconds * 1000)
        return probes - cluster.take_probes(connection, now, self.node_id, probes, until)

    # --- what became of it ---------------------------------------------------------------------------------------

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        def work(connection: sa.Connection, now: Millis, write: Write) -> Settled:
            stand = Quotas(connection, self._policy.rules.daily_quotas, now).limit(rooms)
            ledger = load(connection, (e.email_id for e in ended))
            ledger.traces.update((e.email_id, e.trace) for e in ended)
            lost: list[AttemptId] = []
            verdicts: list[Verdict] = []
            for one in ended:
                case = ledger.case(one.email_id)
                if case is None:
                    continue
                if not holds_lease(case, one):
                    lost.append(one.attempt_id)
                verdicts += (Verdict(name, is_liar) for name, is_liar in self._policy.verdicts(case, one))
                ledger.change(self._policy.settle(case, one, now, stand))
            write(ledger)
            return Settled(tuple(lost), tuple(verdicts))

        with self._telemetry.batch("settle") as batch:
            batch.holds([one.trace for one in ended])
            return await self._chronicle.write(work)

    async def evidence(self, proofs: Sequence[Evidence]) -> None:
        def work(connection: sa.Connection, now: Millis, write: Write) -> None:
            ledger = load(connection, (p.email_id for p in proofs))
            for proof in proofs:
                if (case := ledger.case(proof.email_id)) is not None:
                    ledger.change(self._policy.evidence(case, proof, now))
            write(ledger)

        await self._chronicle.write(work)

    async def disbelieve(self, provider: str, email_ids: Collection[EmailId]) -> int:
        def work(connection: sa.Connection, now: Millis, write: Write) -> int:
            ledger = load(connection, email_ids)
            changes = [interventions.disbelieve(self._policy.routing, case, provider, now) for case in ledger.cases()]
            for change in changes:
                ledger.change(change)
            write(ledger)
            return sum(change is not None for change in changes)

        return await self._chronicle.write(work)

    async def sweep(self, held: Collection[AttemptId] = (), *, reached_seconds: float = 0.0) -> Swept:
        await self._give_back_unknown()
        with self._telemetry.batch("sweep"):
            return await self._sweep(_select_lapsed, held, reached_seconds=reached_seconds)

    async def recover(self) -> int:
        """Lapse every lease, however long it would still run. Only for who can prove that their holders are dead."""
        leased = (
            sa.select(tables.deliveries.c.email_id, tables.deliveries.c.attempt_id)
            .where(sa.text(tables.IS_LEASED))
            .limit(sa.bindparam("most"))
        )
        count = 0
        while (swept := await self._sweep(leased, detail=PROCESS_DIED)).lapsed:
            count += swept.lapsed
        return count

    async def _sweep(
        self,
        select_leased: sa.Select[Any],
        held: Collection[AttemptId] = (),
        *,
        reached_seconds: float = 0.0,
        detail: str = NOT_WRITTEN,
    ) -> Swept:
        def work(connection: sa.Connection, now: Millis, write: Write) -> Swept:
            lapsed: Sequence[str] = ()
            searched: Sequence[str] = ()
            if not reached_seconds or now - self._reached_since(connection, now) >= reached_seconds * 1000:
                most = {"now": now, "most": BATCH + len(held)}
                leased = connection.execute(select_leased, most).all()
                lapsed = [email_id for email_id, attempt_id in leased if attempt_id not in held][:BATCH]
                searched = connection.execute(_select_searched, {"now": now}).scalars().all()
            expired = connection.execute(_select_expired, {"now": now}).scalars().all()
            ledger = load(connection, (EmailId(i) for i in (*lapsed, *expired, *searched)))
            for email_id in lapsed:
                if (case := ledger.case(EmailId(email_id))) is not None and case.delivery.status is Status.SENDING:
                    ledger.change(self._policy.lapse(case, now, detail))
            for email_id in expired:
                if (case := ledger.case(EmailId(email_id))) is not None:
                    ledger.change(interventions.expire(case, now))
            for email_id in searched:
                if (case := ledger.case(EmailId(email_id))) is not None:
                    ledger.change(self._policy.search_over(case, now))
            write(ledger)
            counts = (len(lapsed), len(expired), len(searched))
            return Swept(*counts, more=BATCH in counts)

        swept = await self._chronicle.write(work)
        self._telemetry.count(names.LAPSED, swept.lapsed)
        return swept

    def _reached_since(self, connection: sa.Connection, now: Millis) -> Millis:
        started_at = self._database.started_at(connection)
        if started_at > now:  # its clock was put back since, so it tells nothing
            started_at = 0
        return max(started_at, cluster.reached_since(connection, now)) if self.is_shared else started_at

    # --- providers -----------------------------------------------------------------------------------------------

    async def pull_forward(self, providers: Collection[str]) -> int:
        def work(connection: sa.Connection, now: Millis) -> int:
            return accounts.pull_forward(connection, now, self._policy.routing, providers)

        return await self._database.write(work)

    async def facts(self) -> list[Fact]:
        return await self._database.read(accounts.facts)

    async def state_facts(self, stated: Collection[Fact], withdrawn: Collection[FactKey] = ()) -> None:
        def work(connection: sa.Connection, _now: Millis) -> None:
            accounts.state_facts(connection, stated, withdrawn)

        await self._database.write(work)

    async def appear(self, node: Node) -> Presence:
        def work(connection: sa.Connection, now: Millis) -> Presence:
            cluster.appear(connection, now, node)
            return Presence(now, cluster.count_mailers(connection, now))

        return await self._database.write(work)

    async def leave(self, node_id: str) -> None:
        await self._database.write(lambda connection, _now: cluster.leave(connection, node_id))

    async def nodes(self) -> list[Node]:
        return await self._database.read(cluster.present)

    async def quotas_used(self) -> dict[str, int]:
        return await self._database.read(accounts.quotas_used)

    # --- people --------------------------------------------------------------------------------------------------

    async def cancel(self, reach: Reach, email_id: EmailId) -> None:
        await self._decide(reach, email_id, interventions.cancel)

    async def resolve(self, reach: Reach, email_id: EmailId, decision: Decision, by: str) -> None:
        await self._decide(
            reach,
            email_id,
            lambda case, now: interventions.resolve(case, decision, now, by),
            needs_content=decision is Decision.RESEND,
        )

    async def send(self, reach: Reach, email_id: EmailId, send_at: Millis | None) -> None:
        await self._decide(
            reach, email_id, lambda case, now: interventions.send(case, send_at, now), needs_content=True
        )

    async def reschedule(self, reach: Reach, email_id: EmailId, send_at: Millis, version: int | None) -> None:
        def decide(case: Case, now: Millis) -> Change:
            book.check_version(case.delivery, version)
            return interventions.reschedule(case, send_at, now)

        await self._decide(reach, email_id, decide)

    async def cancel_many(self, reach: Reach, query: ListQuery) -> Many:
        return await self._decide_many(reach, query, CANCELLABLE, interventions.cancel)

    async def resolve_many(self, reach: Reach, query: ListQuery, decision: Decision, by: str) -> Many:
        return await self._decide_many(
            reach,
            query,
            RESOLVABLE,
            lambda case, now: interventions.resolve(case, decision, now, by),
            needs_content=decision is Decision.RESEND,
        )

    async def _decide_many(
        self,
        reach: Reach,
        query: ListQuery,
        statuses: Collection[Status],
        decide: Callable[[Case, Millis], Change | None],
        *,
        needs_content: bool = False,
    ) -> Many:
        # Looked for by a reader: that may take a while, and a writer would keep all others from writing.
        found = await self._database.read(
            lambda connection, _: book.search(connection, reach, query, statuses, self._for_a_while()), Priority.LOW
        )

        def work(connection: sa.Connection, now: Millis, write: Write) -> Many:
            ledger = load(connection, found.email_ids)
            some = book.still_fitting(connection, reach, query, statuses, found.email_ids, with_content=needs_content)
            changed = 0
            for case in ledger.cases():
                if not some.get(case.delivery.email_id):
                    continue
                with contextlib.suppress(WrongState):
                    change = decide(case, now)
                    changed += change is not None
                    ledger.change(change)
            write(ledger)
            return Many(changed, len(some) - changed, found.behind)

        return await self._chronicle.write(work) if found.email_ids else Many(0, 0, found.behind)

    def _for_a_while(self) -> Callable[[], bool]:
        """Says when a search has taken long enough."""
        end = self._monotonic() + SEARCH_SECONDS
        return lambda: self._monotonic() > end

    async def edit(self, reach: Reach, new: NewEmail, version: int) -> None:
        def work(connection: sa.Connection, now: Millis) -> None:
            draft = book.reached(load(connection, [new.email.id]), reach, new.email.id)
            book.check_version(draft, version)
            interventions.check_edit(draft)
            accepting.rewrite(connection, now, draft, new)

        await self._database.write(work)

    async def erase(self, reach: Reach, email_id: EmailId) -> None:
        def work(connection: sa.Connection, now: Millis, write: Write) -> None:
            ledger = load(connection, [email_id])
            book.erase(connection, now, reach, email_id, ledger)
            write(ledger)

        await self._chronicle.write(work)

    async def has_content(self, email_ids: Collection[EmailId]) -> dict[EmailId, bool]:
        """Of each of these emails that there is: whether its content is still there. Shape: at most 500."""
        return await self._database.read(lambda connection, _now: still_there(connection, email_ids))

    async def _decide(
        self,
        reach: Reach,
        email_id: EmailId,
        decide: Callable[[Case, Millis], Change | None],
        *,
        needs_content: bool = False,
    ) -> None:
        def work(connection: sa.Connection, now: Millis, write: Write) -> None:
            ledger = load(connection, [email_id])
            book.reached(ledger, reach, email_id)
            if needs_content and not contents(connection, [email_id]):
                raise WrongState("the content of this email was erased, so it can't be sent again")
            if (case := ledger.case(email_id)) is not None:
                ledger.change(decide(case, now))
            write(ledger)

        await self._chronicle.write(work)

    async def restored(self) -> int:
        """Hold all that was on its way when the backup was made that this database is. Returns how many."""
        on_their_way = sa.select(tables.deliveries.c.email_id).where(
            tables.deliveries.c.status.in_([status.value for status in interventions.ON_THEIR_WAY])
        )

        def work(connection: sa.Connection, now: Millis, write: Write) -> int:
            ids = connection.execute(on_their_way.limit(BATCH)).scalars().all()
            ledger = load(connection, (EmailId(i) for i in ids))
            for case in ledger.cases():
                ledger.change(interventions.restore(self._policy.rules, case, now))
            write(ledger)
            return len(ids)

        count = 0
        while held := await self._chronicle.write(work):
            count += held
        return count

    # --- reading and housekeeping --------------------------------------------------------------------------------

    async def read(
        self,
        reach: Reach,
        email_id: EmailId,
        *,
        with_content: bool = False,
        attempts_before: int | None = None,
        events_before: str | None = None,
    ) -> StoredEmail:
        def work(connection: sa.Connection, _now: Millis) -> StoredEmail:
            of_email = {"email_id": email_id}
            email = connection.execute(_select_email, of_email).mappings().one_or_none()
            row = connection.execute(_select_delivery, of_email).one_or_none()
            if email is None or row is None or not reach.holds(delivery := delivery_of(row)):
                raise book.not_found(email_id)
            recipients = connection.execute(_select_recipients, of_email).mappings()
            attempts, has_older_attempts = book.history(
                connection, tables.attempts, tables.attempts.c.number, email_id, attempts_before
            )
            events, has_older_events = book.history(
                connection, tables.events, tables.events.c.id, email_id, events_before
            )
            content = connection.execute(_select_content, of_email).scalar() if with_content else None
            return StoredEmail(
                delivery=delivery,
                expires_at=interventions.expires_at(self._policy.rules, delivery),
                created_at=email["created_at"],
                sender=Address(email["from_email"], email["from_name"]),
                subject=email["subject"],
                tags=_decode_tags(email["tags"]),
                reference=email["reference"],
                stream=email["stream"],
                written_by=email["written_by"],
                email=decode_email(content) if content is not None else None,
                recipients=tuple(book.recipient_of(row) for row in recipients),
                attempts=tuple(attempt_of(row) for row in attempts),
                events=tuple(event_of(row) for row in events),
                has_older_attempts=has_older_attempts,
                has_older_events=has_older_events,
            )

        return await self._database.read(work)

    async def list(self, reach: Reach, query: ListQuery) -> Page:
        return await self._database.read(
            lambda connection, _: book.page(connection, self._policy.rules, reach, query, self._for_a_while()),
            Priority.LOW,
        )

    async def keep(self, email_id: EmailId, attempt_id: AttemptId, mime: bytes) -> None:
        def work(connection: sa.Connection, now: Millis) -> None:
            _keep.run(connection, [(attempt_id, email_id, now, mime)])

        await self._database.write(work)

    async def prune(self) -> int:
        keys, events, searches = tables.idempotency.c, tables.provider_events.c, tables.searches.c

        def work(connection: sa.Connection, now: Millis) -> int:
            old_keys = keys.created_at <= now - accepting.KEY_LIFETIME_MS
            old_events = events.received_at <= now - EVENT_KEPT_MS
            return (
                _delete_some(connection, [keys.project, keys.key], old_keys)
                + _delete_some(connection, [events.provider, events.dedup_id], old_events)
                + _delete_some(connection, [searches.attempt_id], searches.until <= now)
            )

        return await self._database.write(work)

    async def drop_old(self, contents_ms: Millis | None, history_ms: Millis | None) -> int:
        def work(connection: sa.Connection, now: Millis) -> int:
            dropped = retention.drop_history(connection, now - history_ms) if history_ms is not None else 0
            if contents_ms is not None:
                dropped += retention.drop_contents(connection, now - contents_ms)
            return dropped

        return await self._database.write(work)

    async def drop_drafts(self) -> int:
        keep_ms = self._policy.rules.keep_drafts_ms
        if keep_ms is None:
            return 0

        def work(connection: sa.Connection, now: Millis, write: Write) -> int:
            ids = retention.old_drafts(connection, now - keep_ms)
            ledger = load(connection, ids)
            for case in ledger.cases():
                ledger.change(interventions.drop_draft(self._policy.rules, case, now))
            write(ledger)
            retention.drop_contents_of(connection, ids)
            return len(ids)

        return await self._chronicle.write(work)

    async def check(self) -> None:
        def work(connection: sa.Connection, _now: Millis) -> tuple[str | None, str]:
            version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            oldest = connection.execute(sa.select(tables.schema_readers.c.oldest)).scalar_one_or_none()
            return version, oldest or ""

        version, oldest_reader = await self._database.read(work, Priority.HIGH)
        # A newer schema says from which version on HES can work with it, so that a roll-out needs no pause.
        if version is None or not (oldest_reader <= SCHEMA_VERSION <= version):
            raise StorageUnavailable(
                f"the database has schema {version}, this version of HES needs {SCHEMA_VERSION}: run `hes db upgrade`"
            )


_keep = Insert(tables.outbox, "ON CONFLICT DO NOTHING")
_of_email: sa.BindParameter[str] = sa.bindparam("email_id")
_select_content = sa.select(tables.emails.c.content).where(tables.emails.c.id == _of_email)
_select_email = sa.select(*(c for c in tables.emails.c if c.name != "content")).where(tables.emails.c.id == _of_email)
_select_delivery = sa.select(tables.deliveries).where(tables.deliveries.c.email_id == _of_email)
_select_recipients = (
    sa.select(tables.recipients).where(tables.recipients.c.email_id == _of_email).order_by(tables.recipients.c.position)
)


def _delete_some(connection: sa.Connection, key: Sequence[sa.Column[Any]], outlived: sa.ColumnElement[bool]) -> int:
    """At most a batch of those rows."""
    some = sa.select(*key).where(outlived).limit(BATCH)
    return connection.execute(sa.delete(key[0].table).where(sa.tuple_(*key).in_(some))).rowcount


def _not_tried(leased: Leased, now: Millis) -> Ended:
    return Ended(
        attempt_id=leased.attempt_id,
        email_id=leased.email.id,
        provider=leased.provider,
        ended_at=now,
        answer=None,
        note="the database went away while it was leased",
    )


def _probe(given: Given, room: Room) -> cluster.Probe | None:
    """What would be found out by this."""
    if room.is_probe and room.is_refused:
        return given.provider, ""
    domain = given.delivery.sender_domain
    return (given.provider, domain) if domain in room.probing_domains else None
