"""Who is calling: from the Authorization header to a `Principal`, and what that one may do.

Keys come in a header and nowhere else: a URL ends up in logs. No answer repeats what was sent, and a key is never
refused for its shape, only because its hash is not known. Which keys there are: `hes.web.api_keys`.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, get_args

from litestar import Request
from litestar.datastructures import Headers
from msgspec import Struct

from hes.errors import Forbidden, NotAuthenticated
from hes.model import Millis
from hes.storage.records import Reach

KeyScope = Literal["emails:send", "emails:read", "webhooks", "suppressions", "templates", "providers", "admin"]
ALL_SCOPES: Final[frozenset[KeyScope]] = frozenset(get_args(KeyScope))

_MAX_HEADER = 4096
_CHALLENGE = {"WWW-Authenticate": 'Bearer, Basic realm="hes"'}


BECAME_KNOWN: Final = "hes_became_known"
"""Under this the server puts a function into the scope of a request, to be told that its connection is somebody's."""


class Principal(Struct, frozen=True, kw_only=True):
    """Who is calling, and for which project."""

    key_id: str
    project: str
    scopes: frozenset[KeyScope]
    sender_domains: tuple[str, ...] = ()
    """The only domains this one may send from, in lower case. Empty: any."""
    rate_per_second: float | None = None
    """How many emails it may send, each recipient counted as one; None: any number."""
    test: bool = False
    """What it sends goes to the outbox only."""
    expires_at: Millis | None = None
    """None: never."""

    @property
    def reach(self) -> Reach:
        """Which emails it may see and change, as far as its scopes let it."""
        return Reach(self.project, self.test, self.sender_domains)

    def allow(self, scope: KeyScope) -> bool:
        """Whether it has this scope. `admin` holds no other scope within it."""
        return scope in self.scopes


class Authenticator(Protocol):
    """Finds out who is calling; API keys are one kind, JWTs will be another."""

    async def __call__(self, request: Request[Any, Any, Any]) -> Principal:
        """Reads the headers and the client's address, and never the URL or the body.

        Raises: NotAuthenticated, with the `WWW-Authenticate` header that goes with a 401; TooMany; StorageUnavailable.
        """
        ...


def read_keys(headers: Headers) -> tuple[bytes, ...]:
    """What may be the key in the Authorization header: the Bearer token, or user name and password of Basic.

    Raw bytes, because a key is hashed and not read; never empty ones. Raises: NotAuthenticated if there is none.
    """
    lines = headers.getall("authorization", [])
    if not lines:
        raise not_authenticated("A key is needed: `Authorization: Bearer <key>`.")
    if len(lines) > 1:
        raise not_authenticated("There is more than one `Authorization` header.")
    if len(lines[0]) > _MAX_HEADER:
        raise not_authenticated("The `Authorization` header is too long.")
    kind, _, rest = lines[0].strip().partition(" ")
    credentials = rest.strip().encode("latin-1", "replace")
    keys: tuple[bytes, ...] = ()
    if kind.lower() == "bearer":
        keys = (credentials,)
    elif kind.lower() == "basic":
        keys = _basic(credentials)
    keys = tuple(key for key in keys if key)
    if not keys:
        raise not_authenticated("The `Authorization` header is neither `Bearer <key>` nor Basic with the key.")
    return keys


def not_authenticated(detail: str) -> NotAuthenticated:
    """A 401 with the challenge that RFC 9110, section 11.6.1, asks for."""
    return NotAuthenticated(detail, headers=dict(_CHALLENGE))


def _basic(credentials: bytes) -> tuple[bytes, ...]:
    """User name and password (RFC 7617): programs differ in which of the two they put a key into."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except binascii.Error:
        return ()
    return user, password


def has_become_known(request: Request[Any, Any, Any]) -> None:
    """Whoever makes this request has shown a key, or a provider's signature. See `hes.web.connections`."""
    tell: Callable[[], None] | None = request.scope.get(BECAME_KNOWN)  # type: ignore[assignment]  # a key of ours
    if tell is not None:
        tell()


async def authorize(authenticator: Authenticator, request: Request[Any, Any, Any], *scopes: KeyScope) -> Principal:
    """Who is calling, if that one has all these scopes.

    Raises: NotAuthenticated, TooMany, Forbidden, StorageUnavailable.
    """
    principal = await authenticator(request)
    has_become_known(request)
    for scope in scopes:
        if not principal.allow(scope):
            raise Forbidden(f"This key lacks the scope `{scope}`.")
    return principal
