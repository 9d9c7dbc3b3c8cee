"""What the suite of all providers runs against."""

import pytest

from tests.providers.lines import LINES, Line


@pytest.fixture(params=LINES, ids=[line.kind for line in LINES])
def line(request: pytest.FixtureRequest) -> Line:
    """Each line of the registry in turn."""
    found: Line = request.param
    return found
