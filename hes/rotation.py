"""Smooth weighted round robin: who comes next, so that shares come out as the weights say, evenly spread.

Each turn all candidates gain their weight, the richest one is picked and pays what all gained together: weights 3 and 1
give a a b a, never a a a b. With candidates that change from turn to turn the shares hold among those who were there.
"""

from collections.abc import Mapping, Sequence


class Rotation:
    """One sequence of turns."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def pick(self, names: Sequence[str], weights: Mapping[str, float]) -> str:
        """Whose turn it is among these; at least one must be named. In a tie the first."""
        total = 0.0
        for name in names:
            self._credit[name] = self._credit.get(name, 0.0) + weights[name]
            total += weights[name]
        picked = max(names, key=self._credit.__getitem__)
        self._credit[picked] -= total
        return picked
