"""Histograms that cost little: counted here, and handed to the SDK's readers when these collect.

Why not the SDK's: one value costs it 7 us, and 4 more for a second reader, here about one; and there is one for each
request and one for each attempt. Given up: exemplars, and any temporality but cumulative.
"""

import time
from bisect import bisect_left
from math import isfinite
from typing import Any

from msgspec import Struct
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric

from hes.telemetry.names import Metric

Attribute = str | int


class _Series(Struct):
    """Of one set of attributes."""

    counts: list[int]
    """For each bucket, and one above them all."""
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")


class Histograms:
    """All of a process. Values come from one thread; any may look."""

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self._metrics = {metric.name: metric for metric in metrics if metric.kind == "histogram"}
        self._series: dict[str, dict[tuple[Attribute, ...], _Series]] = {name: {} for name in self._metrics}
        self._since = time.time_ns()

    def begin(self, metric: Metric, attributes: tuple[Attribute, ...]) -> _Series:
        """The series of these attributes, which is there from now on. As the metric names them, in that order."""
        return self._series[metric.name].setdefault(attributes, _Series([0] * (len(metric.buckets) + 1)))

    def record(self, metric: Metric, value: float, attributes: tuple[Attribute, ...]) -> None:
        """One more value. Attributes as the metric names them, in that order."""
        series = self._series[metric.name].get(attributes) or self.begin(metric, attributes)
        series.counts[bisect_left(metric.buckets, value)] += 1  # a bucket holds its upper bound
        series.total += value
        series.least = min(series.least, value)
        series.most = max(series.most, value)

    def added(self, data: MetricsData) -> MetricsData:
        """What the SDK collected, and these."""
        ours = [self._collected(metric) for metric in self._metrics.values() if self._series[metric.name]]
        first, *others = data.resource_metrics
        scope, *scopes = first.scope_metrics
        with_ours = ScopeMetrics(scope.scope, [*scope.metrics, *ours], scope.schema_url)
        joined = ResourceMetrics(first.resource, [with_ours, *scopes], first.schema_url)
        return MetricsData([joined, *others])

    def _collected(self, metric: Metric) -> SdkMetric:
        now = time.time_ns()
        points = [
            HistogramDataPoint(
                attributes=dict(zip(metric.attributes, attributes, strict=True)),
                start_time_unix_nano=self._since,
                time_unix_nano=now,
                count=sum(counts := series.counts[:]),
                sum=series.total,
                bucket_counts=counts,
                explicit_bounds=metric.buckets,
                min=series.least if isfinite(series.least) else None,  # type: ignore[arg-type]  # OTLP may leave it out
                max=series.most if isfinite(series.most) else None,  # type: ignore[arg-type]
            )
            for attributes, series in list(self._series[metric.name].items())
        ]
        return SdkMetric(metric.name, metric.help, metric.unit, Histogram(points, AggregationTemporality.CUMULATIVE))


class Page(PrometheusMetricReader):
    """For /metrics."""

    def __init__(self, histograms: Histograms, **options: Any) -> None:
        super().__init__(**options)
        self._histograms = histograms

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(self._histograms.added(metrics_data), timeout_millis, **kwargs)


class Exported(PeriodicExportingMetricReader):
    """For OTLP."""

    def __init__(self, histograms: Histograms, exporter: Any) -> None:
        self._histograms = histograms  # first: it may collect at once
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(self._histograms.added(metrics_data), timeout_millis, **kwargs)
