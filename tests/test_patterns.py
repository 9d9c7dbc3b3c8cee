"""Patterns that may take more than linear time run over short texts only, or over an operator's own."""

import ast
from collections.abc import Iterator
from pathlib import Path
from re import _constants, _parser  # there is no public way to look into a pattern
from typing import Any

HES = Path(__file__).parents[1] / "hes"

# Each pattern with several unbounded repeats, by its first characters, and why it does no harm.
HARMLESS = {
    "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: ": "a name has 255 characters at most, and blanks part its words",
    r"([\w!#$%&'*+/=?^`{|}~-]+(?:\.": "an address has 254 characters at most, and dots part its atoms",
    r" *\([^)]*\)": "about an address that short",
    "try again after (.+?)": "over the last 200 characters of what Mailgun says",
    r"Missing required (\w+) parameter": "Litestar's own words; they begin with the pattern, or it ends at once",
    "(?P<kind>[a-z]+)://": "an operator's setting",
    "(?P<scheme>https?)://": "an operator's setting",
    '(?:"?(?P<name>[^"<>@]*?)"?': "an operator's setting",
    r"HES_(\w+_)?(SERVICE_": "the name of a variable of the environment",
    "(://[^:/@]*):.*@": "an operator's setting",
}


def repeats(pattern: Any) -> int:
    """How many unbounded repeats text can go through; one within another counts twice."""
    found = 0
    for operation, argument in pattern:
        if operation in {_constants.MAX_REPEAT, _constants.MIN_REPEAT}:
            _, most, inner = argument
            is_unbounded = most is _constants.MAXREPEAT
            found += is_unbounded + (1 + is_unbounded) * repeats(inner)
        elif operation is _constants.SUBPATTERN:
            found += repeats(argument[3])
        elif operation is _constants.BRANCH:
            found += max(map(repeats, argument[1]))
        elif operation in {_constants.ASSERT, _constants.ASSERT_NOT}:
            found += repeats(argument[1])
    return found


def patterns() -> Iterator[str | bytes]:
    """All that are written out where `re` is called."""
    for file in HES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="re")), args=[ast.Constant(value=str() | bytes() as it), *_]
                ):
                    yield it


def test_every_pattern_that_may_be_slow_is_known_to_do_no_harm() -> None:
    slow = {pattern for pattern in patterns() if repeats(_parser.parse(pattern)) > 1}
    unknown = {pattern for pattern in slow if not str(pattern).startswith(tuple(HARMLESS))}
    assert unknown == set(), "bound the text that it runs over, and say here how"
    assert len(slow) == len(HARMLESS), "one of these is gone"
