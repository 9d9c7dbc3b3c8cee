"""/metrics: what is measured is what `hes.telemetry.names` lists, and says what happened."""

import signal
import sys
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from hes.errors import StorageUnavailable
from hes.model import AttemptId, EmailId, Evidence, Room
from hes.settings import load
from hes.storage.records import Reach
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.telemetry.telemetry import OFF, Telemetry
from hes.told import EventKind, ProviderEvent, Told
from tests.actors.parts import a_leased
from tests.fakes.faults import Fault, Kind
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import House, house, measured_house
from tests.faults.server import Client, eventually
from tests.faults.server import run as start
from tests.storage.harness import run

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def prometheus_name(metric: Metric) -> str:
    """As the family is called in the text, before `_total`, `_bucket`, ..."""
    unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    return metric.name.replace(".", "_") + unit


def label(attribute: str) -> str:
    return attribute.replace(".", "_")


def samples(text: str) -> Samples:
    """Values by the sample's name, then by labels; each of them once, for of two Prometheus takes the first."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            of_name, labels = found.setdefault(sample.name, {}), tuple(sorted(sample.labels.items()))
            assert labels not in of_name, f"{sample.name} {labels} twice"
            of_name[labels] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of those that have these labels."""
    return sum(v for key, v in found[name].items() if set(labels.items()) <= set(key))


async def page_of(hes: Client) -> Samples:
    answer = await hes.get("/metrics")
    # To the letter: a Prometheus of today scrapes nothing whose type it can't read.
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


async def after_a_look(hes: Client, name: str) -> Samples:
    """Once the watchdog has shown what this gauge shows."""

    async def ask() -> Samples | None:
        found = await page_of(hes)
        return found if name in found else None

    return await eventually(ask)


async def live(hes: House, telemetry: Telemetry) -> None:
    """What makes each metric say something: a failover, an expiry, a lapse, an error, and what a test does by hand."""
    await hes.until(await hes.send(), "sent")
    with telemetry.attempt(a_leased(provider="sendgrid")):
        """Given back untried."""
    with telemetry.asking(a_leased().email, AttemptId("a"), "sendgrid") as question:
        question.ended("nothing")
    await hes.turn("sendgrid", "pause")
    await hes.turn("sendgrid-2", "pause")
    waiting, leased = await hes.send(), await hes.send()
    expire = sa.text("UPDATE deliveries SET expires_at = 1 WHERE email_id = :id")
    await run(hes.storage, expire.bindparams(id=waiting))
    await hes.until(waiting, "failed")
    await hes.storage.lease({"sendgrid": Room(hands=1)}, size_budget=10**6, is_idle=True, deadline=1e9)
    await run(hes.storage, sa.text("UPDATE deliveries SET lease_ends_at = 1 WHERE status = 'sending'"))
    await hes.until(leased, "queued")
    [doubted] = (await hes.storage.read(Reach("default"), EmailId(leased))).attempts
    proof = Evidence(email_id=EmailId(leased), attempt_id=doubted.id, accepted=False, source="look-up")
    await hes.storage.evidence([proof])
    told = ProviderEvent(kind=EventKind.DELIVERED, vendor_type="delivered", at=1, dedup_id="1", hes_id=leased)
    await hes.storage.inbox.take("sendgrid", Told((told,)))
    with pytest.raises(StorageUnavailable), telemetry.batch("settle"):
        raise StorageUnavailable("away")


async def test_every_metric_is_emitted_and_none_besides(tmp_path: Path, page: Telemetry) -> None:
    async with (
        fake_sendgrid() as broken,
        fake_sendgrid() as well,
        measured_house(page, tmp_path, broken, well) as hes,
    ):
        broken.fault = Fault(kind=Kind.STATUS, status=503)
        await live(hes, page)
        await after_a_look(hes, "hes_queue_emails")
        await after_a_look(hes, "hes_gate_state")
        families = {f.name: f for f in text_string_to_metric_families((await hes.get("/metrics")).text)}
    known = {prometheus_name(metric): metric for metric in names.METRICS}
    assert set(families) - {"target_info"} == set(known)
    for name, metric in known.items():
        kinds = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
        assert families[name].type == kinds[metric.kind]
        assert families[name].documentation == metric.help
        allowed = {label(attribute) for attribute in metric.attributes} | {"le"}
        for sample in families[name].samples:
            assert set(sample.labels) <= allowed, name


async def test_it_counts_what_happened(tmp_path: Path, page: Telemetry) -> None:
    async with fake_sendgrid() as fake, measured_house(page, tmp_path, fake) as hes:
        for _ in range(3):
            await hes.until(await hes.send(), "sent")
        fake.fault = Fault(kind=Kind.RESET, count=1)
        await hes.until(await hes.send(on_doubt="hold"), "held")
        await hes.post("/v1/emails", {"from": "nobody"})
        found = await after_a_look(hes, "hes_queue_emails")
        assert value(found, "hes_batch_size_sum", hes_operation="accept") == 4
        assert value(found, "hes_batch_size_sum", hes_operation="settle") == 4
        assert value(found, "hes_attempt_duration_seconds_count", hes_outcome="accepted") == 3
        assert value(found, "hes_attempt_duration_seconds_count", hes_provider="sendgrid", hes_outcome="in_doubt") == 1
        sends = {"http_route": "/v1/emails", "http_request_method": "POST"}
        assert value(found, "http_server_request_duration_seconds_count", **sends) == 5
        refused = value(found, "http_server_request_duration_seconds_count", **sends, http_response_status_code="422")
        assert refused == 1


async def test_an_address_that_no_route_takes_is_one_route(tmp_path: Path, page: Telemetry) -> None:
    """Or anybody could make as many series as there are addresses."""
    async with measured_house(page, tmp_path, "outbox://", outbox_dir=str(tmp_path / "out")) as hes:
        for path in ("/a", "/b/c", "/v1/emails/x/y"):
            assert (await hes.post(path, {})).status_code == 404
        await hes.post("/v1/emails/0189/cancel", {})
        found = await page_of(hes)
    asked = found["http_server_request_duration_seconds_count"]
    routes = {dict(key)["http_route"] for key, count in asked.items() if count}
    assert routes == {"none", "/v1/emails/{email_id}/cancel"}


async def test_the_queue_is_shown_by_state_with_the_age_of_the_oldest_due(tmp_path: Path, page: Telemetry) -> None:
    async with fake_sendgrid() as fake:
        async with house(tmp_path, fake) as hes:
            await hes.turn("sendgrid", "pause")
            oldest, *_ = [await hes.send() for _ in range(3)]
            await hes.send(send_at="2027-01-01T00:00:00Z", expires_in=3600)
            since = sa.text("UPDATE deliveries SET due_at = due_at - 60000 WHERE email_id = :id")
            await run(hes.storage, since.bindparams(id=oldest))
            waiting = await hes.storage.waiting()
        async with measured_house(page, tmp_path, fake, queue_limit=50) as hes:
            found = await after_a_look(hes, "hes_queue_emails")
    assert value(found, "hes_queue_emails", hes_status="queued") == 3
    assert value(found, "hes_queue_emails", hes_status="scheduled") == 1
    assert value(found, "hes_queue_emails") == 4
    assert value(found, "hes_queue_size_bytes") == waiting.size_bytes
    assert 60 <= value(found, "hes_queue_oldest_due_seconds") < 120
    assert value(found, "hes_queue_limit") == 50


@pytest.mark.parametrize("metrics", ["on", "off"])
async def test_off_means_that_there_is_no_page_and_nothing_of_opentelemetry(tmp_path: Path, metrics: str) -> None:
    program = (
        "import sys, runpy, atexit\n"
        "atexit.register(lambda: print(sorted(m for m in sys.modules if m == 'opentelemetry.sdk'), file=sys.stderr))\n"
        "sys.argv = ['hes', 'serve']\nrunpy.run_module('hes', run_name='__main__')"
    )
    async with start((sys.executable, "-c", program), tmp_path, metrics=metrics) as hes:
        await hes.ready()
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{hes.url}/metrics")).status_code == (200 if metrics == "on" else 404)
        hes.signal(signal.SIGTERM)
        await hes.ended()
        assert ("['opentelemetry.sdk']" in hes.stderr()) == (metrics == "on")


def test_what_records_nothing_makes_no_objects() -> None:
    assert OFF.batch("accept") is OFF.batch("settle") is OFF.attempt(a_leased())
    app = object()
    assert OFF.around(app) is app  # type: ignore[arg-type]


def test_several_processes_behind_one_port_have_no_page() -> None:
    """Each scrape would meet another one of them."""
    variables = {"HES_DATABASE_URL": "postgresql://x/y", "HES_PROVIDERS": "outbox://", "HES_METRICS": "on"}
    several = load({}, variables | {"HES_WORKERS": "2"}, Path())
    assert not several.has_metrics_page
    assert several.without_effect() == ["HES_METRICS"]
    assert load({}, variables, Path()).has_metrics_page
