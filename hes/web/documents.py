"""The API's own description, OpenAPI 3.1.

Litestar reads paths, parameters and answers off the handlers. Handlers that decode their body themselves (for errors
that name the field) have no typed parameter for it: what they take is added here, by operation. Schemas come from
msgspec, which knows what is enforced and takes descriptions from where the fields are.
"""

from collections.abc import Iterable, Iterator, Sequence
from inspect import cleandoc
from typing import Any

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import SecurityScheme
from litestar.openapi.spec.components import Components
from litestar.types import ControllerRouterHandler

from hes import __version__
from hes.errors import (
    CallerError,
    FieldError,
    Forbidden,
    InvalidEmail,
    NotAuthenticated,
    NotFound,
    TooLarge,
    TooMany,
    TooSlow,
    Unreadable,
    UnsupportedType,
    WrongState,
    WrongVersion,
)
from hes.web.email_request import NOT_BUILT, EmailRequest
from hes.web.key_request import KeyRequest
from hes.web.problems import MEDIA_TYPE, Problem, problem_of, unavailable
from hes.web.requests import CancelManyRequest, ResolveManyRequest, ResolveRequest, SendRequest
from hes.web.views import AcceptedView, EmailState, EmailView, Health

_TITLES = {
    400: "The request can't be read",
    401: "No key, or one that is not known",
    403: "The key may not do this",
    404: "There is no such thing here",
    408: "The body did not come in time; the connection is closed",
    409: "The email's state does not allow it; or, when sending: the same request is being worked on",
    412: "The email has another version by now",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The content is not acceptable; `errors` names the fields",
    429: "Too many emails for this key, or too many wrong keys from this address",
    503: "Not available now, and nothing was changed; try again",
}
_FAULTS: dict[int, CallerError] = {
    400: Unreadable("The body is not JSON: trailing comma in object (byte 71)."),
    401: NotAuthenticated("A key is needed: `Authorization: Bearer <key>`."),
    403: Forbidden("This key lacks the scope `emails:send`."),
    404: NotFound("There is no such email."),
    408: TooSlow("The body did not come within 30 seconds."),
    409: WrongState("The email is sent; it can't be cancelled any more."),
    412: WrongVersion("The email has another version by now; read it again."),
    413: TooLarge("The body is larger than what is taken here."),
    415: UnsupportedType("The body must be JSON, with `Content-Type: application/json`."),
    422: InvalidEmail("`to[2]` is not an address.", [FieldError("to[2]", "is not an address")]),
    429: TooMany("This key has used up its rate.", 1),
}
"""An example of each error of the caller's, by status."""
_HEADERS = {
    "401": {"WWW-Authenticate": ("How to send a key", {"type": "string"})},
    "429": {"Retry-After": ("Seconds", {"type": "integer"})},
    "503": {"Retry-After": ("Seconds", {"type": "integer"})},
}
_EMAIL_AT = {"Location": ("Where to read the email: `/v1/emails/{id}`", {"type": "string"})}
_VERSION = {"ETag": ("The email's version, for `If-Match`", {"type": "string", "examples": ['"4"']})}
_HEADERS_OF: dict[tuple[str, str], dict[str, tuple[str, dict[str, Any]]]] = {
    ("sendEmail", "201"): _EMAIL_AT,
    ("sendEmail", "202"): _EMAIL_AT,
    ("createKey", "201"): {"Location": ("Where it is: `/v1/keys/{id}`", {"type": "string"})},
    ("getEmail", "200"): _VERSION,
    ("editEmail", "200"): _VERSION,
    ("cancelEmail", "200"): _VERSION,
    ("resolveEmail", "200"): _VERSION,
    ("sendEmailAgain", "202"): _VERSION,
}
"""By operation and status; those of errors are the same everywhere."""
_LEAST = {"from": "shop@example.com", "to": "ann@example.org", "subject": "Hello", "text": "Hello Ann"}
_FULL = {
    "from": {"email": "shop@example.com", "name": "Shop"},
    "to": [{"email": "ann@example.org", "name": "Ann"}],
    "reply_to": "help@example.com",
    "subject": "Your receipt",
    "text": "Thank you, Ann.",
    "html": "<p>Thank you, Ann.</p>",
    "attachments": [{"filename": "receipt.pdf", "content": "JVBERi0xLjcK", "content_type": "application/pdf"}],
    "tags": {"kind": "receipt"},
    "reference": "order 17",
    "on_doubt": "hold",
}
_KEY = {
    "name": "shop",
    "scopes": ["emails:send"],
    "sender_domains": ["example.com"],
    "rate_per_second": 50,
    "expires_at": "2099-01-31T12:00:00Z",
    "project": "shop",
}
_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sendEmail": ("EmailRequest", {"least": _LEAST, "full": _FULL}),
    "sendBatch": ("BatchRequest", {"two": {"emails": [_LEAST, _FULL]}}),
    "sendEmailAgain": ("SendRequest", {"later": {"send_at": "2026-12-24T18:00:00Z"}}),
    "editEmail": (
        "EmailChanges",
        {
            "a draft": {"subject": "Your receipt, at last", "reference": None},
            "scheduled": {"send_at": "2026-12-24T18:00:00Z"},
        },
    ),
    "resolveEmail": ("ResolveRequest", {"resend": {"decision": "resend"}, "sent": {"decision": "sent"}}),
    "resolveEmails": (
        "ResolveManyRequest",
        {"held": {"decision": "resend", "filter": {"status": "held", "provider": "sendgrid"}}},
    ),
    "cancelEmails": ("CancelManyRequest", {"tag": {"filter": {"tag": "campaign:spring"}}}),
    "createKey": ("KeyRequest", {"full": _KEY, "test": {"name": "try it", "test": True}}),
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key sends nothing twice and gets the first answer again; "
    "another request with it is refused. Visible ASCII; kept 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "order-17-receipt",
}
_TIME = {"type": "string", "format": "date-time"}
_PAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "limit": ("How many at most; 50 if not given", {"type": "integer", "minimum": 1, "maximum": 100}),
    "cursor": ("The `next_cursor` of the answer before", {"type": "string"}),
}
_FILTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "status": ("In this status", {"$ref": "#/components/schemas/Status"}),
    "reason": ("With this reason", {"$ref": "#/components/schemas/Reason"}),
    "to": (
        "To this address, also in copy; upper and lower case differ before the @-sign only",
        {"type": "string", "minLength": 1},
    ),
    "from": ("From this address", {"type": "string", "minLength": 1}),
    "tag": ("With this tag, `key:value` or `key`", {"type": "string", "minLength": 1}),
    "reference": ("With this `reference`", {"type": "string", "minLength": 1}),
    "provider": ("Taken by this provider, or tried there last", {"type": "string", "minLength": 1}),
    "created_after": ("Handed in since then", _TIME),
    "created_before": ("Handed in before", _TIME),
    **_PAGE,
}


def _in_query(parameters: dict[str, tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "description": description, "schema": schema}
        for name, (description, schema) in parameters.items()
    ]


_PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "sendEmail": [_IDEMPOTENCY_KEY],
    "sendBatch": [_IDEMPOTENCY_KEY],
    "getEmail": [
        {
            "name": "include",
            "in": "query",
            "description": "`content`: with bodies, headers and attachments.",
            "schema": {"type": "string", "enum": ["content"]},
        },
        *_in_query(
            {
                "attempts_cursor": (
                    "The `next_attempts_cursor` of an answer: the attempts before it",
                    {"type": "string", "pattern": "^[0-9]{1,9}$"},
                ),
                "events_cursor": ("Likewise of the timeline, `next_events_cursor`", {"type": "string"}),
            }
        ),
    ],
    "listEmails": _in_query(_FILTERS),
    "listKeys": _in_query(_PAGE),
    "editEmail": [
        {
            "name": "If-Match",
            "in": "header",
            "description": "The version that is to be changed, as the `ETag` of an answer has it.",
            "schema": {"type": "string", "pattern": r'^(\*|(W/)?"?[0-9]{1,9}"?)$'},
            "example": '"4"',
        }
    ],
}
_OPTIONAL_BODIES = {"sendEmailAgain"}


def problems(*statuses: int, needs_key: bool = True) -> dict[int, ResponseSpec]:
    """The error answers of one operation. Where a key is asked for, there may be too many wrong ones."""
    statuses = tuple(sorted({*statuses, 429})) if 401 in statuses and needs_key else statuses
    return {
        status: ResponseSpec(Problem, description=_TITLES[status], media_type=MEDIA_TYPE, generate_examples=False)
        for status in statuses
    }


def describe(handlers: Sequence[ControllerRouterHandler], dependencies: Iterable[str]) -> dict[str, Any]:
    """The document. The handlers are registered for it and can't be used in another application."""
    app = Litestar(
        handlers,
        dependencies={name: Provide(lambda: None, sync_to_thread=False) for name in dependencies},
        openapi_config=_config(),
        logging_config=None,
    )
    document = app.openapi_schema.to_schema()
    document["components"]["schemas"] |= _schemas()
    for operation in _operations(document):
        _complete(operation)
    return document


def _config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="HES",
        version=__version__,
        description="Email that is safe on disk before it is answered, and leaves through whichever provider works.\n\n"
        "Errors are problems as in RFC 9457. Unknown fields and query parameters are refused.",
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description="`Authorization: Bearer <key>`"),
                "basic": SecurityScheme(type="http", scheme="basic", description="The key as user name or password"),
            }
        ),
        security=[{"bearer": []}, {"basic": []}],
    )


def _schemas() -> dict[str, Any]:
    bodies = [EmailRequest, SendRequest, ResolveRequest, ResolveManyRequest, CancelManyRequest, KeyRequest]
    types = [*bodies, AcceptedView, EmailView, EmailState, Health, Problem]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    email = schemas["EmailRequest"]
    items = {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"$ref": "#/components/schemas/EmailRequest"}}
    schemas["BatchRequest"] = {
        "type": "object",
        "required": ["emails"],
        "properties": {"emails": items},
        "additionalProperties": False,
    }
    for name in NOT_BUILT:
        del email["properties"][name]
    for schema in schemas.values():
        if "enum" in schema:
            schema["type"] = "string"
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
    draft = {"const": True, "description": "Stays true: POST /v1/emails/{id}/send sends a draft."}
    schemas["EmailChanges"] = email | {
        "title": "EmailChanges",
        "description": "The fields of an email that are to change.",
        "properties": email["properties"] | {"draft": draft},
        "minProperties": 1,
    }
    email["required"] = ["from", "subject"]  # optional in the struct, so that all that are missing are named at once
    return schemas


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _complete(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    if parameters := _PARAMETERS.get(name):
        operation.setdefault("parameters", []).extend(parameters)
    if name in _BODIES:
        schema, examples = _BODIES[name]
        content = {
            "schema": {"$ref": f"#/components/schemas/{schema}"},
            "examples": {key: {"value": value} for key, value in examples.items()},
        }
        operation["requestBody"] = {
            "required": name not in _OPTIONAL_BODIES,
            "content": {"application/json": content},
        }
    if MEDIA_TYPE not in operation["responses"].get("400", {}).get("content", {MEDIA_TYPE}):
        del operation["responses"]["400"]  # Litestar's guess for whatever has a parameter; ours answer 404 and 422
    for status, response in operation["responses"].items():
        if MEDIA_TYPE in response.get("content", {}):
            response["content"][MEDIA_TYPE]["example"] = _example_of(int(status))
        for header, (description, of) in (_HEADERS.get(status) or _HEADERS_OF.get((name, status), {})).items():
            response.setdefault("headers", {})[header] = {"description": description, "schema": of}


def _example_of(status: int) -> Any:
    """An error answer as it looks."""
    if status == 503:
        return msgspec.to_builtins(unavailable("The storage is not available now. Try again."))
    return msgspec.to_builtins(problem_of(_FAULTS[status]))
