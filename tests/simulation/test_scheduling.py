"""`send_at`, over the real mailer in virtual time: never before it by the database's clock, and soon after it.

Nobody wakes the intake here, as when the API is another process: what is due is found by looking once a period.
"""

import anyio
import pytest

from hes.model import EmailId, Millis
from hes.storage.records import Reach
from tests.actors.parts import in_virtual_time
from tests.simulation.fleet import Fleet, running

MOST_LATE_MS = 2000
"""The poll period, 1 s, and one second more."""
HOUR_MS = 3_600_000


class Plan:
    """When each email is to be sent, as it was said last, by the database's clock."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.send_at: dict[EmailId, Millis] = {}

    async def schedule(self, in_ms: int) -> EmailId:
        send_at = self.fleet.database_clock() + in_ms
        email_id = await self.fleet.send(send_at=send_at)
        self.send_at[email_id] = send_at
        return email_id

    async def move(self, email_id: EmailId, in_ms: int | None) -> None:
        """Another time; None: now."""
        now = self.fleet.database_clock()
        await self.fleet.storage.send(Reach("p"), email_id, None if in_ms is None else now + in_ms)
        self.send_at[email_id] = now + (in_ms or 0)

    def lateness(self) -> list[Millis]:
        """Of each email, from its time until its provider was asked."""
        zero = self.fleet.database_clock() - round(anyio.current_time() * 1000)
        taken = [call for model in self.fleet.models.values() for call in model.accepted()]
        calls = [call for call in taken if call.email_id in self.send_at]
        assert sorted(call.email_id for call in calls) == sorted(self.send_at), "each left once"
        return [zero + round(call.at * 1000) - self.send_at[call.email_id] for call in calls]


def check(lateness: list[Millis]) -> None:
    assert min(lateness) >= 0
    assert max(lateness) <= MOST_LATE_MS


@pytest.mark.parametrize("database_ahead_ms", [0, HOUR_MS, -HOUR_MS])
def test_an_email_leaves_at_its_time_by_the_databases_clock(database_ahead_ms: int) -> None:
    @in_virtual_time
    async def test() -> None:
        async with running(Fleet("a", "b", database_ahead_ms=database_ahead_ms)) as fleet:
            plan = Plan(fleet)
            for n in range(300):
                await plan.schedule(in_ms=1 + 37 * n)
                await anyio.sleep(0.01)
            await fleet.drained()
            check(plan.lateness())

    test()


@in_virtual_time
async def test_the_time_that_counts_is_the_one_said_last() -> None:
    async with running(Fleet("a")) as fleet:
        plan = Plan(fleet)
        later, sooner, past, promoted = [await plan.schedule(in_ms=30_000) for _ in range(4)]
        moved_twice = await plan.schedule(in_ms=30_000)
        await anyio.sleep(3.21)
        await plan.move(later, in_ms=60_000)
        await plan.move(sooner, in_ms=5_000)
        await plan.move(past, in_ms=0)
        await plan.move(promoted, None)
        await plan.move(moved_twice, in_ms=5_000)
        await anyio.sleep(4.5)
        await plan.move(moved_twice, in_ms=HOUR_MS)
        await fleet.drained(within=2 * 3600)
        check(plan.lateness())


@in_virtual_time
async def test_a_provider_that_comes_back_pulls_nothing_before_its_time() -> None:
    async with running(Fleet("a")) as fleet:
        plan = Plan(fleet)
        fleet.models["a"].is_down = lambda now: now < 20
        await fleet.offer(5, 20)
        await plan.schedule(in_ms=HOUR_MS)
        await fleet.drained(within=2 * 3600)
        check(plan.lateness())
        assert fleet.statuses() == {"sent": 101}
