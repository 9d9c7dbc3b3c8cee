"""The reporter keeps outcomes until they are written, and frees hands only then."""

from collections.abc import Mapping, Sequence

import anyio
import pytest

from hes.actors.actor import Mailbox, StorageTrouble
from hes.actors.reporter import Reporter
from hes.errors import StorageBroken, StorageUnavailable
from hes.model import Ended, Room
from hes.storage.records import Settled
from tests.actors.parts import an_ended, in_virtual_time


class Books:
    """A storage that only settles, and may not want to."""

    def __init__(self) -> None:
        self.written: list[list[str]] = []
        self.away_until = 0.0
        self.poisoned: set[str] = set()
        self.broken = False

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        assert rooms == {"p": Room(hands=7)}
        await anyio.sleep(0.01)
        if self.broken:
            raise StorageBroken("the disk failed")
        if anyio.current_time() < self.away_until:
            raise StorageUnavailable("away")
        if self.poisoned & {e.attempt_id for e in ended}:
            raise ZeroDivisionError
        self.written.append([e.attempt_id for e in ended])
        return Settled()


class Hands:
    """Stands for the sender."""

    def __init__(self) -> None:
        self.released: list[str] = []

    def room(self) -> Room:
        return Room(hands=7)

    def release(self, ended: Ended) -> None:
        self.released.append(ended.attempt_id)


class Setup:
    def __init__(self) -> None:
        self.books = Books()
        self.mailbox = Mailbox[Ended](100)
        self.trouble = StorageTrouble(anyio.current_time)
        self.sender = Hands()
        self.released = self.sender.released
        self.wakes = 0
        self.reporter = Reporter(
            self.books,  # type: ignore[arg-type]  # only settles
            self.mailbox,
            {"p": self.sender},  # type: ignore[dict-item]
            self.trouble,
            monotonic=anyio.current_time,
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.wakes += 1


@in_virtual_time
async def test_what_is_there_is_written_together_then_released() -> None:
    setup = Setup()
    for number in range(5):
        setup.mailbox.tell(an_ended(number))
    setup.mailbox.close()
    await setup.reporter.run()
    assert setup.books.written == [[f"attempt-{n}" for n in range(5)]]
    assert setup.released == [f"attempt-{n}" for n in range(5)]
    assert setup.wakes == 1


@in_virtual_time
async def test_with_the_storage_away_outcomes_are_kept_and_no_hand_comes_free() -> None:
    setup = Setup()
    setup.books.away_until = 60
    setup.mailbox.tell(an_ended(1))
    setup.mailbox.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(setup.reporter.run)
        await anyio.sleep(59)
        assert (setup.released, setup.reporter.is_behind) == ([], True)
    assert (setup.books.written, setup.released) == ([["attempt-1"]], ["attempt-1"])
    assert not setup.reporter.is_behind
    assert setup.trouble.seconds_ago() < 5


@in_virtual_time
async def test_a_poisoned_outcome_harms_no_neighbour() -> None:
    setup = Setup()
    setup.books.poisoned = {"attempt-2"}
    for number in (1, 2, 3):
        setup.mailbox.tell(an_ended(number))
    setup.mailbox.close()
    await setup.reporter.run()
    assert setup.books.written == [["attempt-1"], ["attempt-3"]]
    assert sorted(setup.released) == ["attempt-1", "attempt-2", "attempt-3"]


@in_virtual_time
async def test_a_broken_disk_leaves_the_reporter_with_its_outcomes_unreleased() -> None:
    setup = Setup()
    setup.books.broken = True
    setup.mailbox.tell(an_ended(1))
    with pytest.raises(StorageBroken):
        await setup.reporter.run()
    assert setup.released == []
    setup.mailbox.discard()


@in_virtual_time
async def test_a_restarted_reporter_writes_first_what_the_crash_left_in_its_hands() -> None:
    setup = Setup()
    setup.books.broken = True
    setup.mailbox.tell(an_ended(1))
    setup.mailbox.close()
    with pytest.raises(StorageBroken):
        await setup.reporter.run()
    setup.books.broken = False
    await setup.reporter.run()
    assert setup.books.written == [["attempt-1"]]
