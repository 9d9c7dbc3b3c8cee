"""Errors as RFC 9457 problems. Decides what a caller gets to see of an error, and what is logged of it.

`type` is `urn:hes:problem:<slug>`: a name and no link, since HES has no address of its own to serve pages from. Not
`about:blank`, because then `title` would have to be the status phrase and two kinds of 422 could not be told apart.

A 5xx says nothing of what is inside. Litestar's own texts are not passed on where they repeat the URL, whose query may
hold an address.
"""

import logging
import math
import re
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap
from msgspec import Struct, field

from hes.errors import (
    CallerError,
    CommitUnknown,
    FieldError,
    Forbidden,
    Invalid,
    NotAuthenticated,
    NotFound,
    Overloaded,
    StorageBroken,
    StorageError,
    TooLarge,
    Unreadable,
    Unready,
    UnsupportedType,
    WrongState,
)
from hes.model import Monotonic

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
"""What a 503 asks for: longer than a failover of the database's connection usually takes, short enough to matter."""

WARN_SECONDS = 60.0
"""That the storage is away is said no more often."""

_log = logging.getLogger("hes.web")


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One problem, as in RFC 9457, section 3, and `errors`: the fields that are wrong, if it is about fields."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = field(default=())


def problem_of(error: CallerError) -> Problem:
    """The problem for an error of the caller's; also what a bad item of a batch gets."""
    return Problem(
        type=_type(type(error).__name__),
        title=error.title,
        status=error.status,
        detail=error.detail,
        errors=error.errors,
    )


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """The HTTP response that carries a problem. Never cached: the next try may go well."""
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _type(name: str) -> str:
    """`KeyReused` and `Key reused` are both `urn:hes:problem:key-reused`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return "urn:hes:problem:" + "-".join(words).lower()


def _caller_error(_request: Request[Any, Any, Any], error: CallerError) -> Response[bytes]:
    return answer(problem_of(error), error.headers)


# --- what Litestar raises by itself ----------------------------------------------------------------------------------

_OUR_KIND: dict[int, tuple[type[CallerError], str]] = {
    400: (Unreadable, "The request can't be read."),
    401: (NotAuthenticated, "A key is needed."),
    403: (Forbidden, "This is not allowed."),
    404: (NotFound, "There is nothing here."),
    409: (WrongState, "This is not possible now."),
    413: (TooLarge, "The body is larger than what is taken here."),
    415: (UnsupportedType, "This content type is not taken here."),
}


def _http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    if isinstance(error, ValidationException):
        return _invalid_parameters(error)
    if _is_disconnect(error):
        return answer(problem_of(Unreadable("The connection ended before the request did.")))
    if status in _OUR_KIND:
        kind, detail = _OUR_KIND[status]
        return answer(problem_of(kind(detail)), error.headers)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return _unavailable("HES can't do this at the moment; try again.", error.headers)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _bug(request, error)
    phrase = HTTPStatus(status).phrase
    detail = "This address does not take that method." if status == HTTPStatus.METHOD_NOT_ALLOWED else f"{phrase}."
    return answer(Problem(type=_type(phrase), title=phrase, status=status, detail=detail), error.headers)


_MISSING = re.compile(r"Missing required (\w+) parameter '([^']*)' for path ")


def _invalid_parameters(error: ValidationException) -> Response[bytes]:
    """Parameters, and bodies that Litestar decodes: 422 as for all content; a bad header alone: 400."""
    found = [e for e in error.extra if isinstance(e, dict)] if isinstance(error.extra, list) else []
    if missing := _MISSING.match(error.detail):
        found = [{"source": missing[1], "key": missing[2], "message": "is required"}]
    errors = [FieldError(str(e.get("key", "")), str(e.get("message", "is not valid"))) for e in found]
    is_header = bool(found) and all(e.get("source") == "header" for e in found)
    kind = Unreadable if is_header else Invalid
    return answer(problem_of(kind("A parameter or field is not valid; `errors` names it.", errors)))


def _is_disconnect(error: HTTPException) -> bool:
    """Litestar's word for a client that went away in the middle of its body is a bare 500."""
    return error.detail == "client disconnected prematurely"


# --- our own trouble -------------------------------------------------------------------------------------------------


class _Outage:
    """A full disk or a database that is away meets every request: the log gets the first, then a count."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._told_at = -math.inf
        self._untold = 0

    def answer(self, _request: Request[Any, Any, Any], error: StorageError) -> Response[bytes]:
        if isinstance(error, StorageBroken):
            _log.error("the storage failed a write", exc_info=error)
        else:
            self._tell(error)
        if isinstance(error, CommitUnknown):
            return _unavailable(
                "The database fell silent in the middle of this, and nobody knows yet whether it was done. Repeat the "
                "same request with the same Idempotency-Key: nothing is sent twice. Without one, look first."
            )
        return _unavailable(
            "The storage is not available now. Try again; with an Idempotency-Key nothing is sent twice."
        )

    def _tell(self, error: StorageError) -> None:
        now = self._monotonic()
        self._untold += 1
        if now < self._told_at + WARN_SECONDS:
            return
        times = "" if self._untold == 1 else f", {self._untold} times since this was said last"
        _log.warning("answered with 503%s: %s", times, error)
        self._told_at, self._untold = now, 0


def unavailable(detail: str) -> Problem:
    """What a 503 says."""
    return Problem(type=_type("Unavailable"), title="Unavailable", status=503, detail=detail)


def _unavailable(detail: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    return answer(unavailable(detail), {"Retry-After": str(RETRY_AFTER_SECONDS), **(headers or {})})


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What should not happen. The log gets the route and not the path, which may hold an address."""
    _log.error("%s %s failed", request.method, request.scope.get("path_template", "?"), exc_info=error)
    detail = "Something went wrong inside HES. It is in the log; the request may be tried again."
    return answer(Problem(type=_type("Internal"), title="Internal error", status=500, detail=detail))


def _overloaded(_request: Request[Any, Any, Any], error: Overloaded) -> Response[bytes]:
    return _unavailable(f"{error}; nothing was stored. Try again.")


def _unready(_request: Request[Any, Any, Any], error: Unready) -> Response[bytes]:
    return _unavailable(f"{error}.")


def exception_handlers(monotonic: Monotonic) -> ExceptionHandlersMap:
    """For `Litestar(exception_handlers=...)`."""
    return {
        CallerError: _caller_error,
        Overloaded: _overloaded,
        Unready: _unready,
        StorageError: _Outage(monotonic).answer,
        HTTPException: _http_exception,
        Exception: _bug,
    }
