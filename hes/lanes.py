"""Lanes: what the queue is sorted by. All that waits in one lane can be taken by the same providers.

A lane is the project and whatever decides who may take an email. The claim looks at the heads of lanes, not of the
whole queue, so that neither a dead provider's backlog nor one project's burst hides what others could take.
"""

from functools import lru_cache

import msgspec
from msgspec import Struct

from hes.model import Delivery


class Lane(Struct, frozen=True, array_like=True):
    """As text, in the database, it is a JSON array of these. Fields are only ever added, at the end."""

    project: str
    stream: str
    sender_domain: str
    own_providers: tuple[str, ...] = ()
    """The caller's own list, in the caller's order."""
    tried: tuple[str, ...] = ()
    """Who had it in this round already; sorted, and so are these below."""
    declined_by: tuple[str, ...] = ()
    is_retry: bool = False
    """It takes from the retry budget."""
    is_test: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Lane).decode


def lane_of(delivery: Delivery) -> Lane:
    """Where it waits, if it does."""
    return Lane(
        delivery.project,
        delivery.stream,
        delivery.sender_domain,
        delivery.own_providers,
        tuple(sorted(set(delivery.tried))),
        tuple(sorted(set(delivery.declined_by))),
        delivery.is_retry,
        delivery.is_test,
    )


@lru_cache(maxsize=10_000)
def text_of(lane: Lane) -> str:
    return _encode(lane).decode()


@lru_cache(maxsize=10_000)
def parse(text: str) -> Lane:
    """Raises msgspec.MsgspecError for what no version of HES wrote."""
    return _decode(text)
