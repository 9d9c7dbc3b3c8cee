"""Errors as problems: what a caller sees, and what the log gets."""

import json
import logging
import time
from typing import Annotated, Any

import httpx
import pytest
from litestar import Litestar, Request, get, post
from litestar.exceptions import ServiceUnavailableException, TooManyRequestsException
from litestar.params import FromQuery, HeaderParameter, JSONBody
from msgspec import Struct

from hes.errors import (
    CallerError,
    CommitUnknown,
    ConfigError,
    FieldError,
    Forbidden,
    HesError,
    InvalidEmail,
    KeyInUse,
    KeyReused,
    NotAuthenticated,
    NotFound,
    StorageBroken,
    StorageUnavailable,
    TooLarge,
    TooSlow,
    Unreadable,
    UnsupportedType,
    WrongState,
)
from hes.web.problems import MEDIA_TYPE, Problem, exception_handlers, problem_of

pytestmark = pytest.mark.anyio

SECRET = "s3cret-in-a-traceback"


class Thing(Struct, forbid_unknown_fields=True):
    size: int


async def answer_to(error: Exception, method: str = "GET") -> httpx.Response:
    """What the caller gets if a handler raises this."""

    @get("/raise", opt={"error": error})
    async def fail(request: Request[Any, Any, Any]) -> None:
        raise error

    return await ask(method, "/raise", fail)


@get("/number")
async def number(n: FromQuery[int]) -> None: ...


@get("/header")
async def header(key: Annotated[int, HeaderParameter(name="X-Number")]) -> None: ...


@post("/thing")
async def thing(data: JSONBody[Thing]) -> None: ...


@post("/raw", request_max_body_size=10)
async def raw(request: Request[Any, Any, Any]) -> None:
    await request.body()


async def ask(method: str, path: str, *handlers: Any, **sent: Any) -> httpx.Response:
    app = Litestar(
        [number, header, thing, raw, *handlers],
        exception_handlers=exception_handlers(time.monotonic),
        logging_config=None,
        openapi_config=None,
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://hes") as client:
        return await client.request(method, path, **sent)


def problem_in(response: httpx.Response) -> dict[str, Any]:
    """The problem, after checking what is true of all."""
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.headers["cache-control"] == "no-store"
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    assert found["type"].startswith("urn:hes:problem:")
    assert found["title"]
    assert found["detail"]
    assert set(found) <= {"type", "title", "status", "detail", "errors"}
    return found


@pytest.mark.parametrize(
    ("error", "status", "slug", "title"),
    [
        (CallerError("x"), 400, "caller-error", "Bad request"),
        (Unreadable("x"), 400, "unreadable", "Unreadable request"),
        (NotAuthenticated("x"), 401, "not-authenticated", "Not authenticated"),
        (Forbidden("x"), 403, "forbidden", "Forbidden"),
        (NotFound("x"), 404, "not-found", "Not found"),
        (TooSlow("x"), 408, "too-slow", "Too slow"),
        (WrongState("x"), 409, "wrong-state", "Wrong state"),
        (TooLarge("x"), 413, "too-large", "Too large"),
        (UnsupportedType("x"), 415, "unsupported-type", "Unsupported media type"),
        (InvalidEmail("x"), 422, "invalid-email", "Invalid email"),
        (KeyReused("x"), 422, "key-reused", "Idempotency key reused"),
    ],
)
async def test_each_callers_error_is_its_own_problem(error: CallerError, status: int, slug: str, title: str) -> None:
    assert problem_in(await answer_to(error)) == {
        "type": f"urn:hes:problem:{slug}",
        "title": title,
        "status": status,
        "detail": "x",
    }


async def test_wrong_fields_and_headers_are_passed_on() -> None:
    error = InvalidEmail("`to[2]` is wrong.", [FieldError("to[2]", "must be a string")], {"X-Hint": "yes"})
    response = await answer_to(error)
    assert problem_in(response)["errors"] == [{"path": "to[2]", "message": "must be a string"}]
    assert response.headers["x-hint"] == "yes"


async def test_a_key_in_use_says_when_to_try_again() -> None:
    response = await answer_to(KeyInUse())
    assert response.status_code == 409
    assert problem_in(response)["type"] == "urn:hes:problem:key-in-use"
    assert response.headers["retry-after"] == "1"


def test_a_problem_can_be_had_without_a_response() -> None:
    """For the bad items of a batch."""
    found = problem_of(InvalidEmail("x", [FieldError("to", "is required")]))
    assert found == Problem(
        type="urn:hes:problem:invalid-email",
        title="Invalid email",
        status=422,
        detail="x",
        errors=(FieldError("to", "is required"),),
    )


@pytest.mark.parametrize(
    "error", [StorageUnavailable(SECRET), StorageBroken(SECRET), ServiceUnavailableException(SECRET)]
)
async def test_a_storage_that_is_away_is_503_and_says_when_to_try_again(error: Exception) -> None:
    response = await answer_to(error)
    assert problem_in(response)["type"] == "urn:hes:problem:unavailable"
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert SECRET not in response.text


async def test_what_nobody_knows_is_said_so_with_what_to_do() -> None:
    response = await answer_to(CommitUnknown(SECRET))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    detail = problem_in(response)["detail"]
    assert "nobody knows yet whether it was done" in detail
    assert "with the same Idempotency-Key" in detail
    assert SECRET not in response.text


@pytest.mark.parametrize("error", [RuntimeError(SECRET), HesError(SECRET), ConfigError(SECRET), KeyError(SECRET)])
async def test_a_bug_is_500_without_anything_internal_and_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = await answer_to(error)
    assert problem_in(response)["type"] == "urn:hes:problem:internal"
    assert response.status_code == 500
    assert SECRET not in response.text
    assert "Error" not in response.json()["detail"]
    (record,) = [r for r in caplog.records if r.name == "hes.web"]
    assert record.getMessage() == "GET /raise failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_what_is_not_a_bug_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="hes"):
        await answer_to(InvalidEmail("x"))
        await ask("GET", "/nowhere")
    assert caplog.records == []


async def test_that_the_storage_is_away_is_logged_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk meets a thousand requests a second, and the log is on a disk too."""

    @get("/raise")
    async def fail() -> None:
        raise StorageUnavailable("the disk is full")

    now = 1000.0
    app = Litestar([fail], exception_handlers=exception_handlers(lambda: now), logging_config=None, openapi_config=None)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://hes") as client:
        for seconds in (0, 1, 58, 1, 59, 1):
            now += seconds
            assert (await client.get("/raise")).status_code == 503
    assert [record.getMessage() for record in caplog.records if record.name == "hes.web"] == [
        "answered with 503: the disk is full",
        "answered with 503, 3 times since this was said last: the disk is full",
        "answered with 503, 2 times since this was said last: the disk is full",
    ]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/nowhere?api_key=abc", "/../../etc/passwd", "/%00", "/..%2f", "/raise%0d%0a"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_404(method: str, path: str) -> None:
    """S22."""
    response = await ask(method, path)
    assert problem_in(response)["type"] == "urn:hes:problem:not-found"
    assert response.status_code == 404
    assert "abc" not in response.text


async def test_a_wrong_method_is_405_and_says_which_are_right() -> None:
    response = await ask("PUT", "/thing")
    assert problem_in(response)["type"] == "urn:hes:problem:method-not-allowed"
    assert response.status_code == 405
    assert {m.strip() for m in response.headers["allow"].split(",")} == {"POST", "OPTIONS"}


async def test_head_gets_a_status_like_any_other() -> None:
    assert (await ask("HEAD", "/number")).status_code == 405
    assert (await ask("HEAD", "/nowhere")).status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(*, chunked: bool) -> None:
    async def parts() -> Any:
        for _ in range(3):
            yield b"12345"

    response = await ask("POST", "/raw", content=parts() if chunked else b"x" * 11)
    assert problem_in(response)["type"] == "urn:hes:problem:too-large"
    assert response.status_code == 413


async def test_a_content_length_that_is_no_number_is_400() -> None:
    response = await ask("POST", "/raw", content=b"x", headers={"Content-Length": "1x"})
    assert problem_in(response)["type"] == "urn:hes:problem:unreadable"


@pytest.mark.parametrize(
    ("path", "errors"),
    [
        ("/number?n=x", [{"path": "n", "message": "Expected `int`, got `str`"}]),
        ("/number?n=id;drop%20table", [{"path": "n", "message": "Expected `int`, got `str`"}]),
    ],
)
async def test_a_wrong_query_parameter_is_422_and_named(path: str, errors: list[dict[str, str]]) -> None:
    found = problem_in(await ask("GET", path))
    assert (found["status"], found["type"], found["errors"]) == (422, "urn:hes:problem:invalid", errors)
    assert "drop" not in json.dumps(found)


async def test_a_missing_query_parameter_is_422_and_names_no_url() -> None:
    response = await ask("GET", "/number?x=ann@example.com")
    assert problem_in(response)["status"] == 422
    assert "ann@example.com" not in response.text
    assert response.json()["errors"] == [{"path": "n", "message": "is required"}]


async def test_a_malformed_header_is_400() -> None:
    assert problem_in(await ask("GET", "/header", headers={"X-Number": "x"}))["status"] == 400
    found = problem_in(await ask("GET", "/header"))
    assert (found["status"], found["errors"]) == (400, [{"path": "X-Number", "message": "is required"}])


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"\xff", 400), (b'{"size":"x"}', 422), (b'{"size":1,"x":1}', 422), (b"", 422)]
)
async def test_bodies_that_litestar_decodes(content: bytes, status: int) -> None:
    found = problem_in(await ask("POST", "/thing", content=content))
    assert found["status"] == status
    if content == b'{"size":"x"}':
        assert found["errors"] == [{"path": "size", "message": "Expected `int`, got `str`"}]


async def test_other_answers_of_litestar_keep_status_and_headers() -> None:
    response = await answer_to(TooManyRequestsException(headers={"Retry-After": "7"}))
    assert problem_in(response)["type"] == "urn:hes:problem:too-many-requests"
    assert response.headers["retry-after"] == "7"


async def test_a_client_that_went_away_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    app = Litestar(
        [raw], exception_handlers=exception_handlers(time.monotonic), logging_config=None, openapi_config=None
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/raw",
        "raw_path": b"/raw",
        "headers": [],
        "query_string": b"",
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert not [r for r in caplog.records if r.name == "hes.web"]
