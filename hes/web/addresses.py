"""Addresses: from what a caller writes to one mailbox with one meaning. No I/O, no Litestar.

What email-validator does not accept is refused, and so is what programs on the way read differently from each other.
Not decided here: whether the domain exists, and whether anybody may send from it.
"""

import re
import unicodedata

import email_validator
from email_validator import EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES

from hes.model import Address

MAX_ADDRESS = 254
"""Octets (RFC 3696, erratum 1690)."""
MAX_NAME = 255

# What could end a line somewhere on the way: CR and LF, everything else that `str.splitlines` splits at, NUL, and the
# other control characters except the tab.
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
NO_CONTROL = "must not hold line breaks or control characters"
_PLAIN_ADDRESS = re.compile(r"([\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*)@([A-Za-z0-9.-]+)", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PHRASE = re.compile(r'[^"<>@,;:()\[\]\\]*')
_ROLES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)
_MAX_LOCAL = 64
_MAX_ADDRESS_TEXT = MAX_ADDRESS + 2 * MAX_NAME + 8

# Of letters, digits and hyphens, and none of the labels that stand for others ("xn--").
_PLAIN_DOMAIN = re.compile(r"(?:(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?!..--)[a-z](?:[a-z0-9-]{0,61}[a-z])?")
_MAX_DOMAIN = 253

_OTHER_DOTS = "\u3002\uff61"
"""UTS 46, section 2.3: they part a domain's labels too."""
_RESERVED = frozenset(email_validator.SPECIAL_USE_DOMAIN_NAMES)
_STAND_IN = ".example.com"


class AddressError(ValueError):
    """Says what is wrong, as the end of a sentence that begins with the field's name; the address is not in it."""


class ChangedAddressError(AddressError):
    """It holds a character that would be taken for another one, and so it would be another address."""


def parse_address(text: str, *, outbox_only: bool = False) -> Address:
    """`ann@example.com` or `Ann <ann@example.com>`, with one meaning only.

    A name that holds an RFC 5322 special other than the full stop must be quoted. Raises: AddressError.
    """
    if len(text) > _MAX_ADDRESS_TEXT:
        raise AddressError("is too long for an address")
    text = text.strip(" \t")
    if not text.endswith(">"):
        return Address(parse_bare_address(text, outbox_only=outbox_only))
    head, bracket, bare = text[:-1].rpartition("<")
    head = head.strip(" \t")
    if quoted := _QUOTED.fullmatch(head):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif bracket and _PHRASE.fullmatch(head):
        name = head
    else:
        raise AddressError('must be one address; quote a name with special characters or use {"email", "name"}')
    if complaint := bad_name(name):
        raise AddressError(complaint)
    return Address(parse_bare_address(bare, outbox_only=outbox_only), name.strip() or None)


def parse_bare_address(text: str, *, outbox_only: bool = False) -> str:
    """The normalised form of an address without a name: its domain in ASCII and lower case. Raises: AddressError.

    Exactly what email-validator accepts and makes of it (test_addresses.py compares the two), less encoded words, which
    some programs decode inside an address, and less what would silently become another address. What most addresses
    look like is checked here: 2 us instead of 60.
    """
    if len(text) > MAX_ADDRESS:
        raise AddressError(f"is longer than {MAX_ADDRESS} characters")
    if CONTROL.search(text):
        raise AddressError(NO_CONTROL)
    if "=?" in text:
        raise AddressError('must not hold "=?", which begins an encoded word')
    plain = _PLAIN_ADDRESS.fullmatch(text)
    if plain is None:
        _check_stays_as_written(text)
        local, domain = _validate(text, outbox_only=outbox_only)
        return f"{local}@{domain}"
    local, domain = plain.groups()
    domain = domain.lower()
    if not _is_plain_domain(domain):
        domain = _validate(f"x@{domain}", outbox_only=outbox_only)[1]
    if len(local) > _MAX_LOCAL:
        raise AddressError(f"has more than {_MAX_LOCAL} characters before the @-sign")
    return f"{local.lower() if local.lower() in _ROLES else local}@{domain}"


def _check_stays_as_written(text: str) -> None:
    """A Kelvin sign, a letter of full width, an ideographic full stop: programs make ASCII of these, we or others.

    What the letters of other alphabets become stays what it was: another case, the same letter composed.
    """
    for character in text:
        ascii_form = "." if character in _OTHER_DOTS else unicodedata.normalize("NFKC", character)
        if ascii_form != character and ascii_form.isascii():
            which = f"U+{ord(character):04X}"
            raise ChangedAddressError(f"holds {which}, which would become `{ascii_form}`: write it so if that is meant")


def _is_plain_domain(domain: str) -> bool:
    """A domain that email-validator takes as it stands. Of others it may take some."""
    if len(domain) > _MAX_DOMAIN or _PLAIN_DOMAIN.fullmatch(domain) is None:
        return False
    labels = domain.split(".")
    return not any(".".join(labels[n:]) in _RESERVED for n in range(len(labels)))


def as_stored(text: str) -> str:
    """The form in which this address would be stored, to look for it; what is no address stays as it is.

    Raises: ChangedAddressError.
    """
    try:
        return parse_bare_address(text, outbox_only=True)
    except ChangedAddressError:
        raise
    except AddressError:
        return text


def _validate(text: str, *, outbox_only: bool) -> tuple[str, str]:
    """Local part and ASCII domain by email-validator, for any address of at most `MAX_ADDRESS` characters."""
    top = text.lower().replace("@", ".").rpartition(".")[2]
    # A reserved name is judged as if it stood below an ordinary one.
    stand_in = _STAND_IN if outbox_only and top in _RESERVED else ""
    try:
        found = validate_email(text + stand_in, check_deliverability=False, strict=True)
    except EmailNotValidError as error:
        if re.search(r"[,;]", text):
            raise AddressError("must be one address; several go into a list") from None
        reason = re.sub(r" *\([^)]*\)", "", str(error)).rstrip(".")  # in brackets there may be parts of the address
        raise AddressError(f"is not a valid address: {reason}") from None
    return found.local_part or "", found.ascii_domain.removesuffix(stand_in)


def bad_name(name: str) -> str | None:
    """What is wrong with a name, in the words of `AddressError`; None: nothing."""
    if len(name) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} characters"
    return NO_CONTROL if CONTROL.search(name) else None
