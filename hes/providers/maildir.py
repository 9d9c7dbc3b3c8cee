"""The outbox's Maildir (cr.yp.to/proto/maildir.html): one file per message, which any mail reader opens.

A message is named after its email, so that it is found when the email is erased: in `new`, or where a reader puts what
it has shown, in `cur` with flags behind the name. What a reader moved or copied to a folder of its own is not found.
"""

import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from hes.errors import ConfigError
from hes.model import EmailId

_FOLDERS = ("tmp", "new", "cur")
_MESSAGE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.hes(:.*)?")


def make_maildir(maildir: Path) -> None:
    """At the start, where somebody reads what is wrong, and not with the first email. Raises ConfigError."""
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
    folders = [maildir / name for name in _FOLDERS]
    for folder in folders:
        folder.mkdir(exist_ok=True, mode=0o700)
    return folders


def write_message(maildir: Path, email_id: EmailId, message: bytes) -> None:
    """Into `tmp`, synced, then moved to `new`, so that a reader never sees half a message. Raises OSError."""
    _make_folders(maildir)
    draft = maildir / "tmp" / f"{email_id}.hes"  # not by attempt: one that fails half-way leaves no copy behind
    draft.unlink(missing_ok=True)
    # Made here or not at all: a link that somebody put there leads nowhere. For nobody else, whatever the umask.
    made = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(made, "wb") as file:
        file.write(message)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(maildir / "new" / draft.name)


def kept_emails(maildir: Path) -> set[EmailId]:
    """Of which emails there are messages. Raises OSError."""
    return {email_id for _, email_id in _messages(maildir)}


def remove_messages(maildir: Path, email_ids: Collection[EmailId]) -> None:
    """Those of these emails, if there are any. Raises OSError."""
    for path, email_id in _messages(maildir):
        if email_id in email_ids:
            path.unlink(missing_ok=True)


def _messages(maildir: Path) -> Iterator[tuple[Path, EmailId]]:
    for name in _FOLDERS:
        for path in (maildir / name).iterdir():
            if found := _MESSAGE.fullmatch(path.name):
                yield path, EmailId(found[1])
