"""What crosses processes without HTTP: an email as JSON in `emails.content`, which an API writes and a mailer reads.

While a new version is rolled out they are of different versions. The contract is what a mailer reads of it; an API of
the next version must still write all of that, and a mailer must bear what it does not know.
"""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import sqlalchemy as sa
from pact import Verifier, match
from pact.types import Message

from hes.model import Address, Attachment, Email, EmailId
from hes.storage import tables
from hes.storage.sql import SqlStorage
from tests.contracts.pacts import a_pact, check_committed, verify
from tests.storage.harness import KINDS, new_policy, next_id, run
from tests.web.service import Service, now

CONTRACT = "hes-mailer-hes-api.json"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ID = "01890000-0000-7000-8000-000000000007"

LEAST: dict[str, Any] = {"from": "shop@example.com", "to": "ann@example.org", "subject": "Receipt 7", "text": "Hi"}
FULL = LEAST | {
    "from": {"email": "shop@example.com", "name": "Shop"},
    "to": "Ann <ann@example.org>",
    "cc": "cc@example.org",
    "bcc": "bcc@example.org",
    "reply_to": "answers@example.com",
    "html": "<p>Hi</p>",
    "headers": {"X-Order": "7"},
    "tags": {"kind": "receipt"},
    "attachments": [
        {"filename": "receipt.txt", "content_type": "text/plain", "content": "NyBhcHBsZXM="},
        {"filename": "logo.png", "content_type": "image/png", "content": "YSBsb2dv", "content_id": "logo"},
    ],
}
REQUESTS = {"an email with the least": LEAST, "an email with everything": FULL}

READ_LEAST = Email(
    id=EmailId(ID),
    project="default",
    message_id=f"<{ID}@example.com>",
    date=1_700_000_000_000,
    sender=Address("shop@example.com"),
    to=(Address("ann@example.org"),),
    subject="Receipt 7",
    text="Hi",
)
READ_FULL = msgspec.structs.replace(
    READ_LEAST,
    sender=Address("shop@example.com", "Shop"),
    to=(Address("ann@example.org", "Ann"),),
    cc=(Address("cc@example.org"),),
    bcc=(Address("bcc@example.org"),),
    reply_to=(Address("answers@example.com"),),
    html="<p>Hi</p>",
    headers={"X-Order": "7"},
    tags={"kind": "receipt"},
    attachments=(
        Attachment(filename="receipt.txt", content_type="text/plain", content=b"7 apples"),
        Attachment(filename="logo.png", content_type="image/png", content=b"a logo", content_id="logo"),
    ),
)
READ = {"an email with the least": READ_LEAST, "an email with everything": READ_FULL}


def as_stored(email: Email) -> dict[str, Any]:
    """What the mailer needs to find in it, by hand: the names are the contract."""
    stored: dict[str, Any] = {
        "id": match.regex(ID, regex=UUID),
        "project": "default",
        "message_id": match.regex(email.message_id, regex=r"<[!-~]+@[!-~]+>"),
        "date": match.int(email.date),
        "from": {"email": "shop@example.com"},
        "to": [{"email": "ann@example.org"}],
        "subject": "Receipt 7",
        "text": "Hi",
    }
    if email is READ_LEAST:
        return stored
    return stored | {
        "from": {"email": "shop@example.com", "name": "Shop"},
        "to": [{"email": "ann@example.org", "name": "Ann"}],
        "cc": [{"email": "cc@example.org"}],
        "bcc": [{"email": "bcc@example.org"}],
        "reply_to": [{"email": "answers@example.com"}],
        "html": "<p>Hi</p>",
        "headers": {"X-Order": "7"},
        "tags": {"kind": "receipt"},
        "attachments": [
            {"filename": "receipt.txt", "content_type": "text/plain", "content": "NyBhcHBsZXM="},
            {"filename": "logo.png", "content_type": "image/png", "content": "YSBsb2dv", "content_id": "logo"},
        ],
    }


def test_what_a_mailer_reads_is_the_contract(tmp_path: Path) -> None:
    """It knows each of these, and passes over what a newer API may add."""
    for description, email in READ.items():
        pact = a_pact("hes-mailer", "hes-api")
        pact.upon_receiving(description, "Async").with_body(as_stored(email), content_type="application/json")

        def read(body: str | bytes | None, _: dict[str, object], email: Email = email) -> None:
            stored = msgspec.json.decode(str(body))  # a string of Pact's own kind
            assert msgspec.convert(stored, Email) == email
            assert msgspec.convert(stored | {"of_a_newer_version": 7}, Email) == email

        pact.verify(read, "Async")
        pact.write_file(tmp_path)
    check_committed(tmp_path, CONTRACT)


async def stored(kind: str, request: dict[str, Any], folder: Path) -> bytes:
    """What the API writes when it accepts this, on this kind of storage."""
    folder.mkdir()
    async with KINDS[kind].open(folder, new_policy(), now, next_id) as storage:
        assert isinstance(storage, SqlStorage)
        email_id = await Service(storage, folder).accepted(**request)
        found = await run(storage, sa.select(tables.emails.c.content).where(tables.emails.c.id == email_id))
        content = found.scalar_one()
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_an_api_writes_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    written = {text: await stored(kind, request, tmp_path / text) for text, request in REQUESTS.items()}

    def produce(name: str, metadata: dict[str, Any]) -> Message:
        return {"contents": written[name], "content_type": "application/json", "metadata": None}

    def prepare(verifier: Verifier) -> Verifier:
        return verifier.message_handler(produce)

    await anyio.to_thread.run_sync(lambda: verify(CONTRACT, "hes-api", prepare))
