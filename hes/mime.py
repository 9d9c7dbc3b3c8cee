"""An email as MIME (RFC 5322, RFC 2045 to 2047, RFC 2387), for whoever takes messages whole."""

from datetime import UTC, datetime
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from typing import cast

from hes.model import Address, Attachment, AttemptId, Email

RENDER_VERSION = 1


def render(email: Email, attempt_id: AttemptId) -> bytes:
    """The message with CRLF line ends, the same bytes for the same email and attempt; bcc is not in it.

    `multipart/alternative` for text and HTML, `related` around HTML with inline images, `mixed` around attachments.
    Our ids travel as `X-HES-Id` and `X-HES-Attempt`.
    """
    everybody = (email.sender, *email.to, *email.cc, *email.reply_to)
    policy = SMTP if all(a.email.isascii() for a in everybody) else SMTPUTF8
    message = EmailMessage(policy=policy)
    message["From"] = _header_address(email.sender)
    for name, addresses in (("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to)):
        if addresses:
            message[name] = [_header_address(a) for a in addresses]
    message["Subject"] = email.subject
    message["Date"] = format_datetime(datetime.fromtimestamp(email.date // 1000, tz=UTC))
    message["Message-ID"] = email.message_id
    for name, value in email.headers.items():
        message[name] = value
    message["X-HES-Id"] = email.id
    message["X-HES-Attempt"] = attempt_id
    _add_content(message, email)
    _set_boundaries(message, email)
    return message.as_bytes()


def _header_address(address: Address) -> HeaderAddress:
    local, _, domain = address.email.rpartition("@")
    return HeaderAddress(display_name=address.name or "", username=local, domain=domain)


def _add_content(message: EmailMessage, email: Email) -> None:
    inline = [a for a in email.attachments if a.content_id is not None and email.html]
    attached = [a for a in email.attachments if a not in inline]
    if email.text is not None:
        message.set_content(email.text)
    if email.html is not None:
        if email.text is None:
            message.set_content(email.html, subtype="html")
        else:
            message.add_alternative(email.html, subtype="html")
        html = cast("MIMEPart", message.get_body(("html",)))
        for image in inline:
            main, sub = _type(image)
            html.add_related(
                image.content, main, sub, filename=image.filename, disposition="inline", cid=f"<{image.content_id}>"
            )
    for file in attached:
        main, sub = _type(file)
        message.add_attachment(file.content, main, sub, filename=file.filename)


def _type(file: Attachment) -> tuple[str, str]:
    main, _, sub = file.content_type.partition("/")
    return main, sub


def _set_boundaries(message: EmailMessage, email: Email) -> None:
    """Boundaries made from the id: the library's own are random, and a replay must have the same bytes."""
    for number, part in enumerate(p for p in message.walk() if p.is_multipart()):
        part.set_boundary(f"=_hes_{email.id}_{number}")
