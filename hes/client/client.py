"""The client that blocks."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack

import httpx

from hes.client import calls
from hes.client.answers import Answer, NoAnswer, OnRepeat, Repeats, Watch, read
from hes.client.calls import Call
from hes.client.connection import TIMEOUT_SECONDS, answer, no_answer, options, reach, request
from hes.client.types import (
    Accepted,
    BatchItem,
    Decision,
    Email,
    EmailFields,
    EmailPage,
    EmailState,
    Filters,
    Health,
    Key,
    KeyFields,
    KeyPage,
    Many,
    Provider,
    Time,
    Which,
)

T = TypeVar("T")


class Client:
    """Talks to one HES. Every method may raise HesApiError and HesUnreachable.

    Without `url` and `api_key` it takes HES_URL and HES_API_KEY from the environment. Threads may share one.
    A send that gets no answer is repeated with the same idempotency key, up to `repeats` times.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        repeats: int = 5,
        on_repeat: OnRepeat | None = None,
        sleep: Callable[[float], object] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url, key = reach(url, api_key)
        self._http = httpx.Client(transport=transport, **options(self.url, key, timeout))
        self._repeats = repeats
        self._on_repeat = on_repeat
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- emails ------------------------------------------------------------------------------------------------------

    def send(
        self,
        email: Mapping[str, Any] | None = None,
        /,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[EmailFields],
    ) -> Accepted:
        """Hand in one email, as a dictionary as in the API, or by fields. It is on disk when this returns.

        Without an `idempotency_key` it gets a random one. Your own protects beyond this call: send it again after a
        crash of yours, with the same key, and nothing goes out twice.
        """
        return self._do(calls.send(email, fields, idempotency_key))

    def send_batch(self, emails: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> list[BatchItem]:
        """Hand in up to 1,000; one result for each, in order. Good ones are accepted though others are bad."""
        return self._do(calls.send_batch(emails, idempotency_key))

    def email(
        self,
        email_id: str,
        *,
        content: bool = False,
        attempts_cursor: str | None = None,
        events_cursor: str | None = None,
    ) -> Email:
        """One email with its attempts and its timeline, and on request with what was handed in.

        Of a long history the newest; its `next_attempts_cursor` and `next_events_cursor` lead to what is older.
        """
        return self._do(
            calls.email(email_id, content=content, attempts_cursor=attempts_cursor, events_cursor=events_cursor)
        )

    def page(self, cursor: str | None = None, **filters: Unpack[Filters]) -> EmailPage:
        """Some emails, newest first; `next_cursor` leads on."""
        return self._do(calls.emails(filters, cursor))

    def emails(self, **filters: Unpack[Filters]) -> Iterator[Email]:
        """All emails that fit, newest first, asked for page by page."""
        cursor = None
        while True:
            page = self.page(cursor, **filters)
            yield from page["data"]
            if (cursor := page["next_cursor"]) is None:
                return

    def watch(self, email_id: str) -> Iterator[Email]:
        """The email each time that something happened to it, until it is at rest."""
        watch = Watch()
        while True:
            email = self._do(calls.email(email_id, is_repeatable=True))
            if watch.is_news(email):
                yield email
            if (pause := watch.pause()) is None:
                return
            self._sleep(pause)

    def cancel(self, email_id: str) -> Email | EmailState:
        """Cancel it, while nobody was handed it."""
        return self._do(calls.cancel(email_id))

    def resolve(self, email_id: str, decision: Decision) -> Email:
        """Your word on an email that is held or in doubt."""
        return self._do(calls.resolve(email_id, decision))

    def cancel_many(self, cursor: str | None = None, **filters: Unpack[Which]) -> Many:
        """Cancel all that fit and that nobody was handed; 10,000 at most, then `next_cursor` leads on."""
        return self._do(calls.cancel_many(filters, cursor))

    def resolve_many(self, decision: Decision, cursor: str | None = None, **filters: Unpack[Which]) -> Many:
        """Your word on all that fit and are held or in doubt; 10,000 at most, then `next_cursor` leads on."""
        return self._do(calls.resolve_many(decision, filters, cursor))

    def send_again(self, email_id: str, *, send_at: Time | None = None) -> Email | EmailState:
        """Send a draft, a scheduled one at once, or one that has failed or was cancelled once more."""
        return self._do(calls.send_again(email_id, send_at))

    def reschedule(self, email_id: str, send_at: Time) -> Email | EmailState:
        """Move a scheduled one to another time."""
        return self.edit(email_id, send_at=send_at)

    def edit(
        self,
        email_id: str,
        changes: Mapping[str, Any] | None = None,
        /,
        *,
        version: int | None = None,
        **fields: Unpack[EmailFields],
    ) -> Email | EmailState:
        """Change fields of a draft, as a dictionary as in the API, or by fields; the others stay.

        None in the dictionary takes a field away. `version`: only if the draft still has that one, or HesApiError
        412.
        """
        return self._do(calls.edit(email_id, changes, fields, version))

    def erase(self, email_id: str) -> None:
        """Delete its content and its addresses; the trace stays."""
        self._do(calls.erase(email_id))

    # --- providers, keys, health -------------------------------------------------------------------------------------

    def providers(self) -> list[Provider]:
        """How each provider stands."""
        return self._do(calls.providers())

    def pause(self, name: str) -> Provider:
        """Send nothing through this provider until it is resumed."""
        return self._do(calls.turn(name, "pause"))

    def resume(self, name: str) -> Provider:
        """End a pause."""
        return self._do(calls.turn(name, "resume"))

    def reset(self, name: str) -> Provider:
        """Forget what was learned of this provider: its trouble was mended."""
        return self._do(calls.turn(name, "reset"))

    def key_page(self, cursor: str | None = None, *, limit: int | None = None) -> KeyPage:
        """Some API keys, newest first; `next_cursor` leads on."""
        return self._do(calls.keys(limit, cursor))

    def keys(self) -> Iterator[Key]:
        """All API keys, without the keys themselves, newest first, asked for page by page."""
        cursor = None
        while True:
            page = self.key_page(cursor, limit=100)
            yield from page["data"]
            if (cursor := page["next_cursor"]) is None:
                return

    def create_key(self, **fields: Unpack[KeyFields]) -> Key:
        """A new API key. `key` is told this once."""
        return self._do(calls.create_key(fields))

    def revoke_key(self, key_id: str) -> None:
        """Nobody gets in with it any more."""
        self._do(calls.revoke_key(key_id))

    def health(self) -> Health:
        """Returns if HES takes emails; needs no key."""
        return self._do(calls.health())

    # --- the transport -----------------------------------------------------------------------------------------------

    def _do(self, call: Call[T]) -> T:
        repeats = Repeats(call, self._repeats, self._on_repeat)
        while (pause := repeats.after(found := self._ask(call))) is not None:
            self._sleep(pause)
        return read(call, found, self.url)

    def _ask(self, call: Call[Any]) -> Answer | NoAnswer:
        try:
            return answer(self._http.request(**request(call)))
        except httpx.RequestError as error:
            return no_answer(error)
