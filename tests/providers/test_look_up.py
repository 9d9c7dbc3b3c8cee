"""Looking an attempt up: what is found, what is not, and that nothing but finding it proves anything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from hes.model import Address, AttemptId, Outcome
from hes.provider_settings import Kind as Kinds
from hes.providers.finding import Doubt, Finding, Found, LooksUp, Replays
from hes.providers.provider import Provider
from tests.fakes import an_email
from tests.fakes.faults import FakeServer, Fault, Kind, Point, Said
from tests.fakes.mailgun import MailgunRules
from tests.fakes.sendgrid import SendGridRules
from tests.providers.lines import ATTEMPT, EMAIL, LINES, NOW, Line, made, talking

pytestmark = pytest.mark.anyio

SECONDS = NOW // 1000
DOUBT = Doubt(email=EMAIL, attempt_id=ATTEMPT, started_at=NOW, render_version=1)
LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING, count=1)


def lag_sendgrid(rules: Any, seconds: float) -> None:
    rules.logs.lag_seconds = seconds


def lag_mailgun(rules: Any, seconds: float) -> None:
    rules.search_lag_seconds = seconds


def limit_sendgrid(rules: Any, requests: int) -> None:
    rules.logs.requests_left = requests


def limit_mailgun(rules: Any, requests: int) -> None:
    rules.searches_left = requests


def forbid_sendgrid(rules: Any) -> None:
    rules.logs.is_forbidden = True


def forbid_mailgun(rules: Any) -> None:
    rules.sending_keys = rules.keys


class Case(Struct, frozen=True, kw_only=True):
    """One provider that can be asked, and how its fake's records are made to behave."""

    kind: Kinds
    rules: Callable[..., Any]
    lag: Callable[[Any, float], None]
    limit: Callable[[Any, int], None]
    forbid: Callable[[Any], None]
    message_id: str

    @property
    def line(self) -> Line:
        return next(line for line in LINES if line.kind is self.kind)


CASES = [
    Case(
        kind=Kinds.SENDGRID,
        rules=SendGridRules,
        lag=lag_sendgrid,
        limit=limit_sendgrid,
        forbid=forbid_sendgrid,
        message_id="fake-1",
    ),
    Case(
        kind=Kinds.MAILGUN,
        rules=MailgunRules,
        lag=lag_mailgun,
        limit=limit_mailgun,
        forbid=forbid_mailgun,
        message_id=EMAIL.message_id,
    ),
]


@pytest.fixture(params=CASES, ids=[case.kind for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_every_kind_that_can_be_searched_is_here() -> None:
    makes = {line.kind: made(line.settings(FakeServer(line.rules()))) for line in LINES}
    assert {kind for kind, provider in makes.items() if isinstance(provider, LooksUp)} == {case.kind for case in CASES}
    assert {kind for kind, provider in makes.items() if isinstance(provider, Replays)} == {Kinds.RESEND}


async def looked_up(provider: Provider, doubt: Doubt = DOUBT, timeout_seconds: float = 2.0) -> Finding:
    assert isinstance(provider, LooksUp)
    return await provider.look_up(doubt, timeout_seconds)


async def test_what_was_taken_is_found_and_changes_nothing(case: Case) -> None:
    async with talking(case.line, case.rules(clock=lambda: SECONDS + 1)) as (provider, fake):
        fake.fault = LOST
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.IN_DOUBT
        finding = await looked_up(provider)
        assert (finding.found, finding.provider_message_id) == (Found.ACCEPTED, case.message_id)
        assert "this attempt" in finding.detail
        assert fake.copies(EMAIL.id) == 1


async def test_the_message_id_is_the_one_that_the_answer_would_have_had(case: Case) -> None:
    async with talking(case.line, case.rules(clock=lambda: SECONDS)) as (provider, _):
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).provider_message_id == answer.provider_message_id


async def test_what_never_arrived_says_nothing(case: Case) -> None:
    async with talking(case.line, case.rules(clock=lambda: SECONDS)) as (provider, fake):
        fake.fault = Fault(kind=Kind.RESET, at=Point.BEFORE_STORING, count=1)
        await provider.send(EMAIL, ATTEMPT, 2.0)
        finding = await looked_up(provider)
        assert (finding.found, finding.provider_message_id) == (Found.NOTHING, None)
        assert finding.detail


async def test_it_is_found_once_the_records_show_it(case: Case) -> None:
    """Not found is not "not accepted": the same question has another answer later."""
    now = float(SECONDS)
    rules = case.rules(clock=lambda: now)
    case.lag(rules, 90)
    async with talking(case.line, rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).found is Found.NOTHING
        now += 90
        assert (await looked_up(provider)).found is Found.ACCEPTED


async def test_another_attempt_of_the_same_email_is_not_this_one(case: Case) -> None:
    """They share recipient, subject and Message-ID."""
    async with talking(case.line, case.rules(clock=lambda: SECONDS)) as (provider, _):
        await provider.send(EMAIL, AttemptId("0190-other"), 2.0)
        assert (await looked_up(provider)).found is Found.NOTHING
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).found is Found.ACCEPTED


async def test_several_recipients(case: Case) -> None:
    email = an_email(to=(Address("o'neil@x.org"), Address("b@x.org")), bcc=(Address("c@x.org"),))
    async with talking(case.line, case.rules(clock=lambda: SECONDS)) as (provider, _):
        await provider.send(email, ATTEMPT, 2.0)
        finding = await looked_up(provider, replace(DOUBT, email=email))
        assert (finding.found, finding.provider_message_id) == (Found.ACCEPTED, case.message_id)


async def test_clocks_may_differ_a_little(case: Case) -> None:
    async with talking(case.line, case.rules(clock=lambda: SECONDS - 45)) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).found is Found.ACCEPTED


async def test_asked_too_often(case: Case) -> None:
    rules = case.rules(clock=lambda: SECONDS)
    case.limit(rules, 0)
    async with talking(case.line, rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        finding = await looked_up(provider)
        assert (finding.found, finding.detail[:21]) == (Found.UNAVAILABLE, "429: asked too often:")


async def test_when_to_ask_again(case: Case) -> None:
    async with talking(case.line) as (provider, fake):
        fake.fault = Fault(kind=Kind.STATUS, status=429, headers={"Retry-After": "7"})
        assert (await looked_up(provider)).ask_again_seconds == 7


async def test_a_key_that_can_only_send(case: Case) -> None:
    rules = case.rules(clock=lambda: SECONDS)
    case.forbid(rules)
    async with talking(case.line, rules) as (provider, _):
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.ACCEPTED
        finding = await looked_up(provider)
        assert finding.found is Found.UNAVAILABLE
        assert "the API key may not read these records" in finding.detail


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=Kind.STATUS, status=status, shape=shape)
        for status in (204, 307, 400, 401, 403, 404, 408, 429, 500, 502, 503)
        for shape in ("own", "foreign", "empty")
    ]
    + [Fault(kind=Kind.STATUS, status=200, shape=shape) for shape in ("own", "foreign", "empty")]
    + [Fault(kind=kind, status=200) for kind in (Kind.HANG, Kind.RESET, Kind.GARBAGE, Kind.HUGE_BODY, Kind.SLOW_BODY)],
    ids=str,
)
async def test_no_trouble_proves_anything(case: Case, fault: Fault) -> None:
    async with talking(case.line, case.rules(clock=lambda: SECONDS)) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        fake.fault = fault
        finding = await looked_up(provider, timeout_seconds=0.15)
        assert (finding.found, finding.provider_message_id) == (Found.UNAVAILABLE, None)
        assert finding.detail
        assert "<" not in finding.detail


async def test_the_key_is_not_quoted(case: Case) -> None:
    async with talking(case.line) as (provider, fake):
        fake.fault = Fault(kind=Kind.STATUS, status=400, message=f"bad {case.line.key} of <ann@example.org>")
        detail = (await looked_up(provider)).detail
        assert case.line.key not in detail
        assert "ann@" not in detail


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"items":7,"messages":7}', b'{"items":[7],"messages":[7]}', b"[" * 9999, b"\xff"],
)
async def test_records_that_are_none(case: Case, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking(case.line) as (provider, fake):
        monkeypatch.setattr(fake.vendor, "judge", lambda _seen: (Said(200, body), None))
        assert (await looked_up(provider)).found is Found.UNAVAILABLE


# --- what only SendGrid does: search, then ask for each hit -----------------------------------------------------------


@asynccontextmanager
async def sendgrid(rules: SendGridRules) -> AsyncIterator[tuple[Provider, FakeServer]]:
    async with talking(CASES[0].line, rules) as both:
        yield both


async def test_the_likeliest_hit_is_asked_for_first() -> None:
    """The logs have the newest first: here one of other emails, or of the same email's later attempts."""
    now = float(SECONDS)
    async with sendgrid(SendGridRules(clock=lambda: now)) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        for number in range(15):
            await provider.send(an_email(subject="other"), AttemptId(f"0190-o{number}"), 2.0)
            now += 10
            await provider.send(EMAIL, AttemptId(f"0190-l{number}"), 2.0)
        sent = len(fake.requests)
        assert (await looked_up(provider)).found is Found.ACCEPTED
        assert [seen.path for seen in fake.requests[sent:]] == ["/v3/logs", "/v3/logs/fake-1.recvd-77-0.0"]


async def test_no_more_than_ten_hits_are_asked_for() -> None:
    async with sendgrid(SendGridRules(clock=lambda: SECONDS)) as (provider, fake):
        for number in range(12):
            await provider.send(EMAIL, AttemptId(f"0190-{number}"), 2.0)
        finding = await looked_up(provider)
        assert (finding.found, len(fake.requests)) == (Found.NOTHING, 12 + 1 + 10)
        assert finding.detail.startswith("12 messages to this recipient at that time, 10 asked for")


async def test_the_search_is_by_recipient_and_time() -> None:
    async with sendgrid(SendGridRules(clock=lambda: SECONDS + 601)) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)  # too late to be of this attempt
        finding = await looked_up(provider)
        assert (finding.found, finding.detail[:10]) == (Found.NOTHING, "0 messages")
        asked = msgspec.json.decode(fake.requests[-1].body)["query"]
        assert asked == (
            "to_email = 'ann@example.org'"
            ' AND sg_message_id_created_at >= TIMESTAMP "2023-11-14T22:12:20Z"'
            ' AND sg_message_id_created_at <= TIMESTAMP "2023-11-14T22:23:20Z"'
        )


async def test_a_hit_that_can_not_be_had_yet_is_passed_over() -> None:
    rules = SendGridRules(clock=lambda: SECONDS)
    rules.logs.lists_more_than_it_shows = True
    async with sendgrid(rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).found is Found.NOTHING


async def test_too_many_requests_in_the_middle_of_a_search() -> None:
    rules = SendGridRules(clock=lambda: SECONDS)
    rules.logs.requests_left = 1
    async with sendgrid(rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await looked_up(provider)).found is Found.UNAVAILABLE


async def test_the_deadline_is_over_the_whole_search() -> None:
    async with sendgrid(SendGridRules(clock=lambda: SECONDS)) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        fake.script([None, Fault(kind=Kind.HANG)])
        assert (await looked_up(provider, timeout_seconds=0.15)).found is Found.UNAVAILABLE
        for number in range(10):
            await provider.send(EMAIL, AttemptId(f"0190-{number}"), 2.0)
        fake.fault = Fault(kind=Kind.LATE, seconds=0.05)  # each in time, all together not
        finding = await looked_up(provider, replace(DOUBT, attempt_id=AttemptId("0190-none")), 0.3)
        assert (finding.found, finding.detail) == (Found.UNAVAILABLE, "no whole answer in time")


async def test_an_address_that_would_need_an_escape_is_not_searched_for() -> None:
    async with sendgrid(SendGridRules()) as (provider, fake):
        email = an_email(to=(Address("o'neil@x.org"),))
        finding = await looked_up(provider, replace(DOUBT, email=email))
        assert (finding.found, fake.requests) == (Found.UNAVAILABLE, [])


@pytest.mark.parametrize(
    "hit",
    [
        {},
        {"sg_message_id": 7},
        {"sg_message_id": "a b"},
        {"sg_message_id": "x", "sg_message_id_created_at": "soon", "subject": None},
        {"sg_message_id": "x", "sg_message_id_created_at": None},
        {"sg_message_id": "x", "sg_message_id_created_at": "2023-11-14T22:13:20"},
        {"sg_message_id": "../mail/send?a=b#c"},
    ],
    ids=str,
)
async def test_no_hit_breaks_the_search(hit: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async with sendgrid(SendGridRules()) as (provider, fake):
        said = Said(200, msgspec.json.encode({"messages": [hit]}))
        monkeypatch.setattr(fake.vendor, "judge", lambda _seen: (said, None))
        finding = await looked_up(provider)
        assert finding.found is not Found.ACCEPTED
        assert all(seen.path.startswith("/v3/logs") for seen in fake.requests)
        assert not any(seen.query for seen in fake.requests)


# --- what only Mailgun does: one search by Message-ID -----------------------------------------------------------------


async def test_mailgun_is_asked_for_the_message_id_from_the_attempts_start_on() -> None:
    async with talking(CASES[1].line) as (provider, fake):
        await looked_up(provider)
        (seen,) = fake.requests
    assert (seen.method, seen.path) == ("GET", "/v3/mg.example.com/events")
    assert dict(seen.query) == {
        "message-id": "0190-email@hes.example",
        "begin": str(SECONDS - 300),
        "ascending": "yes",
        "limit": "100",
    }


async def test_a_later_event_alone_proves_it_too() -> None:
    rules = MailgunRules(clock=lambda: SECONDS)
    async with talking(CASES[1].line, rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        rules.events = [event | {"event": "delivered"} for event in rules.events]
        finding = await looked_up(provider)
        assert finding == Finding(
            found=Found.ACCEPTED, provider_message_id=EMAIL.message_id, detail="the events show this attempt: delivered"
        )


async def test_an_event_without_our_variables_proves_nothing() -> None:
    rules = MailgunRules(clock=lambda: SECONDS)
    async with talking(CASES[1].line, rules) as (provider, _):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        rules.events = [event | {"user-variables": {}} for event in rules.events]
        assert (await looked_up(provider)).found is Found.NOTHING
