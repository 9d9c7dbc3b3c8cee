"""Memory is bounded: what is being read and written together has a limit in bytes, and a body has a time to come in."""

import logging
from collections.abc import AsyncIterator

import anyio
import pytest

from hes.errors import Overloaded
from hes.web.desk import QUIET_SECONDS, Budget
from tests.web.service import LEAST, Service, problem_in


def budget_of(total_bytes: int) -> Budget:
    return Budget("emails", total_bytes, lambda: 0.0)


def test_what_is_held_counts_until_it_is_let_go() -> None:
    budget = budget_of(100)
    with budget.hold(60), pytest.raises(Overloaded), budget.hold(41):
        pass
    with budget.hold(60), budget.hold(40):
        pass


def test_what_is_held_may_grow_while_there_is_room() -> None:
    budget = budget_of(100)
    with budget.hold(50):
        with budget.hold() as charge:
            charge(20)
            charge(30)
            with pytest.raises(Overloaded):
                charge(1)
        with budget.hold(50):
            pass


def test_one_alone_may_be_larger() -> None:
    budget = budget_of(100)
    with budget.hold(1000), pytest.raises(Overloaded), budget.hold(1):
        pass
    with budget.hold() as charge:
        charge(60)
        charge(60)


def test_a_failure_lets_go() -> None:
    budget = budget_of(100)
    with pytest.raises(ZeroDivisionError), budget.hold(100):
        raise ZeroDivisionError
    with budget.hold(100):
        pass


def test_refusals_are_told_at_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    times = [0.0, 1.0, QUIET_SECONDS - 1, QUIET_SECONDS]
    clock = iter(times)
    budget = Budget("events of providers", 10, lambda: next(clock))
    with budget.hold(10):
        for _ in times:
            with pytest.raises(Overloaded), budget.hold(1):
                pass
    start, end = "events of providers are refused with 503,", "10 bytes of them are in hand, of at most 10"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"{start} 1 since the last such line: {end}"),
        (logging.WARNING, f"{start} 3 since the last such line: {end}"),
    ]


@pytest.mark.anyio
async def test_too_much_in_hand_is_503_and_nothing_is_stored(hes: Service) -> None:
    full = budget_of(10)
    with full.hold(10):
        response = await hes.send(desk={"bodies": full})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "in hand" in response.json()["detail"]
    assert (await hes.send(LEAST, desk={"bodies": full})).status_code == 202


@pytest.mark.anyio
async def test_events_and_emails_do_not_use_up_each_others_room(hes: Service) -> None:
    full = budget_of(10)
    with full.hold(10):
        assert (await hes.send(desk={"events": full})).status_code == 202
        over = await hes.ask("POST", "/hooks/one", key=None, content=b"{", desk={"events": full})
        problem_in(over, 503)
        problem_in(await hes.ask("POST", "/hooks/one", key=None, content=b"{", desk={"bodies": full}), 400)


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
    budget = budget_of(1000)
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
