"""Alert rules and dashboard name only metrics, labels and values that there are; the rules fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from hes.model import GateState, Outcome, Status
from hes.telemetry import names
from hes.told import EventKind
from tests.telemetry.test_metrics import label, prometheus_name

FOLDER = Path(__file__).parents[2] / "docs" / "observability"
CASES = Path(__file__).parent / "alerts_test.yaml"
PROMTOOL = shutil.which("promtool")
OF_PROMETHEUS = {"le", "instance", "job"}
NAME = r"\b((?:hes|http|db|process)_\w+)"
VALUES: dict[str, set[str]] = {
    "hes_state": {state.value for state in GateState},
    "hes_outcome": {outcome.value for outcome in Outcome},
    "hes_status": {status.value for status in Status},
    "hes_event": {kind.value for kind in EventKind},
    "hes_operation": {"accept", "lease", "settle", "sweep", "count"},
}


def samples() -> dict[str, set[str]]:
    """Each sample that /metrics can hold, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in names.METRICS:
        name = prometheus_name(metric)
        labels = {label(attribute) for attribute in metric.attributes}
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_count", "_sum", "_bucket"]}[metric.kind]
        found |= {name + ending: labels for ending in endings}
    return found


def alerts() -> dict[str, str]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def expressions() -> Iterator[str]:
    yield from alerts().values()
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_each_metric_that_they_name_exists() -> None:
    known = samples()
    named = {name for text in expressions() for name in re.findall(NAME, text)}
    labels = {label(attribute) for attribute in names.ATTRIBUTES}
    assert named - labels <= set(known)
    assert len(named - labels) > 15


def test_each_label_that_they_name_is_one_of_that_metric_with_a_value_that_it_has() -> None:
    known = samples()
    for text in expressions():
        for name, inside in re.findall(NAME + r"\{([^}]*)\}", text):
            for key, value in re.findall(r"(\w+)(?:=~|!=|=)\"([^\"]*)\"", inside):
                assert key in known[name] | OF_PROMETHEUS, text
                values = set(value.split("|"))
                assert values <= VALUES.get(key, values), text
        for inside in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", text):
            of_metrics = {key for name in re.findall(NAME, text) for key in known.get(name, ())}
            assert {one.strip() for one in inside.split(",")} <= of_metrics | OF_PROMETHEUS, text


def test_there_is_an_alert_for_each_thing_that_goes_wrong_and_the_page_names_them_all() -> None:
    page = (FOLDER.parent / "observability.md").read_text()
    assert set(re.findall(r"\bHes[A-Z]\w+", page)) == set(alerts())


Fits = Callable[[dict[str, str]], bool]


def selectors(text: str) -> Iterator[tuple[str, Fits]]:
    """Each series that an expression asks /metrics for: the sample's name, and whether labels fit."""
    labels = {label(attribute) for attribute in names.ATTRIBUTES}
    for name, inside in re.findall(rf"{NAME}(?:\{{([^}}]*)\}})?", text):
        if name in labels:
            continue
        yield name, partial(_fits, re.findall(r"(\w+)(=~|!=|=)\"([^\"]*)\"", inside))


def _fits(matchers: list[tuple[str, str, str]], labels: dict[str, str]) -> bool:
    for key, how, wanted in matchers:
        is_it = re.fullmatch(wanted if how == "=~" else re.escape(wanted), labels.get(key, "")) is not None
        if is_it == (how == "!="):
            return False
    return True


def cases() -> Iterator[tuple[str, int]]:
    """Each alert that is looked for in the cases, with how many are to fire."""
    for group in yaml.safe_load(CASES.read_text())["tests"]:
        for case in group["alert_rule_test"]:
            yield case["alertname"], len(case.get("exp_alerts", ()))


def test_for_each_alert_there_is_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {name for name, count in cases() if count} == set(alerts())
    assert {name for name, count in cases() if not count} == set(alerts())


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("arguments", [("check", FOLDER / "alerts.yaml"), ("test", CASES)], ids=["check", "test"])
def test_prometheus_takes_the_rules_and_they_fire_as_they_should(arguments: tuple[str, Path]) -> None:
    verb, file = arguments
    done = subprocess.run([str(PROMTOOL), verb, "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
