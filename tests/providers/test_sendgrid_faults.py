"""What only SendGrid does, over loopback; the rest is in the suite of all providers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hes.model import Answer, Outcome, Scope
from hes.providers.sendgrid import SendGrid
from tests.fakes.faults import FakeServer, Fault, Kind
from tests.fakes.sendgrid import KEY, SendGridRules, fake_sendgrid
from tests.providers.lines import ATTEMPT, EMAIL, NOW

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def sendgrid(fake: FakeServer, api_key: Callable[[], str] = lambda: KEY) -> AsyncIterator[SendGrid]:
    provider = SendGrid(name="sg", api_key=api_key, clock=lambda: NOW, base_url=fake.url)
    try:
        yield provider
    finally:
        await provider.aclose()


async def answer_by(rules: SendGridRules, fault: Fault | None = None) -> Answer:
    async with fake_sendgrid(rules) as fake, sendgrid(fake) as provider:
        fake.fault = fault
        return await provider.send(EMAIL, ATTEMPT, 2.0)


async def test_throttled_until_the_reset() -> None:
    fault = Fault(kind=Kind.STATUS, status=429, headers={"X-RateLimit-Reset": "1700000009"})
    answer = await answer_by(SendGridRules(), fault)
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, 9)


async def test_an_unverified_sender_refuses_its_domain() -> None:
    answer = await answer_by(SendGridRules(verified_domains=["other.org"]))
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


async def test_used_up_credits() -> None:
    rules = SendGridRules()
    rules.out_of_credits = True
    answer = await answer_by(rules)
    assert (answer.outcome, answer.quota) == (Outcome.REFUSED, True)


@pytest.mark.parametrize("key", ["SG.a\r\nX: y", "schlüssel"], ids=["line break", "not ASCII"])
async def test_with_an_impossible_key_it_is_refused_and_nothing_leaves(key: str) -> None:
    async with fake_sendgrid() as fake, sendgrid(fake, lambda: key) as provider:
        answer = await provider.send(EMAIL, ATTEMPT, 2.0)
        assert (answer.outcome, fake.requests) == (Outcome.REFUSED, [])
    assert key not in answer.detail
