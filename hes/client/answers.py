"""What the clients make of an answer, and of none: a value, an error, or the same request once more. No I/O."""

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from hes.client.calls import Call
from hes.client.types import Email
from hes.errors import FieldError, HesError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
"""Also of what a server may ask for."""

OnRepeat = Callable[[str, float], None]
"""Told before a repeat: why, and in how many seconds."""


class Answer(Struct, frozen=True, kw_only=True):
    """What came back."""

    status: int
    content: bytes = b""
    retry_after: str | None = None


class NoAnswer(Struct, frozen=True):
    """Nothing came back."""

    why: str


class HesApiError(HesError):
    """HES answered with an error: `status`, `title`, `detail` and `errors` of its problem (RFC 9457)."""

    def __init__(
        self, status: int, title: str, detail: str, errors: tuple[FieldError, ...] = (), key: str | None = None
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.idempotency_key = key
        """What the email was sent with, if it may have been accepted all the same."""
        is_told = len(errors) == 1 and errors[0].message in detail
        more = [] if is_told else [f"  {error.path}: {error.message}" for error in errors]
        super().__init__("\n".join([f"{title}: {detail}{_once_more(key)}", *more]))


class HesUnreachable(HesError):
    """HES did not answer."""

    def __init__(self, url: str, why: str, key: str | None = None) -> None:
        self.url = url
        self.idempotency_key = key
        super().__init__(
            f"no answer from {url}: {why}. Is HES running there (`hes serve`), and is HES_URL right?{_once_more(key)}"
        )


def _once_more(key: str | None) -> str:
    if key is None:
        return ""
    return f" The same again with the idempotency key {key} sends nothing twice, even if it was taken this time."


class Repeats:
    """Whether a request is made once more, and when: a bounded number of times, with growing pauses.

    Only what is repeatable, and only where no answer came that tells what became of it.
    """

    def __init__(self, call: Call[Any], count: int, told: OnRepeat | None) -> None:
        self._left = count if call.is_repeatable else 0
        self._pause = FIRST_PAUSE_SECONDS
        self._told = told

    def after(self, answer: Answer | NoAnswer) -> float | None:
        """Seconds until the next one; None: this is the answer."""
        why = _unanswered(answer)
        if why is None or not self._left:
            return None
        self._left -= 1
        # By chance less, so that many clients of one server don't come back all at once.
        pause = min(max(self._pause * random.uniform(0.5, 1), _asked_for(answer)), LONGEST_PAUSE_SECONDS)
        self._pause *= 2
        if self._told:
            self._told(why, pause)
        return pause


def _unanswered(answer: Answer | NoAnswer) -> str | None:
    """Why it is not known what became of the request, or known that nothing did for now; None: it is answered."""
    if isinstance(answer, NoAnswer):
        return answer.why
    # A 409 with a Retry-After: the same request is being worked on. 502 and 504 come from what stands in front of HES.
    if answer.status in {408, 429, 502, 503, 504} or (answer.status == HTTPStatus.CONFLICT and answer.retry_after):
        return " ".join([f"{answer.status} {HTTPStatus(answer.status).phrase}", *_detail(answer)])
    return None


def _detail(answer: Answer) -> list[str]:
    """What HES says of it, if it was HES and says anything."""
    try:
        detail = msgspec.json.decode(answer.content, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [f"({detail})"] if detail else []


def _asked_for(answer: Answer | NoAnswer) -> float:
    told = answer.retry_after if isinstance(answer, Answer) else None
    return float(told) if told and told.isdecimal() else 0.0


class _Problem(Struct, frozen=True):
    title: str
    detail: str = ""
    errors: tuple[FieldError, ...] = ()


class _Data(Struct, frozen=True):
    data: list[dict[str, Any]]


def read(call: Call[T], answer: Answer | NoAnswer, url: str) -> T:
    """Raises HesApiError, HesUnreachable."""
    key = call.idempotency_key if _unanswered(answer) else None
    if isinstance(answer, NoAnswer):
        raise HesUnreachable(url, answer.why, key)
    try:
        if 200 <= answer.status < 300:
            return cast("T", _value(call, answer.content))
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = (
            f"{url} answered {answer.status}, but not as HES does. Is HES_URL right, and what stands in front of it?"
        )
        raise HesApiError(answer.status, "Not HES", detail, key=key) from None
    raise HesApiError(answer.status, problem.title, problem.detail, problem.errors, key)


def _value(call: Call[Any], content: bytes) -> object:
    if call.unwrap:
        return msgspec.json.decode(content, type=_Data).data
    return msgspec.json.decode(content, type=dict[str, Any]) if content else None


# --- watching --------------------------------------------------------------------------------------------------------

AT_REST = frozenset({"draft", "sent", "delivered", "bounced", "complained", "held", "failed", "cancelled"})
"""Statuses that HES changes no more by itself; news from a provider or a person may still come."""
FIRST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 5.0


class Watch:
    """When to look at an email, and whether there is news."""

    def __init__(self) -> None:
        self._last: Email | None = None
        self._pause = FIRST_LOOK_SECONDS

    def is_news(self, email: Email) -> bool:
        if email == self._last:
            return False
        self._last = email
        self._pause = FIRST_LOOK_SECONDS
        return True

    def pause(self) -> float | None:
        """Seconds until the next look, growing while nothing happens; None: it is at rest."""
        if self._last is not None and self._last["status"] in AT_REST:
            return None
        pause, self._pause = self._pause, min(self._pause * 1.5, LONGEST_LOOK_SECONDS)
        return pause
