"""How the demo is shown: a table that moves below the sentences on a terminal, elsewhere the sentences alone."""

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hes.demo.story import Figures, Now

_STYLES = {"up": "green", "slowed": "yellow", "probing": "yellow", "down": "red"}
_BAR_CELLS = 20


class Show:
    """For `with`: on a terminal it takes the lower lines meanwhile."""

    def __init__(self, most_per_second: float) -> None:
        """`most_per_second`: what a full bar stands for."""
        self._most_per_second = most_per_second
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def say(self, seconds: float, sentence: str) -> None:
        self._print(f"{seconds:6.1f} s  {sentence}")

    def show(self, now: Now) -> None:
        if self._live.is_started:
            self._live.update(Group("", self._table(now), _totals(now)), refresh=True)

    def tell_figures(self, figures: Figures) -> None:
        by = ", ".join(f"{count:,} by {name}" for name, count in figures.sent_by.items())
        for name, value in (
            ("accepted", f"{figures.accepted:,}"),
            ("sent", f"{figures.sent:,} ({by})"),
            ("failed over", f"{figures.failed_over:,}"),
            ("doubts", f"{figures.doubts:,}; {figures.twice:,} of these emails arrived twice, under one Message-ID"),
            ("slowest", f"{figures.slowest_seconds:.2f} s from accepted to sent"),
            ("lost", f"{figures.lost:,}"),
        ):
            self._print(f"{name:>11}: {value}")

    def _print(self, line: str) -> None:
        """As it is: no markup, and no line broken where nobody looks."""
        self._console.print(Text(line), soft_wrap=True)

    def _table(self, now: Now) -> Table:
        table = Table(box=None, pad_edge=False)
        for head, width in (
            ("provider", 8),
            ("state", 7),
            ("emails a second", _BAR_CELLS + 5),
            ("taken", 6),
            ("why", 3),
        ):
            table.add_column(head, min_width=width, no_wrap=True, justify="right" if head == "taken" else "left")
        for one in now.providers:
            cells = min(_BAR_CELLS, round(one.per_second / self._most_per_second * _BAR_CELLS))
            style = _STYLES.get(one.state, "")
            bar = Text(f"{'━' * cells:{_BAR_CELLS}} {one.per_second:4.0f}", style)
            table.add_row(Text(one.name), Text(one.state, style), bar, f"{one.took:,}", Text(one.reason))
        return table


def _totals(now: Now) -> Text:
    return Text(
        f"{now.seconds:.0f} s: {now.accepted:,} accepted, {now.sent:,} sent, {now.accepted - now.sent:,} on their way, "
        f"{now.failed_over:,} failed over, {now.doubts:,} in doubt at some time"
    )
