"""What a tuning in one viewer learns from, what it still lacks, and the job that starts it: no Qt."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pathotune.drawing_board import DrawingBoard
from napari_pathotune.layers import facts
from napari_pathotune.reader import results_folder
from napari_pathotune.session import Session

if TYPE_CHECKING:
    from pathotune.execution.job import Job
    from pathotune.regions import Regions
    from pathotune.tasks import Task
    from pathotune.training.preflight import SlideFacts

SUFFIX = ".pathotune.safetensors"
Color = tuple[int, int, int]


class TuningPlan:
    """The slides chosen to learn from and what is drawn on them.

    Parameters
    ----------
    session : the viewer's session.
    board : what is drawn.
    """

    def __init__(self, session: Session, board: DrawingBoard) -> None:
        self.session, self.board = session, board
        self._left_out: set[str] = set()

    def choose(self, path: str, wanted: bool) -> None:
        """Learn from this slide, or not."""
        self._left_out = self._left_out - {path} if wanted else self._left_out | {path}

    def is_chosen(self, path: str) -> bool:
        """Whether this slide is learned from."""
        return path not in self._left_out

    @property
    def layers(self) -> list[Any]:
        """The slide layers to learn from."""
        if self.session.viewer is None:
            return []  # a timer that runs out after the viewer was closed
        return [layer for layer in self.session.slide_layers if self.is_chosen(facts(layer)["path"])]

    def drawn(self) -> dict[str, tuple[Color, int]]:
        """Colour and number of regions of each drawn class of the chosen slides; classes ending in * do not count."""
        found: dict[str, tuple[Color, int]] = {}

        def add(name: str | None, color: Color, count: int) -> None:
            if name and not name.endswith("*"):
                earlier = found.get(name, (color, 0))
                found[name] = (earlier[0], earlier[1] + count)

        for layer in self.layers:
            document = self.board.of(layer).document
            for one in document.palette:
                if one.name in document.counts:
                    add(one.name, one.color, document.counts[one.name].regions)
            for other in self.board.other_layers(layer):
                for name, color in class_of_shapes(other):
                    add(name, color, 1)
        return found

    def is_drawn(self) -> bool:
        """Whether there is enough drawn to learn from: regions of two classes."""
        return len(self.drawn()) >= 2

    def named(self, words: str = "") -> Task:
        """The classes that are only named: typed ones with their sentences, else those of the palette.

        Parameters
        ----------
        words : ``name: sentence; name``, as `tasks.task_from_words` reads them; "" takes the palette's.

        Raises
        ------
        TableUnreadable : fewer than two classes, or one twice.
        """
        from pathotune.tasks import task_from_words

        palette = self.board.active.document.palette if self.board.active is not None else ()
        known = {one.name: one.color for one in palette}
        task = task_from_words(words or "; ".join(name for name in known if not name.endswith("*") and name != "Other"))
        classes = tuple(replace(one, color=known.get(one.name, one.color)) for one in task.classes)
        return replace(task, classes=classes)

    def missing(self) -> str:
        """What a tuning on regions still needs, as a sentence; empty where it can start."""
        layers = self.layers
        if not self.session.slide_layers:
            return "Open a slide first."
        if not layers:
            return "Choose at least one slide above."
        silent = [facts(layer)["slide"].name for layer in layers if facts(layer)["slide"].mpp is None]
        if silent:
            return f"State the slide's pixel size above first ({silent[0]})."
        if not self.is_drawn():
            return "Draw regions of at least two classes."
        return ""

    def snapshot(self) -> list[tuple[Regions, SlideFacts]]:
        """Regions and size of each chosen slide as they are now; drawing on does not touch them."""
        from pathotune.training.preflight import SlideFacts

        found = []
        for layer in self.layers:
            slide = facts(layer)["slide"]
            if slide.mpp is not None:
                size = (float(slide.width_px0), float(slide.height_px0))
                found.append((self.board.regions_of(layer), SlideFacts(size, (slide.mpp.x, slide.mpp.y))))
        return found

    def suggested_name(self, task: str, backbone: str) -> str:
        """A name for the tuning from the task or the drawn classes and the backbone."""
        about = task or "-".join(list(self.drawn())[:3]).lower()
        return re.sub(r"[^\w.-]+", "-", f"{about} {backbone}").strip("-")

    def job(self, name: str, arguments: dict[str, Any], continue_from: str = "", task: Task | None = None) -> Job:
        """The tuning as data; regions, or a task, are written into NAME.session beside the file to come.

        Parameters
        ----------
        name : of the tuning file; a number is added where it is taken.
        arguments : `method`, `config`, `backbone`, `training` and `task` as a tune job takes them.
        continue_from : a tuning file to go on from.
        task : classes that are told by their words alone, in place of regions.

        Raises
        ------
        OutputRefused : the results folder cannot be written to.
        """
        import yaml

        from pathotune.errors import OutputRefused
        from pathotune.execution.job import Job

        out = free_path(name)
        folder = out.with_name(f"{out.name.removesuffix(SUFFIX)}.session")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputRefused(
                f"The results folder {str(out.parent)!r} cannot be written to ({error.strerror or error}); choose "
                "another one under Preferences, PathoTune."
            ) from error
        if task is not None:
            card = folder / "task.yaml"
            card.write_text(yaml.safe_dump(task.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
            return Job("tune", {**arguments, "task": str(card), "out": str(out)})
        sources = [self._frozen(number, layer, folder) for number, layer in enumerate(self.layers)]
        going_on = {"continue_from": continue_from} if continue_from else {}
        return Job("tune", {"sources": sources, **arguments, "out": str(out), **going_on})

    def _frozen(self, number: int, layer: Any, folder: Path) -> dict[str, Any]:
        from pathotune.regions import write_regions

        slide = facts(layer)["slide"]
        name = f"{slide.path.name}.geojson" if number == 0 else f"{number + 1} {slide.path.name}.geojson"
        path = write_regions(self.board.regions_of(layer), folder / name, slide)
        source: dict[str, Any] = {"slide": str(slide.path), "regions": str(path)}
        if slide.mpp is not None and slide.mpp.source == "stated":
            source["slide_mpp"] = slide.mpp.mean
        return source


def class_of_shapes(layer: Any) -> list[tuple[str, Color]]:
    """Class and colour of each drawn shape or point of a layer, without any geometry."""
    from napari_pathotune.drawings import class_names_of, color_of

    return [(name, color_of(layer, index)) for index, name in enumerate(class_names_of(layer))]


def free_path(name: str) -> Path:
    """The path of a new tuning file in the results folder; a number is added where the name is taken."""
    from pathotune.training.session import best_path

    folder = results_folder()
    stem = name.removesuffix(".safetensors").removesuffix(".pathotune")
    path, number = folder / f"{stem}{SUFFIX}", 2
    while path.exists() or best_path(path).exists():  # the other one was cut off, and may still be wanted
        path, number = folder / f"{stem}-{number}{SUFFIX}", number + 1
    return path
