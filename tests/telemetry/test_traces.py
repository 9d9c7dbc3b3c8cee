"""Traces: one from the request through the queue to the provider's call, and what joins several."""

import re
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from hes.model import AttemptId
from hes.telemetry import names
from hes.telemetry.recording import start
from hes.telemetry.spans import Sparing, context_of, is_sampled
from hes.telemetry.telemetry import Telemetry, current, traceparent
from tests.actors.parts import a_leased
from tests.fakes.faults import Fault, Kind, Point
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import House, measured_house
from tests.faults.server import KEY, an_email
from tests.telemetry.collector import Collector, SpanSeen

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def send(hes: House, trace: str = CALLER, **fields: object) -> str:
    headers = {"Authorization": f"Bearer {KEY}", "traceparent": trace}
    answer = await hes._http.post("http://hes/v1/emails", json=an_email(**fields), headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def closed(telemetry: Telemetry) -> None:
    """What is left is exported."""
    await to_thread.run_sync(telemetry.close, 10)


def by_name(spans: list[SpanSeen], *kinds: names.Span) -> list[SpanSeen]:
    """The first of each of these."""
    return [next(span for span in spans if span.name == kind.name) for kind in kinds]


async def test_one_trace_from_the_request_to_the_providers_call(
    tmp_path: Path, seen: Collector, all_of_it: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        email_id = await send(hes)
        await hes.until(email_id, "sent")
    await closed(all_of_it)
    spans = [span for span in seen.spans if span.trace_id == CALLER[3:35]]
    [request] = [span for span in spans if span.name == "POST /v1/emails"]
    [call] = [span for span in spans if span.name == "POST"]
    accept, lease, attempt, settle = by_name(spans, names.ACCEPT, names.LEASE, names.SEND, names.SETTLE)
    assert (request.kind, request.parent_id) == ("server", CALLER[36:52])
    assert {accept.parent_id, lease.parent_id, attempt.parent_id} == {request.span_id}
    assert (call.kind, call.parent_id) == ("client", attempt.span_id)
    assert settle.parent_id == attempt.span_id
    assert request.attributes["hes.email.id"] == attempt.attributes["messaging.message.id"] == email_id
    assert (request.attributes["http.route"], request.attributes["http.response.status_code"]) == ("/v1/emails", 202)
    assert (attempt.attributes["hes.provider"], attempt.attributes["hes.outcome"]) == ("sendgrid", "accepted")
    assert (call.attributes["http.response.status_code"], call.attributes["server.address"]) == (202, "127.0.0.1")
    assert call.attributes["url.full"] == f"{fake.url}/v3/mail/send"
    [told] = [request.headers["traceparent"] for request in fake.requests]
    assert told == f"00-{call.trace_id}-{call.span_id}-01"


async def test_an_attempt_that_went_wrong_says_so(tmp_path: Path, seen: Collector, all_of_it: Telemetry) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        fake.script([Fault(kind=Kind.STATUS, status=503), Fault(kind=Kind.RESET), None])
        email_id = await send(hes, on_doubt="resend")
        await hes.until(email_id, "sent")
    await closed(all_of_it)
    attempts = sorted(seen.named(names.SEND.name), key=lambda span: span.attributes["hes.attempt.number"])
    assert [span.attributes["hes.outcome"] for span in attempts] == ["unavailable", "in_doubt", "accepted"]
    assert len({span.attributes["hes.attempt.id"] for span in attempts}) == 3
    calls = {span.parent_id: span for span in seen.named("POST")}
    of = [calls[span.span_id] for span in attempts]
    assert [call.is_error for call in of] == [True, True, False]
    assert of[0].attributes["error.type"] == "503"
    assert of[1].attributes["error.type"] == "connection lost after the request was sent"


async def test_a_batch_hangs_below_its_first_trace_and_links_the_others(
    tmp_path: Path, seen: Collector, all_of_it: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        await hes.turn("sendgrid", "pause")
        ids = [await send(hes, trace="") for _ in range(5)]
        await hes.turn("sendgrid", "resume")
        for email_id in ids:
            await hes.until(email_id, "sent")
    await closed(all_of_it)
    requests = {span.trace_id: span.span_id for span in seen.named("POST /v1/emails")}
    assert len(requests) == 5, "a trace each"
    leases = seen.named(names.LEASE.name)
    joined = [{(span.trace_id, span.parent_id), *span.links} for span in leases]
    assert set().union(*joined) == set(requests.items())
    assert sum(span.attributes["messaging.batch.message_count"] for span in leases) == 5
    assert len(leases) < 5


async def test_every_span_and_attribute_is_in_the_list(tmp_path: Path, seen: Collector, all_of_it: Telemetry) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        fake.script([Fault(kind=Kind.STATUS, status=503), None])
        await hes.until(await hes.send(), "sent")
        await hes.post("/v1/emails/batch", {"emails": [an_email(), {"from": "nobody"}]})
        await hes.post("/nothing", {})
        with all_of_it.asking(a_leased().email, AttemptId("a"), "sendgrid") as question:
            question.ended("nothing")
        with all_of_it.batch("record") as batch:
            batch.holds([CALLER])
    await closed(all_of_it)
    kinds = {span.name: span for span in names.SPANS}
    emitted: dict[str, set[str]] = {}
    for span in seen.spans:
        known = next(kind for kind in names.SPANS if is_of(span, kind))
        assert span.kind == known.kind
        assert set(span.attributes) <= set(known.attributes), span.name
        emitted.setdefault(known.name, set()).update(span.attributes)
    assert set(emitted) == set(kinds)
    listed = set(names.ATTRIBUTES)
    of_metrics = {attribute for metric in names.METRICS for attribute in metric.attributes}
    assert listed == {a for span in names.SPANS for a in span.attributes} | of_metrics
    assert set(names.RESOURCE) <= set(seen.resources[0])
    metrics = {metric.name for metric in names.METRICS}
    assert set(seen.metrics) <= metrics
    assert {"hes.attempt.duration", "hes.batch.duration", "http.server.request.duration"} <= set(seen.metrics)


def is_of(span: SpanSeen, kind: names.Span) -> bool:
    pattern = {"{method} {route}": r"[A-Z]+ (none|/.*)", "{method}": "[A-Z]+"}.get(kind.name, re.escape(kind.name))
    return re.fullmatch(pattern, span.name) is not None


# --- what a header may hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        CALLER.replace("00-4", "ff-4"),
        CALLER.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        CALLER.replace("00f067aa0ba902b7", "0" * 16),
        CALLER.upper(),
        CALLER + "\n",
    ],
)
def test_a_malformed_traceparent_is_none(header: str) -> None:
    assert context_of(header) is None


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_the_last_bit_says_whether_it_is_sampled(flags: str, sampled: bool) -> None:  # noqa: FBT001
    context = context_of(CALLER[:-2] + flags)
    assert context is not None
    assert context.trace_flags.sampled is sampled
    assert is_sampled(CALLER[:-2] + flags) is sampled


def test_a_later_version_may_say_more() -> None:
    assert context_of(CALLER.replace("00-", "01-", 1) + "-more") is not None


async def test_what_is_not_sampled_is_not_exported_and_its_ids_go_on(
    tmp_path: Path, seen: Collector, all_of_it: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        await hes.until(await send(hes, trace=CALLER[:-2] + "00"), "sent")
    await closed(all_of_it)
    assert [span for span in seen.spans if span.trace_id == CALLER[3:35]] == []
    [told] = [request.headers["traceparent"] for request in fake.requests]
    assert (told[3:35], told[-2:]) == (CALLER[3:35], "00")


async def test_outside_of_a_span_there_is_none(all_of_it: Telemetry) -> None:
    assert (current(), traceparent()) == (None, "")


# --- how many --------------------------------------------------------------------------------------------------------


def test_so_many_traces_begin_in_a_second() -> None:
    now = 0.0
    sampler = Sparing(2, lambda: now)
    assert [sampler.begins(None) for _ in range(3)] == [True, True, False]
    assert not sampler.begins(context_of(CALLER)), "a caller's wish counts no more than another's"
    assert sampler.begins(None, is_read=True), "reading has its own count"
    now = 0.5
    assert not sampler.begins(context_of(CALLER[:-2] + "00"))
    assert sampler.begins(context_of(CALLER))


# --- when the collector is away --------------------------------------------------------------------------------------


async def test_a_collector_that_is_away_stops_nothing(tmp_path: Path, seen: Collector, all_of_it: Telemetry) -> None:
    seen.is_away = True
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake) as hes:
        await hes.until(await hes.send(), "sent")
        with anyio.fail_after(10):
            await to_thread.run_sync(all_of_it.close, 0.2)
        await hes.until(await hes.send(), "sent")
    assert seen.spans == []


# --- questions about doubts -----------------------------------------------------------------------------------------


async def test_a_question_about_a_doubt_is_in_the_emails_trace(
    tmp_path: Path, seen: Collector, all_of_it: Telemetry
) -> None:
    async with fake_sendgrid() as fake, measured_house(all_of_it, tmp_path, fake, doubt_seconds=10) as hes:
        fake.script([Fault(kind=Kind.RESET, at=Point.AFTER_STORING)])
        email_id = await send(hes, on_doubt="wait")
        await hes.until(email_id, "sent")
    await closed(all_of_it)
    question = seen.named(names.ASK.name)[0]
    [attempt] = seen.named(names.SEND.name)
    assert (question.trace_id, question.parent_id) == (CALLER[3:35], attempt.parent_id)
    assert question.attributes["hes.attempt.id"] == attempt.attributes["hes.attempt.id"]
    assert question.attributes["hes.found"] == "accepted"
    calls = [span for span in seen.spans if span.parent_id == question.span_id]
    assert calls[0].attributes["url.full"] == f"{fake.url}/v3/logs"
    assert {(span.kind, span.attributes["http.response.status_code"]) for span in calls} == {("client", 200)}


async def test_of_many_emails_few_are_traced_and_each_from_end_to_end(
    tmp_path: Path, seen: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is unless OTEL_TRACES_SAMPLER says otherwise."""
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    telemetry = start(traces=True, metrics=False, page=False, version="1", instance="i", role="all")
    async with fake_sendgrid() as fake, measured_house(telemetry, tmp_path, fake) as hes:
        ids = [await hes.send() for _ in range(40)]
        for email_id in ids:
            await hes.until(email_id, "sent")
    await closed(telemetry)
    sampled = {span.trace_id for span in seen.named("POST /v1/emails")}
    assert 10 <= len(sampled) < 40
    assert {span.trace_id for span in seen.named(names.SEND.name)} == sampled
    told = {request.headers["traceparent"] for request in fake.requests}
    assert len({header[3:35] for header in told}) == 40, "each has an id, traced or not"
    assert {header[3:35] for header in told if is_sampled(header)} == sampled
