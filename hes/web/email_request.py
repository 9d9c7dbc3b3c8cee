"""What the body of `POST /v1/emails` may hold: names, types, limits, and what the API's document says of each.

Only types are enforced by decoding into this; limits are `hes.web.body`'s to check, so that all wrong fields are named
at once, and stand here as `extra_json_schema` for the document alone.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from hes.model import MAX_EXPIRES_IN, MIN_EXPIRES_IN, OnDoubt
from hes.web.addresses import MAX_NAME

MAX_RECIPIENTS = 1_000
MAX_REPLY_TO = 100
MAX_HEADERS = 100
MAX_ATTACHMENTS = 100
MAX_TAGS = 20
MAX_TAG = 256
MAX_REFERENCE = 255
MAX_LINE = 998
"""Characters of a subject and of a header's value (RFC 5322, section 2.1.1)."""
LABEL = r"[A-Za-z0-9_.-]{1,64}"
"""A stream, or a tag's key."""

NOT_BUILT = ("template", "variables", "raw", "priority", "store_content")
"""Known fields without effect yet: any use is refused, never ignored, and the document does not show them. Building one
deletes its name here."""


def _about(description: str, **schema: Any) -> Meta:
    return Meta(description=description, extra_json_schema=schema or None)


class Mailbox(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An address as an object; the other form is a string, `ann@example.com` or `Ann <ann@example.com>`."""

    email: str
    name: Annotated[str | None, _about("What people see instead of the address.", maxLength=MAX_NAME)] = None


class AttachedFile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One attachment. With a `content_id` it is an image that the HTML shows as `cid:<content_id>`."""

    filename: Annotated[
        str,
        _about(
            "Without slashes, control characters and those that change the direction of writing; not `.` or `..`.",
            minLength=1,
            maxLength=255,
        ),
    ]
    content: Annotated[bytes, _about("Base64 (RFC 4648, section 4): padded, without line breaks. Not empty.")]
    content_type: Annotated[
        str | None,
        _about(
            "`type/subtype`, without parameters and not multipart. Missing: guessed from the file name, else "
            "`application/octet-stream`."
        ),
    ] = None
    content_id: Annotated[
        str | None, _about("Once per email, without `<` and `>`.", minLength=1, maxLength=255, examples=["logo"])
    ] = None


Mailboxes = str | Mailbox | list[str | Mailbox]


class EmailRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One email. It needs `from`, `subject`, a recipient in `to`, `cc` or `bcc`, and `text` or `html`.

    `null` is the same as a missing field. Unknown fields are refused.
    """

    sender: Annotated[str | Mailbox | None, _about("Whom it comes from.", examples=["Shop <shop@example.com>"])] = (
        field(name="from", default=None)
    )
    to: Annotated[
        Mailboxes | None,
        _about(
            f"Recipients; with `cc` and `bcc` at most {MAX_RECIPIENTS:,}. Who is named twice is kept once, where first."
        ),
    ] = None
    cc: Mailboxes | None = None
    bcc: Annotated[Mailboxes | None, _about("The other recipients don't see these.")] = None
    reply_to: Annotated[Mailboxes | None, _about(f"Where answers go, at most {MAX_REPLY_TO}.")] = None
    subject: Annotated[str | None, _about("One line.", minLength=1, maxLength=MAX_LINE)] = None
    text: str | None = None
    html: str | None = None
    headers: Annotated[
        dict[str, str] | None,
        _about(
            "Further headers. None that HES, the provider or servers on the way make, such as `To`, `Date`, "
            "`Content-Type` or `Resent-To`, and none that gives orders to a provider, such as `X-SMTPAPI`.",
            maxProperties=MAX_HEADERS,
            examples=[{"X-Order": "17"}],
        ),
    ] = None
    attachments: Annotated[list[AttachedFile] | None, _about("Files.", maxItems=MAX_ATTACHMENTS)] = None
    tags: Annotated[
        dict[str, str] | None,
        _about(
            f"The caller's own labels, also told to the provider: put nothing personal here. Keys match `{LABEL}` and "
            f"don't begin with `hes_`; values have 1 to {MAX_TAG} characters.",
            maxProperties=MAX_TAGS,
            examples=[{"kind": "welcome"}],
        ),
    ] = None
    reference: Annotated[str | None, _about("The caller's own id.", minLength=1, maxLength=MAX_REFERENCE)] = None
    stream: Annotated[str | None, _about("Chooses the route. Missing: `default`.", pattern=f"^{LABEL}$")] = None
    on_doubt: Annotated[
        OnDoubt | None,
        _about(
            "What follows when nobody can find out whether a provider took it: send it again (it may arrive twice), "
            "hold it for a person, or wait. Missing: as the service is set."
        ),
    ] = None
    expires_in: Annotated[
        int | None,
        _about(
            "Seconds until it is given up. Missing: as the service is set.",
            minimum=MIN_EXPIRES_IN,
            maximum=MAX_EXPIRES_IN,
        ),
    ] = None
    attempt_timeout: Annotated[
        float | None, _about("Seconds for one try at one provider, 1 to what the service allows.", minimum=1)
    ] = None
    providers: Annotated[
        list[str] | None, _about("Only these may send it, in this order.", minItems=1, examples=[["sendgrid"]])
    ] = None
    draft: Annotated[bool | None, _about("Only store it: it is sent by POST /v1/emails/{id}/send.")] = None
    send_at: Annotated[
        str | None,
        _about(
            "Not before then: RFC 3339, at most a year ahead. In the past: at once.",
            format="date-time",
            examples=["2026-12-24T18:00:00+01:00"],
        ),
    ] = None
    template: str | None = None
    variables: dict[str, Any] | None = None
    raw: str | None = None
    priority: Literal["high", "normal", "low"] | None = None
    store_content: bool | None = None
