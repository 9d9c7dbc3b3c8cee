"""What only Mailgun does, over loopback; the rest is in the suite of all providers."""

from typing import Any

import pytest
from msgspec.structs import replace

from hes.errors import ConfigError
from hes.model import Answer, Attachment, Outcome, Scope
from hes.provider_settings import Kind as Kinds
from hes.providers.mailgun import Mailgun
from hes.secret import Secret
from tests.fakes import an_email
from tests.fakes.faults import Fault, Kind
from tests.fakes.mailgun import DOMAIN, KEY, File, MailgunRules, fake_mailgun
from tests.providers.lines import ATTEMPT, EMAIL, LINES, NOW, talking

pytestmark = pytest.mark.anyio

(LINE,) = (line for line in LINES if line.kind is Kinds.MAILGUN)


async def answer_by(rules: MailgunRules, fault: Fault | None = None) -> Answer:
    async with talking(LINE, rules) as (provider, fake):
        fake.fault = fault
        return await provider.send(EMAIL, ATTEMPT, 2.0)


async def test_throttled_as_its_text_says() -> None:
    rules = MailgunRules()
    rules.limit_exceeded = True
    answer = await answer_by(rules)
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, 120)


@pytest.mark.parametrize(
    ("why", "scope"),
    [
        ("Account disabled", Scope.PROVIDER),
        ("The domain is unverified and requires DNS configuration.", Scope.SENDER_DOMAIN),
    ],
)
async def test_not_allowed_to_send(why: str, scope: Scope) -> None:
    rules = MailgunRules()
    rules.not_allowed = why
    answer = await answer_by(rules)
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, scope)


@pytest.mark.parametrize("status", [400, 403])
async def test_the_sandbox_is_about_the_account(status: int) -> None:
    rules = MailgunRules()
    rules.sandbox_status = status
    answer = await answer_by(rules)
    assert (answer.outcome, answer.scope, answer.status_code) == (Outcome.REFUSED, Scope.PROVIDER, status)


async def test_a_domain_of_the_other_region() -> None:
    answer = await answer_by(MailgunRules(domains=["other.example"]))
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


async def test_a_wrong_key_is_refused_with_the_bare_text() -> None:
    answer = await answer_by(MailgunRules(["another"]))
    assert answer == Answer(outcome=Outcome.REFUSED, status_code=401, detail="401: Forbidden")


async def test_a_key_in_its_encoded_form_is_not_quoted_either() -> None:
    async with talking(LINE) as (provider, fake):
        await provider.send(EMAIL, ATTEMPT, 2.0)
        basic = fake.requests[0].headers["Authorization"].removeprefix("Basic ")
        fake.fault = Fault(kind=Kind.STATUS, status=401, message=f"bad {basic}")
        assert (await provider.send(EMAIL, ATTEMPT, 2.0)).detail == "401: bad [secret]"


async def test_a_large_email_arrives_byte_for_byte() -> None:
    """Beyond the size from which the transport sends in pieces."""
    content = bytes(range(256)) * 8000
    async with talking(LINE) as (provider, fake):
        email = an_email(attachments=(Attachment("ä.bin", content, "application/zip"),))
        assert (await provider.send(email, ATTEMPT, 5.0)).outcome is Outcome.ACCEPTED
        (copy,) = fake.accepted
    assert copy.content.attachments == (File("ä.bin", "application/zip", content),)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"base_url": None}, "https://api.mailgun.net"),
        ({"base_url": None, "region": "us"}, "https://api.mailgun.net"),
        ({"base_url": None, "region": "eu"}, "https://api.eu.mailgun.net"),
        ({"base_url": "http://127.0.0.1:9", "region": "eu"}, "http://127.0.0.1:9"),
    ],
)
async def test_the_region_chooses_the_address(changes: dict[str, Any], url: str) -> None:
    provider = Mailgun.of(replace(LINE.settings(fake_mailgun(), Secret(KEY)), **changes), lambda: NOW)
    assert (provider._transport._base_url, provider._path) == (url, f"/v3/{DOMAIN}")
    await provider.aclose()


def test_there_are_two_regions() -> None:
    settings = replace(LINE.settings(fake_mailgun()), region="eu-west-1")
    with pytest.raises(ConfigError, match=r"region must be us or eu\. Example: region = eu"):
        Mailgun.of(settings, lambda: NOW)
