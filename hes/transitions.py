"""Which moves an email can make, as one table, and what an outcome says of a provider, as another.

Everything that changes a delivery's status goes through `move`; a move that the table does not have does not happen.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hes.model import Delivery, Outcome, Reason, Status


class Cause(StrEnum):
    """What moves an email: the middle column of the transition table."""

    ACCEPT = "accept"
    SEND = "send"
    CANCEL = "cancel"
    DRAFT_IS_OLD = "a draft's time is over"
    LEASE = "due and leased"
    EXPIRY = "expiry"
    PROMOTE = "promote"
    RESCHEDULE = "reschedule"
    ALL_DECLINED = "declined by all usable"
    ALL_SUPPRESSED = "all suppressed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    TRY_AGAIN = "declined, refused, throttled, unavailable, not_tried"
    DOUBT = "in_doubt or lease lapsed"
    EVIDENCE_ACCEPTED = "evidence: accepted"
    EVIDENCE_NOT_ACCEPTED = "evidence: surely not"
    SEARCH_OVER_RESEND = "search over: resend"
    SEARCH_OVER_HOLD = "search over: hold"
    POISON = "poison"
    RESOLVE_SENT = "resolve: sent"
    RESOLVE_RESEND = "resolve: resend"
    RESOLVE_FAILED = "resolve: failed"
    SEND_AGAIN = "send again"
    NOT_BELIEVED = "failed by a provider no longer believed"
    PROVIDER_EVENT = "events"
    RESTORED = "hes db restored"


class Target(Struct, frozen=True):
    """Where a move leads."""

    status: Status
    reason: Reason | None = None


_S, _C, _R = Status, Cause, Reason


def _to(status: Status, reason: Reason | None = None) -> Target:
    return Target(status, reason)


TRANSITIONS: Mapping[tuple[Status | None, Cause], frozenset[Target]] = {
    key: frozenset(targets)
    for keys, targets in (
        # No row yet: an email is accepted.
        ([(None, _C.ACCEPT)], [_to(_S.DRAFT), _to(_S.SCHEDULED), _to(_S.QUEUED)]),
        ([(None, _C.ALL_SUPPRESSED)], [_to(_S.FAILED, _R.SUPPRESSED)]),
        ([(_S.DRAFT, _C.SEND)], [_to(_S.QUEUED), _to(_S.SCHEDULED)]),
        ([(_S.DRAFT, _C.CANCEL), (_S.DRAFT, _C.DRAFT_IS_OLD)], [_to(_S.CANCELLED)]),
        # Waiting.
        ([(_S.SCHEDULED, _C.LEASE), (_S.QUEUED, _C.LEASE)], [_to(_S.SENDING)]),
        ([(_S.SCHEDULED, _C.CANCEL), (_S.QUEUED, _C.CANCEL)], [_to(_S.CANCELLED)]),
        (
            [(_S.SCHEDULED, _C.EXPIRY), (_S.QUEUED, _C.EXPIRY)],
            [_to(_S.FAILED, _R.EXPIRED), _to(_S.HELD, _R.EXPIRED_IN_DOUBT)],
        ),
        ([(_S.SCHEDULED, _C.PROMOTE)], [_to(_S.QUEUED)]),
        ([(_S.SCHEDULED, _C.RESCHEDULE)], [_to(_S.SCHEDULED), _to(_S.QUEUED)]),
        ([(_S.SCHEDULED, _C.EVIDENCE_ACCEPTED), (_S.QUEUED, _C.EVIDENCE_ACCEPTED)], [_to(_S.SENT)]),
        (
            [(_S.SCHEDULED, _C.ALL_DECLINED), (_S.QUEUED, _C.ALL_DECLINED)],
            [_to(_S.FAILED, _R.NO_PROVIDER), _to(_S.HELD, _R.DOUBT)],
        ),
        (
            [(_S.SCHEDULED, _C.ALL_SUPPRESSED), (_S.QUEUED, _C.ALL_SUPPRESSED)],
            [_to(_S.FAILED, _R.SUPPRESSED)],
        ),
        # In a provider's hands.
        ([(_S.SENDING, _C.ACCEPTED), (_S.SENDING, _C.EVIDENCE_ACCEPTED)], [_to(_S.SENT)]),
        ([(_S.SENDING, _C.REJECTED)], [_to(_S.FAILED, _R.REJECTED), _to(_S.HELD, _R.REJECTED_AFTER_DOUBT)]),
        ([(_S.SENDING, _C.TRY_AGAIN)], [_to(_S.QUEUED)]),
        ([(_S.SENDING, _C.ALL_DECLINED)], [_to(_S.FAILED, _R.NO_PROVIDER), _to(_S.HELD, _R.DOUBT)]),
        ([(_S.SENDING, _C.DOUBT)], [_to(_S.IN_DOUBT)]),
        # Nobody knows.
        ([(_S.IN_DOUBT, _C.EVIDENCE_ACCEPTED), (_S.IN_DOUBT, _C.RESOLVE_SENT)], [_to(_S.SENT)]),
        (
            [
                (_S.IN_DOUBT, _C.EVIDENCE_NOT_ACCEPTED),
                (_S.IN_DOUBT, _C.SEARCH_OVER_RESEND),
                (_S.IN_DOUBT, _C.RESOLVE_RESEND),
            ],
            [_to(_S.QUEUED)],
        ),
        ([(_S.IN_DOUBT, _C.SEARCH_OVER_HOLD)], [_to(_S.HELD, _R.DOUBT)]),
        ([(_S.IN_DOUBT, _C.EXPIRY)], [_to(_S.HELD, _R.EXPIRED_IN_DOUBT)]),
        ([(_S.IN_DOUBT, _C.RESOLVE_FAILED), (_S.HELD, _C.RESOLVE_FAILED)], [_to(_S.FAILED, _R.OPERATOR)]),
        ([(_S.IN_DOUBT, _C.POISON)], [_to(_S.HELD, _R.POISON)]),
        # Waiting for evidence or a person.
        ([(_S.HELD, _C.EVIDENCE_ACCEPTED), (_S.HELD, _C.RESOLVE_SENT)], [_to(_S.SENT)]),
        (
            [(_S.HELD, _C.EVIDENCE_NOT_ACCEPTED)],
            [_to(_S.QUEUED), _to(_S.FAILED, _R.EXPIRED), _to(_S.FAILED, _R.REJECTED)],
        ),
        ([(_S.HELD, _C.RESOLVE_RESEND)], [_to(_S.QUEUED)]),
        # At rest.
        ([(_S.FAILED, _C.SEND_AGAIN), (_S.CANCELLED, _C.SEND_AGAIN)], [_to(_S.QUEUED), _to(_S.SCHEDULED)]),
        ([(_S.FAILED, _C.EVIDENCE_ACCEPTED), (_S.CANCELLED, _C.EVIDENCE_ACCEPTED)], [_to(_S.SENT)]),
        ([(_S.FAILED, _C.NOT_BELIEVED)], [_to(_S.QUEUED)]),
        ([(_S.SENT, _C.PROVIDER_EVENT)], [_to(_S.DELIVERED), _to(_S.BOUNCED), _to(_S.COMPLAINED)]),
        # A late bounce follows a delivery; which of the two is heard of first must not matter.
        ([(_S.DELIVERED, _C.PROVIDER_EVENT)], [_to(_S.BOUNCED), _to(_S.COMPLAINED)]),
        ([(_S.BOUNCED, _C.PROVIDER_EVENT)], [_to(_S.COMPLAINED)]),
        (
            [
                (_S.SCHEDULED, _C.RESTORED),
                (_S.QUEUED, _C.RESTORED),
                (_S.SENDING, _C.RESTORED),
                (_S.IN_DOUBT, _C.RESTORED),
            ],
            [_to(_S.HELD, _R.RESTORED)],
        ),
    )
    for key in keys
}
"""Every move there is. What is not here is refused (a caller gets 409) or ignored with a timeline entry."""


class GateEffect(StrEnum):
    """What an outcome says about the provider, whatever it says about the email."""

    GOOD = "good"
    BAD = "bad"
    SHUT = "shut at once"
    SLOWED = "slowed"


GATE_EFFECTS: Mapping[Outcome, GateEffect] = {
    Outcome.ACCEPTED: GateEffect.GOOD,
    Outcome.REJECTED: GateEffect.GOOD,
    Outcome.DECLINED: GateEffect.GOOD,
    Outcome.REFUSED: GateEffect.SHUT,
    Outcome.THROTTLED: GateEffect.SLOWED,
    Outcome.UNAVAILABLE: GateEffect.BAD,
    Outcome.IN_DOUBT: GateEffect.BAD,
}


def allows(status: Status, cause: Cause) -> bool:
    """Whether an email in this status can be moved by this at all."""
    return (status, cause) in TRANSITIONS


def move(delivery: Delivery, cause: Cause, status: Status, reason: Reason | None = None, **fields: Any) -> Delivery:
    """The delivery in its new state, with a new version and the other fields as given.

    Raises ValueError for a move that the table does not have: that is a bug, not an answer.
    """
    if Target(status, reason) not in TRANSITIONS.get((delivery.status, cause), frozenset()):
        raise ValueError(f"no move from {delivery.status} by '{cause}' to {status} {reason or ''}")
    return replace(delivery, status=status, reason=reason, version=delivery.version + 1, **fields)
