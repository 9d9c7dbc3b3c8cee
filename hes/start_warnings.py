"""What a process warns about when it starts: settings that are allowed, and hardly meant so."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs

from hes.provider_settings import Kind
from hes.secret import Secret, exposed
from hes.settings import Settings


def start_warnings(settings: Settings) -> list[str]:
    """One sentence each, for the log."""
    return [
        *(f"{name} is set, but has no effect yet" for name in settings.without_effect()),
        *_of_outboxes(settings),
        *_of_key_files(settings),
    ]


def flag_warnings(flags: Mapping[str, object]) -> list[str]:
    """Of what stands on the command line, by file key."""
    url = flags.get("database_url")
    if not isinstance(url, str) or not _holds_password(url):
        return []
    wrong = "--database-url holds a password, and everybody on this machine can read a process's arguments"
    return [f"{wrong}: set HES_DATABASE_URL in its place, or say --database-url file:PATH"]


def _holds_password(url: str) -> bool:
    """Between the user's name and an `@`, whatever is in it and should be escaped; or among the parameters."""
    place, _, query = url.partition("://")[2].partition("?")
    user, _, rest = place.partition(":")
    is_there = not {"/", "@"} & set(user) and rest.rpartition("@")[0] != ""
    return is_there or bool({"password", "sslpassword"} & parse_qs(query).keys())


def _of_outboxes(settings: Settings) -> Iterator[str]:
    """Beside providers that send: what they get, and where they get more than is likely to be meant."""
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


def _of_key_files(settings: Settings) -> Iterator[str]:
    """Each file once, however many secrets are read from it."""
    holders = (settings, *settings.providers)
    values = [getattr(holder, field) for holder in holders for field in holder.__struct_fields__]
    files = dict.fromkeys(value.file for value in values if isinstance(value, Secret) and value.file is not None)
    yield from (wrong for file in files if (wrong := exposed(file)) is not None)
