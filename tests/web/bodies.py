"""What the tests of an email's body share."""

import json
from typing import Any

import pytest

from hes.errors import FieldError, InvalidEmail
from hes.web.body import Submission, check_email
from hes.web.shape import decode

LEAST = {"from": "shop@example.com", "to": "ann@example.org", "subject": "Hello", "text": "Hello"}
BREAKS = ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\x00", "\x7f"]


NOW = 1_800_000_000_000


def read(raw: bytes, *, outbox_only: bool = False) -> Submission:
    return check_email(
        decode(raw), provider_names=("one", "two"), attempt_timeout_limit=18, now=NOW, outbox_only=outbox_only
    )


def take(**fields: Any) -> Submission:
    return read(json.dumps(LEAST | fields).encode())


def wrong(**fields: Any) -> list[str]:
    """The paths that are named."""
    with pytest.raises(InvalidEmail) as caught:
        take(**fields)
    return [error.path for error in caught.value.errors]


def errors_of(raw: bytes) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidEmail) as caught:
        read(raw)
    return caught.value.errors
