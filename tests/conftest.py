"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """HES runs on asyncio."""
    return "asyncio"
