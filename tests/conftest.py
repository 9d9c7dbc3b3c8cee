"""What all tests share."""

import hypothesis
import pytest

# A run is the same each time, so that what is red is red because of what was changed. `make chaos` looks for news.
hypothesis.settings.register_profile("settled", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("news", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("settled")


@pytest.fixture
def anyio_backend() -> str:
    """HES runs on asyncio."""
    return "asyncio"
