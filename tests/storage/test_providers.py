"""What storage keeps about providers: facts, and what waits for one of them."""

from hes.model import EmailId, Fact, FactKind, Outcome, Status
from tests.storage.harness import NOW, Bench, rooms, told


def fact(provider: str = "a", domain: str = "", kind: FactKind = FactKind.REFUSED, reason: str = "bad key") -> Fact:
    return Fact(provider=provider, kind=kind, sender_domain=domain, reason=reason, since=NOW, until=NOW + 9, by="it")


async def test_facts_are_kept_until_they_are_withdrawn(bench: Bench) -> None:
    storage = bench.storage
    assert await storage.facts() == []
    facts = [fact(), fact(domain="example.com"), fact(kind=FactKind.PAUSED), fact("b")]
    await storage.state_facts(facts)
    assert sorted(await storage.facts(), key=str) == sorted(facts, key=str)
    await storage.state_facts([], [("a", FactKind.REFUSED, "example.com"), ("nobody", FactKind.PAUSED, "")])
    assert len(await storage.facts()) == 3


async def test_what_is_known_later_takes_the_place_of_what_was_known_before(bench: Bench) -> None:
    await bench.storage.state_facts([fact(reason="first")])
    await bench.storage.state_facts([fact(reason="second")])
    assert [known.reason for known in await bench.storage.facts()] == ["second"]


async def waits(bench: Bench, **fields: object) -> EmailId:
    """An email that waits for its next round."""
    leased = await bench.leased("a", own_providers=("a",), **fields)
    await bench.settle(leased, Outcome.UNAVAILABLE)
    return leased.email.id


async def due_at(bench: Bench, email_id: EmailId) -> int:
    return (await bench.read(email_id)).delivery.due_at


async def test_what_waits_for_a_provider_is_pulled_forward(bench: Bench) -> None:
    waiting = await waits(bench)
    assert await due_at(bench, waiting) > NOW
    assert await bench.storage.pull_forward(["b"]) == 0, "it may not go there"
    assert await bench.storage.pull_forward(["a", "b"]) == 1
    assert await due_at(bench, waiting) == NOW
    assert await bench.storage.pull_forward(["a"]) == 0, "it is due"
    assert (await bench.lease("a")).email.id == waiting


async def test_what_is_in_flight_or_at_rest_is_not_pulled(bench: Bench) -> None:
    await bench.leased("a")
    await bench.settle(await bench.leased("b"), Outcome.ACCEPTED)
    assert await bench.storage.pull_forward(["a", "b"]) == 0


async def test_the_victims_of_a_provider_are_queued_again(bench: Bench) -> None:
    victim = await bench.leased("a")
    await bench.settle(victim, Outcome.REJECTED)
    sent = await bench.leased("a")
    await bench.settle(sent, Outcome.ACCEPTED)
    bench.clock.advance(1)
    ids = [victim.email.id, sent.email.id, EmailId("unknown")]
    assert await bench.storage.disbelieve("a", ids) == 1
    assert await bench.status(victim) == (Status.QUEUED, None)
    assert told(await bench.read(victim))[-2:] == ["failed", "queued"]
    assert await bench.status(sent) == (Status.SENT, None)
    assert await bench.storage.disbelieve("a", ids) == 0, "once is enough"
    assert (await bench.give_out(rooms(a=1))).items == ()
    assert (await bench.lease("b")).email.id == victim.email.id


async def test_nobody_to_disbelieve(bench: Bench) -> None:
    assert await bench.storage.disbelieve("a", []) == 0
