"""HES as the consumer of SendGrid, Mailgun and Resend; and the fakes that stand for them in all other tests.

The real adapters talk to Pact's mock server: what goes out, and what they make of the answer, is in the contract. Then
the fakes are held against the same contract, so that they can't drift from what HES was written for. The vendors
themselves are not asked: that needs accounts.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pact import Pact, Verifier

from hes.model import AttemptId, Email, EmailId
from hes.provider_settings import Kind, ProviderSettings
from hes.providers import Surroundings, mailgun, make_provider, sendgrid
from hes.providers.finding import Doubt, Found, LooksUp
from hes.providers.provider import Provider
from hes.secret import Secret
from tests.contracts.pacts import a_pact, check_committed, verify
from tests.contracts.provider_cases import (
    ATTEMPT,
    BOUNDARY,
    CASES,
    DOMAIN_IS_UNVERIFIED,
    IS_DOWN,
    KEY_IS_WRONG,
    KEYS,
    LOOK_UPS,
    MAILGUN_PATH,
    OUT_OF_QUOTA,
    PLAIN,
    STARTED_AT,
    TOO_FAST,
    WAS_TAKEN,
    WORKS,
    Case,
)
from tests.fakes.faults import Copy, FakeServer, Fault, Said, Seen
from tests.fakes.faults import Kind as FaultKind
from tests.fakes.mailgun import DOMAIN, MailgunRules
from tests.fakes.resend import ResendRules
from tests.fakes.sendgrid import SendGridRules

NOW = 1_700_000_000_000
PATHS = {"sendgrid": "/v3/mail/send", "mailgun": MAILGUN_PATH, "resend": "/emails"}
each_provider = pytest.mark.parametrize("provider", list(CASES))


def request_headers(provider: str) -> dict[str, str]:
    """All that HES must say besides the body."""
    key = KEYS[provider]
    if provider == "mailgun":
        basic = b64encode(f"api:{key}".encode()).decode()
        return {"Authorization": f"Basic {basic}"}
    headers = {"Authorization": f"Bearer {key}"}
    return headers | ({"Idempotency-Key": ATTEMPT} if provider == "resend" else {})


def interaction(provider: str, case: Case) -> Pact:
    pact = a_pact("hes", provider)
    told = pact.upon_receiving(case.text).given(case.state).with_request("POST", PATHS[provider])
    told.with_headers(request_headers(provider))
    kind = f"multipart/form-data; boundary={BOUNDARY}" if provider == "mailgun" else "application/json"
    told.with_body(case.body, content_type=kind)
    told.will_respond_with(case.status).with_headers(case.answer_headers)
    if case.answer is not None:
        told.with_body(case.answer, content_type="application/json")
    return pact


@asynccontextmanager
async def real_adapter(provider: str, url: str) -> AsyncIterator[Provider]:
    more: dict[str, Any] = {"domain": DOMAIN} if provider == "mailgun" else {}
    settings = ProviderSettings(name="p", kind=Kind(provider), api_key=Secret(KEYS[provider]), base_url=url, **more)
    made = make_provider(settings, Surroundings(clock=lambda: NOW, keep=_keep, outbox_dir=Path("/nowhere")))
    try:
        yield made
    finally:
        await made.aclose()


async def sends(provider: str, case: Case, url: str) -> None:
    """The real adapter sends the case's email there, and understands what comes back."""
    async with real_adapter(provider, url) as adapter:
        answer = await adapter.send(case.email, ATTEMPT, 10.0)
    assert (answer.outcome, answer.status_code) == (case.outcome, case.status), answer
    assert (answer.scope, answer.quota) == (case.scope, case.quota)
    assert answer.provider_message_id == case.message_id
    assert (answer.retry_after_seconds is not None) == case.wait


async def _keep(email_id: EmailId, attempt_id: AttemptId, content: bytes) -> None:
    raise AssertionError("only the outbox keeps")


def looking_up(provider: str) -> Pact:
    """All requests of one look-up."""
    pact = a_pact("hes", provider)
    for asked in LOOK_UPS[provider]:
        told = pact.upon_receiving(asked.text).given(WAS_TAKEN).with_request(asked.method, asked.path)
        told.with_headers(request_headers(provider)).with_query_parameters(asked.query)
        if asked.body is not None:
            told.with_body(asked.body, content_type="application/json")
        told.will_respond_with(200).with_body(asked.answer, content_type="application/json")
    return pact


async def looks_up(provider: str, url: str) -> None:
    async with real_adapter(provider, url) as adapter:
        assert isinstance(adapter, LooksUp)
        doubt = Doubt(email=PLAIN, attempt_id=ATTEMPT, started_at=STARTED_AT, render_version=adapter.render_version)
        finding = await adapter.look_up(doubt, 10.0)
    assert finding.found is Found.ACCEPTED, finding


@each_provider
async def test_what_hes_asks_and_understands_is_the_contract(provider: str, tmp_path: Path) -> None:
    for case in CASES[provider]:
        pact = interaction(provider, case)
        with pact.serve(addr="127.0.0.1") as server:
            await sends(provider, case, str(server.url))
        pact.write_file(tmp_path)
    if provider in LOOK_UPS:
        pact = looking_up(provider)
        with pact.serve(addr="127.0.0.1") as server:
            await looks_up(provider, str(server.url))
        pact.write_file(tmp_path)
    check_committed(tmp_path, f"hes-{provider}.json")


# --- the fakes -------------------------------------------------------------------------------------------------------

_DOWN = Fault(kind=FaultKind.STATUS, status=503, message="Service unavailable")


class TakenBefore(ResendRules):
    """Whatever comes in came in before."""

    def judge(self, seen: Seen) -> tuple[Said, Copy | None]:
        super().judge(seen)
        return super().judge(seen)


def _seen_by_resend(fake: FakeServer, _: Any) -> None:
    fake.vendor = TakenBefore()


def _taken_by(provider: str, build: Callable[[Email, AttemptId], Any]) -> Callable[[FakeServer, Any], None]:
    """The plain email came in at the time that the look-up asks for."""

    def take(fake: FakeServer, _: Any) -> None:
        rules = fake.vendor = RULES[provider](clock=lambda: STARTED_AT / 1000)
        built = build(PLAIN, ATTEMPT)
        kind, body = built if isinstance(built, tuple) else ("application/json", built)
        said, copy = rules.judge(
            Seen("POST", PATHS[provider], request_headers(provider) | {"Content-Type": kind}, body)
        )
        assert copy is not None, said

    return take


def _set(**fields: object) -> Callable[[FakeServer, Any], None]:
    def change(_: FakeServer, rules: Any) -> None:
        for name, value in fields.items():
            setattr(rules, name, value)

    return change


def _strike(fault: Fault) -> Callable[[FakeServer, Any], None]:
    def change(fake: FakeServer, _: Any) -> None:
        fake.fault = fault

    return change


RULES: dict[str, Callable[..., Any]] = {"sendgrid": SendGridRules, "mailgun": MailgunRules, "resend": ResendRules}
STATES: dict[str, dict[str, Callable[[FakeServer, Any], None]]] = {
    "sendgrid": {
        WORKS: _set(),
        KEY_IS_WRONG: _set(keys=set()),
        DOMAIN_IS_UNVERIFIED: _set(verified_domains={"example.net"}),
        OUT_OF_QUOTA: _set(out_of_credits=True),
        TOO_FAST: _strike(
            Fault(
                kind=FaultKind.STATUS,
                status=429,
                message="too many requests",
                headers={"X-RateLimit-Reset": "1700000007"},
            )
        ),
        IS_DOWN: _strike(_DOWN),
        WAS_TAKEN: _taken_by("sendgrid", sendgrid.build_body),
    },
    "mailgun": {
        WORKS: _set(),
        KEY_IS_WRONG: _set(keys=set()),
        DOMAIN_IS_UNVERIFIED: _set(not_allowed="The domain is unverified and requires DNS configuration."),
        TOO_FAST: _set(limit_exceeded=True),
        WAS_TAKEN: _taken_by("mailgun", mailgun.build_body),
        IS_DOWN: _strike(_DOWN),
    },
    "resend": {
        WORKS: _set(),
        KEY_IS_WRONG: _set(keys=set()),
        DOMAIN_IS_UNVERIFIED: _set(verified_domains={"example.net"}),
        OUT_OF_QUOTA: _set(out_of="daily_quota"),
        TOO_FAST: _set(requests_per_second=0),
        WAS_TAKEN: _seen_by_resend,
        IS_DOWN: _strike(_DOWN),
    },
}


async def check_fake(provider: str) -> None:
    async with FakeServer(RULES[provider]()) as fake:

        def enter(state: str, action: str, parameters: dict[str, Any]) -> None:
            """A new account, and then this. Pact calls it by its parameters' names."""
            if action == "setup":
                fake.fault = None
                fake.vendor = RULES[provider]()
                STATES[provider][state](fake, fake.vendor)

        def prepare(verifier: Verifier) -> Verifier:
            return verifier.add_transport(url=fake.url).state_handler(enter, teardown=True)

        await anyio.to_thread.run_sync(lambda: verify(f"hes-{provider}.json", provider, prepare))


@each_provider
async def test_the_fake_keeps_the_contract_too(provider: str) -> None:
    await check_fake(provider)


async def test_a_fake_that_drifted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATES["resend"], OUT_OF_QUOTA, _set(out_of="hourly_quota"))
    with pytest.raises(AssertionError, match="daily_quota_exceeded"):
        await check_fake("resend")
