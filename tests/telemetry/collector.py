"""An OTLP collector in the test's own loop: a real HTTP server on loopback that decodes what comes as protobuf."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from msgspec import Struct, field
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


class SpanSeen(Struct, frozen=True, kw_only=True):
    """One exported span; ids in hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    is_error: bool
    resource: dict[str, Any]
    seconds: float


class Collector(Struct):
    """What was exported so far."""

    url: str = ""
    spans: list[SpanSeen] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """The latest of each name, as OTLP has it."""
    resources: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    is_away: bool = False
    """It answers 503 to everything."""

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.is_away:
            return web.Response(status=503)
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if request.path == "/v1/traces":
            self._take_traces(ExportTraceServiceRequest.FromString(body))
        elif request.path == "/v1/metrics":
            self._take_metrics(ExportMetricsServiceRequest.FromString(body))
        else:
            return web.Response(status=404)
        return web.Response(content_type="application/x-protobuf")

    def _take_traces(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            resource = values(of_resource.resource.attributes)
            self.resources.append(resource)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        SpanSeen(
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            name=span.name,
                            kind=KINDS[span.kind],
                            attributes=values(span.attributes),
                            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                            is_error=span.status.code == 2,
                            resource=resource,
                            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        )
                    )

    def _take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for of_resource in request.resource_metrics:
            self.resources.append(values(of_resource.resource.attributes))
            for scope in of_resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}

    def named(self, name: str) -> list[SpanSeen]:
        return [span for span in self.spans if span.name == name]


def values(attributes: Any) -> dict[str, Any]:
    """Plain values of OTLP's."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    seen = Collector()
    server = web.ServerRunner(web.Server(seen.take))
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    seen.url = f"http://127.0.0.1:{server.addresses[0][1]}"
    try:
        yield seen
    finally:
        await server.cleanup()
