"""Writing an email down before it is sent, and what several providers write in the same way.

Known weakness: what vendors take as text (subjects, file names) they are given as the text that it is. No vendor
documents whether it protects text that looks like an encoded word from being decoded by the recipient's program.
"""

import logging
import re
from collections.abc import Callable
from typing import TypeVar

from hes.model import Answer, AttemptId, Email, Outcome

T = TypeVar("T")

_log = logging.getLogger("hes.rendering")


class _Bug(Exception):
    """Stands in the log for an exception whose own words may quote the email."""


def rendered(render: Callable[[Email, AttemptId], T | Answer], email: Email, attempt_id: AttemptId) -> T | Answer:
    """What is to go out; or the answer that nothing can, with the reason. Raises nothing, whatever `render` raises.

    All of it comes before the first byte, so nothing is in doubt, and no provider is to blame: an email that can't be
    written down is `declined`, and another provider, which has it in another form, may take it.
    """
    try:
        return render(email, attempt_id)
    except MemoryError:  # the email may well be fine
        return Answer(outcome=Outcome.UNAVAILABLE, detail="HES had too little memory to write the email down")
    except Exception as error:  # noqa: BLE001 (a bug of ours, and this email's affair alone)
        bug = _Bug(type(error).__name__)
        _log.error("email %s can't be written down: a bug", email.id, exc_info=(_Bug, bug, error.__traceback__))
        detail = f"HES can't write this email down for this provider ({bug}); its log says where"
        return Answer(outcome=Outcome.DECLINED, detail=detail)


def labels(tags: dict[str, str], *, most: int, most_chars: int) -> list[str]:
    """Tags as `key:value`: the first ones that fit, unique, ASCII only.

    Labels only feed a provider's statistics, so leaving one out loses nothing: all tags travel as `variables`.
    """
    made = dict.fromkeys(f"{key}:{value}" for key, value in tags.items())
    return [label for label in made if len(label) <= most_chars and label.isascii()][:most]


def variables(email: Email, attempt_id: AttemptId, hides: re.Pattern[str]) -> dict[str, str]:
    """Our ids, and all tags, as events are to bring them back; a key that `hides` something becomes `tag_<key>`."""
    tags = {f"tag_{key}" if hides.fullmatch(key) else key: value for key, value in email.tags.items()}
    return {"hes_id": email.id, "hes_attempt": attempt_id} | tags
