"""The real mailer in a process that stands still while the providers go on: in virtual time, over real sockets."""

import asyncio
import random
import socket

import anyio
import pytest

from hes.model import Answer, AttemptId, Email, Outcome
from hes.timeouts import fail_after
from tests.actors.parts import in_virtual_time
from tests.simulation.fleet import Fleet, Model, running
from tests.simulation.virtual_time import stand_still


class Distant(Model):
    """Its answers come through a socket, whether or not anybody reads them; read as an HTTP client does, in steps."""

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self._under_way: list[tuple[float, socket.socket]] = []

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            self._under_way.append((anyio.current_time() + self.latency_seconds, theirs))
            try:
                with fail_after(timeout_seconds):
                    while not await self._has_come(ours):
                        pass
            except TimeoutError:
                return Answer(outcome=Outcome.IN_DOUBT, detail="no whole answer in time")
        return Answer(outcome=Outcome.ACCEPTED)

    async def _has_come(self, ours: socket.socket) -> bool:
        """Whether the last part of the answer was read."""
        part = await asyncio.get_running_loop().sock_recv(ours, 1)
        await asyncio.sleep(0)
        return part == b"."

    async def answer(self) -> None:
        """For ever, as its answers come due."""
        while True:
            self.answer_until(anyio.current_time())
            await anyio.sleep(0.1)

    def answer_until(self, now: float) -> None:
        for _, theirs in (due := [one for one in self._under_way if one[0] <= now]):
            theirs.send(b"202.")
        self._under_way = [one for one in self._under_way if one not in due]


@pytest.mark.parametrize("seconds", [10.5, 15.0], ids=["than the call's time-out", "than all that waits for the call"])
def test_a_process_that_stands_still_for_longer_reads_what_came_and_doubts_nothing(seconds: float) -> None:
    @in_virtual_time
    async def scene() -> None:
        fleet = Fleet("a", model=Distant)
        provider = fleet.models["a"]
        assert isinstance(provider, Distant)
        provider.latency_seconds = 5
        async with running(fleet), anyio.create_task_group() as network:
            network.start_soon(provider.answer)
            for _ in range(20):
                await fleet.send()
            await anyio.sleep(1)
            assert fleet.mailer.in_flight > 5
            provider.answer_until(anyio.current_time() + seconds)
            stand_still(seconds)
            await fleet.drained()
            network.cancel_scope.cancel()
        assert fleet.statuses() == {"sent": 20}
        assert {len(case.attempts) for case in fleet.storage.cases.values()} == {1}

    scene()
