"""`/openapi.json` says what the API does."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hes.model import Decision, EventType, OnDoubt, Outcome, Reason, Resolution, Status
from hes.web.email_request import NOT_BUILT
from hes.web.many import FILTERS
from hes.web.paging import PARAMETERS
from hes.web.problems import MEDIA_TYPE, Problem
from hes.web.routes import _document
from hes.web.shape import FIELDS
from tests.web.service import LEAST, NOWHERE, Service, later

DOCUMENT: dict[str, Any] = json.loads(_document())
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}
ERRORS = [
    (name, status, answer)
    for name, operation in OPERATIONS.items()
    for status, answer in operation["responses"].items()
    if status >= "400"
]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_it_is_served_without_a_key_and_is_json(hes: Service) -> None:
    response = await hes.ask("GET", "/openapi.json", key=None)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_it() -> None:
    assert {(path, *sorted(methods)) for path, methods in DOCUMENT["paths"].items()} == {
        ("/v1/emails", "get", "post"),
        ("/v1/emails/batch", "post"),
        ("/v1/emails/resolve", "post"),
        ("/v1/emails/cancel", "post"),
        ("/v1/emails/{email_id}", "delete", "get", "patch"),
        ("/v1/emails/{email_id}/send", "post"),
        ("/v1/emails/{email_id}/cancel", "post"),
        ("/v1/emails/{email_id}/resolve", "post"),
        ("/v1/keys", "get", "post"),
        ("/v1/keys/{key_id}", "delete"),
        ("/v1/providers", "get"),
        ("/v1/providers/{name}/pause", "post"),
        ("/v1/providers/{name}/resume", "post"),
        ("/v1/providers/{name}/reset", "post"),
        ("/hooks/{provider_name}", "post"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
    }


def test_every_reference_leads_somewhere() -> None:
    assert {ref.removeprefix("#/components/schemas/") for ref in references(DOCUMENT)} <= set(SCHEMAS)


@pytest.mark.parametrize(("name", "status", "answer"), ERRORS, ids=lambda value: str(value)[:20])
def test_every_error_is_a_problem(name: str, status: str, answer: dict[str, Any]) -> None:
    (content,) = answer["content"].items()
    assert content[0] == MEDIA_TYPE
    assert content[1]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert msgspec.convert(content[1]["example"], Problem).status == int(status)
    assert ("WWW-Authenticate" in answer.get("headers", {})) == (status == "401")
    assert ("Retry-After" in answer.get("headers", {})) == (status in {"429", "503"})


@pytest.mark.parametrize(
    ("name", "errors"),
    {
        "sendEmail": "400 401 403 408 409 413 415 422 503",
        "getEmail": "401 403 404 422 503",
        "editEmail": "400 401 403 404 408 409 412 413 415 422 503",
        "cancelEmail": "400 401 403 404 408 409 413 415 422 503",
        "resolveEmail": "400 401 403 404 408 409 413 415 422 503",
        "createKey": "400 401 403 408 413 415 422 503",
        "listKeys": "401 403 422 503",
        "revokeKey": "400 401 403 404 408 413 415 422 503",
        "isAlive": "",
        "isReady": "503",
    }.items(),
)
def test_which_errors_an_operation_has(name: str, errors: str) -> None:
    found = [status for status in OPERATIONS[name]["responses"] if status >= "400"]
    assert ("429" in found) == ("401" in found)
    assert [status for status in found if status != "429"] == errors.split()


def test_a_send_tells_its_key_and_where_the_email_is() -> None:
    send = OPERATIONS["sendEmail"]
    (key,) = send["parameters"]
    assert (key["name"], key["in"], key["schema"]["maxLength"]) == ("Idempotency-Key", "header", 255)
    answer = send["responses"]["202"]
    assert answer["headers"]["Location"]["schema"] == {"type": "string"}
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/AcceptedView"}


WITH_VERSION = {"getEmail": "200", "editEmail": "200", "cancelEmail": "200", "resolveEmail": "200"}


@pytest.mark.parametrize(("name", "status"), [*WITH_VERSION.items(), ("sendEmailAgain", "202")])
def test_an_answer_with_an_email_tells_its_version(name: str, status: str) -> None:
    answer = OPERATIONS[name]["responses"][status]
    whole, state = ({"$ref": f"#/components/schemas/{view}"} for view in ("EmailView", "EmailState"))
    needs_read = name in {"getEmail", "resolveEmail"}
    assert answer["content"]["application/json"]["schema"] == (whole if needs_read else {"oneOf": [whole, state]})
    assert answer["headers"]["ETag"]["schema"]["type"] == "string"


async def test_the_version_comes_as_it_is_told_and_is_taken_back(hes: Service) -> None:
    (if_match,) = [p for p in OPERATIONS["editEmail"]["parameters"] if p["in"] == "header"]
    path = f"/v1/emails/{(await hes.send(LEAST | {'draft': True})).json()['id']}"
    tags = [(await hes.ask("GET", path)).headers["etag"]]
    tags.append((await hes.ask("PATCH", path, json={"text": "x"}, headers={"If-Match": tags[0]})).headers["etag"])
    tags.append((await hes.ask("POST", f"{path}/send")).headers["etag"])
    tags.append((await hes.ask("POST", f"{path}/cancel")).headers["etag"])
    assert tags == ['"1"', '"2"', '"3"', '"4"']
    assert all(re.search(if_match["schema"]["pattern"], tag) for tag in tags)
    doubted = await hes.in_doubt()
    answer = await hes.ask("POST", f"/v1/emails/{doubted}/resolve", json={"decision": "sent"})
    assert answer.headers["etag"] == f'"{answer.json()["version"]}"'


def test_what_another_version_is_answered_is_told() -> None:
    answer = OPERATIONS["editEmail"]["responses"]["412"]
    assert answer["content"][MEDIA_TYPE]["example"]["title"] == "Another version"


def test_a_draft_is_answered_201_and_changed_by_any_of_its_fields() -> None:
    assert OPERATIONS["sendEmail"]["responses"]["201"]["headers"]["Location"]
    changes = SCHEMAS["EmailChanges"]
    assert changes["properties"].keys() == SCHEMAS["EmailRequest"]["properties"].keys()
    assert changes["required"] == []


def test_what_can_be_included_is_told() -> None:
    include, *cursors = [p for p in OPERATIONS["getEmail"]["parameters"] if p["in"] == "query"]
    assert (include["name"], include["schema"]["enum"]) == ("include", ["content"])
    assert [p["name"] for p in cursors] == ["attempts_cursor", "events_cursor"]


def test_the_body_of_a_send_shows_what_is_taken_and_nothing_else() -> None:
    email = SCHEMAS["EmailRequest"]
    assert set(email["properties"]) == set(FIELDS) - set(NOT_BUILT)
    assert email["required"] == ["from", "subject"]
    assert email["additionalProperties"] is False


def test_every_body_has_examples() -> None:
    for operation in OPERATIONS.values():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["examples"]


async def test_the_examples_work(hes: Service) -> None:
    content = OPERATIONS["sendEmail"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert (await hes.send(example["value"])).status_code == 202
    content = OPERATIONS["resolveEmail"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        response = await hes.ask("POST", f"/v1/emails/{NOWHERE}/resolve", json=example["value"])
        assert response.status_code == 404
    content = OPERATIONS["editEmail"]["requestBody"]["content"]["application/json"]
    for name, example in content["examples"].items():
        made = (await hes.send(LEAST | ({"draft": True} if name == "a draft" else {"send_at": later(days=1)}))).json()
        assert (await hes.ask("PATCH", f"/v1/emails/{made['id']}", json=example["value"])).status_code == 200
    content = OPERATIONS["createKey"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert (await hes.ask("POST", "/v1/keys", json=example["value"])).status_code == 201


def test_what_needs_a_key_and_what_does_not() -> None:
    assert DOCUMENT["security"] == [{"bearer": []}, {"basic": []}]
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"bearer", "basic"}
    assert {name for name, operation in OPERATIONS.items() if operation.get("security") == [{}]} == {
        *("isAlive", "isReady", "takeEvents")
    }
    assert all("security" not in OPERATIONS[name] for name in ("sendEmail", "getEmail"))


@pytest.mark.parametrize("words", [Status, Reason, Outcome, EventType, Resolution, OnDoubt, Decision])
def test_closed_sets_are_told_word_by_word(words: Any) -> None:
    schema = SCHEMAS[words.__name__]
    assert (schema["type"], schema["enum"]) == ("string", sorted(words))


async def test_an_email_is_shown_with_the_fields_that_are_told(hes: Service) -> None:
    found = await hes.read(await hes.sent(), content=True)
    for schema, value in (
        ("EmailView", [*found, "next_attempts_cursor", "next_events_cursor"]),  # these only of a long history
        ("RecipientView", found["recipients"][0]),
        ("AttemptView", found["attempts"][0]),
        ("EventView", found["events"][0]),
        ("ContentView", found["content"]),
    ):
        assert list(SCHEMAS[schema]["properties"]) == list(value)


def test_what_is_told_without_reading_is_told_to_the_letter() -> None:
    """Else a whole email would be one as well."""
    state = SCHEMAS["EmailState"]
    assert (list(state["properties"]), state["additionalProperties"]) == (["id", "status", "version"], False)


async def test_options_names_all_methods_of_a_path(hes: Service) -> None:
    for path, operations in DOCUMENT["paths"].items():
        answer = await hes.ask("OPTIONS", path.replace("{email_id}", NOWHERE), key=None)
        named = set(answer.headers["allow"].lower().split(", "))
        assert named - {"head"} == {*operations, "options"}


def test_what_filters_a_list_is_told() -> None:
    assert [p["name"] for p in OPERATIONS["listKeys"]["parameters"]] == list(PARAMETERS)
    assert [p["name"] for p in OPERATIONS["listEmails"]["parameters"]] == list(FILTERS)
