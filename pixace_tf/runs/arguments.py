"""Arguments that a run or a sweep was begun with, and those of today."""

from typing import Any

from pixace_tf.errors import UserError


def refuse_changes(
    what: str, before: dict[str, Any], now: dict[str, Any], advice: str
) -> None:
    """Refuse to go on with other arguments.

    Args:
        what: What exists already, for the message.
        before: Arguments by name, as it was begun.
        now: Arguments by name, as given now.
        advice: What to do instead, as whole sentences.

    Raises:
        UserError: If an argument differs; the message names each one.
    """
    differ = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise UserError(
            f"{what} exists with other arguments: {'; '.join(differ)}. {advice}"
        )
