"""The exceptions of HES.

HesError
├── ConfigError            start is refused; names the setting
├── Overloaded             becomes 503: too much in hand already
├── CallerError            becomes a 4xx problem
│   ├── Unreadable         400
│   ├── NotAuthenticated   401
│   ├── Forbidden          403
│   ├── NotFound           404
│   ├── TooSlow            408
│   ├── WrongState         409
│   ├── KeyInUse           409, with Retry-After
│   ├── WrongVersion       412
│   ├── TooLarge           413
│   ├── UnsupportedType    415
│   ├── TooMany            429
│   └── Invalid            422: InvalidEmail, KeyReused
└── StorageError           becomes 503, or a pause
    ├── StorageUnavailable nothing was written; the same call may work later
    └── StorageBroken      the disk failed a write; the process must end, and a restart recovers

Exceptions are for what the code at hand can't deal with; outcomes of sending are values (`hes.model.Answer`).
No text of an error holds a secret, a body or an address.
"""

import math
from collections.abc import Sequence

from msgspec import Struct


class FieldError(Struct, frozen=True):
    """What is wrong with one field: `path` as in `to[2].email`, "" for the whole body."""

    path: str
    message: str


class HesError(Exception):
    """Everything that HES raises on purpose."""


class ConfigError(HesError):
    """A setting is missing or wrong: its name, what is wrong, and an example."""


class Overloaded(HesError):
    """Too much is in hand already; nothing was stored. The same request may go well in a moment."""


class CallerError(HesError):
    """The caller can mend this. `detail` is for people."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, errors: Sequence[FieldError] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers or {}


class Unreadable(CallerError):
    """The body is not JSON, or a header is malformed."""

    title = "Unreadable request"


class NotAuthenticated(CallerError):
    status, title = 401, "Not authenticated"


class Forbidden(CallerError):
    status, title = 403, "Forbidden"


class NotFound(CallerError):
    status, title = 404, "Not found"


class TooSlow(CallerError):
    """The body did not come in time. The connection ends with the answer (RFC 9110, section 15.5.9)."""

    status, title = 408, "Too slow"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class WrongState(CallerError):
    """The email is in a state that does not allow this."""

    status, title = 409, "Wrong state"


class KeyInUse(CallerError):
    """Another request with this idempotency key is being written just now; in a moment there will be its answer."""

    status, title = 409, "Idempotency key in use"

    def __init__(self) -> None:
        super().__init__(
            "the same Idempotency-Key is being worked on by another request; try again in a moment",
            headers={"Retry-After": "1"},
        )


class WrongVersion(CallerError):
    """`If-Match` names another version than the one there is (RFC 9110, section 13.1.1)."""

    status, title = 412, "Another version"


class TooLarge(CallerError):
    status, title = 413, "Too large"


class UnsupportedType(CallerError):
    status, title = 415, "Unsupported media type"


class Invalid(CallerError):
    """The content is readable but not acceptable."""

    status, title = 422, "Invalid content"


class InvalidEmail(Invalid):
    """An email that HES cannot take; `errors` names the fields."""

    title = "Invalid email"


class KeyReused(Invalid):
    """The idempotency key was used with another body."""

    title = "Idempotency key reused"


class TooMany(CallerError):
    """Too many requests, or too many wrong keys; `Retry-After` says when to try again."""

    status, title = 429, "Too many requests"

    def __init__(self, detail: str, wait_seconds: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))})


class Unready(HesError):
    """A process that wants no traffic; says why."""


class StorageError(HesError):
    """The storage could not do what was asked."""


class StorageUnavailable(StorageError):
    """The storage is away or busy, and nothing was written."""


class CommitUnknown(StorageUnavailable):
    """The storage went away in the middle of a COMMIT and stayed away: it may have been written, or not."""


class StorageBroken(StorageError):
    """The disk failed a write. Nothing that was asked for counts as written; the process must end."""
