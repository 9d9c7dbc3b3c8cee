"""Ids in order of time: UUID version 7 (RFC 9562, section 5.7), as text.

Written here and not taken from a package because clock and randomness are passed in: the simulation replays a run
from its seed, ids included. (Python has `uuid.uuid7` from 3.14 on, without either.)
"""

import random
import threading
from collections.abc import Callable

from hes.model import Clock, Millis

NewId = Callable[[], str]


def id_maker(clock: Clock, rng: random.Random) -> NewId:
    """A function that makes ids which grow strictly within this process, also within one millisecond.

    48 bits of milliseconds, 12 bits that count within the millisecond (RFC 9562, section 6.2, method 1; on overflow
    the time part runs ahead by one), 62 random bits.
    """
    last_ms = 0
    count = 0
    lock = threading.Lock()  # asked from the event loop and from the storage's thread

    def new_id() -> str:
        nonlocal last_ms, count
        now = clock()
        with lock:
            if now > last_ms:
                last_ms, count = now, 0
            else:
                count += 1
                if count > 0xFFF:
                    last_ms, count = last_ms + 1, 0
            value = last_ms << 80 | 0x7 << 76 | count << 64 | 0b10 << 62 | rng.getrandbits(62)
        digits = f"{value:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    return new_id


def first_id_at(at: Millis) -> str:
    """How all ids of that millisecond begin; so it is smaller than any of them."""
    digits = f"{max(0, at):012x}"
    return f"{digits[:8]}-{digits[8:]}"
