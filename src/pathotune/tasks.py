"""Tasks: which classes are told apart, in which colours and words, as cards that commands and forms share."""

from __future__ import annotations

import colorsys
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pathotune.errors import FileMissing, NoTiles, TableUnreadable, UnknownName
from pathotune.resources import resource

LEVELS = ("tile", "slide", "patient")
OBJECTIVES = ("classification", "survival", "regression")
LARGEST_CARD_BYTES = 1_000_000

Color = tuple[int, int, int]


@dataclass(frozen=True)
class TaskClass:
    """One class: its name (as drawn regions and tables call it), colour, and a sentence that describes it."""

    name: str
    color: Color
    sentence: str = ""


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    Parameters
    ----------
    name, title : short name without spaces, and the one people read.
    level : what carries a label: "tile", "slide" or "patient".
    classes : in the order of their labels.
    mpp : µm per pixel the task is usually looked at; None where the backbone decides.
    stain, organ : for people and for sentences.
    sentences : what the text prompts are made from: first the task, then the stain.
    objective : "classification", "survival" or "regression".
    """

    name: str
    title: str
    level: str
    classes: tuple[TaskClass, ...]
    mpp: float | None = None
    stain: str = "H&E"
    organ: str = ""
    sentences: tuple[str, ...] = ()
    objective: str = "classification"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return tuple(one.name for one in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """JSON- and YAML-ready; `task_from_dict` reads it back."""
        document = asdict(self)
        document["classes"] = [{**asdict(one), "color": list(one.color)} for one in self.classes]
        document["sentences"] = list(self.sentences)
        return document


class DrawnRegion(Protocol):
    """What `task_from_regions` needs to know of a region."""

    @property
    def class_name(self) -> str | None:
        """The region's class."""

    @property
    def color(self) -> Color | None:
        """Its colour."""

    @property
    def is_training_class(self) -> bool:
        """Whether it is one to learn."""


def task_names() -> tuple[str, ...]:
    """The tasks that come with pathotune, in alphabetical order."""
    return tuple(sorted(path.stem for path in resource("tasks").glob("*.yaml")))


def load_task(name_or_yaml: str | Path | Task) -> Task:
    """A task by its name, or from a person's own YAML file.

    Raises
    ------
    UnknownName : no task of that name.
    FileMissing : the YAML file does not exist.
    TableUnreadable : the card has a key or value that cannot be used, which is named.
    """
    if isinstance(name_or_yaml, Task):
        return name_or_yaml
    path = Path(name_or_yaml)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        if str(name_or_yaml) not in task_names():
            raise UnknownName("task", str(name_or_yaml), task_names())
        path = resource("tasks", f"{name_or_yaml}.yaml")
    if not path.is_file():
        raise FileMissing(path, "task card")
    return task_from_dict(_parsed(path), path.name)


def _parsed(path: Path) -> Any:
    import yaml

    if path.stat().st_size > LARGEST_CARD_BYTES:
        raise TableUnreadable(f"{path.name} is larger than any task card; name the card itself.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TableUnreadable(f"{path.name} is not UTF-8 text; save it again as UTF-8.") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be understood"
        raise TableUnreadable(f"{path.name}{where} is no YAML: {problem}.") from error


def task_from_dict(document: Any, source: str = "the task") -> Task:
    """A task from its card as parsed, checked field by field.

    Raises
    ------
    TableUnreadable : names the key, and what it should hold.
    """
    if not isinstance(document, dict):
        raise TableUnreadable(f"{source} is no task card: it needs keys such as name, title, level and classes.")
    _known_keys(document, {field.name for field in fields(Task)}, source)
    for needed in ("name", "classes"):
        if not document.get(needed):
            raise TableUnreadable(f"{source} lacks {needed!r}, which every task card has.")
    classes = document["classes"]
    if not isinstance(classes, list):
        raise TableUnreadable(f"{source}: 'classes' must be a list, each with a name.")
    return Task(
        name=_text(document, "name", source),
        title=_text(document, "title", source) or _text(document, "name", source),
        level=_one_of(document, "level", LEVELS, source),
        classes=_classes(classes, source),
        mpp=_mpp(document.get("mpp"), source),
        stain=_text(document, "stain", source, "H&E"),
        organ=_text(document, "organ", source),
        sentences=_sentences(document.get("sentences"), source),
        objective=_one_of(document, "objective", OBJECTIVES, source),
    )


def _known_keys(document: Mapping[Any, Any], known: set[str], source: str) -> None:
    unknown = [str(key) for key in document if key not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TableUnreadable(
            f"{source} has the key {unknown[0]!r}, which means nothing here.{hint} Known: {', '.join(sorted(known))}."
        )


def _text(document: Mapping[str, Any], key: str, source: str, default: str = "") -> str:
    value = document.get(key, default)
    if value is None:
        return default
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).strip()
    raise TableUnreadable(f"{source}: {key!r} must be a text, and {value!r} is none (put it in quotes).")


def _one_of(document: Mapping[str, Any], key: str, known: tuple[str, ...], source: str) -> str:
    value = _text(document, key, source, known[0])
    if value not in known:
        raise TableUnreadable(f"{source}: {key!r} is {value!r}; it can be {', '.join(known)}.")
    return value


def _mpp(value: Any, source: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.05 <= value <= 100:
        raise TableUnreadable(f"{source}: 'mpp' is {value!r}; it must be µm per pixel, for example 0.5.")
    return float(value)


def _sentences(value: Any, source: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise TableUnreadable(f"{source}: 'sentences' must be a list of texts: the task first, then the stain.")
    return tuple(one.strip() for one in value)


def _classes(values: list[Any], source: str) -> tuple[TaskClass, ...]:
    classes: list[TaskClass] = []
    for number, value in enumerate(values):
        where = f"{source}, class {number + 1}"
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            raise TableUnreadable(f"{where} must be a name, or a name with color and sentence.")
        _known_keys(value, {field.name for field in fields(TaskClass)}, where)
        name = _text(value, "name", where)
        if not name or name.endswith("*"):
            raise TableUnreadable(f"{where} needs a name that does not end in '*' (QuPath keeps those from training).")
        if name in {one.name for one in classes}:
            raise TableUnreadable(f"{where}: there is already a class {name!r}.")
        color = _color(value.get("color"), where) or class_color(name, number)
        classes.append(TaskClass(name, color, _text(value, "sentence", where)))
    return tuple(classes)


def _color(value: Any, where: str) -> Color | None:
    if value is None:
        return None
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
        except ValueError:
            pass
    if isinstance(value, list) and len(value) == 3 and all(isinstance(one, int) and 0 <= one <= 255 for one in value):
        return value[0], value[1], value[2]
    raise TableUnreadable(f"{where}: the color {value!r} must be [red, green, blue] from 0 to 255, or '#c80000'.")


def task_from_regions(
    regions: Iterable[DrawnRegion], *, name: str = "regions", title: str = "", stain: str = "H&E", organ: str = ""
) -> Task:
    """The task that regions at hand define: their classes in alphabetical order, with their colours.

    Parameters
    ----------
    regions : of one slide or of several, one after the other.

    Raises
    ------
    NoTiles : there are no regions, or none has a class to learn.
    """
    regions = list(regions)
    if not regions:
        raise NoTiles(
            "There are no regions to learn from: nothing is drawn, or the file is empty. Draw some with classes."
        )
    colors: dict[str, Color | None] = {}
    for region in regions:
        if region.class_name is not None and region.is_training_class:
            colors[region.class_name] = colors.get(region.class_name) or region.color
    if not colors:
        raise NoTiles("No region has a class to learn: give the regions classes (names ending in * do not count).")
    names = sorted(colors, key=str.casefold)
    classes = tuple(TaskClass(one, colors[one] or class_color(one, number)) for number, one in enumerate(names))
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    tissue = f"{organ} tissue" if organ else "tissue"
    sentences = (f"Tell {listed} apart in a histology image of {tissue}.", f"The section is stained with {stain}.")
    return Task(name, title or f"Told apart: {listed}", "tile", classes, None, stain, organ, sentences)


def task_from_words(text: str, *, stain: str = "H&E", organ: str = "", name: str = "typed") -> Task:
    """The task that class names define as a person types them, with a sentence each where she gives one.

    Parameters
    ----------
    text : ``name: sentence; name; name: sentence | another wording``; entries end with ";" or the line. Commas part
        names where there is neither.

    Raises
    ------
    TableUnreadable : fewer than two classes, or one twice.
    """
    entries = [part.strip() for part in text.replace("\n", ";").split(";") if part.strip()]
    if len(entries) == 1 and ":" not in entries[0]:
        entries = [part.strip() for part in entries[0].split(",") if part.strip()]
    rows = []
    for entry in entries:
        label, _, sentence = (part.strip() for part in entry.partition(":"))
        rows.append({"name": label, "sentence": sentence})
    if len(rows) < 2:
        raise TableUnreadable("Type at least two classes, such as: tumor: nests of carcinoma cells; stroma; fat.")
    return task_from_dict(
        {"name": name, "title": f"Told apart: {', '.join(row['name'] for row in rows)}", "stain": stain, "organ": organ,
         "classes": rows}, "what was typed",
    )  # fmt: skip


@cache
def _palettes() -> tuple[dict[str, Color], dict[str, list[Color]]]:
    known = json.loads(resource("palettes", "qupath.json").read_text(encoding="utf-8"))
    safe = json.loads(resource("palettes", "colour_blind.json").read_text(encoding="utf-8"))
    return (
        {name: (red, green, blue) for name, (red, green, blue) in known.items()},
        {name: [(red, green, blue) for red, green, blue in colors] for name, colors in safe.items()},
    )


def qupath_palette() -> dict[str, Color]:
    """The colours QuPath gives its standard classes."""
    return dict(_palettes()[0])


def colour_blind_palette(n: int) -> list[Color]:
    """`n` colours that people with red-green blindness can tell apart.

    Okabe and Ito's for up to seven (doi 10.1038/nmeth.1618), Paul Tol's "muted" for up to nine. No more than about that
    many can be safe: further ones are even steps of hue with two lightnesses.
    """
    safe = _palettes()[1]
    if n <= len(safe["okabe_ito"]):
        return safe["okabe_ito"][: max(n, 0)]
    colors = list(safe["tol_muted"])[:n]
    for extra in range(n - len(colors)):
        hue = (extra * 0.618034 + 0.03) % 1  # the golden ratio keeps neighbours far apart
        red, green, blue = colorsys.hls_to_rgb(hue, 0.35 if extra % 2 else 0.65, 0.7)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors


def class_color(name: str, index: int = 0) -> Color:
    """A colour for a class that has none: QuPath's for a name it knows, else the `index`-th colour-blind safe one."""
    known = {key.casefold(): color for key, color in _palettes()[0].items()}
    return known.get(name.casefold()) or colour_blind_palette(index + 1)[index]


def __getattr__(name: str) -> Any:
    if name == "PALETTE":
        return qupath_palette()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
