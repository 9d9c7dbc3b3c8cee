"""The outbox's Maildir: who may read a message, where one can't be led to, and what is taken out again."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hes.model import EmailId
from hes.providers.maildir import kept_emails, make_maildir, remove_messages, write_message

ONE, TWO = EmailId("01890000-0000-7000-8000-000000000001"), EmailId("01890000-0000-7000-8000-000000000002")


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    make_maildir(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """As a careless service file has it."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_can_read_a_message(maildir: Path, open_to_all: None) -> None:
    write_message(maildir, ONE, b"Subject: Hi\n\nHi")
    (message,) = (maildir / "new").iterdir()
    assert message.name == f"{ONE}.hes"
    assert stat.S_IMODE(message.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (maildir, *maildir.iterdir())} == {0o700}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_in_its_place_leads_nowhere(maildir: Path, tmp_path: Path, is_there: bool) -> None:  # noqa: FBT001
    victim = tmp_path / "victim"
    if is_there:
        victim.write_text("mine")
    for folder in ("tmp", "new"):
        (maildir / folder / f"{ONE}.hes").symlink_to(victim)
    write_message(maildir, ONE, b"Hi")
    assert (maildir / "new" / f"{ONE}.hes").read_bytes() == b"Hi"
    assert not (maildir / "new" / f"{ONE}.hes").is_symlink()
    assert victim.exists() == is_there
    assert not is_there or victim.read_text() == "mine"


def test_what_was_left_half_written_is_written_anew(maildir: Path) -> None:
    (maildir / "tmp" / f"{ONE}.hes").write_bytes(b"Subject: H")
    write_message(maildir, ONE, b"Hi")
    assert [path.read_bytes() for path in maildir.rglob("*.hes")] == [b"Hi"]


def test_messages_are_found_and_removed_wherever_a_reader_moved_them(maildir: Path) -> None:
    write_message(maildir, ONE, b"Hi")
    write_message(maildir, TWO, b"Hi")
    (maildir / "new" / f"{ONE}.hes").rename(maildir / "cur" / f"{ONE}.hes:2,RS")
    (maildir / "tmp" / f"{ONE}.hes").touch()
    (maildir / "cur" / "1700000000.M1P1.host:2,S").touch()
    (maildir / "new" / f"{ONE}.txt").touch()
    assert kept_emails(maildir) == {ONE, TWO}
    remove_messages(maildir, {ONE})
    assert kept_emails(maildir) == {TWO}
    remove_messages(maildir, {ONE})
    left = sorted(path.name for path in maildir.rglob("*") if path.is_file())
    assert left == sorted([f"{TWO}.hes", "1700000000.M1P1.host:2,S", f"{ONE}.txt"]), "what is somebody else's stays"
