"""Addresses: one meaning or none (S15), whatever it looks like, and soon (S10)."""

import json
import timeit

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hes.model import Address
from hes.web.addresses import AddressError, parse_address, parse_bare_address
from tests.web.bodies import LEAST, read, wrong


@pytest.mark.parametrize(
    "text",
    [
        '"evil@a.org x"@b.org',
        '"a"@b.org',
        "a@b.org,c@d.org",
        "a@b.org;c@d.org",
        "a@b.org c@d.org",
        "<a@b.org> c@d.org",
        "<a@b.org> <c@d.org>",
        "a@b.org <c@d.org>",
        "a@b.org>",
        "Ann a@b.org>",
        "<a@b.org",
        "<<a@b.org>>",
        "Ann <>",
        "Ann, Bob <a@b.org>",
        "Ann (Sales) <a@b.org>",
        'Ann "x" <a@b.org>',
        '"Ann <a@b.org>',
        "group: a@b.org;",
        "=?utf-8?q?x?=@b.org",
        "=?utf-8?q?=41=42=3e?= <=?utf-8?q?x?=@b.org>",
        "a@b@c.org",
        "a@[127.0.0.1]",
        "a@b..org",
        "a@.b.org",
        "a@b.org.",
        ".a@b.org",
        "a..b@b.org",
        "@b.org",
        "a@",
        "a",
        "",
        "a@b",
        "a@-b.org",
        "a@b_c.org",
        "a@xn--a.org",
        "a@127.0.0.1",
        "user@localhost",
        "user@host.test",
        "a\u200b@b.org",
        "a@b\u200b.org",
        "a@example.org%0d%0aBcc: e@e.org",
        "x" * 65 + "@example.org",
        "x@" + "y" * 64 + ".org",
        "x@" + "y." * 124 + "example.org",
    ],
)
def test_an_address_that_has_not_exactly_one_meaning_is_refused(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert "org" not in str(caught.value)
    assert wrong(to=text) == ["to"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a@b.org", Address("a@b.org")),
        (" a@b.org ", Address("a@b.org")),
        ("<a@b.org>", Address("a@b.org")),
        ('"" <a@b.org>', Address("a@b.org")),
        ("Ann <a@b.org>", Address("a@b.org", "Ann")),
        ("Ann<a@b.org>", Address("a@b.org", "Ann")),
        ("Acme Inc. <a@b.org>", Address("a@b.org", "Acme Inc.")),
        ('"A \\"b\\" <c@d.org>, \\\\" <a@b.org>', Address("a@b.org", 'A "b" <c@d.org>, \\')),
        ("Änne Müller <a@B.org>", Address("a@b.org", "Änne Müller")),
        ("a@m\u00fcller.de", Address("a@xn--mller-kva.de")),
        ("a@XN--MLLER-KVA.de", Address("a@xn--mller-kva.de")),
        ("Info@b.org", Address("info@b.org")),
        ("Ann.Lee+x@b.org", Address("Ann.Lee+x@b.org")),
        ("j\u00f6rg@b.org", Address("j\u00f6rg@b.org")),
        ("o'neil!#$%&'*+?=/^_`{|}~-@b.org", Address("o'neil!#$%&'*+?=/^_`{|}~-@b.org")),
    ],
)
def test_what_an_address_means(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("an\u212a@b.org", "U+212A, which would become `K`"),
        ("a@\u212aey.org", "U+212A, which would become `K`"),
        ("a@b\u00fc\u212aher.org", "U+212A, which would become `K`"),
        ("\uff41nn@b.org", "U+FF41, which would become `a`"),
        ("a@ex\uff41mple.org", "U+FF41, which would become `a`"),
        ("a@\ufb01sh.org", "U+FB01, which would become `fi`"),
        ("\u017fam@b.org", "U+017F, which would become `s`"),
        ("a@5\u00b2.org", "U+00B2, which would become `2`"),
        ("a@b\u3002org", "U+3002, which would become `.`"),
        ("a@b\uff61org", "U+FF61, which would become `.`"),
        ("a@b\uff0eorg", "U+FF0E, which would become `.`"),
        ("a\uff20b.org", "U+FF20, which would become `@`"),
        ("Ann <a@\u212aey.org>", "U+212A, which would become `K`"),
    ],
)
def test_an_address_is_never_taken_for_another_that_looks_like_it(text: str, said: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert str(caught.value) == f"holds {said}: write it so if that is meant"


@pytest.mark.parametrize(
    "text", ["a@b\u00fccher.org", "a@B\u00dcCHER.org", "a@bu\u0308cher.org", "a@xn--bcher-kva.org"]
)
def test_a_domain_with_letters_of_its_own_is_one_however_it_is_written(text: str) -> None:
    assert parse_address(text) == Address("a@xn--bcher-kva.org")


@pytest.mark.parametrize(
    "text",
    ["user@localhost", "user@Host.Test", "a@x.local", "a@x.invalid", "j\u00f6rg@localhost", "a@m\u00fcller.test"],
)
def test_names_of_this_machine_and_of_tests_only_for_the_outbox(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)
    assert parse_address(text, outbox_only=True).email.isascii() or "ö" in text
    assert not parse_address(text, outbox_only=True).email.endswith("example.com")
    assert read(json.dumps(LEAST | {"to": text}).encode(), outbox_only=True).to


@pytest.mark.parametrize(
    "text", ["user@devbox", "a b@localhost", "a@-x.test", "a@local host", "a@.test", "a@..localhost"]
)
def test_the_outbox_takes_nothing_else(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text, outbox_only=True)


def judge(text: str) -> str | None:
    try:
        found = validate_email(text, check_deliverability=False, strict=True)
    except EmailNotValidError:
        return None
    return f"{found.local_part}@{found.ascii_domain}"


_PIECES = [*'aA.@-_+"\\<>()[],;: \t\u00e9\u0301\u3002\uff0e\u05d0\u0660', "xn--", "info", "=?", ".org", "@b.org"]
_ODD = st.lists(st.sampled_from(_PIECES), max_size=14).map("".join)
_LABELS = ["a", "0", "-", "--", ".", "x", "xn--", "test", "localhost", "local", "com", "B" * 62, "arpa", "example"]
_DOMAIN = st.lists(st.sampled_from(_LABELS), min_size=1, max_size=9).map("".join)


@given(
    st.one_of(
        st.emails(),
        _DOMAIN.map("a@{}".format),
        _DOMAIN.map("a@{}.org".format),
        _ODD,
        _ODD.map("a{}@b.org".format),
        _ODD.map("a@b{}.org".format),
    )
)
@settings(max_examples=800)
@example("INFO@b.org")
@example("a@1.xn--4dbc.com")
def test_an_address_is_judged_as_email_validator_judges_it(text: str) -> None:
    try:
        ours = parse_bare_address(text)
    except AddressError:
        assert judge(text) is None or "=?" in text or any(c in text for c in "\u3002\uff0e")
    else:
        assert ours == judge(text)
        assert parse_bare_address(ours) == ours


@pytest.mark.parametrize(
    "text",
    [
        "a@" + "a." * 50_000,
        '"' + '\\"' * 50_000 + '"@x.y',
        "(" * 50_000 + "a@b.org",
        "a@" + "(" * 250,
        "a@" + "a." * 126,
        '"' + '\\"' * 120 + '"@x.y',
        " " * 700 + "<a@b.org",
        "\u0301" * 250,
        "\u0660" * 250 + "@b.org",
        "a@" + "\u0660" * 250 + ".org",
        "a@xn--" + "9" * 245,
        '"' + "\\" * 700 + '" <a@b.org>',
        "<" * 760,
        "<" * 379 + ">" * 379,
    ],
    ids=lambda text: f"{text[:6]!r} {len(text)}",
)
def test_a_hostile_address_costs_little(text: str) -> None:
    """Some milliseconds at most; of several runs the quickest, whatever else the machine does."""
    assert wrong(to=text) == ["to"]
    assert min(timeit.repeat(lambda: wrong(to=text), number=1, repeat=5)) < 0.05
