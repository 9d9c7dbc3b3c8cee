"""What several providers write down in the same way."""

import re

from hes.model import AttemptId, Email


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
