"""I7: in whatever order events come, and however often, all ends the same.

Here with few; `python -m benchmarks.finding_out events` does it with 100,000.
"""

from pathlib import Path

from benchmarks.finding_out import compare


async def test_the_order_of_events_does_not_matter_and_repeats_count_once(tmp_path: Path) -> None:
    is_same, _, _ = await compare(2000, tmp_path, in_a_post=100)
    assert is_same
