"""An opened storage of each kind, with a clock in the test's hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hes.storage.sql import SqlStorage
from hes.storage.storage import Storage
from tests.storage.harness import KINDS, Bench, FakeClock, Kind, new_policy, next_id


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of storage in turn."""
    found: Kind = request.param
    return found


@pytest.fixture
async def storage(kind: Kind, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Storage]:
    async with kind.open(tmp_path, new_policy(), clock, next_id) as opened:
        yield opened


@pytest.fixture
def bench(storage: Storage, clock: FakeClock) -> Bench:
    return Bench(storage, clock)


@pytest.fixture
def sql(storage: Storage) -> SqlStorage:
    """The storage, for what is done behind the protocol's back; only with `@only_sql`."""
    assert isinstance(storage, SqlStorage)
    return storage
