"""A sender: hands that stand alone, and are free only when told so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from hes.actors.actor import Mailbox
from hes.actors.sender import PATIENCE_SECONDS, Sender
from hes.model import Answer, AttemptId, Ended, Leased, Outcome, Scope
from hes.timeouts import fail_after
from tests.actors.parts import ScriptedProvider, a_gate, a_leased, clock, in_virtual_time
from tests.simulation.virtual_time import stand_still


class Setup:
    def __init__(self) -> None:
        self.provider = ScriptedProvider()
        self.inbox = Mailbox[Leased](3)
        self.report = Mailbox[Ended](3)
        self.sender = Sender(
            self.provider,
            a_gate(),
            self.inbox,
            self.report,
            hands=3,
            timeout_seconds=10,
            clock=clock,
            monotonic=anyio.current_time,
        )

    async def told(self) -> Ended:
        return await self.report.receive()


@asynccontextmanager
async def running() -> AsyncIterator[Setup]:
    setup = Setup()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.sender.run)
        yield setup
        tasks.cancel_scope.cancel()
    setup.inbox.discard()
    setup.report.discard()


@in_virtual_time
async def test_an_outcome_is_told_and_the_hand_stays_taken_until_released() -> None:
    async with running() as setup:
        setup.sender.take(a_leased())
        ended = await setup.told()
        assert ended.answer is not None
        assert (ended.attempt_id, ended.answer.outcome) == ("attempt-1", Outcome.ACCEPTED)
        assert setup.sender.room().hands == 2
        setup.sender.release(ended)
        assert setup.sender.room().hands == 3
        assert setup.sender.room().render_version == 5


@in_virtual_time
async def test_hands_work_at_the_same_time() -> None:
    async with running() as setup:
        barrier = anyio.Event()

        async def wait_for_three(attempt_id: AttemptId) -> Answer:
            if len(setup.provider.calls) == 3:
                barrier.set()
            await barrier.wait()
            return Answer(outcome=Outcome.ACCEPTED)

        setup.provider.script = wait_for_three
        for number in (1, 2, 3):
            setup.sender.take(a_leased(number))
        assert setup.sender.bytes_in_flight == 300
        assert {(await setup.told()).attempt_id for _ in range(3)} == {"attempt-1", "attempt-2", "attempt-3"}


@in_virtual_time
async def test_a_bug_in_one_hand_is_in_doubt_and_harms_no_neighbour() -> None:
    async with running() as setup:

        async def first_has_a_bug(attempt_id: AttemptId) -> Answer:
            if attempt_id == "attempt-1":
                raise KeyError("a bug")
            await anyio.sleep(5)
            return Answer(outcome=Outcome.ACCEPTED)

        setup.provider.script = first_has_a_bug
        setup.sender.take(a_leased(1))
        setup.sender.take(a_leased(2))
        outcomes = {}
        for _ in range(2):
            ended = await setup.told()
            assert ended.answer is not None
            outcomes[ended.attempt_id] = ended.answer.outcome
        assert outcomes == {"attempt-1": Outcome.IN_DOUBT, "attempt-2": Outcome.ACCEPTED}


@in_virtual_time
async def test_what_was_declined_before_the_first_byte_says_nothing_about_the_provider() -> None:
    """Not even to a probe: it goes out again at once, with another email."""
    async with running() as setup:

        async def fail(attempt_id: AttemptId) -> Answer:
            return Answer(outcome=Outcome.UNAVAILABLE)

        setup.provider.script = fail
        for number in range(5):
            setup.sender.take(a_leased(number))
            setup.sender.release(await setup.told())
        await anyio.sleep(10.1)

        async def decline(attempt_id: AttemptId) -> Answer:
            return Answer(outcome=Outcome.DECLINED, detail="it can't be written down")

        setup.provider.script = decline
        setup.sender.take(a_leased(6))
        ended = await setup.told()
        assert ended.answer is not None
        setup.sender.release(ended)
        room = setup.sender.room()
        assert (room.is_shut, room.is_probe, room.hands) == (True, True, 1)


@in_virtual_time
async def test_what_the_provider_itself_declines_shows_that_it_answers() -> None:
    async with running() as setup:
        outcomes = iter([Outcome.UNAVAILABLE] * 5 + [Outcome.DECLINED])

        async def answer(attempt_id: AttemptId) -> Answer:
            return Answer(outcome=next(outcomes), status_code=413)

        setup.provider.script = answer
        for number in range(6):
            setup.sender.take(a_leased(number))
            setup.sender.release(await setup.told())
            await anyio.sleep(10.1 if number == 4 else 0)
        assert not setup.sender.room().is_shut


@in_virtual_time
async def test_a_provider_that_breaks_its_time_out_is_given_up_from_outside() -> None:
    async with running() as setup:

        async def for_ever(attempt_id: AttemptId) -> Answer:
            await anyio.sleep_forever()
            raise AssertionError

        setup.provider.script = for_ever
        setup.sender.take(a_leased())
        ended = await setup.told()
        assert ended.answer is not None
        assert ended.answer.outcome is Outcome.IN_DOUBT
        assert anyio.current_time() == pytest.approx(10 + PATIENCE_SECONDS)
        assert ended.answer.detail == "the call did not end in time"


@in_virtual_time
async def test_after_a_standstill_it_is_the_providers_own_time_out_that_says_what_became_of_it() -> None:
    """All time-outs are late then. From outside nobody knows that no byte went out."""
    async with running() as setup:

        async def connects_for_ever(attempt_id: AttemptId) -> Answer:
            with contextlib.suppress(TimeoutError), fail_after(10):
                await anyio.sleep_forever()
            return Answer(outcome=Outcome.UNAVAILABLE)

        setup.provider.script = connects_for_ever
        setup.sender.take(a_leased())
        asyncio.get_running_loop().call_later(1, stand_still, 20)
        ended = await setup.told()
        assert ended.answer is not None
        assert ended.answer.outcome is Outcome.UNAVAILABLE


@in_virtual_time
async def test_with_too_little_of_the_lease_left_no_byte_goes_out() -> None:
    async with running() as setup:
        setup.sender.take(a_leased(deadline=anyio.current_time() + 9.9))
        ended = await setup.told()
        assert (ended.answer, ended.note) == (None, "too little of the lease was left")
        assert setup.provider.calls == []


@in_virtual_time
async def test_a_stopping_sender_begins_nothing_and_ends_what_it_began() -> None:
    setup = Setup()

    async def slow(attempt_id: AttemptId) -> Answer:
        await anyio.sleep(5)
        return Answer(outcome=Outcome.ACCEPTED)

    setup.provider.script = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.sender.run)
        setup.sender.take(a_leased(1))
        await anyio.sleep(1)
        setup.sender.take(a_leased(2))
        setup.sender.stop()
        assert setup.sender.room().hands == 0
    told = {ended.attempt_id: ended for ended in setup.report.ready(9)}
    assert told[AttemptId("attempt-2")].answer is None
    assert told[AttemptId("attempt-1")].answer is not None
    setup.report.discard()


@in_virtual_time
async def test_calls_that_a_crash_of_the_sender_cut_off_are_told_as_in_doubt() -> None:
    setup = Setup()

    async def for_ever(attempt_id: AttemptId) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    setup.provider.script = for_ever
    setup.sender.take(a_leased())
    with anyio.move_on_after(1):
        await setup.sender.run()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.sender.run)
        ended = await setup.told()
        tasks.cancel_scope.cancel()
    assert ended.answer is not None
    assert ended.answer.outcome is Outcome.IN_DOUBT
    setup.inbox.discard()
    setup.report.discard()


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(outcome=Outcome.THROTTLED, retry_after_seconds=7), 7),
        (Answer(outcome=Outcome.THROTTLED), 1),
        (Answer(outcome=Outcome.REFUSED), 10),
        (Answer(outcome=Outcome.REFUSED, retry_after_seconds=3600, quota=True), 3600),
    ],
)
def test_told_to_wait_it_asks_nothing_until_then(answer: Answer, seconds: int) -> None:
    @in_virtual_time
    async def test() -> None:
        async with running() as setup:

            async def say(attempt_id: AttemptId) -> Answer:
                return answer

            setup.provider.script = say
            setup.sender.take(a_leased(1))
            setup.sender.release(await setup.told())
            assert setup.sender.room().hands == 0
            setup.sender.take(a_leased(2))  # leased just before
            ended = await setup.told()
            assert ended.answer is None
            setup.sender.release(ended)
            await anyio.sleep(seconds - 0.1)
            assert setup.sender.room().hands == 0
            await anyio.sleep(0.2)
            assert setup.sender.room().hands >= 1

    test()


@in_virtual_time
async def test_a_refused_sender_domain_stops_nobody_else() -> None:
    async with running() as setup:

        async def say(attempt_id: AttemptId) -> Answer:
            return Answer(outcome=Outcome.REFUSED, scope=Scope.SENDER_DOMAIN)

        setup.provider.script = say
        setup.sender.take(a_leased(1))
        setup.sender.release(await setup.told())
        assert setup.sender.room().hands == 3
