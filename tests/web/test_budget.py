"""Memory is bounded: what is being read and written together has a limit in bytes."""

import pytest

from hes.errors import Overloaded
from hes.web.desk import Budget
from tests.web.service import LEAST, Service


def test_what_is_held_counts_until_it_is_let_go() -> None:
    budget = Budget(100)
    with budget.hold(60), pytest.raises(Overloaded), budget.hold(41):
        pass
    with budget.hold(60), budget.hold(40):
        pass


def test_one_alone_may_be_larger() -> None:
    budget = Budget(100)
    with budget.hold(1000), pytest.raises(Overloaded), budget.hold(1):
        pass


def test_a_failure_lets_go() -> None:
    budget = Budget(100)
    with pytest.raises(ZeroDivisionError), budget.hold(100):
        raise ZeroDivisionError
    with budget.hold(100):
        pass


async def test_too_much_in_hand_is_503_and_nothing_is_stored(hes: Service) -> None:
    full = Budget(10)
    with full.hold(10):
        response = await hes.send(desk={"bodies": full})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "in hand" in response.json()["detail"]
    assert (await hes.send(LEAST, desk={"bodies": full})).status_code == 202
