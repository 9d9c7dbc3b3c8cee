"""schemathesis reads /openapi.json and asks a served HES for what it allows, and for what it doesn't.

It takes all operations out of the document by itself. What is picked is the same each time, as long as the same
modules are loaded: Hypothesis also takes what it finds in them.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from hes.web.routes import _document
from tests.faults.server import KEY, PATIENCE_SECONDS, SERVE, environment

DOCUMENT = json.loads(_document())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
LEFT_OUT: list[Any] = [
    ignored_auth,  # it tries wrong keys, and whoever has many of those is throttled
    positive_data_acceptance,  # no schema says what an address is, or that one of three fields has a recipient
]


def asked(examples: int) -> settings:
    """So many requests of each operation; the time that this file takes grows with them."""
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hes")
    log = folder / "log"
    env = environment(port=0, bootstrap_key=KEY, log_format="json")
    with log.open("wb") as stderr, subprocess.Popen(SERVE, cwd=folder, env=env, stderr=stderr) as process:
        try:
            yield served_at(process, log.read_text)
        finally:
            process.kill()


def served_at(process: subprocess.Popen[bytes], read_log: Callable[[], str]) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"serves (http://[^\"]+)", read_log()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(read_log())


def an_id(url: str, path: str, body: dict[str, Any]) -> str:
    """Of something that was made just now."""
    answer = httpx.post(f"{url}{path}", json=body, headers=AUTHORIZATION, timeout=PATIENCE_SECONDS)
    made: str = answer.json()["id"]
    return made


EMAIL = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t"}
EXISTING: dict[str, Callable[[str], str]] = {
    "email_id": lambda url: an_id(url, "/v1/emails", EMAIL),
    "key_id": lambda url: an_id(url, "/v1/keys", {"name": "a key"}),
    "name": lambda _: "outbox",
    "provider_name": lambda _: "outbox",
}
"""Parameters in paths, and how to come by a value that something has."""


def checked(case: schemathesis.Case[Any], url: str) -> None:
    """What isn't HTTP at all (a header's name that is none) never gets past the server that HES stands on."""
    response = case.call(base_url=url, headers=AUTHORIZATION)
    assume(response.text != "Invalid HTTP request received.")
    case.validate_response(response, excluded_checks=LEFT_OUT)


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    SCHEMA.validate()


@SCHEMA.parametrize()
@asked(20)
def test_whatever_is_asked_is_answered_as_the_document_says(case: schemathesis.Case[Any], url: str) -> None:
    checked(case, url)


@SCHEMA.include(path_regex=r"\{").parametrize()
@asked(8)
def test_likewise_of_what_is_there(case: schemathesis.Case[Any], url: str) -> None:
    case.path_parameters = {name: EXISTING[name](url) for name in case.path_parameters}
    checked(case, url)
