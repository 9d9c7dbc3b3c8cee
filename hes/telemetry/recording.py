"""Telemetry that tells: spans and metrics by the OpenTelemetry SDK, out by OTLP and to /metrics.

What it costs was measured (`benchmarks/telemetry.py`): an email's six spans with their export half a millisecond, more
than half of what all else costs that is done for it. So of new traces a process begins at most `TRACES_PER_SECOND`
unless OTEL_TRACES_SAMPLER says otherwise; one that was begun is recorded to its end, in whatever process. What is not
sampled makes no object of the SDK's, and histograms are ours (`hes.telemetry.histograms`).

A batch joins the traces of its emails. Its span is a child of the first one that is sampled and links to the others: so
in a quiet HES each trace shows its own commits, and in a busy one nothing is recorded once per email that happened once
per batch.
"""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Collection
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import Any, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from prometheus_client import CollectorRegistry, generate_latest
from yarl import URL

from hes.model import AttemptId, Email, Leased
from hes.telemetry import names
from hes.telemetry.histograms import Exported, Histograms, Page
from hes.telemetry.names import Metric, Span
from hes.telemetry.telemetry import App, Carried, Current, Part, Telemetry, Values, _current, traceparent

TRACES_PER_SECOND = 10
"""How many a process begins, unless OTEL_TRACES_SAMPLER says otherwise."""
MOST_LINKS = 100

Attributes = dict[str, str | int]

_NOWHERE = Context()
_KINDS = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_BATCHES = {
    "accept": (names.ACCEPT, "send"),
    "lease": (names.LEASE, "receive"),
    "settle": (names.SETTLE, "settle"),
    "record": (names.RECORD, "process"),
}
_ODD = frozenset("13579bdf")
_READING = frozenset({"GET", "HEAD"})
NOT_TRIED = "not_tried"


class Sparing:
    """A trace that is sampled goes on; of new ones and of callers' own at most so many a second begin here.

    Reading has a count of its own: whoever asks again and again what became of an email must not push out the sends.
    Not one of the SDK's samplers: by then it has cost most of what a span costs.
    """

    def __init__(self, per_second: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._left = {is_read: (per_second, monotonic()) for is_read in (False, True)}

    def begins(self, parent: SpanContext | None, *, is_read: bool = False) -> bool:
        """Whether a span is to be recorded here that begins a trace, or whose parent is somebody else's."""
        if parent is not None and not parent.trace_flags.sampled:
            return False
        left, at = self._left[is_read]
        now = self._monotonic()
        left = min(self._per_second, left + (now - at) * self._per_second)
        self._left[is_read] = (left - 1 if left >= 1 else left), now
        return left >= 1


class Recording(Telemetry):
    """Records with these; tracers or meters may be missing. `sparing` None: the tracers' own sampler decides."""

    def __init__(
        self,
        tracers: TracerProvider | None,
        meters: MeterProvider | None,
        histograms: Histograms,
        *,
        sparing: Sparing | None,
        exposition: Callable[[], bytes] | None,
    ) -> None:
        self._tracers = tracers
        self._meters = meters
        self._tracer = tracers.get_tracer("hes") if tracers is not None else None
        self._sparing = sparing
        self._histograms = histograms
        self._counters: dict[str, Any] = {}
        self._shown: dict[str, Values] = {}
        self._closing: threading.Thread | None = None
        self.has_metrics = meters is not None
        self.has_traces = tracers is not None
        self.exposition = exposition
        if meters is not None:
            self._make_instruments(meters)

    def _make_instruments(self, meters: MeterProvider) -> None:
        meter = meters.get_meter("hes")
        for one in names.METRICS:
            if one.kind == "counter":
                self._counters[one.name] = meter.create_counter(one.name, one.unit, one.help)
            elif one.kind == "gauge":
                meter.create_observable_gauge(one.name, [self._showing(one.name)], one.unit, one.help)

    def _showing(self, name: str) -> Callable[[Any], list[Observation]]:
        return lambda _options: [Observation(value, dict(shown)) for value, shown in self._shown.get(name, ())]

    # --- metrics -------------------------------------------------------------------------------------------------

    def count(self, metric: Metric, amount: int = 1, **attributes: str) -> None:
        if self.has_metrics and amount:
            named = {getattr(names, name.upper()): value for name, value in attributes.items()}
            self._counters[metric.name].add(amount, named)

    def record(self, metric: Metric, value: float, *attributes: str | int) -> None:
        if self.has_metrics:
            self._histograms.record(metric, value, attributes)

    def show(self, metric: Metric, values: Values) -> None:
        self._shown[metric.name] = values

    # --- traces --------------------------------------------------------------------------------------------------

    def around(self, app: App) -> App:
        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] == "/metrics" or scope["path"].startswith("/health/"):
                await app(scope, receive, send)
                return
            with _Request(self, scope) as request:

                async def watched(message: Any) -> None:
                    if message["type"] == "http.response.start":
                        request.ended(message["status"])
                    await send(message)

                await app(scope, receive, watched)

        return recorded

    def batch(self, operation: str) -> Part:
        return _Batch(self, self._tracer, operation)

    def attempt(self, leased: Leased) -> Part:
        def attributes() -> Attributes:
            return {
                names.MESSAGING_OPERATION: "attempt",
                names.ATTEMPT: leased.attempt_id,
                names.NUMBER: leased.number,
                names.PROVIDER: leased.provider,
            }

        def over(outcome: str, seconds: float) -> str:
            if not outcome:  # what no byte went out for is no attempt
                self.count(names.NOT_TRIED, provider=leased.provider)
                return NOT_TRIED
            self.record(names.ATTEMPT_SECONDS, seconds, leased.provider, outcome)
            if leased.failed_over_from is not None:
                self.count(names.FAILOVERS, provider=leased.failed_over_from)
            return outcome

        return _OfEmail(self, names.SEND, leased.email, attributes, over, names.OUTCOME)

    def asking(self, email: Email, attempt_id: AttemptId, provider: str) -> Part:
        def attributes() -> Attributes:
            return {names.MESSAGING_OPERATION: "ask", names.ATTEMPT: attempt_id, names.PROVIDER: provider}

        def over(found: str, seconds: float) -> str:
            if found:
                self.record(names.QUESTION_SECONDS, seconds, provider, found)
            return found

        return _OfEmail(self, names.ASK, email, attributes, over, names.FOUND)

    def span_of_request(self, method: str, scheme: str, headers: Collection[tuple[bytes, bytes]]) -> Current | None:
        """None: there are no traces."""
        if self._tracer is None:
            return None
        given = [value for name, value in headers if name == b"traceparent"]
        parent = context_of(given[0].decode("latin-1")) if len(given) == 1 else None
        if self._sparing is not None and not self._sparing.begins(parent, is_read=method in _READING):
            return _carried(parent)
        attributes: Attributes = {names.METHOD: method, names.SCHEME: scheme}
        return _Open(self._tracer, names.REQUEST, method, _below(parent), attributes)

    def span_of_email(self, kind: Span, email: Email, attributes: Callable[[], Attributes]) -> Current | None:
        """A part of its trace, or the beginning of one. None: there are no traces."""
        if self._tracer is None:
            return None
        if email.trace and not is_sampled(email.trace):
            return Carried(email.trace)
        parent = context_of(email.trace)
        if parent is None and self._sparing is not None and not self._sparing.begins(None):
            return _carried(None)
        of_message: Attributes = {
            names.MESSAGING: "hes",
            names.DESTINATION: "emails",
            names.MESSAGING_TYPE: "process",
            names.MESSAGE: email.id,
            names.EMAIL: email.id,
        }
        return _Open(self._tracer, kind, kind.name, _below(parent), of_message | attributes())

    def close(self, within_seconds: float) -> None:
        """What can't be exported in that time is lost: a stop must not wait for a collector that is away."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._close, daemon=True)
            self._closing.start()
        self._closing.join(within_seconds)

    def _close(self) -> None:
        for provider in (self._tracers, self._meters):
            if provider is not None:
                provider.shutdown()


def context_of(traceparent: str) -> SpanContext | None:
    """None: there is none, or it is malformed."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    flags = TraceFlags(int(found[3], 16) & TraceFlags.SAMPLED)
    return SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)


def is_sampled(traceparent: str) -> bool:
    """Whether the last bit of its flags is set."""
    return traceparent[-1:] in _ODD


def _below(parent: SpanContext | None) -> Context:
    return _NOWHERE if parent is None else set_span_in_context(NonRecordingSpan(parent), _NOWHERE)


class _Open(Current):
    """A span that is under way; current while its block runs."""

    def __init__(self, tracer: Tracer, span: Span, name: str, parent: Context, attributes: Attributes) -> None:
        self._tracer = tracer
        self._span = tracer.start_span(name, parent, _KINDS[span.kind], attributes)
        context = self._span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{context.trace_flags:02x}"
        self._token: Token[Current | None] | None = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.failed(kind.__name__)
        if self._token is not None:
            _current.reset(self._token)
        self._span.end()

    @property
    def span(self) -> SdkSpan:
        return self._span

    def note(self, attribute: str, value: str | int) -> None:
        self._span.set_attribute(attribute, value)

    def failed(self, why: str) -> None:
        self._span.set_attribute(names.ERROR, why)
        self._span.set_status(StatusCode.ERROR)

    def calling(self, method: str, url: URL) -> Part:
        if not self._span.is_recording():
            return super().calling(method, url)
        parent = set_span_in_context(self._span, _NOWHERE)
        attributes: Attributes = {
            names.METHOD: method,
            names.URL: str(url.with_query(None)),
            names.ADDRESS: url.host or "",
            names.PORT: url.port or 0,
        }
        return _Call(self._tracer, names.CALL, method, parent, attributes)


def _carried(parent: SpanContext | None) -> Carried:
    """What is not sampled: with an id of its own, and of a trace of its own if it has no parent."""
    trace_id = random.getrandbits(128) if parent is None else parent.trace_id
    return Carried(f"00-{trace_id:032x}-{random.getrandbits(64):016x}-00")


class _Call(_Open):
    """One call to a provider."""

    def ended(self, outcome: object) -> None:
        if isinstance(outcome, int):
            self._span.set_attribute(names.STATUS_CODE, outcome)
        if not isinstance(outcome, int) or outcome >= 400:
            self.failed(str(outcome))


class _Request(Part):
    """One request, from before its route is known."""

    def __init__(self, telemetry: Recording, scope: Any) -> None:
        self._telemetry = telemetry
        self._scope = scope
        self._span: Current | None = None
        self._status = 500
        self._began = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        scope = self._scope
        self._span = self._telemetry.span_of_request(scope["method"], scope["scheme"], scope["headers"])
        if self._span is not None:
            self._span.__enter__()
        return self

    def ended(self, outcome: object) -> None:
        self._status = int(str(outcome))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        method = self._scope["method"]
        route = self._scope.get("path_template") or "none"
        self._telemetry.record(names.REQUEST_SECONDS, time.perf_counter() - self._began, method, route, self._status)
        if self._span is not None:
            if isinstance(self._span, _Open):
                self._span.span.update_name(f"{method} {route}")
                self._span.note(names.ROUTE, route)
                self._span.note(names.STATUS_CODE, self._status)
                if self._status >= 500:
                    self._span.failed(str(self._status))
            self._span.__exit__(kind, error, traceback)


class _OfEmail(Part):
    """Something that is done with one email and ends in a word: it goes on with the email's trace."""

    def __init__(
        self,
        telemetry: Recording,
        kind: Span,
        email: Email,
        attributes: Callable[[], Attributes],
        over: Callable[[str, float], str],
        word: str,
    ) -> None:
        """`over`: is told how it ended ("": nobody said) and after how many seconds; returns what to call that.

        `word`: the attribute for it.
        """
        self._telemetry = telemetry
        self._kind = kind
        self._email = email
        self._attributes = attributes
        self._over = over
        self._word = word
        self._span: Current | None = None
        self._outcome = ""
        self._began = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._span = self._telemetry.span_of_email(self._kind, self._email, self._attributes)
        if self._span is not None:
            self._span.__enter__()
        return self

    def ended(self, outcome: object) -> None:
        self._outcome = str(outcome)
        self._seconds = time.perf_counter() - self._began

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        said = self._over(self._outcome, self._seconds) if self._outcome or kind is None else ""
        if self._span is not None:
            if said:
                self._span.note(self._word, said)
            self._span.__exit__(kind, error, traceback)


class _Batch(Part):
    """One transaction over a batch: a value each of size and time, and a span if any of its emails is traced."""

    def __init__(self, telemetry: Recording, tracer: Tracer | None, operation: str) -> None:
        self._telemetry = telemetry
        self._tracer = tracer
        self._operation = operation
        self._traces: Collection[str] = ()
        self._began = 0.0
        self._began_ns = 0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._began_ns = time.time_ns()
        return self

    def holds(self, traces: Collection[str]) -> None:
        self._traces = traces

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = kind.__name__ if isinstance(error, Exception) and kind is not None else ""
        if failed:
            self._telemetry.count(names.STORAGE_ERRORS, operation=self._operation, error=failed)
        if not self._traces:
            return
        if not failed:
            self._telemetry.record(names.BATCH_SECONDS, time.perf_counter() - self._began, self._operation)
            self._telemetry.record(names.BATCH_SIZE, len(self._traces), self._operation)
        if self._tracer is not None and (sampled := [trace for trace in self._traces if is_sampled(trace)]):
            self._trace(self._tracer, sampled, failed)

    def _trace(self, tracer: Tracer, traces: list[str], failed: str) -> None:
        first, *others = (context for trace in dict.fromkeys(traces) if (context := context_of(trace)) is not None)
        span, kind = _BATCHES[self._operation]
        attributes: Attributes = {
            names.MESSAGING: "hes",
            names.DESTINATION: "emails",
            names.MESSAGING_OPERATION: self._operation,
            names.MESSAGING_TYPE: kind,
            names.MESSAGES: len(self._traces),
        }
        here = context_of(traceparent()) if is_sampled(traceparent()) else None  # such as the request that told it
        if here is not None and here.trace_id != first.trace_id:
            others.insert(0, here)
        links = [Link(other) for other in others[:MOST_LINKS]]
        made = tracer.start_span(
            span.name, _below(first), _KINDS[span.kind], attributes, links, start_time=self._began_ns
        )
        if failed:
            made.set_attribute(names.ERROR, failed)
            made.set_status(StatusCode.ERROR)
        made.end()


def start(*, traces: bool, metrics: bool, page: bool, version: str, instance: str, role: str) -> Telemetry:
    """Begin to record, as the OTEL_* variables say. `traces`, `metrics`: by OTLP. `page`: for /metrics.

    Must be called in the process that records, after any fork.
    """
    given = OTELResourceDetector().detect().attributes
    ours = {names.SERVICE: "hes", names.VERSION: version, names.INSTANCE: instance, names.ROLE: role}
    resource = Resource.create({**ours, **given})
    tracers = None
    if traces:
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    histograms = Histograms(names.METRICS)
    registry = CollectorRegistry()
    readers: list[MetricReader] = []
    if page:
        readers.append(Page(histograms, scope_info_enabled=False, registry=registry))
    if metrics:
        cumulative: dict[type, AggregationTemporality] = {Counter: AggregationTemporality.CUMULATIVE}
        readers.append(Exported(histograms, OTLPMetricExporter(preferred_temporality=cumulative)))
    return Recording(
        tracers,
        MeterProvider(readers, resource, shutdown_on_exit=False) if readers else None,
        histograms,
        sparing=None if os.environ.get("OTEL_TRACES_SAMPLER") else Sparing(TRACES_PER_SECOND),
        exposition=partial(generate_latest, registry) if page else None,
    )
