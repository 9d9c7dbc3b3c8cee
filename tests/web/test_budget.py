"""Memory is bounded: what is being read and written together has a limit in bytes, and a body has a time to come in."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from litestar.types import Message

from hes.errors import Overloaded
from hes.web.log_limit import QUIET_SECONDS
from hes.web.memory_budget import SMALL_BYTES, MemoryBudget, Owner
from tests.web.service import KEY, LEAST, Service, problem_in

A, B, C = Owner("project a", 1 / 2), Owner("project b", 1 / 2), Owner("project c", 1 / 2)
EVERYBODY = Owner("everybody", 1)
UNIT = SMALL_BYTES + 1
"""The least that is not small."""


def budget_of(units: float, reserve_bytes: int = 0) -> MemoryBudget:
    return MemoryBudget("emails", int(units * UNIT), reserve_bytes, lambda: 0.0)


def test_what_is_held_counts_until_it_is_let_go() -> None:
    budget = budget_of(10)
    with budget.hold(EVERYBODY, count=6 * UNIT):
        with pytest.raises(Overloaded), budget.hold(EVERYBODY, count=4 * UNIT + 1):
            pass
        with budget.hold(EVERYBODY, count=4 * UNIT):
            pass
    with budget.hold(EVERYBODY, count=10 * UNIT):
        pass


def test_what_is_held_may_grow_while_there_is_room() -> None:
    budget = budget_of(10)
    with budget.hold(EVERYBODY, count=5 * UNIT):
        with budget.hold(EVERYBODY) as charge:
            charge(2 * UNIT)
            charge(3 * UNIT)
            with pytest.raises(Overloaded):
                charge(1)
        with budget.hold(EVERYBODY, count=5 * UNIT):
            pass


def test_one_alone_may_be_larger() -> None:
    budget = budget_of(10)
    with budget.hold(A, count=100 * UNIT), pytest.raises(Overloaded), budget.hold(B, count=1):
        pass
    with budget.hold(A) as charge:
        charge(6 * UNIT)
        charge(6 * UNIT)


def test_a_failure_lets_go() -> None:
    budget = budget_of(10)
    with pytest.raises(ZeroDivisionError), budget.hold(A, count=10 * UNIT):
        raise ZeroDivisionError
    with pytest.raises(Overloaded), budget.hold(A, count=UNIT), budget.hold(A) as charge:
        charge(5 * UNIT)
    with budget.hold(B, count=10 * UNIT):
        pass


def test_nobody_holds_more_than_half_of_what_the_others_leave() -> None:
    """However many bodies it takes: those after it always find something."""
    budget = budget_of(16)
    with ExitStack() as held:
        for owner, units in ((A, 8), (B, 4), (C, 2)):
            for _ in range(units):
                held.enter_context(budget.hold(owner, count=UNIT))
            with pytest.raises(Overloaded):
                held.enter_context(budget.hold(owner, count=UNIT))


def test_of_several_owners_each_keeps_to_its_share() -> None:
    budget, at = budget_of(16), Owner("address", 3 / 4)
    with ExitStack() as held:
        for owner in (A, B):
            held.enter_context(budget.hold(owner, at, count=4 * UNIT))
        held.enter_context(budget.hold(C, at, count=4 * UNIT))
        with pytest.raises(Overloaded):
            held.enter_context(budget.hold(Owner("project d", 1 / 2), at, count=UNIT))
        held.enter_context(budget.hold(Owner("project d", 1 / 2), Owner("elsewhere", 3 / 4), count=UNIT))


def test_what_is_small_has_a_reserve_that_nothing_large_uses_up() -> None:
    budget = budget_of(10, reserve_bytes=4 * SMALL_BYTES)
    with budget.hold(A, count=100 * UNIT), budget.hold(A, count=SMALL_BYTES), budget.hold(A, count=SMALL_BYTES):
        with pytest.raises(Overloaded, match="in hand"), budget.hold(A, count=1):
            pass  # what is small keeps to its share of the reserve, and then it counts as all do
        with budget.hold(B) as charge:
            charge(SMALL_BYTES)
            with pytest.raises(Overloaded):
                charge(1)  # now it is large, and all of it


def test_what_is_small_counts_as_all_do_when_the_reserve_is_used_up() -> None:
    budget = budget_of(10, reserve_bytes=2 * SMALL_BYTES)
    with budget.hold(A, count=SMALL_BYTES), budget.hold(A, count=SMALL_BYTES), budget.hold(A) as charge:
        charge(SMALL_BYTES)
        charge(2 * UNIT)


def test_what_was_let_go_is_there_again() -> None:
    budget = budget_of(10, reserve_bytes=2 * SMALL_BYTES)
    for _ in range(100):
        with budget.hold(A, count=SMALL_BYTES) as charge:
            charge(4 * UNIT)
        with pytest.raises(Overloaded), budget.hold(B, count=UNIT), budget.hold(A, count=5 * UNIT):
            pass


def test_refusals_are_told_at_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    times = [0.0, 1.0, QUIET_SECONDS - 1, QUIET_SECONDS]
    clock = iter(times)
    budget = MemoryBudget("events of providers", 10, 0, lambda: next(clock))
    with budget.hold(A, count=10):
        for _ in times:
            with pytest.raises(Overloaded), budget.hold(B, count=1):
                pass
    start = "events of providers are refused with 503,"
    end = "10 bytes of them are in hand, of at most 10; the last one was of project b"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"{start} 1 since the last such line: {end}"),
        (logging.WARNING, f"{start} 3 since the last such line: {end}"),
    ]


@pytest.mark.anyio
async def test_too_much_in_hand_is_503_and_nothing_is_stored(hes: Service) -> None:
    full = budget_of(0)
    with full.hold(A, count=10):
        response = await hes.send(desk={"bodies": full})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "in hand" in response.json()["detail"]
    assert (await hes.send(LEAST, desk={"bodies": full})).status_code == 202


@pytest.mark.anyio
async def test_events_and_emails_do_not_use_up_each_others_room(hes: Service) -> None:
    full = budget_of(0)
    with full.hold(A, count=10):
        assert (await hes.send(desk={"events": full})).status_code == 202
        over = await hes.ask("POST", "/hooks/one", key=None, content=b"{", desk={"events": full})
        problem_in(over, 503)
        problem_in(await hes.ask("POST", "/hooks/one", key=None, content=b"{", desk={"bodies": full}), 400)


@pytest.mark.anyio
async def test_the_bodies_of_one_project_leave_room_for_others(hes: Service) -> None:
    """Also for one as large as any, and they come from one address."""
    budget = MemoryBudget("emails", 4 * 150_000, 0, lambda: 0.0)
    made = await hes.ask("POST", "/v1/keys", json={"name": "b", "project": "b", "scopes": ["emails:send"]})
    unfinished = json.dumps(LEAST | {"text": "x" * 140_000})[:-1].encode()

    async def begin(answers: list[int]) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield unfinished
            await anyio.sleep_forever()

        headers = {"Content-Type": "application/json"}
        answer = await hes.ask("POST", "/v1/emails", content=body(), headers=headers, desk={"bodies": budget})
        answers.append(answer.status_code)

    refused: list[int] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(begin, refused)
        await anyio.wait_all_tasks_blocked()
        assert refused == [503, 503, 503]
        other = await hes.send(LEAST | {"text": "x" * 140_000}, key=made.json()["key"], desk={"bodies": budget})
        tasks.cancel_scope.cancel()
    assert other.status_code == 202, other.text


# --- answers


async def unread(hes: Service, path: str, desk: dict[str, Any], tasks: anyio.abc.TaskGroup) -> None:
    """Asks, waits until the answer begins, and reads nothing of it."""
    begun = anyio.Event()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None:
        begun.set()
        await anyio.sleep_forever()

    path, _, query = path.partition("?")
    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {KEY}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("hes", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    app: Any = hes.app_with(desk)
    tasks.start_soon(app, scope, receive, send)
    with anyio.fail_after(30):
        await begun.wait()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/emails/{id}?include=content", "/v1/emails"])
async def test_answers_that_nobody_reads_are_held_until_they_are_read(hes: Service, path: str) -> None:
    recipients = [f"someone-with-a-long-name-{n}@example.org" for n in range(900)]
    path = path.format(id=await hes.accepted(to=recipients, text="x" * 70_000))
    desk = {"answers": MemoryBudget("answers", 300_000, 0, lambda: 0.0)}
    async with anyio.create_task_group() as tasks:
        await unread(hes, path, desk, tasks)
        over = await hes.ask("GET", path, desk=desk)
        tasks.cancel_scope.cancel()
    assert "answers" in problem_in(over, 503)["detail"]
    assert over.headers["Retry-After"] == "5"
    assert (await hes.ask("GET", path, desk=desk)).status_code == 200, "the one that was given up is let go"


@pytest.mark.anyio
async def test_content_that_does_not_fit_is_not_even_read(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    email_id = await hes.accepted(text="x" * 100_000)
    full = budget_of(0)
    read = hes.storage.read

    async def without_content(*of: Any, with_content: bool = False, **page: Any) -> Any:
        assert not with_content
        return await read(*of, **page)

    monkeypatch.setattr(hes.storage, "read", without_content)
    with full.hold(A, count=10):
        problem_in(await hes.ask("GET", f"/v1/emails/{email_id}?include=content", desk={"answers": full}), 503)


# --- bodies that do not come


async def never_whole() -> AsyncIterator[bytes]:
    yield b"{"
    await anyio.sleep_forever()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/emails"),
        ("POST", "/v1/emails/batch"),
        ("POST", "/v1/emails/cancel"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/providers/one/pause"),
        ("POST", "/hooks/one"),
    ],
)
async def test_a_body_that_does_not_come_is_408_and_the_end_of_the_connection(
    hes: Service, method: str, path: str
) -> None:
    no_time = {"body_seconds": 0.0, "events_seconds": 0.0}
    headers = {"Content-Type": "application/json"}
    answer = await hes.ask(method, path, content=never_whole(), headers=headers, desk=no_time)
    assert problem_in(answer, 408)["type"] == "urn:hes:problem:too-slow"
    assert answer.headers["Connection"] == "close"


@pytest.mark.anyio
async def test_what_was_announced_and_did_not_come_takes_no_room(hes: Service) -> None:
    budget = budget_of(0.01)
    headers = {"Content-Type": "application/json", "Content-Length": "999"}

    async def announce() -> None:
        await hes.ask("POST", "/v1/emails", content=never_whole(), headers=headers, desk={"bodies": budget})

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(announce)
        await anyio.wait_all_tasks_blocked()
        answer = await hes.send(LEAST, desk={"bodies": budget})
        tasks.cancel_scope.cancel()
    assert answer.status_code == 202
