"""What the tests of telemetry share."""

from collections.abc import AsyncIterator, Iterator

import pytest
from anyio import to_thread

from hes.telemetry.recording import start
from hes.telemetry.telemetry import Telemetry
from tests.telemetry.collector import Collector, collector


@pytest.fixture
async def seen(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, and the environment that leads to it."""
    async with collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield running


@pytest.fixture
def page() -> Iterator[Telemetry]:
    """Metrics for /metrics, and nothing else."""
    telemetry = start(traces=False, metrics=False, page=True, version="1", instance="i", role="all")
    yield telemetry
    telemetry.close(1)


@pytest.fixture
async def all_of_it(seen: Collector) -> AsyncIterator[Telemetry]:
    """Traces and metrics to the collector, and the page."""
    telemetry = start(traces=True, metrics=True, page=True, version="1", instance="i", role="all")
    yield telemetry
    await to_thread.run_sync(telemetry.close, 10)  # in a thread: the collector is in this loop
