"""What HES needs of a storage to keep API keys: the protocol, and the structs that go in and come out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from hes.model import Millis


class NewKey(Struct, frozen=True, kw_only=True):
    """A key that was checked and is to be kept. Of the key itself only the SHA-256 comes here."""

    id: str
    project: str
    name: str
    digest: bytes
    scopes: tuple[str, ...]
    sender_domains: tuple[str, ...] = ()
    """The only domains it may send from, in lower case. Empty: any."""
    rate_per_second: float | None = None
    expires_at: Millis | None = None
    test: bool = False


class StoredKey(NewKey, frozen=True, kw_only=True):
    """What is known of a key, revoked and expired ones included."""

    created_at: Millis
    revoked_at: Millis | None = None
    last_used_at: Millis | None = None


class Keys(Protocol):
    """Where keys are kept. `by`: the id of the key that asks for it; it goes into the audit. Raises as `Storage` does.

    `project` None: of all projects. `only_test`: no live keys.
    """

    async def create(self, new: NewKey, by: str) -> StoredKey:
        """Keep a key, and the project that it is the first of."""
        ...

    async def page(self, project: str | None, most: int, before: str | None, *, only_test: bool) -> list[StoredKey]:
        """The newest keys of the project, or those made before that one; newest first, so many at most."""
        ...

    async def find(self, key_ids: Sequence[str]) -> dict[str, StoredKey]:
        """Those that there are, by their ids, whatever has become of them."""
        ...

    async def revoke(self, project: str | None, key_id: str, by: str) -> StoredKey:
        """Revoke a key; one that is revoked stays as it is. Raises: NotFound, also for another project's."""
        ...

    async def note_uses(self, used_at: Mapping[str, Millis]) -> None:
        """Write down when keys were used last."""
        ...

    async def has_admin(self) -> bool:
        """Whether some key can make others in every project: an admin of `default`, not revoked and not expired."""
        ...
