"""Spans: which traces are recorded, and what each span says.

What is not sampled makes no object of the SDK's; its ids are carried on all the same, for the log and for providers.

A batch joins the traces of its emails. Its span is a child of the first one that is sampled and links to the others: so
in a quiet HES each trace shows its own commits, and in a busy one nothing is recorded once per email that happened once
per batch.
"""

import random
import re
import time
from collections.abc import Callable, Collection
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
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
from yarl import URL

from hes.model import Email
from hes.telemetry import names
from hes.telemetry.names import Span
from hes.telemetry.telemetry import Carried, Current, Part, traceparent

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


class Spans:
    """Makes them. `sparing` None: the tracers' own sampler decides."""

    def __init__(self, tracers: TracerProvider, sparing: Sparing | None) -> None:
        self._tracers = tracers
        self._tracer = tracers.get_tracer("hes")
        self._sparing = sparing

    def close(self) -> None:
        """Export what is left. Blocks."""
        self._tracers.shutdown()

    def of_request(self, method: str, scheme: str, headers: Collection[tuple[bytes, bytes]]) -> Current:
        given = [value for name, value in headers if name == b"traceparent"]
        parent = context_of(given[0].decode("latin-1")) if len(given) == 1 else None
        if self._sparing is not None and not self._sparing.begins(parent, is_read=method in _READING):
            return _carried(parent)
        attributes: Attributes = {names.METHOD: method, names.SCHEME: scheme}
        return Open(self._tracer, names.REQUEST, method, _below(parent), attributes)

    def of_email(self, kind: Span, email: Email, attributes: Callable[[], Attributes]) -> Current:
        """A part of its trace, or the beginning of one."""
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
        return Open(self._tracer, kind, kind.name, _below(parent), of_message | attributes())

    def of_batch(self, operation: str, traces: Collection[str], began_ns: int, failed: str) -> None:
        """One that is over. `traces`: of its emails, as `Part.holds` has them; none if nobody's is sampled."""
        sampled = dict.fromkeys(trace for trace in traces if is_sampled(trace))
        contexts = [context for trace in sampled if (context := context_of(trace)) is not None]
        if not contexts:
            return
        first, *others = contexts
        here = context_of(traceparent()) if is_sampled(traceparent()) else None  # such as the request that told it
        if here is not None and here.trace_id != first.trace_id:
            others.insert(0, here)
        span, kind = _BATCHES[operation]
        attributes: Attributes = {
            names.MESSAGING: "hes",
            names.DESTINATION: "emails",
            names.MESSAGING_OPERATION: operation,
            names.MESSAGING_TYPE: kind,
            names.MESSAGES: len(traces),
        }
        links = [Link(other) for other in others[:MOST_LINKS]]
        made = self._tracer.start_span(
            span.name, _below(first), _KINDS[span.kind], attributes, links, start_time=began_ns
        )
        if failed:
            made.set_attribute(names.ERROR, failed)
            made.set_status(StatusCode.ERROR)
        made.end()


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


class Open(Current):
    """A span that is under way."""

    def __init__(self, tracer: Tracer, span: Span, name: str, parent: Context, attributes: Attributes) -> None:
        self._tracer = tracer
        self._span = tracer.start_span(name, parent, _KINDS[span.kind], attributes)
        context = self._span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{context.trace_flags:02x}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.failed(kind.__name__)
        super().__exit__(kind, error, traceback)
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


class _Call(Open):
    """One call to a provider."""

    def ended(self, outcome: object) -> None:
        if isinstance(outcome, int):
            self._span.set_attribute(names.STATUS_CODE, outcome)
        if not isinstance(outcome, int) or outcome >= 400:
            self.failed(str(outcome))
