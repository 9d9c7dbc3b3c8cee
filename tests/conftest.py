"""What all tests share, and how `make test` shares them out among processes."""

import gc

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# A run is the same each time, so that what is red is red because of what was changed. `make chaos` looks for news.
hypothesis.settings.register_profile("settled", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("news", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("settled")

TIMED = "tests/faults/"


class _Files(LoadScopeScheduling):  # type: ignore[misc]  # has no types
    """Whole files, in their order: tests of one file share what they made.

    The faults are one piece: their processes, leases and grace periods never run beside those of another one of them.
    """

    def _split_scope(self, nodeid: str) -> str:
        return TIMED if nodeid.startswith(TIMED) else nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Files:
    return _Files(config, log)


def pytest_collection_finish() -> None:
    """Collected tests and what they import stay to the end: the garbage collector need not look at them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    """HES runs on asyncio."""
    return "asyncio"
