"""While the storage refuses writes: each verb says so, writes nothing, and works when it is called again."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hes.errors import StorageUnavailable
from hes.model import Decision, Leased, OnDoubt, Outcome
from tests.storage.harness import SHOP, Bench, Kind, ended, new_email, proof, rooms

Call = Callable[[Bench, Leased], Awaitable[object]]

NEW = new_email(key="order-1")

CALLS: dict[str, Call] = {
    "accept": lambda bench, _: bench.storage.accept(NEW),
    "lease": lambda bench, _: bench.give_out(rooms(a=1, b=1)),
    "settle": lambda bench, leased: bench.storage.settle([ended(leased, Outcome.ACCEPTED)], {}),
    "evidence": lambda bench, leased: bench.storage.evidence([proof(leased, accepted=True)]),
    "sweep": lambda bench, _: bench.storage.sweep(),
    "cancel": lambda bench, leased: bench.storage.cancel(SHOP, leased.email.id),
    "resolve": lambda bench, leased: bench.storage.resolve(SHOP, leased.email.id, Decision.SENT, "ann"),
    "keep": lambda bench, leased: bench.storage.keep(leased.email.id, leased.attempt_id, b"mime"),
    "prune": lambda bench, _: bench.storage.prune(),
}


async def prepared(bench: Bench, verb: str) -> Leased:
    """An email that the verb does something to."""
    leased = await bench.leased(on_doubt=OnDoubt.HOLD, key="old")
    if verb == "cancel":
        await bench.settle(leased, Outcome.UNAVAILABLE)
    if verb in {"resolve", "evidence"}:
        await bench.settle(leased, Outcome.IN_DOUBT)
    if verb == "prune":
        bench.clock.advance(24 * 3600)
    if verb == "lease":
        await bench.accept()
    if verb == "sweep":
        bench.clock.advance(30)
    return leased


@pytest.mark.parametrize("verb", CALLS)
async def test_nothing_is_written_and_the_same_call_works_later(
    bench: Bench, kind: Kind, tmp_path: Path, verb: str
) -> None:
    leased = await prepared(bench, verb)
    before = await bench.read(leased)
    async with kind.away(bench.storage, tmp_path):
        with pytest.raises(StorageUnavailable):
            await CALLS[verb](bench, leased)
    assert await bench.read(leased) == before
    result = await CALLS[verb](bench, leased)
    if verb in {"settle", "evidence", "sweep", "cancel", "resolve"}:
        assert (await bench.read(leased)).delivery.version > before.delivery.version
    else:
        assert result or await kind.kept(bench.storage, leased.attempt_id) == b"mime"
