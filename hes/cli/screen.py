"""What commands show: JSON for programs; tables, colours and progress on a terminal; plain aligned text otherwise.

What comes from emails and providers is shown without control characters, which could steer a terminal.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    "green": "sent delivered up accepted",
    "red": "failed bounced complained down refused rejected",
    "yellow": "held in_doubt slowed probing unavailable throttled declined not_tried failed_over duplicate",
    "magenta": "paused cancelled",
    "cyan": "queued sending scheduled draft",
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words.split()}


class Screen:
    """Standard output, in one of three ways; remarks go to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._terminal = Console(highlight=False) if sys.stdout.isatty() and not as_json else None

    def json(self, value: object) -> None:
        """One document, on one line."""
        click.echo(msgspec.json.encode(value))

    def line(self, *cells: object) -> None:
        """Some words; those that name a state are coloured on a terminal."""
        texts = [_styled(cell) for cell in cells]
        line = Text("  ").join(texts)
        if self._terminal:
            self._terminal.print(line, soft_wrap=True)
        else:
            click.echo(line.plain.rstrip())

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        if self._terminal:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for number, head in enumerate(heads):
                table.add_column(head, overflow="fold", no_wrap=number == 0)
            for row in rows:
                table.add_row(*(_styled(cell) for cell in row))
            self._terminal.print(table)
            return
        lines = [[head.upper() for head in heads], *([_styled(cell).plain for cell in row] for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        for line in lines:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def heading(self, text: str) -> None:
        """Above a table."""
        click.echo()
        self.line(text)

    def text(self, text: str) -> None:
        """Several lines, as they are but for control characters."""
        click.echo("\n".join(clean(line) for line in text.splitlines()))

    def remark(self, text: str) -> None:
        """Beside the answer, for people."""
        click.echo(f"hes: {text}", err=True)

    def repeat(self, why: str, seconds: float) -> None:
        """Before a request is made once more."""
        self.remark(f"{clean(why)}; again in {seconds:.1f} s")

    @contextmanager
    def working(self) -> Iterator[Callable[[str], None]]:
        """Something that moves while a command waits; on a terminal only. Yields what changes its words."""
        if self._terminal is None:
            yield lambda _: None
            return
        with self._terminal.status("") as status:
            yield lambda words: status.update(Text(words))


def clean(text: str) -> str:
    """Without what could steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _styled(cell: object) -> Text:
    text = "-" if cell is None or cell == "" else clean(str(cell))
    return Text(text, style=_STYLE_OF.get(text, ""))
