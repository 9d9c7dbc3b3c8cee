"""What the API needs of a storage beside the queue's verbs. Promises and errors as in `hes.storage.storage`."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from hes.model import Decision, EmailId, Millis
from hes.storage.records import BatchItem, IdempotencyKey, ListQuery, Many, NewEmail, Page, Queue, Reach, Waiting

T = TypeVar("T")


class EmailBook(Protocol):
    """What people do with many emails, or with those that are not on their way. Only databases have it.

    Emails outside the `reach` are left out, or are not found.
    """

    async def accept_batch(
        self, reach: Reach, items: Sequence[NewEmail | BatchItem], key: IdempotencyKey | None
    ) -> list[BatchItem]:
        """Commit all emails in one transaction, with the key; what is a problem already goes through as it is.

        Should one of them not be storable, it alone becomes a problem. The same key with the same request: the first
        answer again; a reach of test emails only has keys of its own. Raises: KeyReused.
        """
        ...

    async def first_answer(self, reach: Reach, key: IdempotencyKey, kind: type[T]) -> T | None:
        """What the request under this key was answered; None: there was none. Raises: KeyReused.

        `kind`: what `accept` or `accept_batch` answers.
        """
        ...

    async def waiting(self) -> Waiting:
        """How much waits, of all projects, by a query whose cost does not grow with what is at rest."""
        ...

    async def stored_bytes(self) -> dict[str, int]:
        """How many bytes each project holds in drafts, waiting, cancelled and failed emails whose content is there.

        The cost grows with their number, but not with what was sent or erased.
        """
        ...

    async def queue(self) -> Queue:
        """How the queue stands, by queries whose cost does not grow with what is at rest."""
        ...

    async def list(self, reach: Reach, query: ListQuery) -> Page:
        """Newest first."""
        ...

    async def cancel_many(self, reach: Reach, query: ListQuery) -> Many:
        """`Storage.cancel` for those that fit and wait: the newest ones, at most `query.limit`, in one transaction."""
        ...

    async def resolve_many(self, reach: Reach, query: ListQuery, decision: Decision, by: str) -> Many:
        """Likewise `Storage.resolve`, for those that are held or in doubt."""
        ...

    async def reschedule(self, reach: Reach, email_id: EmailId, send_at: Millis, version: int | None) -> None:
        """Another time for what is scheduled. `version`: only if it still has that one.

        Raises: NotFound, WrongState, WrongVersion.
        """
        ...

    async def edit(self, reach: Reach, new: NewEmail, version: int) -> None:
        """Put this in the place of a draft with the same id, in one transaction, if it still has that version.

        It stays a draft, and as it was: when it was created, and whether it is a test. Who wrote it is said anew.
        Raises: NotFound, WrongState, WrongVersion.
        """
        ...

    async def erase(self, reach: Reach, email_id: EmailId) -> None:
        """Forget content and addresses; that there was an email, and what became of it, stays. A draft is cancelled.

        Again: nothing changes. Raises: NotFound, WrongState while it may still be sent.
        """
        ...
