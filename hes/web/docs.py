"""The docs page, /docs: Swagger UI over /openapi.json. Needs no key and no other host.

Page and start script are ours. Swagger UI itself is read out of the installed package swagger-ui-py, of which nothing
else is used: importing it would load a template engine. The policy sent along lets the page load from here and talk to
here and nowhere else, whatever is in the bundle.
"""

import hashlib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, Router, route
from litestar.params import FromPath
from msgspec import Struct

from hes.errors import NotFound

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>HES API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<noscript>This page needs JavaScript. <a href="/openapi.json">openapi.json</a> says the same.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b"""// No validator badge, which another host would draw. A key that was entered is forgotten with the page.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_ASK_FIRST = "no-cache"
_FOR_A_DAY = "public, max-age=86400"
_METHODS = [HttpMethod.GET, HttpMethod.HEAD]


class _File(Struct, frozen=True):
    content: bytes
    media_type: str
    caching: str
    tag: str


def docs_router() -> Router:
    """The page and what it loads, none of it in the API's document."""
    return Router("/docs", route_handlers=[docs_page, docs_file], include_in_schema=False)


@route("/", http_method=_METHODS)
async def docs_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    return _answer(request, _files()[""])


@route("/{name:str}", http_method=_METHODS)
async def docs_file(name: FromPath[str], request: Request[Any, Any, Any]) -> Response[bytes]:
    file = _files().get(name)
    if file is None:
        raise NotFound("There is nothing here.")
    return _answer(request, file)


def _answer(request: Request[Any, Any, Any], file: _File) -> Response[bytes]:
    headers = _HEADERS | {"ETag": file.tag, "Cache-Control": file.caching}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@cache
def _files() -> dict[str, _File]:
    """All that is served, by name, the page without one; read at the first request, 1.6 MB."""
    return {
        "": _file(_PAGE, "text/html", _ASK_FIRST),
        "start.js": _file(_START, "text/javascript", _ASK_FIRST),
        "swagger-ui.css": _file(_bundled("swagger-ui.css"), "text/css", _FOR_A_DAY),
        "swagger-ui-bundle.js": _file(_bundled("swagger-ui-bundle.js"), "text/javascript", _FOR_A_DAY),
    }


def _file(content: bytes, media_type: str, caching: str) -> _File:
    return _File(content, media_type, caching, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def _bundled(name: str) -> bytes:
    return Path(str(distribution("swagger-ui-py").locate_file(f"swagger_ui/static/{name}"))).read_bytes()
