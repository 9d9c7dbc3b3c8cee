"""The tidier: what the storage forgot goes from the Maildir, and nothing else."""

import errno
import random
from collections.abc import Collection, Mapping

import pytest

from hes.actors.tidier import AT_ONCE, Tidier
from hes.errors import StorageUnavailable
from hes.model import EmailId

DAY_MS = 24 * 3600 * 1000
NOW = 1_800_000_000_000


def made(days_ago: float, number: int = 0) -> EmailId:
    digits = f"{NOW - round(days_ago * DAY_MS):012x}"
    return EmailId(f"{digits[:8]}-{digits[8:]}-7000-8000-{number:012x}")


class Maildir:
    """And the storage that it belongs to."""

    def __init__(self, contents: Mapping[EmailId, bool], *strangers: EmailId) -> None:
        self.contents = contents
        self.kept = {*contents, *strangers}
        self.asked: list[int] = []
        self.error: OSError | None = None

    async def has_content(self, email_ids: Collection[EmailId]) -> Mapping[EmailId, bool]:
        self.asked.append(len(email_ids))
        return {one: self.contents[one] for one in email_ids if one in self.contents}

    def remove(self, email_ids: Collection[EmailId]) -> None:
        if self.error is not None:
            raise self.error
        self.kept -= set(email_ids)

    def tidier(self, keep_history_days: int | None = None) -> Tidier:
        return Tidier(
            self.has_content,
            kept=lambda: self.kept,
            remove=self.remove,
            keep_history_days=keep_history_days,
            clock=lambda: NOW,
            rng=random.Random(1),
        )


async def test_what_was_erased_goes_and_what_has_its_content_stays() -> None:
    maildir = Maildir({made(1): True, made(2): False, made(300): True})
    await maildir.tidier().tidy()
    assert maildir.kept == {made(1), made(300)}


@pytest.mark.parametrize(("keep_history_days", "left"), [(None, 2), (30, 1), (10, 0)])
async def test_what_the_storage_does_not_know_goes_when_it_is_old_enough_to_be_forgotten(
    keep_history_days: int | None, left: int
) -> None:
    maildir = Maildir({}, made(20), made(40))
    await maildir.tidier(keep_history_days).tidy()
    assert len(maildir.kept) == left


async def test_many_are_asked_about_in_portions() -> None:
    maildir = Maildir({made(1, n): n % 2 == 0 for n in range(2 * AT_ONCE + 1)})
    await maildir.tidier().tidy()
    assert maildir.asked == [AT_ONCE, AT_ONCE, 1]
    assert len(maildir.kept) == AT_ONCE + 1


async def test_a_message_that_cannot_be_removed_makes_the_caller_ask_again() -> None:
    maildir = Maildir({made(1): False})
    maildir.error = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(StorageUnavailable, match=r"HES_OUTBOX_DIR: .*: Permission denied"):
        await maildir.tidier().forget(made(1))
    maildir.error = None
    await maildir.tidier().forget(made(1))
    assert maildir.kept == set()
