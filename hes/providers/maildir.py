"""The outbox's Maildir (cr.yp.to/proto/maildir.html): one file per message, which any mail reader opens."""

import errno
import os
import tempfile
from pathlib import Path

from hes.errors import ConfigError
from hes.model import EmailId


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
    folders = [maildir / name for name in ("tmp", "new", "cur")]
    for folder in folders:
        folder.mkdir(exist_ok=True, mode=0o700)
    return folders


def write_message(maildir: Path, email_id: EmailId, message: bytes) -> None:
    """Into `tmp`, synced, then moved to `new`, so that a reader never sees half a message. Raises OSError."""
    _make_folders(maildir)
    draft = maildir / "tmp" / f"{email_id}.hes"  # not by attempt: one that fails half-way leaves no copy behind
    with draft.open("wb") as file:
        file.write(message)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(maildir / "new" / draft.name)
