"""Counters begin at 0 when their process starts: to `increase` and `rate` a series' first value is no increase."""

from pathlib import Path

import pytest

from hes import settings
from hes.label_sets import known_at_start
from hes.telemetry import names
from hes.telemetry.telemetry import Telemetry
from tests.fakes.faults import Fault, Kind
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import measured_house
from tests.telemetry.collector import Collector
from tests.telemetry.test_metrics import Samples, after_a_look, live, page_of, prometheus_name, value
from tests.telemetry.test_rules import expressions, selectors
from tests.telemetry.test_told import sendgrid_with_hook
from tests.telemetry.test_traces import closed

ANSWERS = [("POST", "/v1/emails", 202)]
OF_ACCEPTING = {names.REQUEST_SECONDS, names.EVENTS}
OF_SENDING = {
    names.ATTEMPT_SECONDS, names.QUESTION_SECONDS, names.DOUBTS, names.NOT_TRIED, names.FAILOVERS, names.LAPSED,
    names.EXPIRED,
}  # fmt: skip


def counted(found: Samples) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The series of counters and histograms."""
    endings = {"counter": "_total", "histogram": "_count"}
    of = {prometheus_name(metric) + endings[metric.kind] for metric in names.METRICS if metric.kind in endings}
    return {(name, key) for name in of for key in found.get(name, ())}


async def test_whatever_a_rule_or_a_panel_asks_for_is_there_before_anything_has_happened(
    tmp_path: Path, page: Telemetry
) -> None:
    telling = sendgrid_with_hook("http://127.0.0.1:1")
    async with measured_house(page, tmp_path, telling, doubt_seconds=60) as hes:
        await after_a_look(hes, "hes_gate_state")
        found = await after_a_look(hes, "hes_queue_emails")
    asked = [(text, name, fits) for text in expressions() for name, fits in selectors(text)]
    assert [text for text, name, fits in asked if not any(fits(dict(key)) for key in found.get(name, ()))] == []
    since_the_start = {name for name, _ in counted(found)} - {"hes_loop_lag_seconds_count"}
    assert {name: value(found, name) for name in since_the_start if value(found, name)} == {}


async def test_what_happens_springs_up_nowhere_but_in_requests_that_hand_nothing_in(
    tmp_path: Path, page: Telemetry
) -> None:
    async with (
        fake_sendgrid() as broken,
        fake_sendgrid() as well,
        measured_house(page, tmp_path, sendgrid_with_hook(broken.url), well, doubt_seconds=1) as hes,
    ):
        before = counted(await page_of(hes))
        broken.fault = Fault(kind=Kind.STATUS, status=503)
        await live(hes, page)
        await hes.post("/v1/emails", {"from": "nobody"})
        sprung_up = counted(await page_of(hes)) - before
    routes = {dict(key).get("http_route") for _, key in sprung_up}
    assert routes == {"/v1/emails/{email_id}", "/v1/providers/{name}/pause"}


@pytest.mark.parametrize(
    ("role", "not_counted"),
    [("all", set()), ("api", OF_SENDING), ("mailer", OF_ACCEPTING)],
    ids=["all", "api", "mailer"],
)
def test_a_process_begins_with_what_its_role_counts(role: str, not_counted: set[names.Metric]) -> None:
    provider = "sendgrid://key@default?webhook_secret=secret"
    flags = {"database_url": "postgresql://x/y", "providers": provider, "role": role}
    loaded = settings.load(flags, {}, Path())
    known = list(known_at_start(loaded, ANSWERS if role != "mailer" else [], ["sendgrid"]))
    counters = {metric for metric in names.METRICS if metric.kind != "gauge"}
    assert {metric for metric, *_ in known} == counters - not_counted
    assert all(len(of) == len(metric.attributes) for metric, *of in known)
    assert {type(one) for _, *of in known for one in of} <= {str, int}
    operations = {str(of[0]) for metric, *of in known if metric is names.STORAGE_ERRORS}
    of_both, of_role = {"record", "count"}, {"api": {"accept"}, "mailer": {"lease", "settle", "sweep"}}
    assert operations == of_both | of_role.get(role, of_role["api"] | of_role["mailer"])


async def test_to_a_collector_they_begin_at_0_as_well(tmp_path: Path, seen: Collector, all_of_it: Telemetry) -> None:
    async with measured_house(all_of_it, tmp_path, "outbox://", outbox_dir=str(tmp_path / "out")):
        pass
    await closed(all_of_it)
    [point] = [p for p in seen.metrics[names.BATCH_SIZE.name].histogram.data_points if "accept" in str(p.attributes)]
    assert (point.count, point.HasField("min"), point.HasField("max")) == (0, False, False)
    [lapsed] = seen.metrics[names.LAPSED.name].sum.data_points
    assert (lapsed.as_int, lapsed.as_double) == (0, 0)
