"""Which email finds out whether a provider works again. Pure, like `hes.routing`."""

from collections.abc import Mapping, Sequence

from hes.model import Attempt, Delivery, EmailId, OnDoubt, Room

Tries = Mapping[EmailId, Sequence[Attempt]]
"""All attempts so far of emails that are due, or of those that were tried at all."""

NONE_TRIED: Tries = {}


def probing(rooms: Mapping[str, Room]) -> set[str]:
    """Providers whose next email is to find out whether they work again."""
    return {name for name, room in rooms.items() if room.is_probe and room.hands}


def best_probes_first(due: Sequence[Delivery], rooms: Mapping[str, Room], tries: Tries) -> Sequence[Delivery]:
    """In another order only if somebody probes; `tries` is needed only then.

    An email may be what shut the gate, and would again: one that was not tried there yet can't be. Last comes one that
    was, and nobody knows whether it was taken: where only such wait, each gets its turn. A probe may well end in doubt,
    so among emails that are alike in that it had better be one that may be sent twice.
    """
    asked = probing(rooms)
    if not asked:
        return due

    def badness(delivery: Delivery) -> tuple[bool, bool, bool, int]:
        there = [attempt for attempt in tries.get(delivery.email_id, ()) if attempt.provider in asked]
        is_unclear = not all(attempt.is_surely_not_accepted for attempt in there)
        return is_unclear, bool(there), delivery.on_doubt is not OnDoubt.RESEND, len(there)

    return sorted(due, key=badness)
