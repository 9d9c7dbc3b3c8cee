"""What HES needs of a storage. The docstrings here are the specification; `tests/storage` runs it against each kind.

All times are the storage's own: on Postgres the database's clock, on SQLite this process's. Every method may raise
`StorageUnavailable`, and then nothing was written and the same call may be made again; `StorageBroken` ends the
process. Nothing here is called with a lock or a transaction held, and none is held when a call returns.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from hes.model import AttemptId, Decision, EmailId, Ended, Evidence, Millis, Room
from hes.storage.hints import Hints
from hes.storage.inbox import Inbox
from hes.storage.records import Accepted, Leases, NewEmail, Reach, Settled, StoredEmail, Swept
from hes.storage.searches import Searches
from hes.storage.shared_state import SharedState
from hes.storage.upkeep import Upkeep


class Storage(SharedState, Upkeep, Protocol):
    """Where emails are safe."""

    node_id: str
    """Of this process, fresh with each start."""
    is_shared: bool
    """There may be other processes over it."""
    hints: Hints

    @property
    def searches(self) -> Searches: ...
    @property
    def inbox(self) -> Inbox: ...

    async def accept(self, new: NewEmail) -> Accepted:
        """Commit the email, its delivery (due now), its timeline and its idempotency key, in one transaction.

        Concurrent calls share a transaction; when it fails because of one of them, the others do not suffer.
        Promise: it is on disk when this returns. The same key with the same request: the first answer again, nothing
        written. A key older than 24 hours is as good as new. Each project has its own keys, and its test emails theirs.
        Raises: KeyReused for another request under the same key; KeyInUse while one with that key is being written.
        """
        ...

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        """Give due deliveries into free hands; leases and attempt rows are on disk on return.

        Lanes with room take turns; within a lane the longest due goes first. Never more for a provider than its
        hands and what is left of its daily quota, nor content of more than `size_budget` bytes together (but one
        always, if `is_idle`: nothing is in flight in this process). Who takes what is decided by `Routing.give_out`;
        what nobody can take now stays untouched. What has expired is not leased.
        A delivery that was in flight at two crashes is leased alone, and only if `is_idle`.
        Of all nodes only one at a time finds out whether a provider that refused us takes our emails again.
        `deadline`: handed through to what is leased.
        """
        ...

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        """Write outcomes and what follows from them, in one transaction.

        Shape: at most 500. `rooms`: how the providers stand now, so that nothing waits for one that is shut.
        Promise: an attempt settles once, a delivery only by the attempt that leases it; settling again what was
        settled before changes nothing.
        """
        ...

    async def pull_forward(self, providers: Collection[str]) -> int:
        """Make due now what waits for its next round and may go to one of these, at most 500. Returns how many."""
        ...

    async def disbelieve(self, provider: str, email_ids: Collection[EmailId]) -> int:
        """Put back into the queue what failed by the word of a provider that rejects everything. Returns how many."""
        ...

    async def evidence(self, proofs: Sequence[Evidence]) -> None:
        """Write what was found out about named attempts, and what follows from it. Unknown attempts are passed over."""
        ...

    async def sweep(self, held: Collection[AttemptId] = (), *, reached_seconds: float = 0.0) -> Swept:
        """Turn lapsed leases into doubt, end what has expired, and what was in doubt for as long as it is to be.

        At most 500 each, in one transaction.

        `held`: attempts that are in this process's hands. Their outcomes are known here or will be, so however late
        it is, their leases do not lapse here.

        `reached_seconds`: only what has expired is ended unless processes have reached the storage all the while for
        so long. After an outage they hold outcomes and findings that they could not write, and of which a process that
        was not there knows nothing; where one process has the storage to itself, nothing is waited for.
        """
        ...

    async def cancel(self, reach: Reach, email_id: EmailId) -> None:
        """Cancel what was not handed to anybody; what is cancelled already stays so.

        Raises: NotFound, WrongState.
        """
        ...

    async def resolve(self, reach: Reach, email_id: EmailId, decision: Decision, by: str) -> None:
        """Write down what a person decided about an email that is held or in doubt, and who it was.

        Raises: NotFound, WrongState (also for `resend` when the content is gone).
        """
        ...

    async def send(self, reach: Reach, email_id: EmailId, send_at: Millis | None) -> None:
        """Send a draft, promote or reschedule what is scheduled, send again what failed or was cancelled.

        `send_at` None: now, or for a draft when it says itself. Raises: NotFound, WrongState.
        """
        ...

    async def read(
        self,
        reach: Reach,
        email_id: EmailId,
        *,
        with_content: bool = False,
        attempts_before: int | None = None,
        events_before: str | None = None,
    ) -> StoredEmail:
        """One email with all that is known of it, or of a long history the newest.

        `attempts_before`, `events_before`: only those before that number, or that id.
        Raises: NotFound, also outside the reach, likewise above.
        """
        ...

    async def keep(self, email_id: EmailId, attempt_id: AttemptId, mime: bytes) -> None:
        """Put a message into the outbox. Again for the same attempt: nothing changes."""
        ...

    async def check(self) -> None:
        """Return if the storage answers and its schema is the one that this version needs."""
        ...
