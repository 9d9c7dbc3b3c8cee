"""The real adapter against the fake over loopback: every fault, and what it must be called."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hes.errors import ConfigError
from hes.model import Answer, AttemptId, Outcome, Scope
from hes.provider_settings import Kind as Kinds
from hes.provider_settings import ProviderSettings, Secret
from hes.providers.sendgrid import SendGrid
from tests.fakes import an_email
from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.fakes.sendgrid import KEY, SendGridRules, fake_sendgrid

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000_000
ATTEMPT = AttemptId("0190-attempt")
EMAIL = an_email()
BEFORE, AFTER, MID = Point.BEFORE_STORING, Point.AFTER_STORING, Point.MID_ANSWER


@asynccontextmanager
async def sendgrid(fake: FakeServer, api_key: Callable[[], str] = lambda: KEY) -> AsyncIterator[SendGrid]:
    provider = SendGrid(name="sg", api_key=api_key, clock=lambda: NOW, base_url=fake.url)
    try:
        yield provider
    finally:
        await provider.aclose()


async def sent_with(fault: Fault | None, timeout_seconds: float = 2.0) -> tuple[Answer, int]:
    """The adapter's answer under this fault, and how many copies SendGrid really took."""
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        fake.fault = fault
        answer = await provider.send(EMAIL, ATTEMPT, timeout_seconds)
        return answer, fake.copies(EMAIL.id)


async def test_an_accepted_email_carries_our_ids() -> None:
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
        (copy,) = fake.accepted
    assert answer == Answer(outcome=Outcome.ACCEPTED, status_code=202, provider_message_id="fake-1")
    assert (copy.hes_id, copy.hes_attempt, copy.envelope) == (EMAIL.id, ATTEMPT, ("ann@example.org",))


async def test_a_missing_message_id_is_still_accepted() -> None:
    async with fake_sendgrid(SendGridRules(gives_message_id=False)) as fake, sendgrid(fake) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
    assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, None)


@pytest.mark.parametrize("at", [Point.BEFORE_READING, BEFORE, AFTER, MID])
@pytest.mark.parametrize("kind", [Kind.HANG, Kind.RESET, Kind.CLOSE])
async def test_a_lost_answer_is_in_doubt_whether_or_not_it_was_taken(kind: Kind, at: Point) -> None:
    answer, copies = await sent_with(Fault(kind=kind, at=at), 0.15)
    assert answer.outcome is Outcome.IN_DOUBT
    assert copies == (at in {AFTER, MID})


@pytest.mark.parametrize("at", [BEFORE, AFTER])
@pytest.mark.parametrize("kind", [Kind.GARBAGE, Kind.HUGE_BODY])
async def test_an_unreadable_answer_is_in_doubt(kind: Kind, at: Point) -> None:
    answer, copies = await sent_with(Fault(kind=kind, at=at, status=202))
    assert answer.outcome is Outcome.IN_DOUBT
    assert copies == (at is AFTER)


async def test_the_deadline_is_over_the_whole_call() -> None:
    """A byte every 50 ms would keep any time-out per read alive."""
    answer, copies = await sent_with(Fault(kind=Kind.SLOW_BODY, at=AFTER, status=202, seconds=0.05), 0.3)
    assert (answer.outcome, copies) == (Outcome.IN_DOUBT, 1)


@pytest.mark.parametrize("at", [BEFORE, AFTER])
async def test_an_answer_that_is_late_but_in_time_counts(at: Point) -> None:
    answer, copies = await sent_with(Fault(kind=Kind.LATE, at=at, seconds=0.05))
    assert (answer.outcome, copies) == (Outcome.ACCEPTED, 1)


async def test_a_refused_connection_is_unavailable_and_heals() -> None:
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        await provider.send(EMAIL, ATTEMPT, 2.0)
        await fake.refuse()
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.UNAVAILABLE
        await fake.refuse(refuse=False)
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.ACCEPTED
        assert fake.copies(EMAIL.id) == 2


@pytest.mark.parametrize(
    ("status", "own", "foreign"),
    [
        (400, Outcome.REJECTED, Outcome.IN_DOUBT),
        (403, Outcome.REFUSED, Outcome.REFUSED),
        (413, Outcome.DECLINED, Outcome.DECLINED),
        (451, Outcome.REFUSED, Outcome.REFUSED),
        (500, Outcome.IN_DOUBT, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT, Outcome.IN_DOUBT),
        (503, Outcome.UNAVAILABLE, Outcome.IN_DOUBT),
        (504, Outcome.IN_DOUBT, Outcome.IN_DOUBT),
    ],
)
async def test_error_answers(status: int, own: Outcome, foreign: Outcome) -> None:
    expected = {"own": own, "foreign": foreign, "empty": foreign}
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        fake.script(
            [
                Fault(kind=Kind.STATUS, status=status),
                Fault(kind=Kind.STATUS, status=status, shape="foreign"),
                Fault(kind=Kind.STATUS, status=status, shape="empty"),
            ]
        )
        got = {shape: (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome for shape in expected}
    assert got == expected


async def test_an_error_after_it_was_taken_is_in_doubt() -> None:
    answer, copies = await sent_with(Fault(kind=Kind.STATUS, at=AFTER, status=500))
    assert (answer.outcome, copies) == (Outcome.IN_DOUBT, 1)


async def test_throttled_until_the_reset() -> None:
    answer, _ = await sent_with(Fault(kind=Kind.STATUS, status=429, headers={"X-RateLimit-Reset": "1700000009"}))
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, 9)


async def test_a_redirect_is_not_followed() -> None:
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        fake.fault = Fault(kind=Kind.STATUS, status=307, headers={"Location": fake.url + "/v3/mail/send"}, count=1)
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.IN_DOUBT
        assert len(fake.requests) == 1


async def test_no_fault_makes_it_ask_twice() -> None:
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        await provider.send(EMAIL, ATTEMPT, 2.0)  # a kept connection is where libraries repeat
        fake.script([Fault(kind=Kind.RESET, at=AFTER), Fault(kind=Kind.CLOSE, at=BEFORE)])
        for _ in range(2):
            await provider.send(EMAIL, ATTEMPT, 2.0)
        assert len(fake.requests) == 3


async def test_an_unverified_sender_refuses_its_domain() -> None:
    async with fake_sendgrid(SendGridRules(verified_domains=["other.org"])) as fake, sendgrid(fake) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


async def test_used_up_credits() -> None:
    rules = SendGridRules()
    rules.out_of_credits = True
    async with fake_sendgrid(rules) as fake, sendgrid(fake) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
    assert (answer.outcome, answer.quota) == (Outcome.REFUSED, True)


async def test_a_declined_email_never_leaves() -> None:
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        assert (await provider.send(an_email(subject=""), ATTEMPT, 2.0)).outcome is Outcome.DECLINED
        assert fake.requests == []


async def test_the_key_is_read_for_each_send() -> None:
    keys = iter(["SG.old", KEY])
    async with fake_sendgrid() as fake, sendgrid(fake, lambda: next(keys)) as provider:
        outcomes = [(await provider.send(EMAIL, ATTEMPT, 2.0)).outcome for _ in range(2)]
    assert outcomes == [Outcome.REFUSED, Outcome.ACCEPTED]


@pytest.mark.parametrize("key", ["SG.a\r\nX: y", "schlüssel"], ids=["line break", "not ASCII"])
async def test_with_an_impossible_key_it_is_refused_and_nothing_leaves(key: str) -> None:
    async with fake_sendgrid() as fake, sendgrid(fake, lambda: key) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (answer.outcome, fake.requests) == (Outcome.REFUSED, [])
    assert key not in answer.detail


async def test_made_from_settings() -> None:
    async with fake_sendgrid() as fake:
        settings = ProviderSettings(name="sg", kind=Kinds.SENDGRID, api_key=Secret(KEY), base_url=fake.url)
        provider = SendGrid.of(settings, lambda: NOW)
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).outcome is Outcome.ACCEPTED
        await provider.aclose()
    with pytest.raises(ConfigError, match="api_key"):
        SendGrid.of(ProviderSettings(name="sg", kind=Kinds.SENDGRID), lambda: NOW)


async def test_the_key_is_nowhere_to_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """Not in `repr`, not in a detail though SendGrid says it back, not in a log at debug level."""
    caplog.set_level(logging.DEBUG)
    async with fake_sendgrid() as fake, sendgrid(fake) as provider:
        fake.script([Fault(kind=Kind.STATUS, status=401, message=f"bad key {KEY}"), Fault(kind=Kind.GARBAGE)])
        answers = [await provider.send(EMAIL, ATTEMPT, 2.0) for _ in range(2)]
        assert answers[0].detail == "401: bad key [secret]"
        assert KEY not in f"{provider!r} {vars(provider)} {vars(provider._transport)} {answers} {caplog.text}"
