"""The shape of an email's JSON body: msgspec decodes it, and what it can't decode is told in the API's own words.

msgspec names the first field of a wrong type (known weakness; only unknown top-level fields are all named). A body that
no JSON reader could take is `Unreadable` (400), any other wrong shape `InvalidEmail` (422).

A message of a `FieldError` says what the field must be and never repeats its value: errors are logged, values are not.
"""

import re

import msgspec
from msgspec import Struct

from hes.errors import FieldError, InvalidEmail, Unreadable
from hes.web.email_request import EmailRequest
from hes.web.spellings import ADDRESS_WORDS, ATTACHMENT_WORDS, EMAIL_WORDS, squeezed

MAX_ERRORS = 100
"""How many wrong fields are named at once."""


class Errors(list[FieldError]):
    """The wrong fields so far, at most `MAX_ERRORS`."""

    def add(self, path: str, message: str) -> None:
        if len(self) < MAX_ERRORS:
            self.append(FieldError(path, message))

    @property
    def are_enough(self) -> bool:
        """No more are told, so none need be looked for."""
        return len(self) >= MAX_ERRORS

    def refusal(self) -> InvalidEmail:
        first = self[0]
        rest = "" if len(self) == 1 else f" ({len(self) - 1} more in `errors`)"
        subject = f"`{first.path}`" if first.path else "The body"
        return InvalidEmail(f"{subject} {first.message}.{rest}", self)


# --- decoding --------------------------------------------------------------------------------------------------------

_DECODER = msgspec.json.Decoder(EmailRequest)
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
FIELDS = tuple(f.encode_name for f in msgspec.structs.fields(EmailRequest))
_MANY_COMMAS = 100_000
_FEW_COMMAS = 1_000


def decode(raw: bytes) -> EmailRequest:
    """Raises: Unreadable, InvalidEmail, and nothing else whatever the bytes are."""
    try:
        if raw.count(b",") > _MANY_COMMAS:
            _refuse_long_lists(raw)
        return _DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong_shape(raw, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(raw, error) from None


class _Lists(Struct):
    """The fields that may hold many values, undecoded."""

    to: msgspec.Raw = msgspec.Raw()
    cc: msgspec.Raw = msgspec.Raw()
    bcc: msgspec.Raw = msgspec.Raw()
    reply_to: msgspec.Raw = msgspec.Raw()
    headers: msgspec.Raw = msgspec.Raw()
    attachments: msgspec.Raw = msgspec.Raw()
    tags: msgspec.Raw = msgspec.Raw()
    providers: msgspec.Raw = msgspec.Raw()
    variables: msgspec.Raw = msgspec.Raw()


def _refuse_long_lists(raw: bytes) -> None:
    """Keep 30 MB of `"a","a",…` from becoming ten times as much memory: no list that fits has so many commas."""
    lists = msgspec.json.decode(raw, type=_Lists)
    for name in _Lists.__struct_fields__:
        if bytes(getattr(lists, name)).count(b",") > _MANY_COMMAS:
            raise InvalidEmail(f"`{name}` holds far too many values.", [FieldError(name, "holds far too many values")])


def unreadable(raw: bytes, error: Exception) -> Unreadable:
    """The 400 for what msgspec raises about bytes that are not JSON."""
    if not raw.strip():
        return Unreadable("The body is empty; it must be a JSON object.")
    if isinstance(error, RecursionError):
        return Unreadable("The body is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return Unreadable("The body is not UTF-8.")
    if _is_about_half_a_pair(raw, str(error)):
        return Unreadable("The body holds half of a surrogate pair, such as `\\ud800` alone, which is no character.")
    return Unreadable(f"The body is not JSON: {str(error).removeprefix('JSON is malformed: ')}.")


_AT_BYTE = re.compile(r"\(byte (\d+)\)$")
_HALF_A_PAIR = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\)(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?:\\\\)*\\u[dD][c-fC-F]"
)


def _is_about_half_a_pair(raw: bytes, text: str) -> bool:
    """Whether one stands where msgspec gave up; it calls that truncated, or an escape that is not valid."""
    place = _AT_BYTE.search(text)
    at = int(place[1]) if place else len(raw)
    return _HALF_A_PAIR.search(raw, max(0, at - 12), at + 6) is not None


_PLACE = " - at `$"
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_SIMPLE_KEY = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def _wrong_shape(raw: bytes, text: str) -> Unreadable | InvalidEmail:
    """What msgspec's `Expected ..., got ... - at `$.to[2]`` means to the caller."""
    try:
        _SYNTAX.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return unreadable(raw, error)
    what, _, path = text.rpartition(_PLACE) if _PLACE in text else (text, "", "")
    path = path.removesuffix("`").removeprefix(".").removesuffix("[...]")
    if what.endswith("out of range") and not what.startswith("Object"):
        return Unreadable("The body holds a number that is out of range.", [FieldError(path, "is out of range")])
    errors = Errors()
    if missing := _MISSING.fullmatch(what):
        errors.add(below(path, missing[1]), "is required")
    elif unknown := _UNKNOWN.fullmatch(what):
        for name in _unknown_fields(raw, unknown[1]) if not path else [unknown[1]]:
            errors.add(below(path, name), _unknown_field(path, name))
    elif what.startswith("Invalid base64"):
        errors.add(path, "must be base64, padded and without line breaks")
    else:
        errors.add(path, f"must be {_expected(path)}")
    return errors.refusal()


def below(path: str, key: str) -> str:
    """The path of a key; the path of its parent if the key is nothing to show."""
    return f"{path}.{key}".lstrip(".") if _SIMPLE_KEY.fullmatch(key) else path


def _unknown_fields(raw: bytes, first: str) -> list[str]:
    """All unknown fields of the top level, not only the first that msgspec names; of a body with many only that one."""
    if raw.count(b",") > _FEW_COMMAS:
        return [first]
    try:
        return [name for name in _TOP_LEVEL.decode(raw) if name not in FIELDS] or [first]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [first]


_MAILBOX = 'a string or an object {"email", "name"}'
_MAILBOXES = 'a string, an object {"email", "name"}, or a list of them'
_STRINGS = "an object of string to string"
_EXPECTED = {
    "": "a JSON object",
    "from": _MAILBOX,
    "to": _MAILBOXES,
    "cc": _MAILBOXES,
    "bcc": _MAILBOXES,
    "reply_to": _MAILBOXES,
    "headers": _STRINGS,
    "attachments": 'a list of objects {"filename", "content", "content_type", "content_id"}',
    "tags": f'{_STRINGS}, as in {{"kind": "welcome"}}',
    "on_doubt": '"resend", "hold" or "wait"',
    "expires_in": "a whole number of seconds",
    "attempt_timeout": "a number of seconds",
    "providers": "a list of provider names",
    "draft": "true or false",
    "variables": "an object",
    "priority": '"high", "normal" or "low"',
    "store_content": "true or false",
}
_MAX_FOREIGN_NAME = 64
"""No name of anybody's is longer; a caller's may have as many characters as the body."""
_ITEM = re.compile(r"(to|cc|bcc|reply_to|attachments|providers)\[\d+\]")


def _expected(path: str) -> str:
    if item := _ITEM.fullmatch(path):
        kind = item[1]
        return {"attachments": "an object", "providers": "a string"}.get(kind, _MAILBOX)
    return _EXPECTED.get(path, "a string")


def _unknown_field(path: str, name: str) -> str:
    if not path:
        words, whole = EMAIL_WORDS, "an email"
    elif path.startswith("attachments"):
        words, whole = ATTACHMENT_WORDS, "an attachment"
    else:
        words, whole = ADDRESS_WORDS, "an address"
    ours = words.get(squeezed(name)) if len(name) <= _MAX_FOREIGN_NAME else None
    label = "" if _SIMPLE_KEY.fullmatch(name) else "has a field that "
    return f"{label}is not a field of {whole}" + (f"; HES calls it {ours}" if ours else "")
