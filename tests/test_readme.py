"""What the README says is so."""

from tools.readme import README, filled


def test_its_tables_are_what_the_code_says() -> None:
    """`make readme` fills them anew."""
    text = README.read_text()
    assert filled(text) == text
