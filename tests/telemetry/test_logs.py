"""Log lines carry the trace; and nothing that HES tells of itself holds a secret, a body or an address."""

import io
import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from anyio import to_thread

from hes.log import configure
from hes.telemetry.telemetry import Telemetry
from tests import postgres
from tests.fakes.faults import Fault, Kind
from tests.fakes.hooks import SendGridHook
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import measured_house
from tests.faults.server import KEY, Hes, client, cold, eventually, sendgrid_at
from tests.telemetry.collector import Collector


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """The whole log at debug level, as JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("debug", "json", stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines_with(out: io.StringIO, *words: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return [line for line in lines if line["logger"].startswith("hes.") and all(w in line["event"] for w in words)]


async def test_lines_about_an_email_carry_its_trace(
    tmp_path: Path, all_of_it: Telemetry, seen: Collector, out: io.StringIO
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        fake.script([Fault(kind=Kind.STATUS, status=503), None])
        ids = [await hes.send(), await hes.send()]
        for email_id in ids:
            await hes.until(email_id, "sent")
    await to_thread.run_sync(all_of_it.close, 10)
    spans = {(span.trace_id, span.span_id): span for span in seen.spans}
    for email_id in ids:
        lines = lines_with(out, email_id)
        assert len({line["trace_id"] for line in lines}) == 1
        of = [spans[line["trace_id"], line["span_id"]].name for line in lines]
        assert of[0] == "POST /v1/emails"
        assert set(of[1:]) == {"attempt emails"}


async def test_without_traces_there_are_no_ids(tmp_path: Path, page: Telemetry, out: io.StringIO) -> None:
    async with fake_sendgrid() as fake, measured_house(page, tmp_path, fake) as hes:
        email_id = await hes.send()
        await hes.until(email_id, "sent")
    assert lines_with(out, email_id)
    assert "trace_id" not in out.getvalue()


async def test_a_key_that_is_made_or_revoked_is_told_without_what_makes_it_one(
    tmp_path: Path, all_of_it: Telemetry, out: io.StringIO
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        made = (await hes.post("/v1/keys", {"name": "ann@example.org", "scopes": ["emails:send"]})).json()
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = await hes._http.delete(f"http://hes/v1/keys/{made['id']}", headers=headers)
        assert answer.status_code == 200, answer.text
    lines = lines_with(out, f"key {made['id']} of default")
    assert [("made" in line["event"], "revoked" in line["event"]) for line in lines] == [(True, False), (False, True)]
    assert all(line["trace_id"] for line in lines)
    assert made["key"] not in out.getvalue()
    assert "ann@example.org" not in out.getvalue()


# --- one trace over two processes ------------------------------------------------------------------------------------


async def test_one_trace_over_api_and_mailer_on_postgres(tmp_path: Path, seen: Collector) -> None:
    """The same id in the API's log, the mailer's log, the provider's request and the exported spans."""
    async with postgres.database() as url, fake_sendgrid() as fake:
        settings = {
            "database_url": url,
            "providers": sendgrid_at(fake.url),
            "log_level": "debug",
            "otel_exporter_otlp_endpoint": seen.url,
        }
        async with cold(tmp_path, **settings, role="api") as api, cold(tmp_path, **settings, role="mailer") as mailer:
            await api.ready()
            await mailer.ready()
            async with client(lambda: api.url) as hes:
                email_id = await hes.send()
                await hes.until(email_id, "sent")
            for process in (api, mailer):
                process.signal(signal.SIGTERM)
                assert await process.ended() == 0
    [accepted] = lines_of(api, email_id, "accepted")
    [sent] = lines_of(mailer, email_id, "accepted")
    trace_id = accepted["trace_id"]
    assert sent["trace_id"] == trace_id
    [request] = fake.requests
    assert request.headers["traceparent"][3:35] == trace_id
    names = {(span.name, span.resource["hes.role"]) for span in seen.spans if span.trace_id == trace_id}
    assert names == {
        ("POST /v1/emails", "api"),
        ("accept emails", "api"),
        ("lease emails", "mailer"),
        ("attempt emails", "mailer"),
        ("POST", "mailer"),
        ("settle emails", "mailer"),
    }


def lines_of(process: Hes, *words: str) -> list[dict[str, Any]]:
    return [line for line in process.log() if all(word in line["event"] for word in words)]


# --- the canary ------------------------------------------------------------------------------------------------------

CANARY = "c4n4ry"
"""Stands in every secret, address, name, subject, body, header, tag and file that goes in."""
MAIL = {
    "from": {"email": f"shop-{CANARY}@example.com", "name": f"Shop {CANARY}"},
    "to": [{"email": f"ann-{CANARY}@example.org", "name": f"Ann {CANARY}"}],
    "cc": f"cc-{CANARY}@example.org",
    "bcc": f"bcc-{CANARY}@example.org",
    "reply_to": f"reply-{CANARY}@example.org",
    "subject": f"Receipt {CANARY}",
    "text": f"Thank you {CANARY}",
    "html": f"<p>{CANARY}</p>",
    "headers": {"X-Shop": CANARY},
    "tags": {"kind": CANARY},
    "reference": CANARY,
    "attachments": [{"filename": f"{CANARY}.txt", "content": "YzRuNHJ5", "content_type": "text/plain"}],
}


async def test_a_canary_in_all_that_goes_in_is_in_nothing_that_hes_tells_of_itself(
    tmp_path: Path, seen: Collector
) -> None:
    """At debug level: log, spans, metrics, errors, process arguments; with answers that repeat it, and with faults."""
    bootstrap = f"bootstrap-{CANARY}-key-of-more-than-32-characters"
    hook = SendGridHook()
    async with fake_sendgrid() as fake:
        bad_key = f"sendgrid://{CANARY}-key@default?base_url={quote(fake.url, safe='')}&name=wrong"
        settings = {
            "providers": f"{sendgrid_at(fake.url)}&webhook_secret={quote(hook.secret, safe='')} {bad_key}",
            "bootstrap_key": bootstrap,
            "log_level": "debug",
            "otel_exporter_otlp_endpoint": seen.url,
            "otel_traces_sampler": "always_on",
            "otel_exporter_otlp_headers": f"authorization={CANARY}",
            "attempt_timeout": 1,
            "connect_timeout": 0.9,
        }
        async with cold(tmp_path, **settings) as process:
            await process.ready()
            async with client(lambda: process.url) as http:
                headers = {"Authorization": f"Bearer {bootstrap}", "Idempotency-Key": CANARY}
                ask = http._http.request
                fake.script(
                    [
                        Fault(kind=Kind.STATUS, status=503, message=f"not to ann-{CANARY}@example.org"),
                        Fault(kind=Kind.RESET),
                        Fault(kind=Kind.GARBAGE),
                        None,
                    ]
                )
                answer = await ask("POST", f"{process.url}/v1/emails", json=MAIL, headers=headers)
                assert answer.status_code == 202, answer.text
                email_id = answer.json()["id"]

                async def sent() -> bool:
                    read = await ask("GET", f"{process.url}/v1/emails/{email_id}", headers=headers)
                    return bool(read.json()["status"] == "sent")

                await eventually(sent)
                bounce = {
                    "event": "bounce",
                    "sg_event_id": CANARY,
                    "email": f"ann-{CANARY}@example.org",
                    "reason": f"550 no mailbox ann-{CANARY}@example.org",
                    "hes_id": email_id,
                    "hes_attempt": fake.accepted[0].hes_attempt,
                }
                signed, body = hook.post([bounce], int(time.time()))
                taken = await ask("POST", f"{process.url}/hooks/sendgrid", content=body, headers=signed)
                assert taken.json() == {"new": 1}
                await ask("GET", f"{process.url}/v1/emails?to=ann-{CANARY}@example.org", headers=headers)
                emails = f"{process.url}/v1/emails"
                refused = [
                    await ask("GET", f"{emails}/{CANARY}", headers=headers),
                    await ask("GET", f"{process.url}/{CANARY}?{CANARY}", headers=headers),
                    await ask("POST", emails, content=f'{{"from": "{CANARY}', headers=headers),
                    await ask("POST", emails, json=MAIL | {"to": CANARY}, headers=headers),
                    await ask("GET", emails, headers={"Authorization": f"Bearer {CANARY}"}),
                    await ask("POST", f"{process.url}/hooks/sendgrid", content=CANARY, headers=signed),
                ]
                assert all(answer.status_code >= 400 for answer in refused)
                metrics = (await ask("GET", f"{process.url}/metrics")).text
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
    assert fake.accepted
    assert CANARY.encode() in fake.requests[0].body
    assert {span.name for span in seen.spans} >= {"POST /v1/emails", "attempt emails", "GET none"}
    assert len(seen.metrics) > 10
    told = {
        "log": process.stderr().encode(),
        "metrics": metrics.encode(),
        "arguments": arguments,
        "errors": b"".join(answer.content for answer in refused),
        "exported": b"".join(seen.bodies),
    }
    assert [where for where, text in told.items() if CANARY.encode() in text] == []
    assert f"email {email_id}: bounced" in process.stderr()
