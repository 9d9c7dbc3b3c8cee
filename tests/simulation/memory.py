"""A storage in memory: the protocol and the policy with dictionaries in between.

Fast enough for thousands of simulated steps a second, and the second kind that the conformance suite runs against:
what the suite proves of both, the simulation may rely on.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, zip_longest

from msgspec.structs import replace

from hes import interventions, searching
from hes.case import Case, Change, Search
from hes.errors import KeyReused, NotFound, StorageUnavailable
from hes.ids import NewId
from hes.lanes import lane_of, parse, text_of
from hes.model import (
    AttemptId,
    Clock,
    Decision,
    Delivery,
    EmailId,
    Ended,
    Event,
    Evidence,
    Fact,
    FactKey,
    Millis,
    Node,
    Room,
    Status,
)
from hes.policy import Policy, holds_lease
from hes.routing import Given
from hes.storage.accepting import KEY_LIFETIME_MS, first_events, new_delivery
from hes.storage.cluster import PRESENT_MS
from hes.storage.hints import Hints, NoHints
from hes.storage.inbox import Taken
from hes.storage.records import (
    HISTORY_PAGE,
    Accepted,
    Leases,
    NewEmail,
    Presence,
    Reach,
    Recipient,
    Settled,
    StoredEmail,
    Swept,
    Verdict,
    leased,
)
from hes.storage.search_store import ask, claimed, proof_of, put_back
from hes.storage.searches import Asked, Asking
from hes.told import Told

BATCH = 500
DAY_MS = 24 * 3600 * 1000
WAITING = frozenset({Status.SCHEDULED, Status.QUEUED})
LIVE = frozenset({Status.SCHEDULED, Status.QUEUED, Status.SENDING, Status.IN_DOUBT})


class MemoryStorage:
    """See `hes.storage.storage.Storage`."""

    node_id = "one"
    is_shared = False
    hints: Hints = NoHints()

    def __init__(self, policy: Policy, clock: Clock, new_id: NewId) -> None:
        self._policy = policy
        self._clock = clock
        self._new_id = new_id
        self.cases: dict[EmailId, Case] = {}
        self.emails: dict[EmailId, tuple[NewEmail, Accepted]] = {}
        self.events: dict[EmailId, list[tuple[str, Event]]] = {}
        self.moves: list[tuple[EmailId, Status, Status]] = []
        self.outbox: dict[AttemptId, bytes] = {}
        self._is_away = False
        self._back_at: Millis = 0
        self.calls = 0
        self._live: dict[EmailId, None] = {}
        """The emails that time can still do something to, so that a look costs nothing for the others."""
        self._lanes: dict[str, dict[EmailId, None]] = {}
        self._first_lane = ""
        self._facts: dict[FactKey, Fact] = {}
        self._probes: dict[tuple[str, str], tuple[str, Millis]] = {}
        self._nodes: dict[str, Node] = {}
        self._given: Counter[tuple[str, int]] = Counter()
        self._keys: dict[tuple[str, bool, str], tuple[bytes, Accepted]] = {}
        self.searching: dict[AttemptId, Search] = {}

    @property
    def searches(self) -> "MemoryStorage":
        """Itself: the verbs of both."""
        return self

    @property
    def inbox(self) -> "MemoryStorage":
        return self

    async def take(self, provider: str, told: Told) -> Taken:
        raise NotImplementedError

    async def match(self) -> int:
        """Nothing ever waits here: only databases take events in."""
        self._reach()
        return 0

    @property
    def is_away(self) -> bool:
        return self._is_away

    @is_away.setter
    def is_away(self, is_away: bool) -> None:
        self._back_at = self._clock() if self._is_away and not is_away else self._back_at
        self._is_away = is_away

    @property
    def is_busy(self) -> bool:
        """Something waits, is in flight or in doubt."""
        return bool(self._live)

    def _reach(self) -> Millis:
        self.calls += 1
        if self.is_away:
            raise StorageUnavailable("the storage is away")
        return self._clock()

    def _apply(self, change: Change | None) -> None:
        if change is None:
            return
        email_id = change.delivery.email_id
        case = self.cases[email_id]
        self.moves.append((email_id, case.delivery.status, change.delivery.status))
        self.cases[email_id] = case.after(change)
        self._place(case.delivery, change.delivery)
        self.events[email_id] += [(self._new_id(), event) for event in change.events]
        if change.search is not None:
            self.searching.setdefault(change.search.attempt_id, change.search)

    def _place(self, before: Delivery | None, after: Delivery) -> None:
        """Keep the lanes and the list of what is alive."""
        if before is not None and before.status in WAITING:
            self._lanes[text_of(lane_of(before))].pop(before.email_id, None)
        if after.status in WAITING:
            self._lanes.setdefault(text_of(lane_of(after)), {})[after.email_id] = None
        if after.status in LIVE:
            self._live[after.email_id] = None
        else:
            self._live.pop(after.email_id, None)

    async def accept(self, new: NewEmail) -> Accepted:
        now = self._reach()
        email = new.email
        if new.key is not None:
            known = self._keys.get((email.project, new.is_test, new.key.value))
            if known is not None and known[1].created_at > now - KEY_LIFETIME_MS:
                if known[0] != new.key.request_hash:
                    raise KeyReused("another body")
                return known[1]
        delivery = new_delivery(new, len(email.text or ""), now)
        accepted = Accepted(email.id, delivery.status, now)
        self.cases[email.id] = Case(delivery)
        self._place(None, delivery)
        self.emails[email.id] = (new, accepted)
        self.events[email.id] = [(self._new_id(), event) for event in first_events(new, now)]
        if new.key is not None:
            self._keys[email.project, new.is_test, new.key.value] = (new.key.request_hash, accepted)
        return accepted

    async def lease(
        self,
        rooms: Mapping[str, Room],
        *,
        size_budget: int,
        is_idle: bool,
        deadline: float,
        node_id: str = node_id,
    ) -> Leases:
        now = self._reach()
        rooms = {name: self._limited(name, room, now) for name, room in rooms.items()}
        routing = self._policy.routing
        due = self._in_turns(now, rooms)
        tries = {delivery.email_id: self.cases[delivery.email_id].attempts for delivery in due}
        given = routing.give_out(due, rooms, size_budget, now, is_idle=is_idle, tries=tries)
        items = []
        for one in given or ():
            room = rooms[one.provider]
            if not self._may_probe(one, room, node_id, now):
                continue
            change = self._policy.lease(one.delivery, one.provider, AttemptId(self._new_id()), room.render_version, now)
            self._apply(change)
            email = self.emails[one.delivery.email_id][0].email
            items.append(leased(change, email, room, deadline, self._policy.rules.call_seconds))
            self._given[one.provider, now // DAY_MS] += 1
        return Leases(tuple(items), more=bool(items) and len(due) > len(items))

    def _may_probe(self, given: Given, room: Room, node_id: str, now: Millis) -> bool:
        domain = given.delivery.sender_domain
        if not (room.is_probe and room.is_refused) and domain not in room.probing_domains:
            return True
        probe = (given.provider, "" if room.is_probe and room.is_refused else domain)
        holder, until = self._probes.get(probe, (node_id, 0))
        if holder != node_id and until > now:
            return False
        self._probes[probe] = (node_id, now + round(self._policy.rules.lease_seconds * 1000))
        return True

    def _in_turns(self, now: Millis, rooms: Mapping[str, Room]) -> list[Delivery]:
        """One of each lane with room, then the next of each; another lane begins each time."""
        names = [lane for lane, ids in self._lanes.items() if ids and self._takers(lane, rooms, now)]
        names.sort(key=lambda lane: (lane <= self._first_lane, lane))
        lanes = [self._due(lane, now) for lane in names]
        self._first_lane = next((name for name, due in zip(names, lanes, strict=True) if due), "")
        return [d for d in chain.from_iterable(zip_longest(*lanes)) if d is not None]

    def _takers(self, lane: str, rooms: Mapping[str, Room], now: Millis) -> list[str]:
        first_due = min(self.cases[email_id].delivery.due_at for email_id in self._lanes[lane])
        return self._policy.routing.takers(parse(lane), rooms, now - first_due)

    def _due(self, lane: str, now: Millis) -> list[Delivery]:
        waiting = (self.cases[email_id].delivery for email_id in self._lanes[lane])
        return sorted((d for d in waiting if d.due_at <= now < d.expires_at), key=lambda d: d.due_at)

    def _limited(self, name: str, room: Room, now: Millis) -> Room:
        quota = self._policy.rules.daily_quotas.get(name)
        if quota is None:
            return room
        left = max(0, quota - self._given[name, now // DAY_MS])
        return replace(room, hands=min(room.hands, left), is_shut=room.is_shut or left == 0)

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        now = self._reach()
        rooms = {name: self._limited(name, room, now) for name, room in rooms.items()}
        lost: list[AttemptId] = []
        verdicts: list[Verdict] = []
        for one in ended:
            if (case := self.cases.get(one.email_id)) is None:
                continue
            if not holds_lease(case, one):
                lost.append(one.attempt_id)
            verdicts += (Verdict(name, is_liar) for name, is_liar in self._policy.verdicts(case, one))
            self._apply(self._policy.settle(case, one, now, rooms))
        return Settled(tuple(lost), tuple(verdicts))

    async def pull_forward(self, providers: Collection[str]) -> int:
        now = self._reach()
        count = 0
        for email_id in self._live:
            delivery = self.cases[email_id].delivery
            theirs = set(providers) & set(self._policy.routing.usable(lane_of(delivery)))
            if delivery.status is Status.QUEUED and delivery.due_at > now and theirs:
                self.cases[email_id] = replace(self.cases[email_id], delivery=replace(delivery, due_at=now))
                count += 1
        return count

    async def disbelieve(self, provider: str, email_ids: Collection[EmailId]) -> int:
        now = self._reach()
        changes = [
            interventions.disbelieve(self._policy.routing, self.cases[i], provider, now)
            for i in email_ids
            if i in self.cases
        ]
        for change in changes:
            self._apply(change)
        return sum(change is not None for change in changes)

    async def facts(self) -> list[Fact]:
        self._reach()
        return list(self._facts.values())

    async def state_facts(self, stated: Collection[Fact], withdrawn: Collection[FactKey] = ()) -> None:
        self._reach()
        for key in withdrawn:
            self._facts.pop(key, None)
        self._facts |= {(fact.provider, fact.kind, fact.sender_domain): fact for fact in stated}

    async def appear(self, node: Node) -> Presence:
        now = self._reach()
        self._nodes[node.id] = replace(node, seen_at=now)
        return Presence(now, sum(node.role != "api" for node in await self.nodes()))

    async def leave(self, node_id: str) -> None:
        self._reach()
        self._nodes.pop(node_id, None)

    async def nodes(self) -> list[Node]:
        now = self._reach()
        return [node for node in self._nodes.values() if node.seen_at > now - PRESENT_MS]

    async def quotas_used(self) -> dict[str, int]:
        now = self._reach()
        return {name: given for (name, day), given in self._given.items() if day == now // DAY_MS}

    async def evidence(self, proofs: Sequence[Evidence]) -> None:
        now = self._reach()
        for proof in proofs:
            if (case := self.cases.get(proof.email_id)) is not None:
                self._apply(self._policy.evidence(case, proof, now))

    async def sweep(self, held: Collection[AttemptId] = (), *, reached_seconds: float = 0.0) -> Swept:
        now = self._reach()
        cases = [self.cases[email_id] for email_id in self._live]
        is_reached = now - self._back_at >= reached_seconds * 1000
        lapsed = [
            c
            for c in cases
            if is_reached
            and c.delivery.lease_ends_at is not None
            and c.delivery.lease_ends_at <= now
            and c.delivery.attempt_id not in held
        ]
        for case in lapsed[:BATCH]:
            self._apply(self._policy.lapse(case, now))
        expired = 0
        for case in cases:
            if (
                change := interventions.expire(self.cases[case.delivery.email_id], now)
            ) is not None and expired < BATCH:
                self._apply(change)
                expired += 1
        searched = [
            case.delivery.email_id for case in cases if is_reached and self._policy.search_over(self._now(case), now)
        ]
        for email_id in searched[:BATCH]:
            self._apply(self._policy.search_over(self.cases[email_id], now))
        counts = (len(lapsed[:BATCH]), expired, len(searched[:BATCH]))
        return Swept(*counts, more=BATCH in counts)

    def _now(self, case: Case) -> Case:
        """As it stands by now."""
        return self.cases[case.delivery.email_id]

    async def claim(self, hands: Mapping[str, int], may_replay: Mapping[str, bool]) -> list[Asking]:
        now = self._reach()
        asking = []
        for provider, most in sorted(hands.items()):
            due = [s for s in self.searching.values() if s.provider == provider and s.next_at <= now]
            for search in sorted(due, key=lambda s: s.next_at)[:most]:
                case = self.cases[search.email_id]
                next_ = ask(self._policy, case, search, now, may_replay=may_replay.get(provider, True))
                attempt = case.attempt(search.attempt_id)
                if isinstance(next_, int):
                    self.searching[search.attempt_id] = replace(search, next_at=next_, lease=None)
                elif next_ is None or attempt is None:
                    del self.searching[search.attempt_id]
                else:
                    until = now + round(self._policy.rules.lease_seconds * 1000)
                    taken = self.searching[search.attempt_id] = claimed(search, self._new_id(), until)
                    self.cases[search.email_id] = replace(case, unasked=case.unasked - {search.attempt_id})
                    asking.append(
                        Asking(
                            search=taken,
                            way=next_.way,
                            seconds=next_.seconds,
                            email=self.emails[search.email_id][0].email,
                            started_at=attempt.started_at,
                            render_version=attempt.render_version,
                        )
                    )
        return asking

    async def answer(self, asked: Asked) -> None:
        now = self._reach()
        search = asked.search
        case = self.cases[search.email_id]
        if asked.accepted:
            self._apply(self._policy.evidence(case, proof_of(asked), now))
            self.searching.pop(search.attempt_id, None)
        elif (known := self.searching.get(search.attempt_id)) is not None and known.lease == search.lease:
            told = searching.answered(case, search, asked.way, asked.answer, asked.detail, now)
            self.events[search.email_id] += [(self._new_id(), event) for event in told]
            self.searching[search.attempt_id] = put_back(case, asked, now)

    async def cancel(self, reach: Reach, email_id: EmailId) -> None:
        self._decide(reach, email_id, interventions.cancel)

    async def resolve(self, reach: Reach, email_id: EmailId, decision: Decision, by: str) -> None:
        self._decide(reach, email_id, lambda case, now: interventions.resolve(case, decision, now, by))

    async def send(self, reach: Reach, email_id: EmailId, send_at: Millis | None) -> None:
        self._decide(reach, email_id, lambda case, now: interventions.send(case, send_at, now))

    def _decide(self, reach: Reach, email_id: EmailId, decide: Callable[[Case, Millis], Change | None]) -> None:
        now = self._reach()
        case = self.cases.get(email_id)
        if case is None or not reach.holds(case.delivery):
            raise NotFound("no such email")
        self._apply(decide(case, now))

    async def read(
        self,
        reach: Reach,
        email_id: EmailId,
        *,
        with_content: bool = False,
        attempts_before: int | None = None,
        events_before: str | None = None,
    ) -> StoredEmail:
        self._reach()
        case = self.cases.get(email_id)
        if case is None or not reach.holds(case.delivery):
            raise NotFound("no such email")
        new, accepted = self.emails[email_id]
        email = new.email
        attempts = [a for a in case.attempts if attempts_before is None or a.number < attempts_before]
        events = [(id_, e) for id_, e in self.events[email_id] if events_before is None or id_ < events_before]
        return StoredEmail(
            delivery=case.delivery,
            expires_at=interventions.expires_at(self._policy.rules, case.delivery),
            created_at=accepted.created_at,
            sender=email.sender,
            subject=email.subject,
            tags=email.tags,
            reference=new.reference,
            stream=new.stream,
            written_by=new.written_by,
            email=email if with_content else None,
            recipients=tuple(
                Recipient(address, kind)
                for kind, addresses in (("to", email.to), ("cc", email.cc), ("bcc", email.bcc))
                for address in addresses
            ),
            attempts=tuple(attempts[-HISTORY_PAGE:]),
            events=tuple(events[-HISTORY_PAGE:]),
            has_older_attempts=len(attempts) > HISTORY_PAGE,
            has_older_events=len(events) > HISTORY_PAGE,
        )

    async def keep(self, email_id: EmailId, attempt_id: AttemptId, mime: bytes) -> None:
        self._reach()
        del email_id
        self.outbox.setdefault(attempt_id, mime)

    async def prune(self) -> int:
        now = self._reach()
        outlived = [k for k, (_, first) in self._keys.items() if first.created_at <= now - KEY_LIFETIME_MS]
        for key in outlived[:BATCH]:
            del self._keys[key]
        over = [attempt_id for attempt_id, search in self.searching.items() if search.until <= now]
        for attempt_id in over[:BATCH]:
            del self.searching[attempt_id]
        return len(outlived[:BATCH]) + len(over[:BATCH])

    async def drop_old(self, contents_ms: Millis | None, history_ms: Millis | None) -> int:
        now = self._reach()
        if history_ms is None:
            return 0
        del contents_ms  # only what has a database has contents that can go
        gone = [i for i, (_, a) in self.emails.items() if i not in self._live and a.created_at < now - history_ms]
        for email_id in gone:
            del self.cases[email_id], self.emails[email_id], self.events[email_id]
        return len(gone)

    async def drop_drafts(self) -> int:
        now = self._reach()
        changes = [interventions.drop_draft(self._policy.rules, case, now) for case in self.cases.values()]
        old = [change for change in changes if change is not None][:BATCH]
        for change in old:
            self._apply(change)
        return len(old)

    async def check(self) -> None:
        self._reach()
