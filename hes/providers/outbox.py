"""Keeps emails instead of sending them: for local use, for trying things out, for test keys.

Each email is put, as the message it would be, into the database and into a Maildir (cr.yp.to/proto/maildir.html) that
any mail reader opens. A provider like all others: it is leased for, it can fail, it answers.
"""

import errno
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from hes import mime
from hes.errors import ConfigError, StorageUnavailable
from hes.model import Answer, AttemptId, Email, EmailId, Outcome
from hes.providers.provider import Support

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
            _make(maildir)
        self.name = name
        self._keep = keep
        self._maildir = maildir

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        # In a thread: rendering an attachment of some megabytes takes longer than the loop may stand still.
        message = await anyio.to_thread.run_sync(mime.render, email, attempt_id)
        try:
            with anyio.fail_after(timeout_seconds):
                if self._maildir is not None:
                    await anyio.to_thread.run_sync(_write, self._maildir, email.id, message)
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


def _make(maildir: Path) -> None:
    """At the start, where somebody reads what is wrong, and not with the first email."""
    if maildir.exists() and not maildir.is_dir():
        raise _refusal(f"{maildir} is not a folder")
    if not maildir.absolute().parent.is_dir():
        raise _refusal(f"{maildir.parent} does not exist")
    try:
        for folder in _make_folders(maildir):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno != errno.ENOSPC:  # a disk that is full now may have room when an email comes
            raise _refusal(f"{maildir} can't be written: {error.strerror}") from None


def _refusal(wrong: str) -> ConfigError:
    return ConfigError(f"HES_OUTBOX_DIR: {wrong}. Example: HES_OUTBOX_DIR=./outbox")


def _make_folders(maildir: Path) -> list[Path]:
    """Where messages are written; for nobody else to read."""
    maildir.mkdir(exist_ok=True, mode=0o700)
    folders = [maildir / name for name in ("tmp", "new", "cur")]
    for folder in folders:
        folder.mkdir(exist_ok=True, mode=0o700)
    return folders


def _write(maildir: Path, email_id: EmailId, message: bytes) -> None:
    """Into `tmp`, synced, then moved to `new`, so that a reader never sees half a message."""
    _make_folders(maildir)
    draft = maildir / "tmp" / f"{email_id}.hes"  # not by attempt: one that fails half-way leaves no copy behind
    with draft.open("wb") as file:
        file.write(message)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(maildir / "new" / draft.name)
