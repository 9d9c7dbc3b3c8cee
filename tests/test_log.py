"""The log: what a line looks like, and what never gets into one."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from hes.log import MAX_TEXT, OncePerMinute, configure, get_logger
from hes.secret import Secret

NASTY = "a\n2026-01-01 forged\x1b[31m\r\x00\x9b\u202e"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger("uvicorn.access").disabled = False


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def failure(message: str, _password: str = "") -> ValueError:
    """Raised and caught, with a traceback through a frame that holds a password."""
    with pytest.raises(ValueError, match="forged") as caught:
        raise ValueError(message)
    return caught.value


def test_one_json_line_with_time_level_and_logger(out: io.StringIO) -> None:
    configure("info", "json", out)
    get_logger("hes.intake").info("leased", count=3)
    [line] = lines(out)
    assert (line["event"], line["level"], line["logger"], line["count"]) == ("leased", "info", "hes.intake", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])


def test_json_unless_on_a_terminal(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    configure("info", None, out)
    get_logger("hes").info("plain")
    monkeypatch.setattr(out, "isatty", lambda: True)
    configure("info", None, out)
    get_logger("hes").info("coloured")
    first, second = out.getvalue().splitlines()
    assert json.loads(first)["event"] == "plain"
    assert "\x1b[" in second


def test_below_the_level_nothing_is_logged(out: io.StringIO) -> None:
    configure("warning", "json", out)
    get_logger("hes").info("quiet")
    logging.getLogger("litestar").info("quiet")
    get_logger("hes").warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_configured_twice_logs_once(out: io.StringIO) -> None:
    configure("info", "json", io.StringIO())
    configure("info", "json", out)
    get_logger("hes").info("once")
    assert len(lines(out)) == 1


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "alembic.runtime.migration", "aiosqlite"])
def test_other_libraries_go_through_the_same_renderer(out: io.StringIO, name: str) -> None:
    logging.getLogger(name).handlers = [logging.StreamHandler(io.StringIO())] if name.startswith("uvicorn") else []
    configure("info", "json", out)
    logging.getLogger(name).warning("from %s", "there")
    [line] = lines(out)
    assert (line["event"], line["level"], line["logger"]) == ("from there", "warning", name)


def test_no_access_log_and_no_sql_even_at_debug(out: io.StringIO) -> None:
    configure("debug", "json", out)
    logging.getLogger("uvicorn.access").warning("GET /")
    logging.getLogger("aiosqlite").debug("executing INSERT ... ann@example.com")
    logging.getLogger("sqlalchemy.engine.Engine").info("[parameters: ann@example.com]")
    assert out.getvalue() == ""


@pytest.mark.parametrize("log", [get_logger("hes"), logging.getLogger("litestar")])
def test_a_traceback_is_one_field(out: io.StringIO, log: Any) -> None:
    configure("info", "json", out)
    log.error("broken", exc_info=failure(NASTY))
    [line] = lines(out)
    assert line["exception"].startswith("Traceback")
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("log", [get_logger("hes"), logging.getLogger("litestar")])
def test_no_value_forges_a_line_or_moves_the_cursor(out: io.StringIO, format_: str, log: Any) -> None:
    configure("info", format_, out)
    log.info(NASTY)
    get_logger("hes").info("seen", value=NASTY, nested={NASTY: [NASTY]}, **{NASTY: 1})
    assert len(out.getvalue().split("\n")) == 3
    assert out.getvalue().replace("\n", "").isprintable()


def test_a_traceback_on_the_console_is_indented_and_shows_no_locals(out: io.StringIO) -> None:
    configure("info", "console", out)
    get_logger("hes").error("broken", exc_info=failure(NASTY, "hun" + "ter2"))
    first, *rest = out.getvalue().splitlines()
    assert "broken" in first
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1].strip().startswith("\\x00")
    assert "hunter2" not in out.getvalue()
    assert out.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize(
    "values",
    [
        {"key": Secret("hunter2")},
        {"providers": [{"x": Secret("hunter2")}], "pair": (1, Secret("hunter2"))},
        {"headers": {"Authorization": "Bearer hunter2", "x-api-key": "hunter2", "Set-Cookie": "hunter2"}},
        {"api_key": "hunter2", "password": "hunter2", "client_secret": ["hunter2"], "access_token": "hunter2"},
    ],
)
def test_secrets_are_masked(out: io.StringIO, format_: str, values: dict[str, Any]) -> None:
    configure("info", format_, out)
    get_logger("hes").info("seen", **values)
    assert "hunter2" not in out.getvalue()
    assert "***" in out.getvalue()


def test_harmless_values_are_shown(out: io.StringIO) -> None:
    configure("info", "json", out)
    get_logger("hes").info("seen", tokens=4, key_id="abc", idempotency_key="k", password=None)
    [line] = lines(out)
    assert (line["tokens"], line["key_id"], line["idempotency_key"], line["password"]) == (4, "abc", "k", None)


def test_bound_context_is_on_every_line(out: io.StringIO) -> None:
    configure("info", "json", out)
    structlog.contextvars.bind_contextvars(request_id="r1")
    logging.getLogger("litestar").info("there")
    get_logger("hes").info("here")
    assert [line["request_id"] for line in lines(out)] == ["r1", "r1"]


# --- what anybody can cause, as often as they like -------------------------------------------------------------------


class Minutes(OncePerMinute):
    """Its time is in the test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(lambda: self.now)


def logged(to: logging.Filter, message: str, *args: object, name: str = "uvicorn.error", level: int = logging.WARNING,
           error: Exception | None = None) -> str | None:  # fmt: skip
    """What is written of this line; None: nothing."""
    info = (type(error), error, None) if error else None
    record = logging.LogRecord(name, level, "", 0, message, args, info)
    return record.getMessage() if to.filter(record) else None


def test_a_line_that_anybody_can_cause_is_written_once_and_then_counted() -> None:
    limit = Minutes()
    bad = "Invalid HTTP request received."
    assert [logged(limit, bad) for _ in range(1000)] == [bad] + [None] * 999
    assert logged(limit, "Unsupported upgrade request.") == "Unsupported upgrade request."
    limit.now += 59.9
    assert logged(limit, bad) is None
    limit.now += 0.2
    assert logged(limit, bad) == f"{bad} (1001 times since this was said last)"
    assert logged(limit, bad) is None
    limit.now += 60
    assert logged(limit, "Exception in ASGI application\n") == "Exception in ASGI application\n"
    assert logged(limit, "Exception in ASGI application\n") is None


def test_each_error_is_a_line_of_its_own() -> None:
    limit = Minutes()
    for error in (ValueError("x"), KeyError("x")):
        assert logged(limit, "%s %s failed", "GET", "/v1/emails", name="hes.web", error=error)
        assert logged(limit, "%s %s failed", "GET", "/v1/emails", name="hes.web", error=error) is None
    assert logged(limit, "%s %s failed", "GET", "/v1/keys", name="hes.web", error=KeyError("x"))


def test_however_many_kinds_there_are_the_log_and_the_memory_are_bounded() -> None:
    limit = Minutes()
    written = [text for n in range(10_000) if (text := logged(limit, f"kind {n}"))]
    assert len(written) <= 101
    limit.now += 61
    assert logged(limit, "kind 9999") == "kind 9999"


def test_what_is_told_by_whoever_has_a_key_is_all_written() -> None:
    limit = Minutes()
    assert all(logged(limit, "key %s is made", "1", name="hes.web", level=logging.INFO) for _ in range(3))
    assert all(logged(limit, "doubt", name="hes.sender") for _ in range(3))


def test_the_log_of_a_process_is_bounded_so(out: io.StringIO) -> None:
    configure("info", "json", out)
    for _ in range(3):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert len(lines(out)) == 1


def test_a_line_has_an_end(out: io.StringIO) -> None:
    configure("info", "json", out)
    get_logger("hes").error("x" * 10**6, name="y" * 10**6, exc_info=failure("forged" + "z" * 10**6))
    [line] = lines(out)
    for key in ("event", "name", "exception"):
        assert len(line[key]) < MAX_TEXT + 100
        assert "characters are left out" in line[key]
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("zzz")
