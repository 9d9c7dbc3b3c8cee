"""The log: one line per event, on stderr by default, for people on a terminal and as JSON elsewhere.

Everything goes through one renderer, the standard library's loggers (uvicorn, alembic, ...) included. Values cannot
forge lines: JSON escapes control characters, and so does the console here; a traceback is one field in JSON, and
indented lines below its event on the console. Secrets are masked by type (`Secret`) and by key; texts are not searched
for them, so no message may be made with one. Libraries that log what they send to the database or the network in
their lower levels stay at WARNING whatever the level is, since that would be addresses and bodies.

What anybody can cause without a key fills no disk: such lines are written once and then counted, and each has an end.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from hes.secret import Secret
from hes.telemetry.telemetry import current

_SECRET_KEY = re.compile(
    r"authorization|cookie|passw|secret|credential|api_?key|(bootstrap|access|private)_key$|token$"
)
_TALKATIVE = (
    "aiosqlite",
    "sqlalchemy",
    "alembic",
    "asyncpg",
    "aiohttp",
    "asyncio",
    "hpack",
    "uvicorn",
    "opentelemetry",
    "urllib3",
)

_OF_STRANGERS = frozenset({"asyncio", "hes.hooks", "hes.web", "uvicorn.error"})
"""Who warns of what anybody can cause: by bad requests, by going away in the middle of an answer, by asking for health
while the storage is away."""
QUIET_SECONDS = 60.0
_MOST_KINDS = 100
MAX_TEXT = 10_000
"""Characters of one value: more than a traceback has."""


class OncePerMinute(logging.Filter):
    """Of equal warnings of those loggers one a minute, which says how many there were since the last one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._quiet: dict[str, tuple[float, int]] = {}
        """Until when, and how often since then."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name not in _OF_STRANGERS or record.levelno < logging.WARNING:
            return True
        now, kind = self._monotonic(), self._kind(record)
        until, count = self._quiet.get(kind, (0.0, 0))
        if now < until:
            self._quiet[kind] = until, count + 1
            return False
        if count:
            record.msg = f"{record.getMessage().rstrip()} ({count + 1} times since this was said last)"
            record.args = ()
        self._quiet[kind] = now + QUIET_SECONDS, 0
        return True

    def _kind(self, record: logging.LogRecord) -> str:
        """Of too many kinds all further ones are one."""
        error = record.exc_info[0] if record.exc_info else None
        text = f"{record.name} {record.getMessage()[:200]} {error}"
        if text not in self._quiet and len(self._quiet) >= _MOST_KINDS:
            now = self._monotonic()
            self._quiet = {kind: (until, count) for kind, (until, count) in self._quiet.items() if until > now}
            if len(self._quiet) >= _MOST_KINDS:
                return ""
        return text


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Which trace and span the line belongs to, if there is one."""
    if (span := current()) is not None:
        event["trace_id"], event["span_id"] = span.trace_id, span.span_id
    return event


_ON_ALL: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_trace,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_OF_OURS: list[Processor] = [
    structlog.stdlib.filter_by_level,
    *_ON_ALL,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]
"""One list for the whole process: loggers keep it, and `structlog.testing.capture_logs` changes it in place."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; may be made before `configure`. Events are named in few fixed words, all else are values."""
    return structlog.stdlib.get_logger(name)


def configure(level: str, format: str | None = None, stream: TextIO | None = None) -> None:  # noqa: A002
    """Set up all logging of this process; may be called again.

    `level`: debug to critical. `format`: console or json; None: console on a terminal. `stream`: None is stderr.
    """
    out = sys.stderr if stream is None else stream
    is_console = format == "console" or (format is None and out.isatty())
    structlog.configure(
        processors=_OF_OURS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(OncePerMinute())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_ON_ALL,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _with_an_end,
                redact,
                *(_console(colours=out.isatty()) if is_console else [structlog.processors.JSONRenderer()]),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h.formatter, structlog.stdlib.ProcessorFormatter)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
    logging.getLogger("uvicorn.access").disabled = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _with_an_end(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Beginning and end of a long text: those of a traceback say most."""
    return {key: _shortened(value) if isinstance(value, str) else value for key, value in event.items()}


def _shortened(text: str) -> str:
    left_out = len(text) - MAX_TEXT
    if left_out <= 0:
        return text
    return f"{text[: MAX_TEXT // 2]} ... {left_out:,} characters are left out ... {text[-MAX_TEXT // 2 :]}"


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what is a `Secret`, and what stands under a key that says so, at any depth. Keys become text."""
    return {str(key): _redacted(str(key), value) for key, value in event.items()}


def _redacted(key: str, value: Any) -> Any:
    if isinstance(value, Secret) or (value is not None and _SECRET_KEY.search(key.lower().replace("-", "_"))):
        return "***"
    if isinstance(value, Mapping):
        return {str(k): _redacted(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", v) for v in value]
    return value


def _console(*, colours: bool) -> list[Processor]:
    # Its own tracebacks would show local variables, secrets among them; by now `exception` is plain text.
    renderer = structlog.dev.ConsoleRenderer(
        colors=colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [_escape, renderer]


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Nothing from outside can move the cursor or begin a line of its own."""
    escaped = {_printable(key): _plain(value) for key, value in event.items()}
    for key in ("exception", "stack"):
        if key in event:
            lines = str(event[key]).splitlines()
            escaped[key] = "\n".join(f"    {_printable(line)}" for line in lines)
    return escaped


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _printable(value if isinstance(value, str) else repr(value))


def _printable(text: str) -> str:
    """Control, format and unpaired characters as `\\x1b`, `\\n`, `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
