"""Turns come out as the weights say, evenly spread."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.rotation import Rotation


def turns(weights: dict[str, float], count: int) -> str:
    rotation = Rotation()
    return "".join(rotation.pick(list(weights), weights) for _ in range(count))


def test_equal_weights_take_turns() -> None:
    assert turns({"a": 1, "b": 1, "c": 1}, 6) == "abcabc"


def test_larger_shares_are_spread() -> None:
    assert turns({"a": 3, "b": 1}, 8) == "aabaaaba"


def test_the_only_candidate_is_picked() -> None:
    assert Rotation().pick(["a"], {"a": 0.001}) == "a"


@pytest.mark.parametrize("gone", [1, 7, 100])
def test_one_that_was_away_takes_its_share_and_not_what_it_missed(gone: int) -> None:
    rotation, even = Rotation(), {"a": 1.0, "b": 1.0}
    for _ in range(gone):
        rotation.pick(["a"], even)
    back = Counter(rotation.pick(["a", "b"], even) for _ in range(20))
    assert abs(back["a"] - back["b"]) <= 2


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1))
def test_shares_are_exact_over_a_whole_turn(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    assert Counter(turns({k: float(v) for k, v in weights.items()}, total)) == Counter(weights)
