"""`accept` and `prune`: an email and its idempotency key, together and once."""

import anyio
import pytest

from hes.errors import KeyReused, NotFound
from hes.model import Address, Attachment, EmailId, OnDoubt, Status
from hes.storage.records import Accepted, NewEmail
from hes.storage.storage import Storage
from tests.storage.harness import DAY_SECONDS, NOW, SHOP, Bench, FakeClock, new_email, told


async def answers_to(storage: Storage, news: list[NewEmail]) -> list[Accepted | Exception]:
    """All accepted at once; what each caller is told."""
    answers: dict[int, Accepted | Exception] = {}

    async def call(place: int, new: NewEmail) -> None:
        try:
            answers[place] = await storage.accept(new)
        except KeyReused as error:
            answers[place] = error

    async with anyio.create_task_group() as callers:
        for place, new in enumerate(news):
            callers.start_soon(call, place, new)
    return [answers[place] for place in range(len(news))]


async def test_an_accepted_email_is_queued_and_due_at_once(bench: Bench) -> None:
    new = new_email(own_providers=("b", "a"), on_doubt=OnDoubt.HOLD, expires_in=60)
    assert await bench.storage.accept(new) == Accepted(new.email.id, Status.QUEUED, NOW)
    delivery = (await bench.read(new.email.id)).delivery
    assert (delivery.status, delivery.reason, delivery.due_at, delivery.version) == (Status.QUEUED, None, NOW, 1)
    assert (delivery.expires_at, delivery.expires_in) == (NOW + 60_000, 60)
    assert (delivery.own_providers, delivery.on_doubt, delivery.attempt_timeout) == (("b", "a"), OnDoubt.HOLD, 10.0)
    assert (delivery.stream, delivery.sender_domain, delivery.is_retry) == ("default", "example.com", False)
    assert (delivery.attempts, delivery.attempt_id, delivery.lease_ends_at) == (0, None, None)
    assert delivery.size_bytes > 0


async def test_its_timeline_begins_with_created_and_queued(bench: Bench) -> None:
    stored = await bench.read(await bench.accept())
    assert told(stored) == ["created", "queued"]
    assert {event.at for _, event in stored.events} == {NOW}


async def test_what_was_handed_in_is_leased_to_the_letter(bench: Bench) -> None:
    new = new_email(
        to=(Address("ann@example.net", "Ann Ångström"),),
        reply_to=(Address("help@example.com"),),
        html="<p>Zażółć 😀</p>",
        headers={"X-A": "1"},
        tags={"kind": "welcome"},
        attachments=(Attachment("a.bin", bytes(range(256)), "application/octet-stream"),),
    )
    await bench.storage.accept(new)
    assert (await bench.lease()).email == new.email


async def test_the_same_key_and_request_get_the_first_answer_again(bench: Bench) -> None:
    first = new_email(key="order-1")
    answer = await bench.storage.accept(first)
    bench.clock.advance(100)
    twin = new_email(key="order-1")
    assert await bench.storage.accept(twin) == answer
    with pytest.raises(NotFound):
        await bench.read(twin.email.id)


async def test_the_first_answer_stays_the_same_whatever_became_of_the_email(bench: Bench) -> None:
    first = new_email(key="order-1")
    answer = await bench.storage.accept(first)
    await bench.storage.cancel(SHOP, first.email.id)
    assert await bench.storage.accept(new_email(key="order-1")) == answer
    assert told(await bench.read(first.email.id)) == ["created", "queued", "cancelled"]


async def test_the_same_key_for_another_request_is_refused(bench: Bench) -> None:
    await bench.accept(key="order-1", request=b"one")
    other = new_email(key="order-1", request=b"two")
    with pytest.raises(KeyReused):
        await bench.storage.accept(other)
    with pytest.raises(NotFound):
        await bench.read(other.email.id)


async def test_the_same_key_in_two_projects_is_two_keys(bench: Bench) -> None:
    await bench.accept(key="order-1", request=b"one")
    other = new_email(key="order-1", request=b"two", project="blog")
    assert (await bench.storage.accept(other)).id == other.email.id


async def test_without_a_key_the_same_email_is_two_emails(bench: Bench) -> None:
    assert await bench.accept() != await bench.accept()
    assert (await bench.lease()).email.id != (await bench.lease("b")).email.id


async def test_a_key_lives_for_24_hours_to_the_millisecond(bench: Bench) -> None:
    first = await bench.storage.accept(new_email(key="order-1"))
    bench.clock.now = NOW + DAY_SECONDS * 1000 - 1
    assert await bench.storage.accept(new_email(key="order-1")) == first
    bench.clock.now += 1
    later = new_email(key="order-1", request=b"another")
    assert (await bench.storage.accept(later)).id == later.email.id


async def test_a_key_that_was_used_anew_lives_for_24_hours_again(bench: Bench) -> None:
    await bench.accept(key="order-1", request=b"one")
    bench.clock.advance(DAY_SECONDS)
    second = await bench.storage.accept(new_email(key="order-1", request=b"two"))
    bench.clock.advance(DAY_SECONDS - 1)
    assert await bench.storage.accept(new_email(key="order-1", request=b"two")) == second


async def test_fifty_at_once_with_one_key_are_one_email(bench: Bench) -> None:
    news = [new_email(key="order-1") for _ in range(50)]
    answers = await answers_to(bench.storage, news)
    [accepted] = set(map(repr, answers))
    assert news[0].email.id in accepted
    assert (await bench.lease()).email.id == news[0].email.id
    for twin in news[1:]:
        with pytest.raises(NotFound):
            await bench.read(twin.email.id)


async def test_of_two_requests_at_once_under_one_key_one_is_refused(bench: Bench) -> None:
    one, two = new_email(key="k", request=b"one"), new_email(key="k", request=b"two")
    neighbour = new_email()
    answers = await answers_to(bench.storage, [one, two, neighbour])
    assert answers[0] == Accepted(one.email.id, Status.QUEUED, NOW)
    assert isinstance(answers[1], KeyReused)
    assert answers[2] == Accepted(neighbour.email.id, Status.QUEUED, NOW)


async def test_fifty_at_once_without_keys_are_fifty_emails(bench: Bench) -> None:
    news = [new_email() for _ in range(50)]
    answers = await answers_to(bench.storage, news)
    assert answers == [Accepted(new.email.id, Status.QUEUED, NOW) for new in news]
    for new in news:
        assert (await bench.read(new.email.id)).email == new.email


async def test_prune_forgets_the_keys_that_outlived_and_says_how_many(bench: Bench) -> None:
    old = await bench.accept(key="old")
    bench.clock.advance(DAY_SECONDS - 1)
    young = await bench.storage.accept(new_email(key="young"))
    assert await bench.storage.prune() == 0
    bench.clock.advance(1)
    assert await bench.storage.prune() == 1
    assert await bench.storage.prune() == 0
    assert await bench.storage.accept(new_email(key="young")) == young
    assert await bench.status(old) == (Status.QUEUED, None), "the email itself is not forgotten"


async def test_prune_takes_at_most_500_at_a_time(storage: Storage, clock: FakeClock) -> None:
    await answers_to(storage, [new_email(key=f"k{n}") for n in range(501)])
    clock.advance(DAY_SECONDS)
    assert [await storage.prune(), await storage.prune(), await storage.prune()] == [500, 1, 0]


async def test_a_pruned_key_is_as_good_as_new(bench: Bench) -> None:
    await bench.accept(key="order-1")
    bench.clock.advance(DAY_SECONDS)
    await bench.storage.prune()
    again = new_email(key="order-1", request=b"another")
    assert (await bench.storage.accept(again)).id == EmailId(again.email.id)
