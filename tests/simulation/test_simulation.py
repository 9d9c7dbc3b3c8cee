"""The simulated world keeps its invariants, for any seed; and would notice if it did not.

A failing seed replays: `World(seed).run(steps)` under `virtual_time.run` makes the same steps every time.
"""

import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hes import searching
from hes.case import Case, Change
from hes.model import Delivery, Ended, OnDoubt, Room
from hes.policy import NOBODY_IS_SHUT, Policy
from hes.storage.search_store import claimed
from tests.simulation import memory, virtual_time
from tests.simulation.world import Violation, World

HAPPENINGS = 150
SEEDS = int(os.environ.get("SIMULATIONS", "60"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Crashes by the thousand are not worth their log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def simulate(seed: int, happenings: int = HAPPENINGS, policy: type[Policy] = Policy, **world_of: Any) -> World:
    world = World(seed, policy=policy, **world_of)
    virtual_time.run(functools.partial(world.run, happenings))
    return world


@given(seed=st.integers(0, 2**32))
@example(seed=0)
@example(seed=19191626)  # a late "surely not" while the request is made again
@settings(max_examples=SEEDS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_crash_fault_or_pause_breaks_an_invariant(seed: int) -> None:
    simulate(seed)


def test_the_same_seed_makes_the_same_steps() -> None:
    first, second = simulate(7), simulate(7)
    assert first.steps == second.steps
    assert first.storage.events == second.storage.events


def test_the_world_is_stormy_enough_to_mean_something() -> None:
    """What the invariants are about does happen: doubts, evidence, poison, copies, lost leases."""
    wanted = {"in_doubt", "resolved", "duplicate", "not_tried", "failed_over"}
    sources = {"replay", "look-up", "event", "late outcome"}
    wanted |= sources | {
        "doubt",
        "expired_in_doubt",
        "rejected_after_doubt",
        "poison",
        "operator",
        "expired",
        "rejected",
    }
    for seed in range(100):
        # What three crashes make of an email is rare where little crashes, or where doubts soon end.
        world = simulate(seed, 300, kills=40, is_searched=False) if seed % 2 else simulate(seed, 300)
        wanted -= {event.type.value for events in world.storage.events.values() for _, event in events}
        wanted -= {str(case.delivery.reason) for case in world.storage.cases.values()}
        wanted -= {str(event.data.get("source")) for events in world.storage.events.values() for _, event in events}
        if not wanted:
            return
    assert wanted == set()


class WithoutFence(Policy):
    """A mutant: whoever comes late settles as if it held the lease."""

    def settle(self, case: Case, ended: Ended, now: int, rooms: Mapping[str, Room] = NOBODY_IS_SHUT) -> Change | None:
        attempt = case.attempt(ended.attempt_id)
        if attempt is not None and case.delivery.attempt_id is not None:
            stolen = Case(_with_lease(case.delivery, ended), case.attempts)
            return super().settle(stolen, ended, now, rooms)
        return super().settle(case, ended, now, rooms)


def _with_lease(delivery: Delivery, ended: Ended) -> Delivery:

    return replace(delivery, attempt_id=ended.attempt_id)


class ResendsUnderHold(Policy):
    """A mutant: a doubt is sent again whatever the sender's policy says."""

    def _search_over(self, delivery: Delivery, *args: object, **kwargs: object) -> Change:

        told = replace(delivery, on_doubt=OnDoubt.RESEND)
        change = super()._search_over(told, *args, **kwargs)  # type: ignore[arg-type]
        return replace(change, delivery=replace(change.delivery, on_doubt=delivery.on_doubt))


def test_a_replay_of_just_any_doubt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_may_replay", lambda *_: True)
    with pytest.raises(Violation):
        simulate_until_caught(Policy)


def test_a_question_without_a_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "claimed", lambda search, lease, _: claimed(search, lease, search.next_at))
    with pytest.raises(Violation):
        simulate_until_caught(Policy)


def test_a_sweep_that_asks_nobody_whether_the_storage_was_away_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = memory.MemoryStorage.sweep
    monkeypatch.setattr(memory.MemoryStorage, "sweep", lambda self, held, **_: sweep(self, held))
    with pytest.raises(Violation, match="in the hands of a process that is well"):
        simulate_until_caught(Policy, first_seed=11)  # rare: the ten before it come to nothing


def simulate_until_caught(mutant: type[Policy], *, first_seed: int = 0) -> None:
    for seed in range(first_seed, first_seed + 40):
        simulate(seed, 300, mutant)


@pytest.mark.parametrize("mutant", [WithoutFence, ResendsUnderHold])
def test_a_mutant_is_caught(mutant: type[Policy]) -> None:
    with pytest.raises(Violation):
        simulate_until_caught(mutant)
