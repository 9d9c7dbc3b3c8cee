"""The timeline's entries: what each tells, in which words.

`data` holds, where it applies: `attempt` (its number), `outcome`, `detail`, `reason`, `why`, `send_at` (milliseconds
since 1970; callers see RFC 3339), `wait_ms`, how long it waits before it is due, and `search_ms`, how long its provider
is asked before the sender's policy acts; of what was `asked` then, the `answer`; and `not_kept`, how many entries of
its kind came after it and were left out (`hes.storage.bounds`).
"""

from typing import Any

from hes.model import Attempt, Delivery, Event, EventType, Millis


def entry(delivery: Delivery, type_: EventType, at: Millis, provider: str | None = None, **data: object) -> Event:
    told = {key: value for key, value in data.items() if value is not None}
    return Event(email_id=delivery.email_id, type=type_, at=at, provider=provider, data=told)


def begun(delivery: Delivery, attempt: Attempt) -> tuple[Event, ...]:
    """That this attempt, which has the delivery's lease, began."""
    began = entry(delivery, EventType.ATTEMPT, attempt.started_at, attempt.provider, attempt=attempt.number)
    if not delivery.tried:
        return (began,)
    moved = {"from": delivery.tried[-1], "to": attempt.provider}
    return entry(delivery, EventType.FAILED_OVER, attempt.started_at, attempt.provider, **moved), began


def begun_untold(delivery: Delivery, attempt: Attempt) -> tuple[Event, ...]:
    """Likewise, if it was not told when it began.

    What was not tried before is told only once it is known to be an attempt: else an email that nobody gets round to
    trying would fill its timeline.
    """
    return begun(delivery, attempt) if delivery.not_tried else ()


def _about(attempt: Attempt | None) -> dict[str, Any]:
    if attempt is None:
        return {}
    return {"attempt": attempt.number, "outcome": attempt.outcome, "detail": attempt.detail}


def queued(delivery: Delivery, now: Millis, attempt: Attempt | None = None, why: str | None = None) -> Event:
    provider = attempt.provider if attempt else None
    return entry(
        delivery, EventType.QUEUED, now, provider, **_about(attempt), why=why, wait_ms=max(0, delivery.due_at - now)
    )


def scheduled(delivery: Delivery, type_: EventType, now: Millis) -> Event:
    return entry(delivery, type_, now, send_at=delivery.send_at)


def held(delivery: Delivery, now: Millis, attempt: Attempt | None = None) -> Event:
    provider = attempt.provider if attempt else None
    return entry(delivery, EventType.HELD, now, provider, reason=delivery.reason, **_about(attempt))


def failed(delivery: Delivery, now: Millis, attempt: Attempt | None = None) -> Event:
    provider = attempt.provider if attempt else None
    return entry(delivery, EventType.FAILED, now, provider, reason=delivery.reason, **_about(attempt))


def duplicate(delivery: Delivery, taken: list[Attempt], now: Millis) -> Event:
    return entry(delivery, EventType.DUPLICATE, now, attempts=[a.number for a in taken])
