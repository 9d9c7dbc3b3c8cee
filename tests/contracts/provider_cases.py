"""What HES asks of each provider, and what it understands of the answers. Each is one interaction of a contract.

Requests are written out by hand, so that a change of what goes out is seen here. Answers hold what HES reads, no more.
"""

from typing import Any

from msgspec import Struct
from pact import match

from hes.model import Address, Attachment, AttemptId, Email, Outcome, Scope
from tests.fakes import an_email
from tests.fakes.mailgun import DOMAIN
from tests.fakes.mailgun import KEY as MAILGUN_KEY
from tests.fakes.resend import KEY as RESEND_KEY
from tests.fakes.sendgrid import KEY as SENDGRID_KEY

ATTEMPT = AttemptId("0190-attempt")
PLAIN = an_email()
FULL = an_email(
    cc=(Address("cc@example.org"),),
    bcc=(Address("bcc@example.org"),),
    reply_to=(Address("answers@example.com", "Answers"),),
    headers={"X-Order": "7"},
    tags={"kind": "receipt"},
    attachments=(
        Attachment(filename="receipt.txt", content_type="text/plain", content=b"7 apples"),
        Attachment(filename="logo.png", content_type="image/png", content=b"a logo", content_id="logo"),
    ),
)
WRONG = an_email(to=(Address("ann@nowhere"),))
"""HES takes it for an address, providers don't."""

# States in which a provider may be; tests/contracts/test_providers.py brings the fakes into them.
WORKS = "the account works"
KEY_IS_WRONG = "the key is not valid"
DOMAIN_IS_UNVERIFIED = "the sender's domain is not verified"
OUT_OF_QUOTA = "the quota is used up"
TOO_FAST = "there were too many requests"
IS_DOWN = "the provider is down and says so"
WAS_TAKEN = "the attempt was taken before"


class Case(Struct, frozen=True, kw_only=True):
    """One request and its answer. `outcome` and what follows it: what HES makes of the answer."""

    text: str
    state: str = WORKS
    email: Email = PLAIN
    body: Any
    """Of the request: a dict for JSON, a text for a form."""
    status: int
    answer: Any = None
    answer_headers: dict[str, Any] = {}
    outcome: Outcome
    scope: Scope = Scope.PROVIDER
    quota: bool = False
    wait: bool = False
    message_id: str | None = None


# --- SendGrid --------------------------------------------------------------------------------------------------------

_NO_TRACKING = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
    "ganalytics": {"enable": False},
}
_SENDGRID_PLAIN = {
    "personalizations": [
        {
            "to": [{"email": "ann@example.org", "name": "Ann"}],
            "custom_args": {"hes_id": "0190-email", "hes_attempt": "0190-attempt"},
        }
    ],
    "from": {"email": "shop@example.com", "name": "Shop"},
    "subject": "Receipt 7",
    "content": [{"type": "text/plain", "value": "Hi"}, {"type": "text/html", "value": "<p>Hi</p>"}],
    "headers": {"Message-ID": "<0190-email@hes.example>"},
    "tracking_settings": _NO_TRACKING,
}
_SENDGRID_FULL = _SENDGRID_PLAIN | {
    "personalizations": [
        {
            "to": [{"email": "ann@example.org", "name": "Ann"}],
            "cc": [{"email": "cc@example.org"}],
            "bcc": [{"email": "bcc@example.org"}],
            "custom_args": {"hes_id": "0190-email", "hes_attempt": "0190-attempt", "kind": "receipt"},
        }
    ],
    "reply_to_list": [{"email": "answers@example.com", "name": "Answers"}],
    "headers": {"X-Order": "7", "Message-ID": "<0190-email@hes.example>"},
    "attachments": [
        {
            "content": "NyBhcHBsZXM=",
            "filename": "receipt.txt",
            "disposition": "attachment",
            "type": "text/plain",
        },
        {
            "content": "YSBsb2dv",
            "filename": "logo.png",
            "disposition": "inline",
            "type": "image/png",
            "content_id": "logo",
        },
    ],
    "categories": ["kind:receipt"],
}
_SENDGRID_ID = {"X-Message-Id": match.regex("fake-1", regex=r"[!-~]+")}


def _sendgrid_error(message: object, field: object = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field}]}


SENDGRID = [
    Case(
        text="a plain email",
        body=_SENDGRID_PLAIN,
        status=202,
        answer_headers=_SENDGRID_ID,
        outcome=Outcome.ACCEPTED,
        message_id="fake-1",
    ),
    Case(
        text="an email with everything",
        email=FULL,
        body=_SENDGRID_FULL,
        status=202,
        answer_headers=_SENDGRID_ID,
        outcome=Outcome.ACCEPTED,
        message_id="fake-1",
    ),
    Case(
        text="an email with an address that is none",
        email=an_email(to=(Address("nobody"),)),
        body=_SENDGRID_PLAIN
        | {
            "personalizations": [
                {
                    "to": [{"email": "nobody"}],
                    "custom_args": {"hes_id": "0190-email", "hes_attempt": "0190-attempt"},
                }
            ]
        },
        status=400,
        answer=_sendgrid_error(match.str("Does not contain a valid address."), match.str("personalizations.0.to")),
        outcome=Outcome.REJECTED,
    ),
    Case(
        text="an email with a wrong key",
        state=KEY_IS_WRONG,
        body=_SENDGRID_PLAIN,
        status=401,
        answer=_sendgrid_error(match.str("The provided authorization grant is invalid")),
        outcome=Outcome.REFUSED,
    ),
    Case(
        text="an email without credits",
        state=OUT_OF_QUOTA,
        body=_SENDGRID_PLAIN,
        status=401,
        answer=_sendgrid_error("Maximum credits exceeded"),
        outcome=Outcome.REFUSED,
        quota=True,
    ),
    Case(
        text="an email from an unverified domain",
        state=DOMAIN_IS_UNVERIFIED,
        body=_SENDGRID_PLAIN,
        status=403,
        answer=_sendgrid_error(match.str("The from address does not match a verified Sender Identity."), "from"),
        outcome=Outcome.REFUSED,
        scope=Scope.SENDER_DOMAIN,
    ),
    Case(
        text="an email too many",
        state=TOO_FAST,
        body=_SENDGRID_PLAIN,
        status=429,
        answer=_sendgrid_error(match.str("too many requests")),
        answer_headers={"X-RateLimit-Reset": match.regex("1700000007", regex=r"\d+")},
        outcome=Outcome.THROTTLED,
        wait=True,
    ),
    Case(
        text="an email while it is down",
        state=IS_DOWN,
        body=_SENDGRID_PLAIN,
        status=503,
        answer=_sendgrid_error(match.str("Service unavailable")),
        outcome=Outcome.UNAVAILABLE,
    ),
]

# --- Mailgun ---------------------------------------------------------------------------------------------------------

MAILGUN_PATH = f"/v3/{DOMAIN}/messages"
BOUNDARY = f"hes-{ATTEMPT}"


def _form(*parts: tuple[str, str]) -> str:
    """RFC 7578: what stands before the first line's end is the part's name, and what belongs to it."""
    lines = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{head}\r\n\r\n{value}\r\n' for head, value in parts
    ]
    return "".join(lines) + f"--{BOUNDARY}--\r\n"


_MAILGUN_BEGIN = (('from"', "Shop <shop@example.com>"), ('to"', "Ann <ann@example.org>"))
_MAILGUN_MIDDLE = (
    ('subject"', "Receipt 7"),
    ('text"', "Hi"),
    ('html"', "<p>Hi</p>"),
    ('h:Message-Id"', "<0190-email@hes.example>"),
)
_MAILGUN_IDS = (('v:hes_id"', "0190-email"), ('v:hes_attempt"', "0190-attempt"))
_MAILGUN_END = (('o:tracking"', "no"), ('o:tracking-clicks"', "no"), ('o:tracking-opens"', "no"))
_MAILGUN_PLAIN = _form(*_MAILGUN_BEGIN, *_MAILGUN_MIDDLE, *_MAILGUN_IDS, *_MAILGUN_END)
_MAILGUN_FULL = _form(
    *_MAILGUN_BEGIN,
    ('cc"', "cc@example.org"),
    ('bcc"', "bcc@example.org"),
    *_MAILGUN_MIDDLE,
    ('h:Reply-To"', "Answers <answers@example.com>"),
    *_MAILGUN_IDS,
    ('v:kind"', "receipt"),
    ('o:tag"', "kind:receipt"),
    *_MAILGUN_END,
    ('h:X-Order"', "7"),
    ('attachment"; filename="receipt.txt"\r\nContent-Type: text/plain', "7 apples"),
    ('inline"; filename="logo"\r\nContent-Type: image/png', "a logo"),
)
_MAILGUN_TAKEN = {
    "id": match.regex("<0190-email@hes.example>", regex=r"<[!-~]+>"),
    "message": match.regex("Queued. Thank you.", regex="^Queued.*"),
}


def _mailgun_error(message: str, regex: str) -> dict[str, Any]:
    return {"message": match.regex(message, regex=regex)}


MAILGUN = [
    Case(
        text="a plain email",
        body=_MAILGUN_PLAIN,
        status=200,
        answer=_MAILGUN_TAKEN,
        outcome=Outcome.ACCEPTED,
        message_id="<0190-email@hes.example>",
    ),
    Case(
        text="an email with everything",
        email=FULL,
        body=_MAILGUN_FULL,
        status=200,
        answer=_MAILGUN_TAKEN,
        outcome=Outcome.ACCEPTED,
        message_id="<0190-email@hes.example>",
    ),
    Case(
        text="an email with an address that is none",
        email=WRONG,
        body=_MAILGUN_PLAIN.replace("Ann <ann@example.org>", "ann@nowhere"),
        status=400,
        answer=_mailgun_error("'to' parameter is not a valid address. please check documentation", ".*not a valid.*"),
        outcome=Outcome.REJECTED,
    ),
    Case(
        text="an email with a wrong key",
        state=KEY_IS_WRONG,
        body=_MAILGUN_PLAIN,
        status=401,
        outcome=Outcome.REFUSED,
    ),
    Case(
        text="an email from an unverified domain",
        state=DOMAIN_IS_UNVERIFIED,
        body=_MAILGUN_PLAIN,
        status=403,
        answer=_mailgun_error(
            f"Domain {DOMAIN} is not allowed to send: The domain is unverified and requires DNS configuration.",
            ".*unverified.*",
        ),
        outcome=Outcome.REFUSED,
        scope=Scope.SENDER_DOMAIN,
    ),
    Case(
        text="an email too many",
        state=TOO_FAST,
        body=_MAILGUN_PLAIN,
        status=429,
        answer=_mailgun_error(
            f"Domain {DOMAIN} is not allowed to send: limit exceeded, try again after 120 seconds",
            r".*limit exceeded, try again after \d+ seconds",
        ),
        outcome=Outcome.THROTTLED,
        wait=True,
    ),
    Case(
        text="an email while it is down",
        state=IS_DOWN,
        body=_MAILGUN_PLAIN,
        status=503,
        answer={"message": match.str("Service unavailable")},
        outcome=Outcome.UNAVAILABLE,
    ),
]

# --- Resend ----------------------------------------------------------------------------------------------------------

_RESEND_PLAIN = {
    "from": "Shop <shop@example.com>",
    "to": ["Ann <ann@example.org>"],
    "subject": "Receipt 7",
    "text": "Hi",
    "html": "<p>Hi</p>",
    "headers": {"Message-ID": "<0190-email@hes.example>"},
    "tags": [{"name": "hes_id", "value": "0190-email"}, {"name": "hes_attempt", "value": "0190-attempt"}],
}
_RESEND_FULL = _RESEND_PLAIN | {
    "cc": ["cc@example.org"],
    "bcc": ["bcc@example.org"],
    "reply_to": ["Answers <answers@example.com>"],
    "headers": {"X-Order": "7", "Message-ID": "<0190-email@hes.example>"},
    "attachments": [
        {"filename": "receipt.txt", "content": "NyBhcHBsZXM=", "content_type": "text/plain"},
        {"filename": "logo.png", "content": "YSBsb2dv", "content_type": "image/png", "content_id": "logo"},
    ],
    "tags": [
        {"name": "hes_id", "value": "0190-email"},
        {"name": "hes_attempt", "value": "0190-attempt"},
        {"name": "kind", "value": "receipt"},
    ],
}
_RESEND_TAKEN = {"id": match.regex("fake-1", regex=r"[!-~]+")}


def _resend_error(status: int, name: str, message: str) -> dict[str, Any]:
    return {"statusCode": status, "name": name, "message": match.str(message)}


RESEND = [
    Case(
        text="a plain email",
        body=_RESEND_PLAIN,
        status=200,
        answer=_RESEND_TAKEN,
        outcome=Outcome.ACCEPTED,
        message_id="fake-1",
    ),
    Case(
        text="the same attempt again",
        state=WAS_TAKEN,
        body=_RESEND_PLAIN,
        status=200,
        answer={"id": "fake-1"},
        outcome=Outcome.ACCEPTED,
        message_id="fake-1",
    ),
    Case(
        text="an email with everything",
        email=FULL,
        body=_RESEND_FULL,
        status=200,
        answer=_RESEND_TAKEN,
        outcome=Outcome.ACCEPTED,
        message_id="fake-1",
    ),
    Case(
        text="an email with an address that is none",
        email=WRONG,
        body=_RESEND_PLAIN | {"to": ["ann@nowhere"]},
        status=422,
        answer=_resend_error(422, "validation_error", "Invalid `to` field."),
        outcome=Outcome.REJECTED,
    ),
    Case(
        text="an email with a wrong key",
        state=KEY_IS_WRONG,
        body=_RESEND_PLAIN,
        status=403,
        answer=_resend_error(403, "invalid_api_key", "API key is invalid"),
        outcome=Outcome.REFUSED,
    ),
    Case(
        text="an email from an unverified domain",
        state=DOMAIN_IS_UNVERIFIED,
        body=_RESEND_PLAIN,
        status=403,
        answer=_resend_error(403, "validation_error", "The example.com domain is not verified."),
        outcome=Outcome.REFUSED,
        scope=Scope.SENDER_DOMAIN,
    ),
    Case(
        text="an email beyond the quota",
        state=OUT_OF_QUOTA,
        body=_RESEND_PLAIN,
        status=429,
        answer=_resend_error(429, "daily_quota_exceeded", "You have reached your daily_quota."),
        outcome=Outcome.REFUSED,
        quota=True,
    ),
    Case(
        text="an email too many",
        state=TOO_FAST,
        body=_RESEND_PLAIN,
        status=429,
        answer=_resend_error(429, "rate_limit_exceeded", "Too many requests."),
        answer_headers={"retry-after": match.regex("1", regex=r"\d+")},
        outcome=Outcome.THROTTLED,
        wait=True,
    ),
    Case(
        text="an email while it is down",
        state=IS_DOWN,
        body=_RESEND_PLAIN,
        status=503,
        answer={"name": match.str("application_error"), "message": match.str("Service unavailable")},
        outcome=Outcome.UNAVAILABLE,
    ),
]

KEYS = {"sendgrid": SENDGRID_KEY, "mailgun": MAILGUN_KEY, "resend": RESEND_KEY}
CASES = {"sendgrid": SENDGRID, "mailgun": MAILGUN, "resend": RESEND}


# --- finding out -----------------------------------------------------------------------------------------------------


class Asked(Struct, frozen=True, kw_only=True):
    """One of the requests that a look-up takes, and its answer."""

    text: str
    method: str
    path: str
    query: dict[str, str] = {}
    body: Any = None
    answer: Any


STARTED_AT = 1_700_000_000_000
"""2023-11-14T22:13:20Z"""

LOOK_UPS = {
    "sendgrid": [
        Asked(
            text="search the logs by recipient and time",
            method="POST",
            path="/v3/logs",
            body={
                "query": "to_email = 'ann@example.org'"
                ' AND sg_message_id_created_at >= TIMESTAMP "2023-11-14T22:12:20Z"'
                ' AND sg_message_id_created_at <= TIMESTAMP "2023-11-14T22:23:20Z"',
                "limit": 50,
            },
            answer={
                "messages": match.each_like(
                    {
                        "sg_message_id": match.regex("fake-1.recvd-77-0.0", regex=r"[!-~]+"),
                        "subject": match.str("Receipt 7"),
                        "sg_message_id_created_at": match.regex(
                            "2023-11-14T22:13:20+00:00", regex=r"\d{4}-\d\d-\d\dT.*"
                        ),
                    }
                )
            },
        ),
        Asked(
            text="ask for one message of the logs",
            method="GET",
            path="/v3/logs/fake-1.recvd-77-0.0",
            answer={"custom_args": {"hes_attempt": ATTEMPT}, "status": match.str("processed")},
        ),
    ],
    "mailgun": [
        Asked(
            text="search the events by Message-ID",
            method="GET",
            path=f"/v3/{DOMAIN}/events",
            query={"message-id": "0190-email@hes.example", "begin": "1699999700", "ascending": "yes", "limit": "100"},
            answer={
                "items": match.each_like(
                    {
                        "event": match.str("accepted"),
                        "id": match.str("event-0"),
                        "timestamp": match.number(1_700_000_000.0),
                        "recipient": match.str("ann@example.org"),
                        "message": {"headers": {"message-id": match.str("0190-email@hes.example")}},
                        "user-variables": {"hes_id": match.str("0190-email"), "hes_attempt": match.str(ATTEMPT)},
                    }
                )
            },
        )
    ],
}
