"""The sentences that stand for classes: a person's own, those of the task card, or the classes' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pathotune.errors import UsageError

if TYPE_CHECKING:
    from pathotune.tasks import Task


def class_sentences(text: str, task: Task, class_names: Sequence[str]) -> tuple[str, ...]:
    """One entry per class, in their order; wordings of one class are separated by "|".

    Parameters
    ----------
    text : `name: sentence; name: sentence`, which goes before the card.

    Raises
    ------
    UsageError
        The text cannot be read, or names a class that is not there.
    """
    own = parse_class_sentences(text)
    unknown = [name for name in own if name not in class_names]
    if unknown:
        raise UsageError(
            f"class_sentences names {unknown[0]!r}, which is none of the classes ({', '.join(class_names)})."
        )
    on_card = {one.name: one.sentence.strip() for one in task.classes}
    return tuple(own.get(name) or on_card.get(name) or name for name in class_names)


def parse_class_sentences(text: str) -> dict[str, str]:
    """`name: sentence; name: sentence | another wording` as a dict; entries end with ";" or the line.

    Raises
    ------
    UsageError
        An entry without a name, without a sentence, or a name twice.
    """
    found: dict[str, str] = {}
    for entry in text.replace("\n", ";").split(";"):
        if not entry.strip():
            continue
        name, colon, sentence = (part.strip() for part in entry.partition(":"))
        if not (name and colon and sentence.strip("| ")):
            raise UsageError(f"class_sentences takes name: sentence; name: sentence, not {entry.strip()!r}.")
        if name in found:
            raise UsageError(f"class_sentences names {name!r} twice; separate several wordings by |.")
        found[name] = sentence
    return found


def as_phrase(sentence: str) -> str:
    """A sentence as it stands inside another: without its full stop, and small unless it begins with an acronym."""
    plain = sentence.strip().rstrip(".").strip()
    is_acronym = len(plain) > 1 and plain[1].isupper()
    return plain if is_acronym else plain[:1].lower() + plain[1:]
