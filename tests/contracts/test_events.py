"""What providers tell HES: events, as messages. A vendor signs no contract, so who keeps it here are the fakes.

They are the events that tests/faults/test_events.py drives a whole HES with. What is not in the contract is how a POST
is signed and answered: that follows each vendor's own rules (tests/providers/test_hooks.py, tests/web/test_hooks.py).
"""

from pathlib import Path
from typing import Any

import anyio
import pytest
from pact import Verifier
from pact.types import Message

from hes.providers import REGISTRY
from tests.contracts.event_cases import AT, HOOKS, IDS, TO
from tests.contracts.pacts import a_pact, check_committed, verify
from tests.faults.test_events import VENDORS

each_provider = pytest.mark.parametrize("provider", list(HOOKS))


@each_provider
def test_what_hes_reads_of_events_is_the_contract(provider: str, tmp_path: Path) -> None:
    hook, read_events = HOOKS[provider], REGISTRY[provider].read_events
    assert read_events is not None
    for name, (kind, body) in hook.events.items():
        pact = a_pact("hes", f"{provider}-events")
        pact.upon_receiving(name, "Async").with_body(body, content_type="application/json")

        def read(content: str | bytes | None, _: dict[str, object], kind: object = kind) -> None:
            headers, posted = hook.sign(str(content).encode())
            lower = {header.lower(): value for header, value in headers.items()}
            (event,) = read_events(lower, posted, hook.secret, AT * 1000).events
            assert (event.kind, event.at, event.recipient) == (kind, AT * 1000, TO)
            assert (event.hes_id, event.hes_attempt) == (IDS["hes_id"], IDS["hes_attempt"])

        pact.verify(read, "Async")
        pact.write_file(tmp_path)
    check_committed(tmp_path, f"hes-{provider}-events.json")


@each_provider
async def test_the_fakes_events_keep_it(provider: str) -> None:
    def produce(name: str, metadata: dict[str, Any]) -> Message:
        _, body = VENDORS[provider].post(name, IDS)
        return {"contents": body, "content_type": "application/json", "metadata": None}

    def prepare(verifier: Verifier) -> Verifier:
        return verifier.message_handler(produce)

    name = f"{provider}-events"
    await anyio.to_thread.run_sync(lambda: verify(f"hes-{name}.json", name, prepare))
