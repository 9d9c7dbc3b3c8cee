"""HES_QUEUE_LIMIT and HES_QUEUE_LIMIT_BYTES: who is let in, who is told to come back, and what it costs."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from hes.app import make_backlog
from hes.case import Rules
from hes.errors import Overloaded, StorageUnavailable
from hes.ids import id_maker
from hes.model import Answer, Decision, Outcome
from hes.policy import Policy
from hes.settings import load
from hes.storage.records import Reach, Waiting
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import SqliteDatabase
from hes.web.backlog import Backlog
from tests.actors.parts import in_virtual_time
from tests.faults.server import Client, cold, sendgrid_at
from tests.web.service import LEAST, Service, later, now, problem_in


class Limited:
    """A HES that is limited, and counts when it is told to."""

    def __init__(self, hes: Service, backlog: Backlog) -> None:
        self.hes = hes
        self.backlog = backlog

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        sent: dict[str, Any] = {} if body is None else {"json": body}
        return await self.hes.ask(method, path, headers=headers, desk={"backlog": self.backlog}, **sent)

    async def send(self, body: object = LEAST, **headers: str) -> httpx.Response:
        return await self.ask("POST", "/v1/emails", body, **headers)

    async def batch(self, *emails: object, **headers: str) -> httpx.Response:
        return await self.ask("POST", "/v1/emails/batch", {"emails": emails}, **headers)

    def count(self) -> int:
        return self.hes.count_rows()["emails"]


async def limited(hes: Service, count: int = 0, size_bytes: int = 0, project_bytes: int = 0) -> Limited:
    backlog = Backlog(hes.storage, Waiting(count, size_bytes), lambda: 0.0, project_bytes)
    await backlog.refresh()
    return Limited(hes, backlog)


def refused(response: httpx.Response) -> str:
    """The detail, after checking that the caller is told to come back."""
    assert int(response.headers["Retry-After"]) > 0
    detail: str = problem_in(response, 503)["detail"]
    return detail


# --- who is let in ---------------------------------------------------------------------------------------------------


async def test_with_as_many_waiting_as_may_no_send_is_taken_and_nothing_stored(hes: Service) -> None:
    few = await limited(hes, count=2)
    failed = await hes.failed()
    assert (await few.send()).status_code == 202
    assert (await few.send(LEAST | {"draft": True})).status_code == 201, "it waits for somebody"
    before = hes.count_rows()
    for answer in (
        await few.send(),
        await few.send(LEAST | {"draft": True}),
        await few.batch(LEAST, LEAST),
        await few.batch(LEAST | {"draft": True}),
        await few.ask("POST", f"/v1/emails/{failed}/send"),
    ):
        assert "HES_QUEUE_LIMIT: 2" in refused(answer)
        assert "nothing was stored" in refused(answer)
    assert hes.count_rows() == before
    assert (await hes.read(failed))["status"] == "failed"


async def test_what_adds_nothing_to_what_waits_goes_on(hes: Service) -> None:
    few = await limited(hes, count=2)
    draft = await few.send(LEAST | {"draft": True})
    scheduled = (await few.send(LEAST | {"send_at": later(hours=1)})).json()["id"]
    refused(await few.send())
    path = f"/v1/emails/{scheduled}"
    assert (await few.ask("PATCH", path, {"send_at": later(hours=2)})).status_code == 200
    assert (await few.ask("POST", f"{path}/send")).json()["status"] == "queued"
    assert (await few.ask("POST", f"{path}/cancel")).json()["status"] == "cancelled"
    path = f"/v1/emails/{draft.json()['id']}"
    assert (await few.ask("PATCH", path, {"subject": "New", "text": "x" * 1000})).status_code == 200
    assert (await few.ask("POST", f"{path}/send")).json()["status"] == "queued"


async def test_a_draft_grows_into_the_limits_and_no_further(hes: Service) -> None:
    for few, name in (
        (await limited(hes, size_bytes=1500), "HES_QUEUE_LIMIT_BYTES"),
        (await limited(hes, project_bytes=1500), "HES_PROJECT_LIMIT_BYTES"),
    ):
        path = f"/v1/emails/{(await few.send(LEAST | {'draft': True})).json()['id']}"
        assert (await few.ask("PATCH", path, {"text": "x" * 2000})).status_code == 200, "there was room when it came"
        assert f"{name}: " in refused(await few.ask("PATCH", path, {"text": "x" * 3000}))
        assert (await few.ask("PATCH", path, {"text": "x" * 10})).status_code == 200


async def test_a_project_holds_no_more_than_it_may_and_others_go_on(hes: Service) -> None:
    """Whatever it makes of it: drafts, what waits, what was cancelled and what failed."""
    few = await limited(hes, project_bytes=4000)
    text = {"text": "x" * 500}
    sent = await hes.sent()
    await hes.failed()
    ids = [
        (await few.send(LEAST | text | more)).json()["id"] for more in ({"draft": True}, {"send_at": later(hours=1)})
    ]
    while (answer := await few.send(LEAST | text)).status_code == 202:
        assert (await hes.ask("POST", f"/v1/emails/{answer.json()['id']}/cancel")).status_code == 200
    held = (await hes.storage.stored_bytes())["default"]
    assert held >= 4000
    for answer in (
        await few.send(),
        await few.send(LEAST | {"draft": True}),
        await few.batch(LEAST),
    ):
        assert "HES_PROJECT_LIMIT_BYTES: 4,000" in refused(answer)
    assert "HES_PROJECT_LIMIT_BYTES" not in (await few.ask("POST", f"/v1/emails/{ids[0]}/send")).text, (
        "it holds it already"
    )
    with few.backlog.room(Waiting(1, 1000), "another"):
        pass
    await few.backlog.refresh()
    refused(await few.send())
    listed = (await hes.ask("GET", "/v1/emails?status=cancelled")).json()["data"]
    for email in listed:
        assert (await hes.ask("DELETE", f"/v1/emails/{email['id']}")).status_code == 204
    assert (await hes.ask("DELETE", f"/v1/emails/{sent}")).status_code == 204
    await few.backlog.refresh()
    assert (await few.send()).status_code == 202, "what was erased holds nothing"


@pytest.mark.parametrize(
    ("settings", "is_full"),
    [
        ({"HES_QUEUE_LIMIT_BYTES": "10000", "HES_PROJECT_LIMIT_BYTES": "500"}, True),
        ({"HES_PROJECT_LIMIT_BYTES": "500"}, True),
        ({"HES_QUEUE_LIMIT_BYTES": "500"}, True),  # that is the project's limit as well
        ({"HES_QUEUE_LIMIT_BYTES": "500", "HES_PROJECT_LIMIT_BYTES": "0"}, False),
        ({}, False),
    ],
)
async def test_the_projects_limit_is_what_the_settings_say(
    hes: Service, tmp_path: Path, settings: dict[str, str], *, is_full: bool
) -> None:
    email_id = await hes.accepted(text="x" * 1000)
    await hes.storage.cancel(Reach("default"), email_id)  # it waits no more
    backlog = make_backlog(load({}, settings, tmp_path), hes.storage)
    await backlog.refresh()
    assert (await Limited(hes, backlog).send()).status_code == (503 if is_full else 202)


async def test_a_full_project_is_told_once_in_the_log(hes: Service, caplog: pytest.LogCaptureFixture) -> None:
    few = await limited(hes, project_bytes=10)
    await few.send()
    for _ in range(3):
        await few.backlog.refresh()
    assert [r.message.split(":")[0] for r in caplog.records if "503" in r.message] == ["project default"]


async def test_bytes_are_counted_as_well(hes: Service) -> None:
    few = await limited(hes, size_bytes=1000)
    assert (await few.send(LEAST | {"text": "x" * 600})).status_code == 202
    assert (await few.send(LEAST | {"text": "x" * 600})).status_code == 202, "there was room when it came"
    assert "HES_QUEUE_LIMIT_BYTES: 1,000" in refused(await few.send())
    await few.backlog.refresh()
    refused(await few.send())


async def test_all_that_is_not_at_rest_is_counted_and_nothing_else(hes: Service) -> None:
    waits = [Waiting()]

    async def more() -> Waiting:
        waits.append(await hes.storage.waiting())
        return waits[-1] - waits[-2]

    await hes.sent()
    await hes.failed()
    await hes.held()
    assert await more() == Waiting()
    draft = (await hes.send(LEAST | {"draft": True})).json()["id"]
    assert (await more()).count == 1
    await hes.storage.cancel(Reach("default"), draft)
    assert (await more()).count == -1
    doubted = await hes.in_doubt()
    assert (await more()).count == 1
    await hes.accepted(send_at=later(hours=2))
    assert (await more()).count == 1
    queued = await hes.accepted()
    size = (await hes.storage.read(Reach("default"), queued)).delivery.size_bytes
    assert await more() == Waiting(1, size)
    await hes.leased()
    assert await more() == Waiting(), "in a provider's hands it counts as before"
    await hes.storage.resolve(Reach("default"), doubted, Decision.SENT, "test")
    assert (await more()).count == -1


async def test_there_is_room_again_once_what_left_was_noticed(hes: Service) -> None:
    few = await limited(hes, count=1)
    await few.send()
    await hes.attempted(Answer(outcome=Outcome.ACCEPTED))
    refused(await few.send())
    await few.backlog.refresh()
    assert (await few.send()).status_code == 202


async def test_a_send_that_fails_takes_no_room(hes: Service) -> None:
    few = await limited(hes, count=2)
    key = {"Idempotency-Key": "k"}
    assert (await few.send(**key)).status_code == 202
    for _ in range(3):
        problem_in(await few.send(LEAST | {"subject": "Another"}, **key), 422)
    assert (await few.send()).status_code == 202
    refused(await few.send())


# --- repeated requests -----------------------------------------------------------------------------------------------


async def test_a_repeated_request_gets_its_first_answer_also_when_nothing_is_taken(hes: Service) -> None:
    few = await limited(hes, count=3)
    one, many = {"Idempotency-Key": "one"}, {"Idempotency-Key": "many"}
    first, batch = await few.send(**one), await few.batch(LEAST, {}, LEAST, **many)
    refused(await few.send())
    again, batch_again = await few.send(**one), await few.batch(LEAST, {}, LEAST, **many)
    assert (again.status_code, again.json()) == (202, first.json())
    assert (batch_again.status_code, batch_again.json()) == (202, batch.json())
    problem_in(await few.send(LEAST | {"subject": "Another"}, **one), 422)
    problem_in(await few.send(**many), 422)
    refused(await few.send(**{"Idempotency-Key": "new"}))
    refused(await few.batch(LEAST, **{"Idempotency-Key": "new"}))
    assert few.count() == 3


# --- several processes -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def another_process(path: Path) -> AsyncIterator[SqlStorage]:
    """What a second process has of the same database; on SQLite only its lock keeps one from being there."""
    database = SqliteDatabase(path, now)
    async with database:
        yield SqlStorage(
            database, Policy(Rules(providers=("one", "two")), random.Random(2)), id_maker(now, random.Random(2))
        )


async def test_each_process_counts_what_all_have_taken(hes: Service) -> None:
    here = await limited(hes, count=3)
    async with another_process(hes.path) as storage:
        there = Limited(hes, Backlog(storage, Waiting(3), lambda: 0.0))
        await there.backlog.refresh()
        assert [(await here.send()).status_code for _ in range(2)] == [202, 202]
        assert [(await there.send()).status_code for _ in range(3)] == [202, 202, 202], "not known there yet"
        refused(await there.send())
        assert (await here.send()).status_code == 202
        refused(await here.send())
        await there.backlog.refresh()
        await hes.attempted(Answer(outcome=Outcome.ACCEPTED))
        for process in (here, there):
            await process.backlog.refresh()
            refused(await process.send())
    assert (await hes.storage.waiting()).count == 5


# --- counting --------------------------------------------------------------------------------------------------------


class Counted:
    """A storage that counts when it is let go, and takes a while."""

    def __init__(self) -> None:
        self.answer = Waiting()
        self.asked = anyio.Event()
        self.let_go = anyio.Event()
        self.asked_at: list[float] = []
        self.takes_seconds = 0.0
        self.is_away = False

    async def stored_bytes(self) -> dict[str, int]:
        raise AssertionError("without its limit it costs nothing")

    async def waiting(self) -> Waiting:
        self.asked.set()
        self.asked_at.append(anyio.current_time())
        found = self.answer
        await anyio.sleep(self.takes_seconds)
        await self.let_go.wait()
        if self.is_away:
            raise StorageUnavailable("away")
        return found


def counting(book: Counted, count: int) -> Backlog:
    return Backlog(book, Waiting(count), anyio.current_time)  # type: ignore[arg-type]  # is only asked what waits


async def test_what_comes_while_it_is_being_counted_is_not_forgotten() -> None:
    """The count may have it or not, so it stays until the next one."""
    book = Counted()
    backlog = counting(book, count=3)
    with backlog.room(Waiting(1), "shop"):
        pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backlog.refresh)
        await book.asked.wait()
        book.answer = Waiting(1)
        with backlog.room(Waiting(1), "shop"):
            book.let_go.set()
    with (
        backlog.room(Waiting(1), "shop"),
        backlog.room(Waiting(1), "shop"),
        pytest.raises(Overloaded),
        backlog.room(Waiting(1), "shop"),
    ):
        pass
    book.answer = Waiting(3)
    await backlog.refresh()
    with pytest.raises(Overloaded), backlog.room(Waiting(1), "shop"):
        pass
    book.answer = Waiting(2)
    await backlog.refresh()
    with backlog.room(Waiting(1), "shop"):
        pass


async def test_a_caller_that_goes_away_may_have_been_stored_all_the_same() -> None:
    backlog = counting(Counted(), count=1)
    with anyio.CancelScope() as scope, backlog.room(Waiting(1), "shop"):
        scope.cancel()
        await anyio.sleep_forever()
    with pytest.raises(Overloaded), backlog.room(Waiting(1), "shop"):
        pass


@in_virtual_time
async def test_it_is_counted_once_a_second_and_a_large_backlog_for_a_tenth_of_the_time() -> None:
    book = Counted()
    book.let_go.set()
    with anyio.move_on_after(9.5):
        await counting(book, count=1).run()
    assert book.asked_at == [float(second) for second in range(10)]
    book.asked_at.clear()
    book.takes_seconds = 2.0
    with anyio.move_on_after(50):
        await counting(book, count=1).run()
    assert [at - book.asked_at[0] for at in book.asked_at] == [0.0, 22.0, 44.0]


@in_virtual_time
async def test_with_the_storage_away_the_last_count_goes_on_being_true() -> None:
    book = Counted()
    book.let_go.set()
    book.answer = Waiting(1)
    backlog = counting(book, count=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backlog.run)
        await anyio.sleep(0.5)
        book.is_away, book.answer = True, Waiting()
        await anyio.sleep(2)
        with pytest.raises(Overloaded), backlog.room(Waiting(1), "shop"):
            pass
        book.is_away = False
        await anyio.sleep(1)
        with backlog.room(Waiting(1), "shop"):
            tasks.cancel_scope.cancel()


async def test_no_request_costs_a_count(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    few = await limited(hes, count=2)

    async def fails() -> Waiting:
        raise AssertionError("counted")

    monkeypatch.setattr(hes.storage, "waiting", fails)
    assert [(await few.send()).status_code for _ in range(3)] == [202, 202, 503]


# --- served ----------------------------------------------------------------------------------------------------------


async def test_a_served_hes_keeps_to_it_and_knows_after_a_start_what_waits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"queue_limit": 2, "providers": sendgrid_at("http://127.0.0.1:9")}
    async with httpx.AsyncClient(trust_env=False) as http:
        for statuses in ([202, 202, 503], [503]):
            async with cold(tmp_path, **settings) as hes:
                await hes.ready()
                client = Client(http, lambda: hes.url)
                assert [(await client.post("/v1/emails", LEAST)).status_code for _ in statuses] == statuses
                assert "HES_QUEUE_LIMIT" not in " ".join(e["event"] for e in hes.log() if "no effect" in e["event"])
