"""What only Resend does, over loopback: the same request again under the same key; and its account's troubles."""

import pytest
from msgspec.structs import replace

from hes.model import Answer, Attachment, AttemptId, Outcome, Scope
from hes.provider_settings import Kind as Kinds
from hes.providers.finding import Doubt, Finding, Found, Replays
from hes.providers.provider import Provider
from hes.providers.resend import Resend
from hes.secret import Secret
from tests.fakes import an_email
from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.fakes.resend import KEY, ResendRules
from tests.providers.lines import ATTEMPT, EMAIL, LINES, NOW, made, talking

pytestmark = pytest.mark.anyio

(LINE,) = (line for line in LINES if line.kind is Kinds.RESEND)
HOUR = 3_600_000
DOUBT = Doubt(email=EMAIL, attempt_id=ATTEMPT, started_at=NOW, render_version=Resend.render_version)
LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING, count=1)
NEVER_ARRIVED = Fault(kind=Kind.RESET, at=Point.BEFORE_STORING, count=1)


async def replayed(provider: Provider, doubt: Doubt = DOUBT, timeout_seconds: float = 2.0) -> Finding:
    assert isinstance(provider, Replays)
    return await provider.replay(doubt, timeout_seconds)


async def answer_by(rules: ResendRules) -> Answer:
    async with talking(LINE, rules) as (provider, _):
        return await provider.send(EMAIL, ATTEMPT, 2.0)


@pytest.mark.parametrize("fault", [LOST, NEVER_ARRIVED], ids=["taken", "not taken"])
async def test_a_replay_ends_the_doubt_with_exactly_one_email(fault: Fault) -> None:
    """Whether or not the first request was taken."""
    async with talking(LINE) as (provider, fake):
        fake.fault = fault
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.IN_DOUBT
        assert await replayed(provider) == Finding(found=Found.ACCEPTED, provider_message_id="fake-1")
        assert fake.copies(EMAIL.id) == 1
        first, second = fake.requests
        assert (dict(first.headers), first.body) == (dict(second.headers), second.body)


async def test_the_key_is_the_attempts_id() -> None:
    async with talking(LINE) as (provider, fake):
        for attempt in (ATTEMPT, AttemptId("0190-other")):
            await provider.send(EMAIL, attempt, 2.0)
        assert [seen.headers["Idempotency-Key"] for seen in fake.requests] == [ATTEMPT, "0190-other"]
        assert fake.copies(EMAIL.id) == 2


async def test_another_body_under_the_key_says_nothing_but_is_told() -> None:
    """It proves that there was a first request, and not that it was accepted."""
    async with talking(LINE) as (provider, fake):
        fake.fault = LOST
        await provider.send(an_email(subject="as it was rendered before"), ATTEMPT, 2.0)
        finding = await replayed(provider)
        assert (finding.found, finding.provider_message_id) == (Found.UNAVAILABLE, None)
        assert finding.detail.startswith("409: invalid_idempotent_request")
        assert len(fake.accepted) == 1


async def test_a_first_request_that_is_not_done_says_nothing_until_it_is() -> None:
    now = 0.0
    rules = ResendRules(clock=lambda: now)
    rules.takes_seconds = 30
    async with talking(LINE, rules) as (provider, fake):
        fake.fault = LOST
        await provider.send(EMAIL, ATTEMPT, 2.0)
        finding = await replayed(provider)
        assert (finding.found, finding.detail[:35]) == (Found.UNAVAILABLE, "409: concurrent_idempotent_requests")
        now = 31.0
        assert (await replayed(provider)).found is Found.ACCEPTED
        assert fake.copies(EMAIL.id) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=Kind.STATUS, status=status, shape=shape)
        for status in (400, 401, 403, 404, 422, 429, 500, 503)
        for shape in ("own", "foreign")
    ]
    + [Fault(kind=Kind.HANG), Fault(kind=Kind.RESET), Fault(kind=Kind.GARBAGE), Fault(kind=Kind.HUGE_BODY, status=200)],
    ids=str,
)
async def test_no_other_answer_to_a_replay_settles_anything(fault: Fault) -> None:
    async with talking(LINE) as (provider, fake):
        fake.script([LOST, fault])
        await provider.send(EMAIL, ATTEMPT, 2.0)
        finding = await replayed(provider, timeout_seconds=0.15)
        assert (finding.found, finding.provider_message_id) == (Found.UNAVAILABLE, None)
        assert finding.detail


async def test_a_replay_is_slowed_down_as_a_send_is() -> None:
    async with talking(LINE) as (provider, fake):
        fake.script([LOST, Fault(kind=Kind.STATUS, status=429, headers={"Retry-After": "7"})])
        await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (await replayed(provider)).ask_again_seconds == 7


@pytest.mark.parametrize(
    ("doubt", "words"),
    [
        (replace(DOUBT, started_at=NOW - 20 * HOUR), "older than the 20 hours"),
        (replace(DOUBT, started_at=NOW - 20 * HOUR + 1999), "older than the 20 hours"),
        (replace(DOUBT, render_version=0), "rendering 0"),
    ],
    ids=["too old", "would end too late", "other bytes"],
)
async def test_what_might_be_a_second_email_is_not_asked(doubt: Doubt, words: str) -> None:
    async with talking(LINE) as (provider, fake):
        finding = await replayed(provider, doubt)
        assert finding.found is Found.UNAVAILABLE
        assert words in finding.detail
        assert fake.requests == []


async def test_just_inside_the_window_it_is_asked() -> None:
    async with talking(LINE) as (provider, _):
        doubt = replace(DOUBT, started_at=NOW - 20 * HOUR + 2000)
        assert (await replayed(provider, doubt)).found is Found.ACCEPTED


async def test_a_team_that_is_too_fast_is_throttled() -> None:
    rules = ResendRules(clock=lambda: 0.0)
    rules.requests_per_second = 2
    async with talking(LINE, rules) as (provider, _):
        answers = [await provider.send(EMAIL, AttemptId(f"0190-{number}"), 2.0) for number in range(3)]
    assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.THROTTLED]
    assert answers[2].retry_after_seconds == 1


@pytest.mark.parametrize("quota", ["daily_quota", "monthly_quota"])
async def test_a_used_up_quota_is_refused(quota: str) -> None:
    rules = ResendRules()
    rules.out_of = quota
    answer = await answer_by(rules)
    assert (answer.outcome, answer.quota) == (Outcome.REFUSED, True)


async def test_a_domain_that_is_not_verified() -> None:
    answer = await answer_by(ResendRules(verified_domains=["other.org"]))
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


async def test_a_wrong_key_is_refused() -> None:
    answer = await answer_by(ResendRules(["re_another"]))
    assert (answer.outcome, answer.scope, answer.status_code) == (Outcome.REFUSED, Scope.PROVIDER, 403)


@pytest.mark.parametrize("key", ["re_ä", "re_\n"])
async def test_a_key_that_can_not_stand_in_a_header_is_refused(key: str) -> None:
    async with talking(LINE, api_key=Secret(key)) as (provider, fake):
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.REFUSED
        assert fake.requests == []


async def test_a_large_email_arrives_byte_for_byte_and_again() -> None:
    """Beyond the size from which the transport sends in pieces."""
    email = an_email(attachments=(Attachment("ä.bin", bytes(range(256)) * 8000, ""),))
    async with talking(LINE) as (provider, fake):
        fake.fault = LOST
        await provider.send(email, ATTEMPT, 5.0)
        assert (await replayed(provider, replace(DOUBT, email=email), 5.0)).found is Found.ACCEPTED
        first, second = fake.requests
        assert first.body == second.body


async def test_where_it_is_asked_without_another_address() -> None:
    provider = made(replace(LINE.settings(FakeServer(ResendRules()), Secret(KEY)), base_url=None))
    assert vars(provider)["_transport"]._base_url == "https://api.resend.com"
    await provider.aclose()
