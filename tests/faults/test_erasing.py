"""Erasing, in a whole HES: the outbox's Maildir forgets with the database."""

from pathlib import Path

import pytest

from hes.actors import tidier
from hes.model import EmailId
from hes.providers.maildir import kept_emails
from hes.storage.records import Reach
from tests.faults.house import House, house
from tests.faults.server import KEY, eventually


async def erase(hes: House, email_id: str) -> None:
    answer = await hes._http.delete(f"http://hes/v1/emails/{email_id}", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 204, answer.text


async def test_when_erasing_is_answered_the_message_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with house(tmp_path, "outbox://", outbox_dir=str(out)) as hes:
        first, second = await hes.send(), await hes.send()
        for email_id in (first, second):
            await hes.until(email_id, "sent")
        assert kept_emails(out) == {first, second}
        (out / "new" / f"{first}.hes").rename(out / "cur" / f"{first}.hes:2,S")
        await erase(hes, first)
        assert kept_emails(out) == {second}
        await erase(hes, first)


async def test_what_another_process_erased_goes_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what retention dropped: of both this process hears nothing."""
    monkeypatch.setattr(tidier, "PERIOD_SECONDS", 0.05)
    out = tmp_path / "out"
    async with house(tmp_path, "outbox://", outbox_dir=str(out)) as hes:
        first, second, third = await hes.send(), await hes.send(), await hes.send()
        for email_id in (first, second, third):
            await hes.until(email_id, "sent")
        await hes.storage.erase(Reach("default"), EmailId(first))

        async def is_one_gone() -> bool:
            return kept_emails(out) == {second, third}

        await eventually(is_one_gone)
        await hes.storage.drop_old(0, None)

        async def are_all_gone() -> bool:
            return not kept_emails(out)

        await eventually(are_all_gone)
