"""Fills the tables of README and docs that are made from the code: `make readme`. A test compares."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from hes.providers import REGISTRY
from hes.settings import describe
from hes.telemetry import names

README = Path(__file__).parents[1] / "README.md"
OBSERVABILITY = README.parent / "docs" / "observability.md"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join([_row(head), "|" + "---|" * len(head), *(_row(cells) for cells in rows)])


def _providers() -> str:
    supports = {kind: entry.support for kind, entry in REGISTRY.items()}
    rows = [
        [
            f"`{kind}`",
            str(support.max_recipients or "any"),
            f"{support.max_request_bytes // 2**20} MB" if support.max_request_bytes else "any",
            support.tags,
            "ours" if support.own_message_id else "theirs",
            support.finds_out,
        ]
        for kind, support in supports.items()
    ]
    return _table(["kind", "recipients", "request", "tags become", "Message-ID", "finding out about a doubt"], rows)


def _settings() -> str:
    rows = [[f"`{s.name}`", s.default or "", s.help if s.is_built else f"{s.help} (no effect yet)"] for s in describe()]
    return _table(["setting", "default", ""], rows)


def _listed(attributes: Iterable[str]) -> str:
    return ", ".join(f"`{attribute}`" for attribute in attributes)


def _spans() -> str:
    rows = [[f"`{span.name}`", span.kind, span.help, _listed(span.attributes)] for span in names.SPANS]
    return _table(["span", "kind", "", "attributes"], rows)


def _metrics() -> str:
    rows = [[f"`{one.name}`", one.kind, one.unit, one.help, _listed(one.attributes)] for one in names.METRICS]
    return _table(["metric", "kind", "unit", "", "attributes"], rows)


def _attributes() -> str:
    rows = [[f"`{name}`", help_] for name, help_ in (names.ATTRIBUTES | names.RESOURCE).items()]
    return _table(["attribute", "holds"], rows)


_MAKERS: dict[str, Callable[[], str]] = {
    "providers": _providers,
    "settings": _settings,
    "spans": _spans,
    "metrics": _metrics,
    "attributes": _attributes,
}


def filled(text: str) -> str:
    """The text with each marked table as the code has it."""
    return re.sub(
        r"(<!-- made by tools/readme.py: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{_MAKERS[found[2]]()}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in (README, OBSERVABILITY):
        page.write_text(filled(page.read_text()))
