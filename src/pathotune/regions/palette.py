"""The classes a person draws with: names, colours and their order, and how the names of a file map onto them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import overload

from pathotune.errors import UsageError
from pathotune.tasks import Color, class_color, colour_blind_palette, qupath_palette

# QuPath's names, in the order its users know, without those that say how rather than what.
START_CLASSES = ("Tumor", "Stroma", "Immune cells", "Necrosis", "Other", "Ignore*")
LONGEST_NAME = 100
# Names that mean the same wherever pathologists write them; only ever a suggestion.
SAME_MEANING = (
    {"tumor", "tumour", "cancer", "carcinoma", "malignant", "neoplasm"},
    {"stroma", "connective tissue"},
    {"immune cells", "immune", "lymphocytes", "inflammation", "til", "tils"},
    {"necrosis", "necrotic"},
    {"ignore*", "ignore", "exclude", "artefact", "artifact", "exclusion"},
    {"normal", "benign", "healthy"},
    {"other", "rest", "background"},
)


@dataclass(frozen=True)
class PaletteClass:
    """One class: its name and its colour (0..255)."""

    name: str
    color: Color


class Palette:
    """The classes in the order of their number keys; never changed, each change gives a new one.

    Parameters
    ----------
    classes : no two of one name.
    """

    def __init__(self, classes: Iterable[PaletteClass] = ()) -> None:
        self.classes: tuple[PaletteClass, ...] = tuple(classes)
        self._by_name = {one.name: one for one in self.classes}
        if len(self._by_name) != len(self.classes):
            raise UsageError("Two classes of a palette have the same name; give each its own.")

    @overload
    def __getitem__(self, index: int) -> PaletteClass: ...
    @overload
    def __getitem__(self, index: slice) -> Palette: ...
    def __getitem__(self, index: int | slice) -> PaletteClass | Palette:
        return Palette(self.classes[index]) if isinstance(index, slice) else self.classes[index]

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[PaletteClass]:
        return iter(self.classes)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self.classes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Palette) and other.classes == self.classes

    def __hash__(self) -> int:
        return hash(self.classes)

    def __repr__(self) -> str:
        return f"Palette({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(one.name for one in self.classes)

    def color_of(self, name: str | None) -> Color | None:
        """The colour of a class; None for no class or an unknown one."""
        found = self._by_name.get(name) if name is not None else None
        return None if found is None else found.color

    def add(self, name: str, color: Color | None = None) -> Palette:
        """With one more class; it gets a colour that is free where none is given.

        Raises
        ------
        UsageError : the name is empty, too long or taken.
        """
        name = self._checked(name)
        return Palette([*self.classes, PaletteClass(name, color or self.free_color(name))])

    def rename(self, old: str, new: str) -> Palette:
        """With another name for a class, in the same place and colour.

        Raises
        ------
        UsageError : there is no such class, or the new name is empty or taken.
        """
        self._known(old)
        new = self._checked(new, besides=old)
        return Palette(replace(one, name=new) if one.name == old else one for one in self.classes)

    def recolour(self, colors: Mapping[str, Color]) -> Palette:
        """With other colours for some classes; raises UsageError for a class it does not know."""
        for name in colors:
            self._known(name)
        return Palette(replace(one, color=colors.get(one.name, one.color)) for one in self.classes)

    def remove(self, names: Iterable[str]) -> Palette:
        """Without these classes; raises UsageError for one it does not know."""
        gone = set(names)
        for name in gone:
            self._known(name)
        return Palette(one for one in self.classes if one.name not in gone)

    def move(self, name: str, place: int) -> Palette:
        """With a class at another place of the order (from 0)."""
        one = self._known(name)
        rest = [other for other in self.classes if other.name != name]
        rest.insert(max(0, min(place, len(rest))), one)
        return Palette(rest)

    def including(self, names: Mapping[str, Color | None]) -> Palette:
        """With every class of these that is not there yet."""
        made = self
        for name, color in names.items():
            if name not in made:
                made = made.add(name, color)
        return made

    def free_color(self, name: str = "") -> Color:
        """A colour-blind safe colour no class has yet; grey for the classes that are not trained."""
        if name.endswith("*"):
            return qupath_palette()["Ignore*"]
        taken = {one.color for one in self.classes}
        offered = colour_blind_palette(len(self.classes) + 1)
        # A palette that was edited may hold the last colour but lack an earlier one.
        free = [color for color in [*colour_blind_palette(7), *offered] if color not in taken]
        return free[0] if free else offered[-1]

    def _known(self, name: str) -> PaletteClass:
        if name not in self._by_name:
            listed = ", ".join(self.names) or "none"
            raise UsageError(f"There is no class called {name!r} to change; the classes are: {listed}.")
        return self._by_name[name]

    def _checked(self, name: str, besides: str = "") -> str:
        name = " ".join(name.split())
        if not name:
            raise UsageError("A class needs a name; type one, for example Tumor.")
        if len(name) > LONGEST_NAME:
            raise UsageError(f"A class name of {len(name)} letters is too long; use at most {LONGEST_NAME}.")
        if name != besides and name in self._by_name:
            raise UsageError(f"There is a class called {name!r} already; merge the two, or choose another name.")
        return name


def start_palette() -> Palette:
    """QuPath's class names in colours that people with red-green blindness can tell apart."""
    return colour_blind(Palette(PaletteClass(name, (0, 0, 0)) for name in START_CLASSES))


def colour_blind(palette: Palette) -> Palette:
    """The same classes in colour-blind safe colours; grey for those that are not trained."""
    trained = [one.name for one in palette if not one.name.endswith("*")]
    colors = dict(zip(trained, colour_blind_palette(len(trained)), strict=True))
    grey = qupath_palette()["Ignore*"]
    return palette.recolour({one.name: colors.get(one.name, grey) for one in palette})


def qupath_colours(palette: Palette) -> Palette:
    """The same classes in QuPath's colours; a class QuPath does not know keeps the one it has."""
    known = {name.casefold(): color for name, color in qupath_palette().items()}
    return palette.recolour({one.name: known.get(one.name.casefold(), one.color) for one in palette})


def palette_of(names: Mapping[str, Color | None]) -> Palette:
    """A palette of these classes; one without a colour gets QuPath's of its name, or a free one."""
    made = Palette()
    for number, (name, color) in enumerate(names.items()):
        made = made.add(name, color or class_color(name, number))
    return made


def suggest_mapping(names: Iterable[str], palette: Palette) -> dict[str, str]:
    """Which class of the palette each name of a file most likely means.

    Parameters
    ----------
    names : class names as they stand in a file.

    Returns
    -------
    For every name the class to use: the same, one that differs in case or spelling or means the same to pathologists,
    or the name itself, as a new class.
    """
    return {name: _likely(name, palette) for name in names}


def _likely(name: str, palette: Palette) -> str:
    if name in palette:
        return name
    plain = name.casefold().strip()
    for known in palette.names:
        if known.casefold() == plain or known.casefold() == plain + "s" or known.casefold() + "s" == plain:
            return known
    for group in SAME_MEANING:
        if plain in group:
            meant = [known for known in palette.names if known.casefold() in group]
            if meant:
                return meant[0]
    folded = {known.casefold(): known for known in palette.names}
    close = difflib.get_close_matches(plain, folded, n=1, cutoff=0.85)
    return folded[close[0]] if close else name
