"""Lists page by page: `limit` and `cursor` in the query, `next_cursor` in the answer.

Ids are made in the order of time, so a page goes on behind the last id of the page before, and none ever shifts.
"""

import base64

from hes.web.requests import is_id

MOST_IN_PAGE = 100
USUAL_IN_PAGE = 50
PARAMETERS = ("limit", "cursor")


def read_limit(text: str) -> int:
    """Raises ValueError with what is wrong, for people; likewise below."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MOST_IN_PAGE):
        raise ValueError(f"must be 1 to {MOST_IN_PAGE}")
    return int(text)


def cursor_behind(last_id: str) -> str:
    """What leads to those that are older than this one."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def read_number(text: str) -> int:
    """An attempt's number, as a cursor."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError("must be the `next_attempts_cursor` of an answer")
    return int(text)


def read_cursor(text: str) -> str:
    """The id that it leads behind."""
    try:
        last_id = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        last_id = ""
    if not is_id(last_id):
        raise ValueError("must be the cursor that an answer has")
    return last_id
