"""Group commit by itself, with a write function in the test's hand."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from hes.errors import StorageBroken, StorageUnavailable
from hes.storage.groups import GroupCommit
from tests.actors.parts import in_virtual_time


class Disk:
    """Takes groups of numbers; answers each with itself times ten. Full of ways to fail."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.poison: set[int] = set()
        """Whoever is in a group with one of these fails with it."""
        self.refused: set[int] = set()
        """Answered with an exception of their own."""
        self.error: Exception | None = None
        self.may_end = anyio.Event()
        self.may_end.set()
        self.begun = anyio.Event()

    async def write(self, items: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(items))
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        if bad := self.poison.intersection(items):
            raise ValueError(bad)
        return [LookupError(item) if item in self.refused else item * 10 for item in items]

    def block(self) -> None:
        self.may_end = anyio.Event()
        self.begun = anyio.Event()


class Office:
    """A running group commit and the answers that came out of it."""

    def __init__(self, disk: Disk, limit: int, queue_limit: int) -> None:
        self.commits = GroupCommit[int, int](disk.write, limit=limit, queue_limit=queue_limit)
        self.answers: dict[int, int | Exception] = {}

    async def call(self, item: int) -> None:
        try:
            self.answers[item] = await self.commits.submit(item)
        except Exception as error:  # noqa: BLE001 (whatever it is told)
            self.answers[item] = error

    async def call_all(self, items: Sequence[int]) -> None:
        async with anyio.create_task_group() as callers:
            for item in items:
                callers.start_soon(self.call, item)


@asynccontextmanager
async def office(disk: Disk, limit: int = 100, queue_limit: int = 100) -> AsyncIterator[Office]:
    opened = Office(disk, limit, queue_limit)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(opened.commits.run)
        yield opened
        tasks.cancel_scope.cancel()


async def test_a_single_item_is_written_at_once() -> None:
    disk = Disk()
    async with office(disk) as opened:
        assert await opened.commits.submit(1) == 10
        assert await opened.commits.submit(2) == 20
    assert disk.groups == [[1], [2]]


async def test_what_arrives_during_a_write_shares_the_next() -> None:
    disk = Disk()
    disk.block()
    async with office(disk) as opened, anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await disk.begun.wait()
        for item in (2, 3, 4):
            callers.start_soon(opened.call, item)
        await anyio.wait_all_tasks_blocked()
        assert opened.answers == {}, "nobody is answered before the commit"
        assert (opened.commits.waiting, opened.commits.in_flight) == (3, 4)
        disk.may_end.set()
    assert opened.commits.in_flight == 0
    assert disk.groups == [[1], [2, 3, 4]]
    assert opened.answers == {1: 10, 2: 20, 3: 30, 4: 40}


async def test_a_group_has_a_limit_and_the_order_of_arrival() -> None:
    disk = Disk()
    async with office(disk, limit=3) as opened:
        await opened.call_all(range(8))
    assert [item for group in disk.groups for item in group] == list(range(8))
    assert max(len(group) for group in disk.groups) == 3
    assert opened.answers == {item: item * 10 for item in range(8)}


async def test_one_items_own_exception_is_its_own_answer() -> None:
    disk = Disk()
    disk.refused = {2}
    async with office(disk) as opened:
        await opened.call_all([1, 2, 3])
    assert len(disk.groups) == 1
    assert (opened.answers[1], opened.answers[3]) == (10, 30)
    assert isinstance(opened.answers[2], LookupError)


async def test_a_failed_group_is_written_item_by_item() -> None:
    disk = Disk()
    disk.poison = {2}
    async with office(disk) as opened:
        await opened.call_all([1, 2, 3])
        assert await opened.commits.submit(4) == 40
    assert disk.groups == [[1, 2, 3], [1], [2], [3], [4]]
    assert (opened.answers[1], opened.answers[3]) == (10, 30)
    assert isinstance(opened.answers[2], ValueError)


async def test_one_bad_item_alone_is_not_tried_again() -> None:
    disk = Disk()
    disk.poison = {2}
    async with office(disk) as opened:
        await opened.call(2)
    assert disk.groups == [[2]]


async def test_a_storage_that_is_away_is_everybodys_answer_and_the_next_group_is_tried() -> None:
    disk = Disk()
    disk.error = StorageUnavailable("away")
    async with office(disk) as opened:
        await opened.call_all([1, 2])
        assert len(disk.groups) == 1, "each by itself would find it away as well"
        assert [str(opened.answers[item]) for item in (1, 2)] == ["away", "away"]
        disk.error = None
        assert await opened.commits.submit(3) == 30


@in_virtual_time
async def test_who_waits_behind_a_storage_that_is_away_does_not_try_for_as_long_again() -> None:
    """Else it would be told after two deadlines."""
    disk = Disk()
    disk.block()
    disk.error = StorageUnavailable("away")
    async with office(disk) as opened, anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await disk.begun.wait()
        callers.start_soon(opened.call, 2)
        await anyio.sleep(9)
        for late in range(3, 5):
            callers.start_soon(opened.call, late)
        await anyio.wait_all_tasks_blocked()
        disk.may_end.set()
        await anyio.wait_all_tasks_blocked()
        assert disk.groups == [[1]], "who came just now waited in the same group"
        assert {type(answer) for answer in opened.answers.values()} == {StorageUnavailable}
        disk.error = None
        assert await opened.commits.submit(5) == 50


@in_virtual_time
async def test_who_has_just_come_is_written_after_a_storage_that_was_away() -> None:
    disk = Disk()
    disk.block()
    disk.error = StorageUnavailable("away")
    async with office(disk) as opened, anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await anyio.sleep(9)
        callers.start_soon(opened.call, 2)
        await anyio.wait_all_tasks_blocked()
        disk.may_end.set()
        await disk.begun.wait()
        await anyio.wait_all_tasks_blocked()
        assert disk.groups == [[1], [2]]


async def test_a_broken_disk_ends_the_writer_and_nobody_is_told_that_it_is_written() -> None:
    disk = Disk()
    disk.error = StorageBroken("the disk failed")
    opened = Office(disk, 100, 100)
    with pytest.RaisesGroup(StorageBroken):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opened.call, 1)
            tasks.start_soon(opened.call, 2)
            tasks.start_soon(opened.commits.run)
    assert disk.groups == [[1, 2]]


async def test_a_broken_disk_is_told_to_those_in_the_group() -> None:
    disk = Disk()
    disk.error = StorageBroken("the disk failed")
    opened = Office(disk, 100, 100)
    async with anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(StorageBroken):
            await opened.commits.run()
    assert isinstance(opened.answers[1], StorageBroken)


async def test_whoever_still_waits_when_the_writer_ends_is_told_so() -> None:
    disk = Disk()
    disk.error = StorageBroken("the disk failed")
    opened = Office(disk, 1, 100)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as callers:
            for item in (1, 2, 3):
                callers.start_soon(opened.call, item)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StorageBroken):
                await opened.commits.run()
    assert isinstance(opened.answers[2], StorageUnavailable)
    assert isinstance(opened.answers[3], StorageUnavailable)


async def test_after_the_writer_ended_nothing_is_taken() -> None:
    async with office(Disk()) as opened:
        pass
    with anyio.fail_after(5), pytest.raises(StorageUnavailable):
        await opened.commits.submit(1)


async def test_a_full_queue_refuses_before_anything_is_stored() -> None:
    disk = Disk()
    disk.block()
    async with office(disk, limit=1, queue_limit=2) as opened, anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await disk.begun.wait()
        for item in (2, 3, 4):
            callers.start_soon(opened.call, item)
        await anyio.wait_all_tasks_blocked()
        assert isinstance(opened.answers[4], StorageUnavailable)
        disk.may_end.set()
    assert (opened.answers[1], opened.answers[2], opened.answers[3]) == (10, 20, 30)
    assert disk.groups == [[1], [2], [3]]


async def test_a_caller_who_goes_away_takes_nobody_along() -> None:
    disk = Disk()
    disk.block()
    async with office(disk) as opened, anyio.create_task_group() as callers:
        callers.start_soon(opened.call, 1)
        await disk.begun.wait()
        async with anyio.create_task_group() as impatient:
            impatient.start_soon(opened.call, 2)
            callers.start_soon(opened.call, 3)
            await anyio.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        disk.may_end.set()
    assert opened.answers == {1: 10, 3: 30}
