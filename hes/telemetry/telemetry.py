"""What the parts record with, and the trace that is current. Imports no OpenTelemetry: `hes.telemetry.recording` does.

A `Telemetry` as it is here tells nothing and costs next to nothing; it is what everybody has where nobody listens. The
current span is a context variable, so that the log and the calls to providers find it without being handed it.

A trace's context travels as W3C traceparent (w3.org/TR/trace-context): in the caller's header, with the stored email,
in the header to the provider. `tracestate` does not.
"""

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hes.model import AttemptId, Email, Leased
from hes.telemetry.names import Metric

if TYPE_CHECKING:
    from yarl import URL  # not for `hes --help`, which has no use for it

Values = Collection[tuple[float, Mapping[str, str]]]
"""What a gauge shows: values, each with its attributes."""
App = Callable[[Any, Any, Any], Any]
"""An ASGI application."""


class Part:
    """Something that takes time: use it as a context manager. This one records nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return

    def holds(self, traces: Collection[str]) -> None:
        """Of a batch: the traces of the emails in it, "" for one without. None at all: it was no batch."""

    def ended(self, outcome: object) -> None:
        """Of an attempt, a question or a call to a provider: an outcome, a status code, or why there is none.

        An attempt of which this is never said was not tried.
        """


_NOTHING = Part()


class Current(Part):
    """The span that is current while its block runs, with its ids in hexadecimal. This one is not recorded."""

    trace_id: str
    span_id: str
    traceparent: str
    _token: "Token[Current | None]"

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)

    def note(self, attribute: str, value: str | int) -> None:
        """One more attribute."""

    def calling(self, method: str, url: "URL") -> Part:  # noqa: ARG002 (nothing is recorded)
        """Around one call to a provider; inside of it the call is current."""
        return _NOTHING


class Carried(Current):
    """In the place of a span: makes none, and carries the ids on, for the log and for providers."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        self.trace_id = traceparent[3:35]
        self.span_id = traceparent[36:52]


_current: ContextVar[Current | None] = ContextVar("hes_current_span", default=None)


def current() -> Current | None:
    """The span that this task is in, if there are traces."""
    return _current.get()


def traceparent() -> str:
    """Its context, to be carried on; "": there is none."""
    span = _current.get()
    return span.traceparent if span is not None else ""


def within(trace: str) -> Part:
    """What is logged inside of it belongs to the span that this traceparent names; "": to none, or as before."""
    return Carried(trace) if trace else _NOTHING


def note(attribute: str, value: str | int) -> None:
    """One more attribute of the current span."""
    span = _current.get()
    if span is not None:
        span.note(attribute, value)


def calling(method: str, url: "URL") -> Part:
    """Around one call to a provider. Of the URL the query is left out: it may hold an address."""
    span = _current.get()
    return span.calling(method, url) if span is not None else _NOTHING


class Telemetry:
    """What is recorded. This one records nothing."""

    exposition: Callable[[], bytes] | None = None
    """Makes the text of /metrics; in a thread, it takes some milliseconds. None: there is no such page."""
    has_metrics = False
    has_traces = False

    def around(self, app: App) -> App:
        """The application, with each request recorded."""
        return app

    def batch(self, operation: str) -> Part:  # noqa: ARG002 (nothing is recorded; likewise below)
        """Around a transaction of the email's way: `accept`, `lease`, `settle`, `record`. Errors are counted."""
        return _NOTHING

    def attempt(self, leased: Leased) -> Part:  # noqa: ARG002
        """Around one attempt; inside of it the attempt is current."""
        return _NOTHING

    def asking(self, email: Email, attempt_id: AttemptId, provider: str) -> Part:  # noqa: ARG002
        """Around one question about a doubt, as around an attempt."""
        return _NOTHING

    def begin(self, metric: Metric, *attributes: str | int) -> None:
        """Show this series of a counter or histogram from now on, at 0 if nothing was counted before.

        Attributes as the metric names them, in that order.
        """

    def count(self, metric: Metric, amount: int = 1, **attributes: str) -> None:
        """Add to a counter. Attributes by their constant's name in lower case: `provider="mailgun"`."""

    def record(self, metric: Metric, value: float, *attributes: str | int) -> None:
        """One more value of a histogram. Attributes as the metric names them, in that order."""

    def show(self, metric: Metric, values: Values) -> None:
        """What a gauge shows from now on."""

    def close(self, within_seconds: float) -> None:
        """Export what is left. Blocks that long at most. Again: only waits for that."""


OFF = Telemetry()
