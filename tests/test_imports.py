"""Who may import whom, as one table. It is read off the source, so an import inside a function counts too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "hes").rglob("*.py"))

# The protocols only, never one kind of provider or storage: any kind can then take the place of another.
KINDLESS = (
    "providers.finding providers.provider "
    "storage.email_book storage.inbox storage.records storage.searches storage.shared_state storage.storage "
    "storage.upkeep"
)

# Area (a file or folder of hes) -> what of hes it may import besides itself. What is not named here, nobody may.
MAY_IMPORT = {
    "__init__": "",  # the version
    "model": "",  # the words that all others speak
    "errors": "",
    "telemetry": "model",
    "timeouts": "",
    "ids": "model",
    "headers": "model",
    "mime": "headers model",
    "secret": "",
    "setting": "errors model secret",
    "provider_settings": "errors model secret setting",
    "settings": "errors model provider_settings secret setting telemetry.environment",
    "start_warnings": "provider_settings secret settings",
    "log": "secret telemetry",  # to mask it; which trace a line belongs to
    "transitions": "model",  # the table that policy decides by
    "timeline": "model",
    "rotation": "",
    "probing": "model",
    "lanes": "model",
    # Pure decisions: with I/O in it the whole picture loses its centre.
    "case": "model",
    "routing": "case lanes model probing rotation",
    "told": "model",
    "reports": "case model policy timeline told transitions",
    "searching": "case model routing timeline",
    "policy": "case errors lanes model routing searching timeline transitions",
    "interventions": "case errors lanes model policy routing searching timeline transitions",
    # nothing of gates, retries, storage
    "providers": "errors headers mime model provider_settings telemetry timeouts told",
    # policy and routing, since claiming and settling decide inside the transaction
    "storage": "case errors ids interventions lanes model policy probing reports routing searching telemetry told",
    "actors": f"errors ids model searching telemetry timeouts transitions {KINDLESS}",
    # Decides nothing; what wakes the actors is handed to it.
    "web": f"errors model setting settings telemetry told {KINDLESS} storage.key_records",
    "client": "errors secret setting",  # a program of its own, over HTTP: nothing of the service
    "cli": "hes",  # everything: its commands are the service's start, or clients
    "demo": "client serving settings",  # a client of a HES that it serves itself, with providers of its own
    # What a process does in its role: the actors wired, over any kind of provider and storage.
    "configured": "actors case model provider_settings providers routing settings",  # from the settings to the parts
    "label_sets": "configured errors model providers settings storage.event_store telemetry told",
    "mailer": f"actors configured errors model settings telemetry {KINDLESS} storage.hints",
    "node": f"mailer model settings {KINDLESS} storage.hints",
    "app": "hes",  # everything: it wires the parts. only serving, cli and tests import it
    "workers": "",  # processes of one serve: knows nothing of what they do
    # A process's life.
    "serving": "app errors ids model settings start_warnings storage.sql telemetry web.connections web.desk",
    "__main__": "cli errors",
}
ONLY_IN = {
    "pybreaker": "hes/actors/gate.py",  # its traps are known and avoided in one place
    "opentelemetry": "hes/telemetry/",  # so that off is off
    "prometheus_client": "hes/telemetry/",
}


def imports(file: Path) -> Iterator[str]:
    """The full name of everything that a file imports: `from hes import model` is `hes.model`."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(ROOT).parent.parts
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*above, node.module] if node.module else above
            yield from (".".join([*module, alias.name]) for alias in node.names)


def is_within(name: str, *areas: str) -> bool:
    return any(f"{name}.".startswith(f"{area}.") for area in areas)


@pytest.mark.parametrize("path", [str(file.relative_to(ROOT)) for file in FILES])
def test_a_file_imports_only_what_its_area_may(path: str) -> None:
    area = Path(path).parts[1].removesuffix(".py")
    assert area in MAY_IMPORT, f"say in MAY_IMPORT what {area} may import"
    may = [name if name == "hes" else f"hes.{name}" for name in (*MAY_IMPORT[area].split(), area, "__version__")]
    found = list(imports(ROOT / path))
    assert [name for name in found if is_within(name, "hes") and not is_within(name, *may)] == []
    assert [
        name for name in found for lib in ONLY_IN if is_within(name, lib) and not path.startswith(ONLY_IN[lib])
    ] == []
