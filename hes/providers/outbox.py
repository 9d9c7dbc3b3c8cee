"""Keeps emails instead of sending them: for local use, for trying things out, for test keys.

Each email is put, as the message it would be, into the database and into a Maildir (cr.yp.to/proto/maildir.html) that
any mail reader opens. A provider like all others: it is leased for, it can fail, it answers.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio.to_thread

from hes import mime
from hes.errors import StorageUnavailable
from hes.model import Answer, AttemptId, Email, EmailId, Outcome
from hes.providers.maildir import make_maildir, write_message
from hes.providers.provider import Support
from hes.providers.rendering import rendered
from hes.timeouts import fail_after

Keep = Callable[[EmailId, AttemptId, bytes], Awaitable[None]]
"""`Storage.keep`: puts a message into the database."""


class Outbox:
    """Accepts everything, unless the disk does not."""

    kind = "outbox"
    support = Support(
        max_recipients=None, max_request_bytes=None, tags="kept", own_message_id=True, finds_out="it is on this disk"
    )
    render_version = mime.RENDER_VERSION

    def __init__(self, name: str, keep: Keep, maildir: Path | None) -> None:
        """`maildir` None: in the database only."""
        if maildir is not None:
            make_maildir(maildir)
        self.name = name
        self._keep = keep
        self._maildir = maildir

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        # In a thread: rendering an attachment of some megabytes takes longer than the loop may stand still.
        message = await anyio.to_thread.run_sync(rendered, mime.render, email, attempt_id)
        if isinstance(message, Answer):
            return message
        try:
            with fail_after(timeout_seconds):
                if self._maildir is not None:
                    await anyio.to_thread.run_sync(write_message, self._maildir, email.id, message)
                await self._keep(email.id, attempt_id, message)
        except TimeoutError:
            return Answer(outcome=Outcome.IN_DOUBT, detail="the disk did not answer in time")
        except OSError as error:
            detail = f"HES_OUTBOX_DIR {self._maildir} can't be written: {error.strerror}"
            return Answer(outcome=Outcome.UNAVAILABLE, detail=detail)
        except StorageUnavailable as error:
            return Answer(outcome=Outcome.UNAVAILABLE, detail=f"the outbox in the database can't be written: {error}")
        return Answer(outcome=Outcome.ACCEPTED, provider_message_id=email.message_id)

    async def aclose(self) -> None:
        """Nothing is open."""
