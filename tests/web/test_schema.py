"""schemathesis reads /openapi.json and asks a served HES whatever it allows, and some of what it doesn't.

It takes every operation out of the document by itself. Derandomized: each run asks the same.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from hes.web.routes import _document
from tests.faults.server import KEY, SERVE, environment

EXAMPLES = 12
"""Requests per operation; how long the file takes goes with it."""
QUIETLY = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
LEFT_OUT = {
    "ignored_auth",  # it tries wrong keys, and an address with many of those is throttled
    "positive_data_acceptance",  # no schema says what an address is, or that a recipient must be among three fields
}

SCHEMA = schemathesis.openapi.from_dict(json.loads(_document()), config=SchemathesisConfig())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hes")
    log = folder / "log"
    env = environment(port=0, bootstrap_key=KEY, log_format="json")
    with log.open("wb") as stderr, subprocess.Popen(SERVE, cwd=folder, env=env, stderr=stderr) as process:
        try:
            while not (found := re.search(r"serves (http://[^\"]+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            yield found[1]
        finally:
            process.kill()


@SCHEMA.parametrize()
@QUIETLY
def test_whatever_is_asked_is_answered_as_the_document_says(case: schemathesis.Case, url: str) -> None:
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    case.call_and_validate(base_url=url, headers=AUTHORIZATION, checks=checks)
