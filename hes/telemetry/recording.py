"""Telemetry that tells: spans and metrics by the OpenTelemetry SDK, out by OTLP and to /metrics.

What it costs was measured (`benchmarks/telemetry.py`): an email's six spans with their export half a millisecond, more
than half of what all else costs that is done for it. So of new traces a process begins at most `TRACES_PER_SECOND`
unless OTEL_TRACES_SAMPLER says otherwise; one that was begun is recorded to its end, in whatever process. Histograms
are ours (`hes.telemetry.histograms`).
"""

import os
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from types import TracebackType
from typing import Any, Self

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, generate_latest

from hes.model import AttemptId, Email, Leased
from hes.telemetry import names
from hes.telemetry.histograms import Exported, Histograms, Page
from hes.telemetry.names import Metric, Span
from hes.telemetry.spans import Attributes, Open, Spans, Sparing
from hes.telemetry.telemetry import App, Current, Part, Telemetry, Values

TRACES_PER_SECOND = 10
"""How many a process begins, unless OTEL_TRACES_SAMPLER says otherwise."""
NOT_TRIED = "not_tried"


class Recording(Telemetry):
    """Records with these; spans or meters may be missing."""

    def __init__(
        self,
        spans: Spans | None,
        meters: MeterProvider | None,
        histograms: Histograms,
        exposition: Callable[[], bytes] | None,
    ) -> None:
        self.spans = spans
        self._meters = meters
        self._histograms = histograms
        self._counters: dict[str, Any] = {}
        self._shown: dict[str, Values] = {}
        self._closing: threading.Thread | None = None
        self.has_metrics = meters is not None
        self.has_traces = spans is not None
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

    def begin(self, metric: Metric, *attributes: str | int) -> None:
        if not self.has_metrics:
            return
        if metric.kind == "histogram":
            self._histograms.begin(metric, attributes)
        else:
            self._counters[metric.name].add(0, dict(zip(metric.attributes, attributes, strict=True)))

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
        return _Batch(self, operation)

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

    def close(self, within_seconds: float) -> None:
        """What can't be exported in that time is lost: a stop must not wait for a collector that is away."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._close, daemon=True)
            self._closing.start()
        self._closing.join(within_seconds)

    def _close(self) -> None:
        if self.spans is not None:
            self.spans.close()
        if self._meters is not None:
            self._meters.shutdown()


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
        if (spans := self._telemetry.spans) is not None:
            self._span = spans.of_request(scope["method"], scope["scheme"], scope["headers"])
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
            if isinstance(self._span, Open):
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
        if (spans := self._telemetry.spans) is not None:
            self._span = spans.of_email(self._kind, self._email, self._attributes)
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

    def __init__(self, telemetry: Recording, operation: str) -> None:
        self._telemetry = telemetry
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
        if self._telemetry.spans is not None:
            self._telemetry.spans.of_batch(self._operation, self._traces, self._began_ns, failed)


def start(*, traces: bool, metrics: bool, page: bool, version: str, instance: str, role: str) -> Telemetry:
    """Begin to record, as the OTEL_* variables say. `traces`, `metrics`: by OTLP. `page`: for /metrics.

    Must be called in the process that records, after any fork.
    """
    given = OTELResourceDetector().detect().attributes
    ours = {names.SERVICE: "hes", names.VERSION: version, names.INSTANCE: instance, names.ROLE: role}
    resource = Resource.create({**ours, **given})
    spans = None
    if traces:
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        spans = Spans(tracers, None if os.environ.get("OTEL_TRACES_SAMPLER") else Sparing(TRACES_PER_SECOND))
    histograms = Histograms(names.METRICS)
    registry = CollectorRegistry()
    readers: list[MetricReader] = []
    if page:
        readers.append(Page(histograms, scope_info_enabled=False, registry=registry))
    if metrics:
        cumulative: dict[type, AggregationTemporality] = {Counter: AggregationTemporality.CUMULATIVE}
        readers.append(Exported(histograms, OTLPMetricExporter(preferred_temporality=cumulative)))
    return Recording(
        spans,
        MeterProvider(readers, resource, shutdown_on_exit=False) if readers else None,
        histograms,
        partial(generate_latest, registry) if page else None,
    )
