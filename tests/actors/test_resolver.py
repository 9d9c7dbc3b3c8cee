"""The resolver asks in few hands, slowly, in time, and comes to no harm by what a provider does."""

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest

from hes.actors.actor import StorageTrouble
from hes.actors.resolver import HANDS, PAUSE_SECONDS, Finder, Resolver
from hes.case import Search
from hes.errors import StorageUnavailable
from hes.model import Answer, AttemptId, Email, EmailId, Outcome
from hes.providers.finding import Doubt, Finding, Found
from hes.searching import Way
from hes.storage.searches import Asked, Asking
from tests.actors.parts import in_virtual_time
from tests.fakes import an_email

LEASE_SECONDS = 30.0
TIMEOUT_SECONDS = 10.0


def an_asking(number: int, *, way: Way = Way.REPLAY, seconds: float = 15.0) -> Asking:
    attempt_id, email_id = AttemptId(f"attempt-{number}"), EmailId(f"email-{number}")
    search = Search(attempt_id=attempt_id, email_id=email_id, provider="p", next_at=0, until=10**9, lease="l")
    email = an_email(id=email_id)
    return Asking(search=search, way=way, seconds=seconds, email=email, started_at=0, render_version=5)


class Queue:
    """A storage with so many due questions."""

    def __init__(self, *askings: Asking) -> None:
        self.due = list(askings)
        self.claims: list[tuple[Mapping[str, int], Mapping[str, bool]]] = []
        self.answers: list[Asked] = []
        self.is_away = False
        self.early = 0
        """Events that wait."""
        self.claim_seconds = 0.0

    @property
    def searches(self) -> "Queue":
        return self

    @property
    def inbox(self) -> "Queue":
        return self

    async def match(self) -> int:
        self.early, found = max(0, self.early - 500), min(500, self.early)
        return found

    async def claim(self, hands: Mapping[str, int], may_replay: Mapping[str, bool]) -> list[Asking]:
        self.claims.append((hands, may_replay))
        await anyio.sleep(self.claim_seconds)
        if self.is_away:
            raise StorageUnavailable("away")
        taken, self.due = self.due[: hands["p"]], self.due[hands["p"] :]
        return taken

    async def answer(self, asked: Asked) -> None:
        if self.is_away:
            raise StorageUnavailable("away")
        self.answers.append(asked)


class Scripted:
    """A provider that can be asked in both ways."""

    name, kind, render_version = "p", "scripted", 5
    replay_seconds, look_up_seconds = 100.0, 100.0

    def __init__(self) -> None:
        self.asked: list[tuple[str, AttemptId, float, float]] = []
        self.says: Callable[[], Awaitable[Finding]] = self._nothing
        self.at_once = 0
        self.most_at_once = 0

    async def _nothing(self) -> Finding:
        return Finding(found=Found.NOTHING)

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        del email, attempt_id, timeout_seconds
        return Answer(outcome=Outcome.ACCEPTED)

    async def replay(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        return await self._ask("replay", doubt, timeout_seconds)

    async def look_up(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        return await self._ask("look-up", doubt, timeout_seconds)

    async def _ask(self, way: str, doubt: Doubt, timeout_seconds: float) -> Finding:
        self.asked.append((way, doubt.attempt_id, anyio.current_time(), timeout_seconds))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.says()
        finally:
            self.at_once -= 1

    async def aclose(self) -> None: ...


class Setup:
    def __init__(self, *askings: Asking, may_replay: bool = True) -> None:
        self.queue = Queue(*askings)
        self.provider = Scripted()
        finder = Finder(self.provider, timeout_seconds=TIMEOUT_SECONDS, may_replay=lambda: may_replay)
        self.resolver = Resolver(
            self.queue,  # type: ignore[arg-type]  # only what a resolver uses
            {"p": finder},
            StorageTrouble(anyio.current_time),
            period_seconds=1.0,
            lease_seconds=LEASE_SECONDS,
            monotonic=anyio.current_time,
        )

    async def run(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self.resolver.run()


@in_virtual_time
async def test_what_it_finds_is_written_down() -> None:
    setup = Setup(an_asking(1), an_asking(2, way=Way.LOOK_UP))

    async def found() -> Finding:
        return Finding(found=Found.ACCEPTED, provider_message_id="m1", detail="200")

    setup.provider.says = found
    await setup.run(1)
    assert [(way, attempt_id) for way, attempt_id, _, _ in setup.provider.asked] == [
        ("replay", "attempt-1"),
        ("look-up", "attempt-2"),
    ]
    one, two = setup.queue.answers
    assert (one.accepted, one.answer, one.provider_message_id, one.way) == (True, "accepted", "m1", Way.REPLAY)
    assert two.search.attempt_id == "attempt-2"


@in_virtual_time
async def test_few_at_a_time_and_not_many_a_second() -> None:
    setup = Setup(*(an_asking(n) for n in range(100)))
    await setup.run(5)
    assert setup.provider.most_at_once <= HANDS
    assert HANDS * 4 <= len(setup.provider.asked) <= HANDS * (5 / PAUSE_SECONDS + 1)


@in_virtual_time
async def test_a_slow_answer_keeps_only_its_hand() -> None:
    setup = Setup(*(an_asking(n) for n in range(12)))
    asked = iter(range(12))

    async def first_hangs() -> Finding:
        await anyio.sleep(60 if next(asked) == 0 else 0)
        return Finding(found=Found.NOTHING)

    setup.provider.says = first_hangs
    await setup.run(8)
    assert len(setup.queue.answers) == 11


@in_virtual_time
async def test_an_answer_has_only_the_time_that_is_left_for_it() -> None:
    """From before the claim was made: the storage's time may have begun then."""
    setup = Setup(an_asking(1, seconds=5.0), an_asking(2, seconds=60.0))
    setup.queue.claim_seconds = 2.0
    await setup.run(3)
    assert [seconds for *_, seconds in setup.provider.asked] == [3.0, TIMEOUT_SECONDS]


@in_virtual_time
async def test_what_comes_too_late_is_not_asked() -> None:
    """A process that stood still since it made its claim: another may be asking by now."""
    setup = Setup(an_asking(1, seconds=5.0))
    setup.queue.claim_seconds = 6.0
    await setup.run(7)
    assert setup.provider.asked == []
    [asked] = setup.queue.answers
    assert (asked.answer, asked.accepted) == ("unavailable", False)


@in_virtual_time
async def test_a_bug_of_an_adapter_is_no_answer_and_harms_no_neighbour() -> None:
    setup = Setup(an_asking(1), an_asking(2))
    asked = iter(range(9))

    async def breaks_once() -> Finding:
        if next(asked) == 0:
            raise RuntimeError("a bug")
        return Finding(found=Found.ACCEPTED)

    setup.provider.says = breaks_once
    await setup.run(1)
    assert [answer.answer for answer in setup.queue.answers] == ["unavailable", "accepted"]


@in_virtual_time
async def test_a_provider_that_never_answers_is_given_up() -> None:
    setup = Setup(an_asking(1))
    setup.provider.says = functools.partial(anyio.sleep_forever)  # type: ignore[assignment]
    await setup.run(TIMEOUT_SECONDS + 2)
    assert [answer.answer for answer in setup.queue.answers] == ["unavailable"]


@in_virtual_time
async def test_a_provider_that_wants_no_questions_is_left_alone() -> None:
    setup = Setup(*(an_asking(n) for n in range(HANDS + 1)))

    async def too_often() -> Finding:
        return Finding(found=Found.UNAVAILABLE, ask_again_seconds=20.0)

    setup.provider.says = too_often
    await setup.run(60)
    times = [at for _, _, at, _ in setup.provider.asked]
    assert times[:HANDS] == [0.0] * HANDS
    assert 20 <= times[HANDS] <= 21.5


@in_virtual_time
async def test_while_the_provider_is_paused_it_says_so_to_the_claim() -> None:
    setup = Setup(may_replay=False)
    await setup.run(1)
    assert setup.queue.claims[0] == ({"p": HANDS}, {"p": False})


@in_virtual_time
async def test_an_answer_is_kept_until_the_storage_takes_it() -> None:
    setup = Setup(an_asking(1))

    async def found() -> Finding:
        setup.queue.is_away = True
        return Finding(found=Found.ACCEPTED)

    setup.provider.says = found
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.run, 20)
        await anyio.sleep(10)
        assert setup.queue.answers == []
        setup.queue.is_away = False
    assert [answer.accepted for answer in setup.queue.answers] == [True]


@in_virtual_time
async def test_the_storage_away_is_waited_for() -> None:
    setup = Setup(an_asking(1))
    setup.queue.is_away = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.run, 20)
        await anyio.sleep(10)
        setup.queue.is_away = False
    assert len(setup.provider.asked) == 1


@in_virtual_time
async def test_events_that_wait_are_matched_all_of_them() -> None:
    setup = Setup()
    setup.queue.early = 1200
    await setup.run(0.5)
    assert setup.queue.early == 0


def test_the_log_tells_what_ends_a_doubt_and_once_that_nothing_can_be_asked(caplog: pytest.LogCaptureFixture) -> None:
    """At debug also the rest: a doubt that is held is asked about for days."""
    found = [Found.UNAVAILABLE, Found.UNAVAILABLE, Found.NOTHING, Found.NOTHING, Found.ACCEPTED, Found.UNAVAILABLE]

    @in_virtual_time
    async def test() -> None:
        setup = Setup(*(an_asking(number) for number in range(len(found))))
        answers = iter(found)

        async def says() -> Finding:
            return Finding(found=next(answers), detail="so it says")

        setup.provider.says = says
        await setup.run(10)

    with caplog.at_level(logging.DEBUG, "hes.resolver"):
        test()
    assert [(one.levelname, one.getMessage()) for one in caplog.records if one.levelno > logging.DEBUG] == [
        ("WARNING", "p can't be asked about doubts, as about attempt attempt-0: so it says"),
        ("INFO", "p answers questions about doubts again"),
        ("INFO", "asked p about attempt attempt-4 (replay): accepted: so it says"),
        ("WARNING", "p can't be asked about doubts, as about attempt attempt-5: so it says"),
    ]
    assert sum(one.levelno == logging.DEBUG for one in caplog.records) == 5
