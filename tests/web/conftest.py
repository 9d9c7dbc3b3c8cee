"""What the tests of the HTTP side share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.service import Service, open_service


@pytest.fixture
async def hes(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path / "hes.db") as service:
        yield service
