"""What a process warns about when it starts: settings that are allowed, and hardly meant so."""

from collections.abc import Iterator

from hes.provider_settings import Kind
from hes.settings import Settings


def start_warnings(settings: Settings) -> list[str]:
    """One sentence each, for the log."""
    return [
        *(f"{name} is set, but has no effect yet" for name in settings.without_effect()),
        *_of_outboxes(settings),
    ]


def _of_outboxes(settings: Settings) -> Iterator[str]:
    """Beside a provider that sends: what they get, and where they get more than is likely to be meant."""
    sending = settings.sending_providers
    outboxes = [provider.name for provider in settings.providers if provider.kind is Kind.OUTBOX]
    if not sending or not outboxes:
        return
    for name in outboxes:
        yield (
            f"{name} keeps emails instead of sending them, so beside {', '.join(sending)} it gets only those of test "
            "keys, and those whose `providers` or route names it"
        )
    mixed = [(stream, group) for stream, groups in settings.routes.items() for group in groups if {*sending} & {*group}]
    for stream, group in mixed:
        for name in group:
            if name in outboxes:
                yield (
                    f"routes.{stream}: {name} takes turns there with providers that send, and keeps its share of these "
                    "emails; in a group of its own, the last one, it would keep what the others have no room for"
                )
