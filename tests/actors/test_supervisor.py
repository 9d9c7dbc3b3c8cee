"""The supervisor: growing pauses, a budget, then the error leaves."""

import random

import anyio
import pytest

from hes.actors.supervisor import Supervisor
from hes.errors import StorageBroken
from tests.actors.parts import in_virtual_time


class Crashing:
    """Crashes so many times, each time after so many seconds."""

    name = "crashing"

    def __init__(self, crashes: int, after_seconds: float = 0, error: type[Exception] = ZeroDivisionError) -> None:
        self.crashes = crashes
        self.after_seconds = after_seconds
        self.error = error
        self.started_at: list[float] = []

    async def run(self) -> None:
        self.started_at.append(anyio.current_time())
        await anyio.sleep(self.after_seconds)
        if len(self.started_at) <= self.crashes:
            raise self.error


def supervisor() -> Supervisor:
    return Supervisor(anyio.current_time, random.Random(1))


@in_virtual_time
async def test_an_actor_that_ends_by_itself_is_not_started_again() -> None:
    actor = Crashing(crashes=0)
    await supervisor().run(actor)
    assert len(actor.started_at) == 1


@in_virtual_time
async def test_a_crashed_actor_is_started_again_after_growing_pauses() -> None:
    actor = Crashing(crashes=4)
    await supervisor().run(actor)
    pauses = [b - a for a, b in zip(actor.started_at, actor.started_at[1:], strict=False)]
    assert len(pauses) == 4
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


@in_virtual_time
async def test_when_the_budget_is_used_up_the_error_leaves() -> None:
    actor = Crashing(crashes=100)
    with pytest.raises(ZeroDivisionError):
        await supervisor().run(actor)
    assert len(actor.started_at) == 6


@in_virtual_time
async def test_an_old_crash_counts_no_more() -> None:
    actor = Crashing(crashes=50, after_seconds=20)
    await supervisor().run(actor)
    assert len(actor.started_at) == 51


@in_virtual_time
async def test_a_broken_disk_leaves_at_once() -> None:
    actor = Crashing(crashes=1, error=StorageBroken)
    with pytest.raises(StorageBroken):
        await supervisor().run(actor)
    assert len(actor.started_at) == 1
