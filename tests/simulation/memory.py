"""A storage in memory: the protocol and the policy with dictionaries in between.

Fast enough for thousands of simulated steps a second, and the second kind that the conformance suite runs against:
what the suite proves of both, the simulation may rely on.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from hes.case import Case, Change
from hes.errors import KeyReused, NotFound, StorageUnavailable
from hes.ids import NewId
from hes.model import (
    AttemptId,
    Clock,
    Decision,
    EmailId,
    Ended,
    Event,
    EventType,
    Evidence,
    Leased,
    Millis,
    Status,
)
from hes.policy import Policy, holds_lease
from hes.storage.accepting import KEY_LIFETIME_MS, new_delivery
from hes.storage.storage import Accepted, Leases, NewEmail, Recipient, Room, StoredEmail, Swept

BATCH = 500
LIVE = frozenset({Status.SCHEDULED, Status.QUEUED, Status.SENDING, Status.IN_DOUBT})


class MemoryStorage:
    """See `hes.storage.storage.Storage`."""

    def __init__(self, policy: Policy, clock: Clock, new_id: NewId) -> None:
        self._policy = policy
        self._clock = clock
        self._new_id = new_id
        self.cases: dict[EmailId, Case] = {}
        self.emails: dict[EmailId, tuple[NewEmail, Accepted]] = {}
        self.events: dict[EmailId, list[tuple[str, Event]]] = {}
        self.moves: list[tuple[EmailId, Status, Status]] = []
        self.outbox: dict[AttemptId, bytes] = {}
        self.is_away = False
        self.calls = 0
        self._live: dict[EmailId, None] = {}
        """The emails that time can still do something to, so that a look costs nothing for the others."""
        self._keys: dict[tuple[str, str], tuple[bytes, Accepted]] = {}

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
        if change.delivery.status in LIVE:
            self._live[email_id] = None
        else:
            self._live.pop(email_id, None)
        self.events[email_id] += [(self._new_id(), event) for event in change.events]

    async def accept(self, new: NewEmail) -> Accepted:
        now = self._reach()
        email = new.email
        if new.key is not None:
            known = self._keys.get((email.project, new.key.value))
            if known is not None and known[1].created_at > now - KEY_LIFETIME_MS:
                if known[0] != new.key.request_hash:
                    raise KeyReused("another body")
                return known[1]
        accepted = Accepted(email.id, Status.QUEUED, now)
        delivery = new_delivery(new, len(email.text or ""), now)
        self.cases[email.id] = Case(delivery)
        self._live[email.id] = None
        self.emails[email.id] = (new, accepted)
        self.events[email.id] = [
            (self._new_id(), Event(email_id=email.id, type=type_, at=now))
            for type_ in (EventType.CREATED, EventType.QUEUED)
        ]
        if new.key is not None:
            self._keys[email.project, new.key.value] = (new.key.request_hash, accepted)
        return accepted

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        now = self._reach()
        hands = {name: room.hands for name, room in rooms.items() if room.hands > 0}
        waiting = (self.cases[email_id].delivery for email_id in self._live)
        due = sorted(
            (
                d
                for d in waiting
                if d.status in (Status.QUEUED, Status.SCHEDULED) and d.due_at <= now and d.expires_at > now
            ),
            key=lambda d: d.due_at,
        )
        due = [d for d in due if self._policy.takers(d, hands)][: sum(hands.values()) + 1]
        chosen = self._policy.give_out(due, hands, size_budget, is_idle=is_idle)
        items = []
        for delivery, provider in chosen or ():
            attempt_id = AttemptId(self._new_id())
            change = self._policy.lease(delivery, provider, attempt_id, rooms[provider].render_version, now)
            self._apply(change)
            items.append(
                Leased(
                    email=self.emails[delivery.email_id][0].email,
                    attempt_id=attempt_id,
                    number=change.delivery.attempts,
                    provider=provider,
                    timeout_seconds=delivery.attempt_timeout,
                    size_bytes=delivery.size_bytes,
                    deadline=deadline,
                )
            )
        return Leases(tuple(items), more=bool(items) and len(due) > len(items))

    async def settle(self, ended: Sequence[Ended]) -> list[AttemptId]:
        now = self._reach()
        lost = []
        for one in ended:
            if (case := self.cases.get(one.email_id)) is None:
                continue
            if not holds_lease(case, one):
                lost.append(one.attempt_id)
            self._apply(self._policy.settle(case, one, now))
        return lost

    async def evidence(self, proofs: Sequence[Evidence]) -> None:
        now = self._reach()
        for proof in proofs:
            if (case := self.cases.get(proof.email_id)) is not None:
                self._apply(self._policy.evidence(case, proof, now))

    async def sweep(self, held: Collection[AttemptId] = ()) -> Swept:
        now = self._reach()
        cases = [self.cases[email_id] for email_id in self._live]
        lapsed = [
            c
            for c in cases
            if c.delivery.lease_ends_at is not None
            and c.delivery.lease_ends_at <= now
            and c.delivery.attempt_id not in held
        ]
        for case in lapsed[:BATCH]:
            self._apply(self._policy.lapse(case, now))
        expired = 0
        for case in cases:
            if (change := self._policy.expire(self.cases[case.delivery.email_id], now)) is not None and expired < BATCH:
                self._apply(change)
                expired += 1
        return Swept(len(lapsed[:BATCH]), expired, more=BATCH in (len(lapsed[:BATCH]), expired))

    async def cancel(self, project: str, email_id: EmailId) -> None:
        self._decide(project, email_id, self._policy.cancel)

    async def resolve(self, project: str, email_id: EmailId, decision: Decision, by: str) -> None:
        self._decide(project, email_id, lambda case, now: self._policy.resolve(case, decision, now, by))

    def _decide(self, project: str, email_id: EmailId, decide: Callable[[Case, Millis], Change | None]) -> None:
        now = self._reach()
        case = self.cases.get(email_id)
        if case is None or case.delivery.project != project:
            raise NotFound("no such email")
        self._apply(decide(case, now))

    async def read(self, project: str, email_id: EmailId, *, with_content: bool = False) -> StoredEmail:
        self._reach()
        case = self.cases.get(email_id)
        if case is None or case.delivery.project != project:
            raise NotFound("no such email")
        new, accepted = self.emails[email_id]
        email = new.email
        return StoredEmail(
            delivery=case.delivery,
            created_at=accepted.created_at,
            sender=email.sender,
            subject=email.subject,
            tags=email.tags,
            reference=new.reference,
            stream=new.stream,
            email=email if with_content else None,
            recipients=tuple(
                Recipient(address, kind)
                for kind, addresses in (("to", email.to), ("cc", email.cc), ("bcc", email.bcc))
                for address in addresses
            ),
            attempts=case.attempts,
            events=tuple(self.events[email_id]),
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
        return len(outlived[:BATCH])

    async def check(self) -> None:
        self._reach()
