"""The guides in docs/: what they name is there. What their commands do: each page says which test runs them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hes import __version__
from hes.cli import cli
from hes.settings import SETTINGS
from tests.test_readme import blocks

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
SHIPPING = ["backup", "cluster", "container", "kubernetes", "local", "scaling", "upgrade"]
each_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)


@each_guide
def test_its_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", guide.read_text()):
        assert (guide.parent / target).exists(), target


@pytest.mark.parametrize("name", SHIPPING)
def test_files_targets_and_settings_that_it_names_are_there(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
    for path in re.findall(r"`((?:tests|tools|hes|kustomize|contracts|benchmarks)/[\w./-]*)", text):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"\bHES_[A-Z_]+\b", text)) <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("name", SHIPPING)
def test_its_commands_of_hes_are_there(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    lines = [line for block in blocks(text) for line in block.splitlines()] + re.findall(r"`([^`]+)`", text)
    for line in lines:
        found = re.match(r"(?:~/hes/bin/|\./dist/)?hes ((?:[a-z]+ ?)+)", line)
        if found and not line.startswith("hes:"):
            words = found[1].split()
            assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0, line


@pytest.mark.parametrize("name", SHIPPING)
def test_it_says_what_was_run_and_speaks_of_this_version(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    assert "What was run:" in text
    assert set(re.findall(r"hes[:-](\d+\.\d+\.\d+)", text)) <= {__version__}
