"""The API's own description: what `/openapi.json` says beyond what Litestar reads off the handlers.

Handlers that decode their body themselves (for errors that name the field) have no typed parameter for it, so their
operations say here what the body is; its schema comes from the struct that it is decoded into.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from hes import __version__
from hes.web.body import EmailRequest
from hes.web.problems import MEDIA_TYPE, Problem
from hes.web.requests import ResolveRequest

_TITLES = {
    400: "The request can't be read",
    401: "No key, or one that is not known",
    403: "The key lacks the scope",
    404: "There is no such email",
    409: "The email's state does not allow it",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The content is not acceptable; `errors` names the fields",
    503: "The storage is not available; try again",
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The error answers of one operation."""
    return {
        status: ResponseSpec(Problem, description=_TITLES[status], media_type=MEDIA_TYPE, generate_examples=False)
        for status in statuses
    }


def _json_body(schema: str) -> RequestBody:
    return RequestBody(
        required=True,
        content={"application/json": OpenAPIMediaType(schema=Reference(ref=f"#/components/schemas/{schema}"))},
    )


@dataclass
class SendOperation(Operation):
    """`POST /v1/emails`."""

    def __post_init__(self) -> None:
        self.request_body = _json_body("EmailRequest")
        key = Parameter(
            name="Idempotency-Key",
            param_in="header",
            description="1 to 255 visible ASCII characters, kept 24 hours: the same request again sends nothing twice",
            schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255),
        )
        self.parameters = [*(self.parameters or []), key]


@dataclass
class ResolveOperation(Operation):
    """`POST /v1/emails/{id}/resolve`."""

    def __post_init__(self) -> None:
        self.request_body = _json_body("ResolveRequest")


@dataclass
class GetEmailOperation(Operation):
    """`GET /v1/emails/{id}`."""

    def __post_init__(self) -> None:
        include = Parameter(
            name="include",
            param_in="query",
            description="`content`: with bodies and attachments",
            schema=Schema(type=OpenAPIType.STRING, enum=["content"]),
        )
        self.parameters = [*(self.parameters or []), include]


@dataclass
class _OurComponents(Components):
    """With the schemas of the bodies that handlers decode themselves, as msgspec writes them (JSON Schema 2020-12)."""

    own: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        own = self.own
        self.own = {}
        try:
            document = super().to_schema()
        finally:
            self.own = own
        document.pop("own", None)
        document.setdefault("schemas", {}).update(own)
        return document


def openapi_config() -> OpenAPIConfig:
    """Served at /openapi.json. The docs page is not built yet."""
    _, bodies = msgspec.json.schema_components(
        [EmailRequest, ResolveRequest], ref_template="#/components/schemas/{name}"
    )
    components = _OurComponents(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer", description="`Authorization: Bearer <key>`"),
            "basic": SecurityScheme(type="http", scheme="basic", description="The key as user name or password"),
        },
        own=bodies,
    )
    return OpenAPIConfig(
        title="HES",
        version=__version__,
        description="Email that is safe on disk before it is answered, and leaves through whichever provider works.",
        path="/",
        components=components,
        security=[{"bearer": []}, {"basic": []}],
        render_plugins=[JsonRenderPlugin()],
    )
