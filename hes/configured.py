"""What the settings mean for the parts: rules for the policy, settings for a gate, and which providers there are."""

from hes.actors.gate import GateSettings
from hes.case import Backoff, Means, Rules
from hes.provider_settings import ProviderSettings, plain_outbox
from hes.providers import REGISTRY
from hes.routing import OUTBOX
from hes.settings import Settings


def all_providers(settings: Settings) -> tuple[ProviderSettings, ...]:
    """The configured ones, and the built-in outbox of test keys if it is not among them."""
    if any(provider.name == OUTBOX for provider in settings.providers):
        return settings.providers
    return (*settings.providers, plain_outbox(settings))


def rules_of(settings: Settings) -> Rules:
    return Rules(
        providers=tuple(provider.name for provider in settings.providers),
        default_group=settings.sending_providers,
        routes=settings.routes,
        backoffs={p.name: Backoff(p.retry_base_seconds, p.retry_cap_seconds) for p in all_providers(settings)},
        daily_quotas=daily_quotas(settings),
        lease_seconds=settings.lease_seconds,
        call_seconds=settings.longest_call_seconds,
        means=means(settings),
        keep_drafts_ms=settings.retention_drafts * 24 * 3600 * 1000 or None,
    )


def means(settings: Settings) -> dict[str, Means]:
    """Of the providers that can be asked about a doubt, and are to be."""
    found = {
        p.name: Means(
            doubt_seconds=p.doubt_seconds,
            replay_seconds=REGISTRY[p.kind].replay_seconds,
            look_up_seconds=REGISTRY[p.kind].look_up_seconds,
        )
        for p in settings.providers
        if p.doubt_seconds > 0
    }
    return {name: one for name, one in found.items() if one.replay_seconds or one.look_up_seconds}


def daily_quotas(settings: Settings) -> dict[str, int]:
    return {p.name: p.daily_quota for p in settings.providers if p.daily_quota is not None}


def gate_settings(provider: ProviderSettings) -> GateSettings:
    return GateSettings(
        fail_max=provider.gate_fail_max,
        open_seconds=provider.gate_open_seconds,
        max_in_flight=provider.max_in_flight,
        rate_per_second=provider.rate_per_second,
        weight=provider.weight,
    )
