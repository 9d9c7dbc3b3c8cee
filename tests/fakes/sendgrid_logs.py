"""The fake SendGrid's Email Logs: POST /v3/logs searches, GET /v3/logs/{id} shows one message with its custom args.

One message for each recipient, found `lag_seconds` after it was taken. Only the fields that HES asks by are known; as
with the vendor, conditions are joined by AND, names are case-sensitive, and custom args can't be searched.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from tests.fakes.faults import Copy, Said, Seen

_CONDITION = re.compile(
    r"""(?P<field>to_email) = '(?P<text>[^'"]*)'"""
    r"""|(?P<time>sg_message_id_created_at) (?P<operator>[<>]=?) TIMESTAMP "(?P<at>[0-9T:Z-]{20})\""""
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class SendGridLogs:
    """What was taken, for those who may read it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lag_seconds = 0.0
        self.is_forbidden = False
        """No key may read the logs."""
        self.requests_left: int | None = None
        """How many requests are answered until there are too many."""
        self.lists_more_than_it_shows = False
        """What the search finds is not to be had one by one yet."""
        self._clock = clock
        self._messages: list[tuple[float, dict[str, Any]]] = []

    def add(self, message_id: str, copy: Copy) -> None:
        for number, recipient in enumerate(copy.envelope):
            message = {
                "from_email": copy.content["from"]["email"],
                "sg_message_id": f"{message_id}.recvd-77-{number}.0",
                "subject": copy.content["subject"],
                "to_email": recipient,
                "status": "processed",
                "custom_args": copy.content["personalizations"][0].get("custom_args", {}),
                "events": [],
            }
            self._messages.append((self._clock(), message))

    def answer(self, seen: Seen) -> Said:
        if self.is_forbidden:
            return _said(403, {"errors": [{"message": "access forbidden"}]})
        if self.requests_left == 0:
            return _said(429, {"errors": [{"message": "too many requests"}]})
        if self.requests_left is not None:
            self.requests_left -= 1
        visible = [(at, message) for at, message in self._messages if at + self.lag_seconds <= self._clock()]
        if seen.method == "POST" and seen.path == "/v3/logs":
            return _search(seen.body, visible)
        message_id = unquote(seen.path.removeprefix("/v3/logs/"))
        for _, message in visible:
            if message["sg_message_id"] == message_id and not self.lists_more_than_it_shows:
                return _said(200, message)
        return _said(404, {"errors": [{"message": "message not found"}]})


def _search(body: bytes, messages: list[tuple[float, dict[str, Any]]]) -> Said:
    asked = msgspec.json.decode(body)
    limit = asked.get("limit", 10)
    conditions = [_CONDITION.fullmatch(part) for part in asked["query"].split(" AND ")]
    if not 1 <= limit <= 1000 or None in conditions:
        return _said(400, {"errors": [{"message": "invalid syntax"}]})
    found = [
        message | {"sg_message_id_created_at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")}
        for at, message in messages
        if all(_holds(condition, at, message) for condition in conditions if condition)
    ]
    summaries = [{k: v for k, v in message.items() if k not in {"custom_args", "events"}} for message in found[::-1]]
    return _said(200, {"messages": summaries[:limit]})


def _holds(condition: re.Match[str], at: float, message: dict[str, Any]) -> bool:
    if condition["field"]:
        return bool(message[condition["field"]] == condition["text"])
    return _COMPARE[condition["operator"]](at, datetime.fromisoformat(condition["at"]).timestamp())


def _said(status: int, body: Any) -> Said:
    return Said(status, msgspec.json.encode(body), {"Content-Type": "application/json"})
