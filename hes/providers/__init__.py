"""All providers: the registry, one line for each kind."""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from hes.model import Clock
from hes.provider_settings import Kind, ProviderSettings
from hes.providers import mailgun_hook, resend_hook, sendgrid_hook
from hes.providers.hook import CheckHeaders, ReadEvents
from hes.providers.mailgun import Mailgun
from hes.providers.outbox import Keep, Outbox
from hes.providers.provider import Provider, Support
from hes.providers.resend import Resend
from hes.providers.sendgrid import SendGrid


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a provider may need besides its own settings."""

    clock: Clock
    keep: Keep
    outbox_dir: Path


def _outbox(settings: ProviderSettings, around: Surroundings) -> Provider:
    return Outbox(settings.name, around.keep, around.outbox_dir)


def _sendgrid(settings: ProviderSettings, around: Surroundings) -> Provider:
    return SendGrid.of(settings, around.clock)


def _mailgun(settings: ProviderSettings, around: Surroundings) -> Provider:
    return Mailgun.of(settings, around.clock)


def _resend(settings: ProviderSettings, around: Surroundings) -> Provider:
    return Resend.of(settings, around.clock)


class Entry(Struct, frozen=True):
    """One kind of provider."""

    make: Callable[[ProviderSettings, Surroundings], Provider]
    support: Support
    read_events: ReadEvents | None = None
    """None: it tells nothing afterwards."""
    check_headers: CheckHeaders = lambda _: None
    """Of a vendor whose signature is in the body: all may be good."""
    replay_seconds: float = 0.0
    """As `Replays` has it; 0: it is none."""
    look_up_seconds: float = 0.0
    """Likewise for `LooksUp`."""


REGISTRY: Mapping[str, Entry] = {
    Kind.SENDGRID: Entry(
        _sendgrid,
        SendGrid.support,
        sendgrid_hook.read_events,
        sendgrid_hook.check_headers,
        look_up_seconds=SendGrid.look_up_seconds,
    ),
    Kind.MAILGUN: Entry(_mailgun, Mailgun.support, mailgun_hook.read_events, look_up_seconds=Mailgun.look_up_seconds),
    Kind.RESEND: Entry(
        _resend,
        Resend.support,
        resend_hook.read_events,
        resend_hook.check_headers,
        replay_seconds=Resend.replay_seconds,
    ),
    Kind.OUTBOX: Entry(_outbox, Outbox.support),
}


def make_provider(settings: ProviderSettings, around: Surroundings) -> Provider:
    """The provider that these settings describe. No connection is opened yet."""
    return REGISTRY[settings.kind].make(settings, around)
