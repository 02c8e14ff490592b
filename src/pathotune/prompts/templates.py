"""Templates of sentences on task, organ, stain and magnification: those that ship, and a person's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import FileMissing, TableUnreadable, UnknownName, UsageError
from pathotune.resources import resource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pathotune.tasks import Task

STAINS_FILE = "stains.yaml"
# What a sentence may have in braces, and what it stands for.
MEANINGS = {
    "task": "the task's title",
    "classes": "what is told apart, such as gland, fat from stroma",
    "organ": "the organ as the card has it",
    "tissue": "the organ's tissue, or tissue",
    "stain": "the stain in words",
    "looks": "which colours the stain gives",
    "magnification": "such as 20x",
    "mpp": "micrometres per pixel",
    "class": "one class, where there is a sentence for each",
}


@dataclass(frozen=True)
class StainWords:
    """A stain in sentences.

    Parameters
    ----------
    words : what follows "stained with".
    looks : which colours it gives; may be empty.
    """

    words: str
    looks: str = ""


def stain_words(stain: str) -> StainWords:
    """The stain of a task card in words; one that is not known is taken as it stands."""
    wanted = " ".join((stain or "").split()).casefold()
    return _stains().get(wanted) or StainWords(stain.strip(), f"the colors are those of {stain.strip()}")


@cache
def _stains() -> dict[str, StainWords]:
    rows = _yaml(resource("sentences", STAINS_FILE))
    return {
        str(name).casefold(): StainWords(row["words"], row.get("looks", ""))
        for row in rows
        for name in (row["name"], *row.get("aliases", ()))
    }


def template_names() -> tuple[str, ...]:
    """The templates that come with pathotune."""
    return tuple(sorted(path.stem for path in resource("sentences").glob("*.yaml") if path.name != STAINS_FILE))


def load_template(name_or_yaml: str | Path) -> tuple[str, ...]:
    """The sentences of a template, still with their braces.

    Parameters
    ----------
    name_or_yaml : a name of `template_names`, or a YAML file with a list called sentences.

    Raises
    ------
    UnknownName : no template of that name.
    FileMissing, TableUnreadable : the file is not there, or holds no list of sentences.
    """
    path = Path(name_or_yaml)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        if str(name_or_yaml) not in template_names():
            raise UnknownName("template of sentences", str(name_or_yaml), template_names())
        path = resource("sentences", f"{name_or_yaml}.yaml")
    if not path.is_file():
        raise FileMissing(path, "template of sentences")
    document = _yaml(path)
    sentences = document.get("sentences") if isinstance(document, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(one, str) and one.strip() for one in sentences):
        raise TableUnreadable(f"{path.name} holds no template: it needs 'sentences', a list of texts.")
    return tuple(one.strip() for one in sentences)


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise TableUnreadable(f"{path.name} is no YAML; write it as the templates that come with pathotune.") from None


def filled(sentences: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The sentences with what stands in braces put in, each beginning with a capital.

    Raises
    ------
    UsageError : something else stands in braces; lists what can.
    """

    def put(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in values:
            known = ", ".join(f"{{{key}}} ({meaning})" for key, meaning in MEANINGS.items() if key in values)
            raise UsageError(f"A sentence has {found.group(0)!r}, which stands for nothing here. Known: {known}.")
        return values[name]

    done = (" ".join(re.sub(r"\{([^{}]*)\}", put, sentence).split()) for sentence in sentences)
    return tuple(one[:1].upper() + one[1:] for one in done)


def values_of(task: Task, mpp: float) -> dict[str, str]:
    """What the braces stand for in sentences on a task.

    Parameters
    ----------
    mpp : micrometres per pixel at which tiles are read.
    """
    names = [entry.name for entry in task.classes]
    stain = stain_words(task.stain)
    has_organ = bool(task.organ) and task.organ.casefold() not in ("any", "generated")
    return {
        "task": task.title.rstrip("."),
        "classes": " from ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names),
        "organ": task.organ if has_organ else "tissue",
        "tissue": f"{task.organ} tissue" if has_organ else "tissue",
        "stain": stain.words,
        "looks": stain.looks,
        "magnification": f"{10.0 / mpp:.0f}x",
        "mpp": f"{mpp:g}",
    }
