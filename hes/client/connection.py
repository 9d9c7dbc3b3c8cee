"""From httpx's words to ours, for both clients: where HES is, how a request is made, what a failure is called."""

import os
import re
from pathlib import Path
from typing import Any

import httpx

from hes import __version__
from hes.client.answers import Answer, NoAnswer
from hes.client.calls import Call
from hes.errors import ConfigError
from hes.secret import Secret, Wrong
from hes.setting import http_url, is_loopback

DEFAULT_URL = "http://127.0.0.1:8025"
TIMEOUT_SECONDS = 30.0
"""For connecting, for each piece written, and for each piece read."""


def reach(url: str | None, api_key: str | None) -> tuple[str, str]:
    """URL and key ("": none); what is not given comes from HES_URL and HES_API_KEY. Raises ConfigError.

    In HES_API_KEY the key may also be said to stand elsewhere, as `env:NAME` or `file:PATH`.
    """
    try:
        url = http_url(url or os.environ.get("HES_URL") or DEFAULT_URL)
    except Wrong as wrong:
        raise ConfigError(f"HES_URL: {wrong}. Example: HES_URL={DEFAULT_URL}") from None
    api_key = (api_key or _key_of_environment()).strip()
    if not api_key.isprintable():  # httpx would quote it in its own error
        raise ConfigError(
            "HES_API_KEY: must be one line, without control characters. Example: HES_API_KEY=hes_live_..."
        )
    return url, api_key


def _key_of_environment() -> str:
    spec = os.environ.get("HES_API_KEY", "").strip()
    try:
        return Secret.of(spec, os.environ, Path.cwd()).reveal()
    except Wrong as wrong:
        raise ConfigError(f"HES_API_KEY: {wrong}. Example: HES_API_KEY=hes_live_...") from None


def options(url: str, api_key: str, timeout: float) -> dict[str, Any]:
    """For `httpx.Client` and `httpx.AsyncClient`."""
    headers = [(b"User-Agent", f"hes/{__version__}".encode())]
    if api_key:
        headers.append((b"Authorization", f"Bearer {api_key}".encode()))
    return {
        "base_url": url,
        "headers": headers,
        "timeout": timeout,
        # A proxy is of no use on the way to this machine, and would get to see the key.
        "trust_env": not is_loopback(httpx.URL(url).host),
    }


def request(call: Call[Any]) -> dict[str, Any]:
    """For `httpx.Client.request`."""
    headers = {}
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    if call.idempotency_key is not None:
        headers["Idempotency-Key"] = call.idempotency_key
    if call.version is not None:
        headers["If-Match"] = f'"{call.version}"'
    return {"method": call.method, "url": call.path, "content": call.body, "headers": headers}


def answer(response: httpx.Response) -> Answer:
    return Answer(
        status=response.status_code, content=response.content, retry_after=response.headers.get("Retry-After")
    )


def no_answer(error: httpx.RequestError) -> NoAnswer:
    if isinstance(error, httpx.TimeoutException):
        return NoAnswer("it took too long")
    return NoAnswer(re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".") or type(error).__name__)
