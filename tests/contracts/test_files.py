"""contracts/ holds what is checked, and nothing else: a contract that nobody writes any more would look kept."""

from tests.contracts import test_api, test_stored_email
from tests.contracts.event_cases import HOOKS
from tests.contracts.pacts import CONTRACTS
from tests.contracts.provider_cases import CASES


def test_each_contract_is_written_and_held_by_a_test() -> None:
    asked = {f"hes-{provider}.json" for provider in CASES}
    told = {f"hes-{provider}-events.json" for provider in HOOKS}
    assert {path.name for path in CONTRACTS.iterdir()} == asked | told | {test_api.CONTRACT, test_stored_email.CONTRACT}
