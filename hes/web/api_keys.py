"""API keys: who holds one gets in. The bootstrap key first, then those in storage, then a 401 that costs little.

A key that was right a moment ago costs one look into a dictionary, one hash and one comparison, and no storage. A wrong
one costs the same whatever is wrong with it: one hash, one look-up, one comparison. From an address from which too many
came (`hes.web.throttle.WrongKeys`) they are looked up all together, some 20 times a second: so they cost little, and
who holds a good key behind the same address is let in all the same, only a moment later.
"""

import hmac
import time
from collections.abc import Sequence
from typing import Any, Final

import anyio
from litestar import Request
from msgspec import Struct

from hes.errors import NotAuthenticated, StorageUnavailable
from hes.model import Clock, Millis, Monotonic
from hes.storage.key_records import Keys, StoredKey
from hes.web.auth import ALL_SCOPES, Principal, not_authenticated, read_keys
from hes.web.gathered_keys import GatheredKeys
from hes.web.key_form import digest_of, id_in
from hes.web.throttle import WrongKeys

RENEW_SECONDS = 1.0
"""When what is known of a key is asked for again, by the request that happens to be the first."""
STALE_SECONDS = 2.0
"""How long the others may go by what was known meanwhile: a revoked key is refused everywhere after this."""
USES_SECONDS = 60.0
"""How often it is written down which keys were used."""
MOST_KEYS = 10_000
GATHER_SECONDS = 0.05
"""How long keys from an address with too many wrong ones are gathered."""

_NOBODY: Final = bytes(32)
"""The hash of no key, to compare with where there is none."""
_BOOTSTRAP: Final = Principal(key_id="bootstrap", project="default", scopes=ALL_SCOPES)


class _Known(Struct):
    """A key that was found good."""

    key: StoredKey
    principal: Principal
    asked_at: float
    is_renewed: bool = False
    """Somebody is asking for it again."""


class StoredKeys:
    """The keys in storage, those in use remembered for a moment. `run` writes down which were used."""

    def __init__(
        self,
        keys: Keys,
        clock: Clock,
        monotonic: Monotonic = time.monotonic,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._keys = keys
        self._gathered = GatheredKeys(keys, gather_seconds)
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}
        self._used_at: dict[str, Millis] = {}

    def at_hand(self, key_id: str, digest: bytes) -> Principal | None:
        """Whose key it is, if that is known without asking."""
        known = self._known.get(key_id)
        is_right = hmac.compare_digest(digest, known.key.digest if known else _NOBODY)
        if known is None or not is_right or not self._is_fresh(known):
            return None
        self._used_at[key_id] = self._clock()
        return known.principal

    async def look_up(self, key_id: str, digest: bytes, *, gathered: bool = False) -> Principal | None:
        """Whose key it is; None: nobody's. Raises: NotAuthenticated if it is good no longer, StorageUnavailable.

        `gathered`: together with others.
        """
        asked_at = self._monotonic()
        key = await self._gathered.find(key_id) if gathered else (await self._keys.find([key_id])).get(key_id)
        if not hmac.compare_digest(digest, key.digest if key else _NOBODY) or key is None:
            return None
        self._known.pop(key_id, None)
        if key.revoked_at is not None:
            raise not_authenticated("This key was revoked.")
        if self._has_expired(key):
            raise not_authenticated("This key has expired.")
        known = self._known[key_id] = _Known(key, _principal_of(key), asked_at)
        if len(self._known) > MOST_KEYS:
            del self._known[next(iter(self._known))]
        self._used_at[key_id] = self._clock()
        return known.principal

    async def run(self) -> None:
        while True:
            await anyio.sleep(USES_SECONDS)
            await self.write_uses()

    async def write_uses(self) -> None:
        """Write down all uses since the last time, in one batch."""
        used_at, self._used_at = self._used_at, {}
        try:
            await self._keys.note_uses(used_at)
        except StorageUnavailable:
            self._used_at = used_at | self._used_at

    def _is_fresh(self, known: _Known) -> bool:
        age = self._monotonic() - known.asked_at
        if self._has_expired(known.key) or age >= STALE_SECONDS:
            return False
        if age < RENEW_SECONDS or known.is_renewed:
            return True
        known.is_renewed = True
        return False

    def _has_expired(self, key: StoredKey) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock()


class ApiKeys:
    """The authenticator for keys. `bootstrap`: the key out of `HES_BOOTSTRAP_KEY`; only its hash is kept."""

    def __init__(self, stored: StoredKeys, wrong_keys: WrongKeys, bootstrap: str | None = None) -> None:
        self._stored = stored
        self._wrong_keys = wrong_keys
        self._bootstrap = digest_of(bootstrap.encode()) if bootstrap else _NOBODY

    async def __call__(self, request: Request[Any, Any, Any]) -> Principal:
        """See `hes.web.auth.Authenticator`. Raises also: TooMany, but never for a good key."""
        hashed = [(key, digest_of(key)) for key in read_keys(request.headers)]
        for key, digest in hashed:  # all of them before storage is asked: one of Basic's two is no key
            if principal := self._at_hand(key, digest):
                return principal
        try:
            return await self._find(hashed, gathered=self._wrong_keys.are_too_many(request))
        except NotAuthenticated:
            self._wrong_keys.count(request)
            raise

    async def _find(self, hashed: Sequence[tuple[bytes, bytes]], *, gathered: bool) -> Principal:
        """In storage. `hashed`: keys, each with its digest."""
        for key, digest in hashed:
            if principal := await self._stored.look_up(id_in(key), digest, gathered=gathered):
                return principal
        raise not_authenticated("This key is not known.")

    def _at_hand(self, key: bytes, digest: bytes) -> Principal | None:
        is_bootstrap = hmac.compare_digest(digest, self._bootstrap)
        return _BOOTSTRAP if is_bootstrap else self._stored.at_hand(id_in(key), digest)


def _principal_of(key: StoredKey) -> Principal:
    return Principal(
        key_id=key.id,
        project=key.project,
        # A scope that this version does not know, since a newer one wrote it, gives nothing.
        scopes=ALL_SCOPES.intersection(key.scopes),
        sender_domains=key.sender_domains,
        rate_per_second=key.rate_per_second,
        test=key.test,
        expires_at=key.expires_at,
    )
