"""Every line of the registry that talks to somebody, and the fake at its other end."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from hes.model import AttemptId, Email, EmailId, Outcome
from hes.provider_settings import Kind, ProviderSettings
from hes.providers import Surroundings, make_provider
from hes.providers.provider import Provider
from hes.secret import Secret
from tests.fakes import an_email
from tests.fakes.faults import FakeServer, Vendor
from tests.fakes.mailgun import DOMAIN, MailgunRules
from tests.fakes.mailgun import KEY as MAILGUN_KEY
from tests.fakes.resend import KEY as RESEND_KEY
from tests.fakes.resend import ResendRules
from tests.fakes.sendgrid import KEY as SENDGRID_KEY
from tests.fakes.sendgrid import SendGridRules

NOW = 1_700_000_000_000
ATTEMPT = AttemptId("0190-attempt")
EMAIL = an_email()


class Line(Struct, frozen=True, kw_only=True):
    """What the suite must know about one kind of provider."""

    kind: Kind
    rules: Callable[..., Vendor]
    """Takes `gives_message_id` at least."""
    key: str
    accepted_status: int
    message_id: str
    """What the fake names the first email."""
    errors: Mapping[int, tuple[Outcome, Outcome]]
    """By status: in the vendor's own shape, and in anybody else's."""
    cannot: Email = an_email(subject="")
    """What it declines before a byte goes out."""
    needs: Mapping[str, Any] = {}
    """Settings besides the API key."""

    def settings(self, fake: FakeServer, api_key: Secret | None = None) -> ProviderSettings:
        secret = api_key or Secret(self.key)
        return ProviderSettings(name="p", kind=self.kind, api_key=secret, base_url=fake.url, **self.needs)


COMMON = {
    400: (Outcome.REJECTED, Outcome.IN_DOUBT),
    401: (Outcome.REFUSED, Outcome.REFUSED),
    403: (Outcome.REFUSED, Outcome.REFUSED),
    404: (Outcome.REFUSED, Outcome.REFUSED),
    408: (Outcome.IN_DOUBT, Outcome.IN_DOUBT),
    413: (Outcome.DECLINED, Outcome.DECLINED),
    429: (Outcome.THROTTLED, Outcome.THROTTLED),
    500: (Outcome.IN_DOUBT, Outcome.IN_DOUBT),
    502: (Outcome.IN_DOUBT, Outcome.IN_DOUBT),
    503: (Outcome.UNAVAILABLE, Outcome.IN_DOUBT),
    504: (Outcome.IN_DOUBT, Outcome.IN_DOUBT),
}
LINES = [
    Line(
        kind=Kind.SENDGRID,
        rules=SendGridRules,
        key=SENDGRID_KEY,
        accepted_status=202,
        message_id="fake-1",
        errors=COMMON | {451: (Outcome.REFUSED, Outcome.REFUSED)},
    ),
    Line(
        kind=Kind.MAILGUN,
        rules=MailgunRules,
        key=MAILGUN_KEY,
        accepted_status=200,
        message_id=EMAIL.message_id,
        errors=COMMON | {402: (Outcome.REFUSED, Outcome.REFUSED)},
        needs={"domain": DOMAIN},
    ),
    Line(
        kind=Kind.RESEND,
        rules=ResendRules,
        key=RESEND_KEY,
        accepted_status=200,
        message_id="fake-1",
        errors=COMMON
        | {
            405: (Outcome.REFUSED, Outcome.REFUSED),
            409: (Outcome.IN_DOUBT, Outcome.IN_DOUBT),
            422: (Outcome.REJECTED, Outcome.IN_DOUBT),
            451: (Outcome.DECLINED, Outcome.IN_DOUBT),
        },
    ),
]


async def _never_kept(_email: EmailId, _attempt: AttemptId, _message: bytes) -> None:
    raise AssertionError


def made(settings: ProviderSettings) -> Provider:
    """As the registry makes it."""
    return make_provider(settings, Surroundings(clock=lambda: NOW, keep=_never_kept, outbox_dir=Path("none")))


@asynccontextmanager
async def talking(
    line: Line, rules: Vendor | None = None, api_key: Secret | None = None
) -> AsyncIterator[tuple[Provider, FakeServer]]:
    """The provider, and the fake that it talks to."""
    async with FakeServer(rules or line.rules()) as fake:
        provider = made(line.settings(fake, api_key))
        try:
            yield provider, fake
        finally:
            await provider.aclose()
