"""Looking an attempt up in SendGrid's Email Logs.

https://www.twilio.com/docs/sendgrid/api-reference/email-logs (read 2026-11-24).

They can't be searched by custom args: so first by recipient and time, then each hit is asked for its custom args, the
likeliest first, up to a limit. All email customers have them, for 30 days; how long a message takes to appear is not
published. The API key needs more than the right to send. Why not the Email Activity API: it is a paid addition, takes
6 requests a minute, and has nothing of EU subusers.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from hes.model import Address, Email, Millis
from hes.providers.finding import Doubt, Finding, Found, not_answered
from hes.providers.hook import name_of, own_id
from hes.providers.sendgrid_hook import sent_id
from hes.providers.transport import NoReply, Reply, Transport
from hes.timeouts import AROUND_PASSES, fail_after

KEPT_SECONDS = 30 * 24 * 3600.0
MAX_ASKED = 10
_PATH = "/v3/logs"
_SKEW_SECONDS = 60  # between our clock and theirs
_LATEST_SECONDS = 600  # a request may have lain somewhere before SendGrid took it


class _Hit(Struct):
    """One recipient's message."""

    sg_message_id: Any = None
    subject: Any = None
    sg_message_id_created_at: Any = None


class _Hits(Struct):
    messages: list[_Hit]


class _Message(Struct):
    custom_args: dict[str, Any] = {}
    status: Any = None


_decode_hits = msgspec.json.Decoder(_Hits).decode
_decode_message = msgspec.json.Decoder(_Message).decode


async def look_up(transport: Transport, api_key: str, doubt: Doubt, now: Millis, timeout_seconds: float) -> Finding:
    """The search and the questions that it leads to, one after another. The time-out is over all of them."""
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    try:
        with fail_after(timeout_seconds, passes=AROUND_PASSES):
            return await _look_up(transport, headers, doubt, now, timeout_seconds)
    except TimeoutError:
        return Finding(found=Found.UNAVAILABLE, detail="no whole answer in time")


async def _look_up(
    transport: Transport, headers: Mapping[str, str], doubt: Doubt, now: Millis, timeout_seconds: float
) -> Finding:
    secrets = (headers["Authorization"].removeprefix("Bearer "),)
    query = query_for(doubt)
    if query is None:
        return Finding(found=Found.UNAVAILABLE, detail="the logs can't be searched for an address with quotes")
    body = msgspec.json.encode({"query": query, "limit": 50})
    reply = await transport.post(_PATH, body, headers, timeout_seconds)
    if isinstance(reply, NoReply):
        return Finding(found=Found.UNAVAILABLE, detail=reply.detail)
    ids = likeliest(reply, doubt)
    if ids is None:
        return not_answered(reply, now, secrets)
    for message_id in ids[:MAX_ASKED]:
        reply = await transport.get(f"{_PATH}/{quote(message_id, safe='')}", headers, timeout_seconds)
        if isinstance(reply, NoReply):
            return Finding(found=Found.UNAVAILABLE, detail=reply.detail)
        if reply.status == 404:  # gone, or not everywhere yet
            continue
        message = _message(reply)
        if message is None:
            return not_answered(reply, now, secrets)
        if message.custom_args.get("hes_attempt") == doubt.attempt_id:
            detail = f"the logs show this attempt: {name_of(message.status)}"
            return Finding(found=Found.ACCEPTED, provider_message_id=sent_id(message_id), detail=detail)
    asked = min(len(ids), MAX_ASKED)
    detail = f"{len(ids)} messages to this recipient at that time, {asked} asked for, none is this attempt"
    return Finding(found=Found.NOTHING, detail=detail)


def query_for(doubt: Doubt) -> str | None:
    """By the first recipient that needs no escape, which SendGrid does not document; None if there is none."""
    address = _askable(doubt.email)
    if address is None:
        return None
    started = doubt.started_at // 1000
    return (
        f"to_email = '{address.email}'"
        f' AND sg_message_id_created_at >= TIMESTAMP "{_time(started - _SKEW_SECONDS)}"'
        f' AND sg_message_id_created_at <= TIMESTAMP "{_time(started + _LATEST_SECONDS)}"'
    )


def _askable(email: Email) -> Address | None:
    everybody = (*email.to, *email.cc, *email.bcc)
    return next((address for address in everybody if not set("'\"\\") & set(address.email)), None)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def likeliest(reply: Reply, doubt: Doubt) -> list[str] | None:
    """The hits' ids: with the email's subject first, then those nearest to the attempt's start. None if unreadable."""
    try:
        hits = _decode_hits(reply.body).messages if reply.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        hits = None
    if hits is None:
        return None
    hits.sort(key=lambda hit: (hit.subject != doubt.email.subject, _distance(hit, doubt)))
    return [hit.sg_message_id for hit in hits if own_id(hit.sg_message_id)]


def _distance(hit: _Hit, doubt: Doubt) -> float:
    try:
        created = datetime.fromisoformat(hit.sg_message_id_created_at)
    except (ValueError, TypeError):
        return float("inf")
    return abs((created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp() - doubt.started_at / 1000)


def _message(reply: Reply) -> _Message | None:
    try:
        return _decode_message(reply.body) if reply.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
