"""Which headers callers may not set, as one table, and why. No I/O."""

import re

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")
"""A header's name (RFC 9110, section 5.6.2)."""

_MADE = "is made by HES or the provider and can't be set"
_ON_THE_WAY = "is written by servers on the way and can't be set"
_ORDER = "is an order to a provider and can't be set"
"""The provider that knows it would obey, all others would show it to the recipients."""

# In lower case; those that end in a hyphen stand for all that begin so.
_REFUSED = {
    _MADE: "date message-id sender return-path mime-version content- x-hes-",
    _ON_THE_WAY: (
        "received received-spf delivered-to dkim-signature domainkey-signature authentication-results arc- resent-"
    ),
    _ORDER: (
        "x-smtpapi x-sg- x-sendgrid- "
        "x-mailgun- "
        "resend- x-resend- "
        "x-pm- x-postmark- "  # Postmark
        "x-ses- "
        "x-mailin- x-sib- sender.ip idempotencykey "  # Brevo
        "idempotency-key "
        "x-mc- x-mandrill- "  # Mandrill
        "x-msys- "  # SparkPost
        "x-mj- x-mailjet-"
    ),
}
_FIELDS = ("from", "to", "cc", "bcc", "subject", "reply-to")
_WHY = {name: why for why, names in _REFUSED.items() for name in names.split()} | {
    name: f"is made by HES; use the field `{name.replace('-', '_')}`" for name in _FIELDS
}
_BEGINNINGS = tuple(name for name in _WHY if name.endswith("-"))


def refusal(name: str) -> str | None:
    """Why a caller may not set this header; None: it may."""
    lower = name.lower()
    beginning = next((start for start in _BEGINNINGS if lower.startswith(start)), lower)
    return _WHY.get(beginning)
