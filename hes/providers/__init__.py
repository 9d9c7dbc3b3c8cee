"""All providers: the registry, one line for each kind."""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from hes.model import Clock
from hes.provider_settings import Kind, ProviderSettings, Secret
from hes.providers.outbox import Keep, Outbox
from hes.providers.provider import Provider
from hes.providers.sendgrid import SendGrid


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a provider may need besides its own settings."""

    clock: Clock
    keep: Keep
    outbox_dir: Path


def _outbox(settings: ProviderSettings, around: Surroundings) -> Provider:
    return Outbox(settings.name, around.keep, around.outbox_dir)


def _sendgrid(settings: ProviderSettings, around: Surroundings) -> Provider:
    return SendGrid(
        name=settings.name,
        api_key=_needed(settings.api_key),
        clock=around.clock,
        base_url=settings.base_url or "https://api.sendgrid.com",
        max_in_flight=settings.max_in_flight,
        connect_timeout_seconds=settings.connect_timeout,
    )


def _needed(secret: Secret | None) -> Callable[[], str]:
    """The settings refuse a provider without it before it comes here."""
    assert secret is not None  # noqa: S101 (for the type checker only)
    return secret.reveal


REGISTRY: Mapping[str, Callable[[ProviderSettings, Surroundings], Provider]] = {
    Kind.OUTBOX: _outbox,
    Kind.SENDGRID: _sendgrid,
}


def make_provider(settings: ProviderSettings, around: Surroundings) -> Provider:
    """The provider that these settings describe. No connection is opened yet."""
    return REGISTRY[settings.kind](settings, around)
