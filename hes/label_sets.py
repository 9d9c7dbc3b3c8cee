"""The label sets that a process knows of at its start. Their counters and histograms begin at 0 then.

Why: for Prometheus a series' first value is no increase, whatever it is. One that springs up at 5 has had five bounces
that no `rate` and no `increase` ever sees, and so no alert.

Only what the process counts in its role. What nobody can know at the start is named in docs/observability.md.
"""

from collections.abc import Iterable, Iterator
from itertools import product

from hes.configured import all_providers, means
from hes.errors import CommitUnknown, StorageBroken, StorageUnavailable
from hes.model import Outcome, Resolution
from hes.providers.finding import Found
from hes.settings import Settings
from hes.storage.event_store import UNKNOWN
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.told import EventKind

Series = tuple[Metric, *tuple[str | int, ...]]
"""A metric, and the values of its attributes in its order."""
_STORAGE_ERRORS = tuple(error.__name__ for error in (StorageUnavailable, CommitUnknown, StorageBroken))
# Plain texts, as they are counted later: to the SDK a member of an enum that equals a text is another series.
_EVENTS = (*(kind.value for kind in EventKind), UNKNOWN)
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_FOUND = tuple(found.value for found in Found)
_RESOLUTIONS = tuple(resolution.value for resolution in Resolution)


def known_at_start(
    settings: Settings, answers: Iterable[tuple[str, str, int]], hooks: Iterable[str]
) -> Iterator[Series]:
    """`answers`: to requests, each as method, route and status. `hooks`: the providers whose events are taken."""
    accepts, sends = settings.role != "mailer", settings.role != "api"
    yield (names.LOOP_LAG,)
    yield from ((names.REQUEST_SECONDS, *answer) for answer in answers)
    yield from ((names.DOUBT_SECONDS, *of) for of in product(_names(settings), _RESOLUTIONS))
    yield from _transactions([*["accept"] * accepts, *["lease", "settle"] * sends, "record"])
    yield from _storage_errors(["record", "count", *["accept"] * accepts, *["lease", "settle", "sweep"] * sends])
    if accepts:
        yield from ((names.EVENTS, *of) for of in product(hooks, _EVENTS))
    if sends:
        yield from _of_senders(settings)


def _transactions(operations: Iterable[str]) -> Iterator[Series]:
    return ((metric, operation) for metric in (names.BATCH_SECONDS, names.BATCH_SIZE) for operation in operations)


def _storage_errors(operations: Iterable[str]) -> Iterator[Series]:
    return ((names.STORAGE_ERRORS, *of) for of in product(operations, _STORAGE_ERRORS))


def _of_senders(settings: Settings) -> Iterator[Series]:
    yield from ((names.ATTEMPT_SECONDS, *of) for of in product(_names(settings), _OUTCOMES))
    yield from ((names.QUESTION_SECONDS, *of) for of in product(means(settings), _FOUND))
    yield from product((names.NOT_TRIED, names.FAILOVERS, names.DOUBTS), _names(settings))
    yield (names.LAPSED,)
    yield (names.EXPIRED,)


def _names(settings: Settings) -> list[str]:
    return [provider.name for provider in all_providers(settings)]
