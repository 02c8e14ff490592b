"""A prediction store as it is shown, and its layers on the canvas: made before a job, taken over, filled as it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pathotune import canvas, compat
from napari_pathotune.layers import LayerData, facts
from napari_pathotune.overlay import ClassGrid

if TYPE_CHECKING:
    from napari_pathotune.session import Session


@dataclass
class Result:
    """One prediction store as it is shown: its grid and its layers."""

    store: str
    slide_path: str
    grid: ClassGrid
    classes: Any = None
    probability: Any = None
    attention: Any = None
    others: dict[str, Any] = field(default_factory=dict)  # made when asked for, by their kind (`doubts`)

    @property
    def is_empty(self) -> bool:
        """Nothing is predicted yet."""
        return self.grid.is_empty

    @property
    def is_seen(self) -> bool:
        """One of its pictures is shown; marks follow the picture and are none."""
        return any(layer.visible and not facts(layer).get("is_mark") for layer in self.layers)

    @property
    def layers(self) -> list[Any]:
        """The layers that exist, bottom first."""
        own = (self.attention, self.probability, self.classes)
        return [layer for layer in (*own, *self.others.values()) if layer is not None]


class ResultLayers:
    """What of a session's results is shown.

    Parameters
    ----------
    session : knows the slides and the results.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def hide_results(self, slide_path: str) -> None:
        """Hide what is shown of a slide's results: two overlays on each other say nothing."""
        for result in self.session.results:
            if same_path(result.slide_path, slide_path):
                for layer in result.layers:
                    layer.visible = False

    def _put_first(self, result: Result) -> None:
        """A result that waited holds something now: two overlays on each other say nothing."""
        if not result.is_seen:
            return
        for other in self.session.results:
            if other is not result and same_path(other.slide_path, result.slide_path):
                for layer in other.layers:
                    layer.visible = False
        self.session.results_changed.emit()

    def prepare(
        self,
        store: str,
        title: str,
        classes: list[tuple[str, Any]],
        reading: Any,
        stride_px: int,
        replace_it: bool = False,
        with_attention: bool = False,
    ) -> None:
        """Have the layers of a prediction to come on the active slide, empty and not in anyone's way.

        They have the size of what will be predicted, so that it is painted into them and no layer is made or changed
        while the job runs. An empty result of another tuning is taken over, so that trying tunings leaves no layers
        behind.

        Parameters
        ----------
        store : path of the store to be.
        title : the tuning's name.
        classes : name and colour of each class.
        reading, stride_px : how the tuning reads tiles, and from one to the next.
        replace_it : what is shown of this store is given up: another run takes its place.
        with_attention : the prediction will keep attention too.
        """
        from napari_pathotune.layers import empty_attention, empty_grid, result_layers

        slide, layer = self.session.slide, self.session.active_layer
        if slide is None or self.session.job.is_active:
            return
        shown, path = self.session.result_at(store), facts(layer)["path"]
        if shown is not None and not shown.is_empty and not replace_it:
            return
        grid = empty_grid(slide, classes, reading, stride_px)
        attention = [empty_attention(grid, store, title, path)] if with_attention else []
        unused = [result for result in self.session.results_of(layer) if result.is_empty and result.classes is not None]
        if shown is not None or unused:
            self._take_over(shown or unused[0], store, title, grid)
            # What was there reads from the disk, perhaps what is about to be replaced.
            self.put_attention(shown or unused[0], attention)
        else:
            new = attention + result_layers(grid, store, title, path, compat.preferences().opacity)
            add_next = self.show_result(store, new)
            while add_next():
                pass
        self.session.results_changed.emit()

    def _take_over(self, result: Result, store: str, title: str, grid: ClassGrid) -> None:
        from napari_pathotune.layers import probability_name

        same = same_path(result.store, store)
        result.store = store
        for layer, name in (
            (result.classes, f"classes · {title}"),
            (result.probability, probability_name(grid.class_names[grid.shown_class], title)),
        ):
            if layer is not None:
                layer.name, facts(layer)["store"] = name, store
        self.adopt(store, grid, keep_choices=same)

    def adopt(self, store: str, grid: ClassGrid, keep_choices: bool = True) -> bool:
        """Show another grid in the layers of a result, and say whether there is such a result."""
        result = self.session.result_at(store)
        if result is None:
            return False
        self.session.adopting.emit(result, grid)
        earlier = result.grid
        has_waited = earlier.is_empty and not grid.is_empty
        if keep_choices and earlier.is_like(grid):
            # Painted into the layers that are there: new data would cost each of them a new texture and thumbnail.
            earlier.put(grid.probabilities, 0, 0)
            if has_waited:
                self._put_first(result)
            return True
        result.grid = grid
        if keep_choices:
            grid.take_choices(earlier)
        for layer, array in ((result.classes, grid.rgba), (result.probability, grid.shown)):
            if layer is not None:
                facts(layer)["grid"] = grid
                layer.data = array
                layer.scale, layer.translate = grid.scale_um, grid.translate_um
        if has_waited:
            self._put_first(result)
        return True

    def put_attention(self, result: Result, found: list[LayerData]) -> None:
        """Show other attention in the layer of a result; the layer is removed where there is none to show."""
        for step in self.attention_steps(result, found):
            step()

    def attention_steps(self, result: Result, found: list[LayerData]) -> list[Callable[[], None]]:
        """The same in steps for turns of the window's loop, as all at once would be felt in it."""
        layer = result.attention
        if layer is None:
            return []
        if not found:
            return [lambda: self._remove_attention(result)]
        data, options, _ = found[0]
        about, new = facts(layer), options["metadata"]["pathotune"]

        def follow() -> None:
            with canvas.held(self.session, layer.visible):
                if about["source"] == new["source"]:
                    layer.contrast_limits = options["contrast_limits"]
                if layer.visible:
                    layer.refresh(thumbnail=False, highlight=False, extent=False)

        def put() -> None:
            about.update(new)
            with canvas.held(self.session, layer.visible):
                layer.data = data if layer.multiscale else data[0]
                # At once with the data, which else lay at the wrong place for a moment. Each of the two has napari
                # measure all layers again; the second one's event stands for both.
                with layer.events.scale.blocker():
                    layer.scale = options["scale"]
                layer.translate = options["translate"]

        def name() -> None:
            if about["source"] == new["source"]:  # the person may have chosen another meanwhile
                with canvas.held(self.session, layer.visible):
                    layer.name, layer.contrast_limits = options["name"], options["contrast_limits"]

        if about["sources"] == new["sources"] and same_path(about["store"], new["store"]):
            # It reads this store already: what has been written since is all there is to show.
            return [follow]
        return [put, name, self.session.results_changed.emit]

    def _remove_attention(self, result: Result) -> None:
        if result.attention is not None:
            self.session.viewer.layers.remove(result.attention)

    def show_result(self, store: str, layer_data: list[LayerData], joining: bool = False) -> Callable[[], bool]:
        """Add a result's layers one call at a time, so that no call holds the window up for long.

        Parameters
        ----------
        joining : they join layers that are there, and are not added once those have been closed.

        Returns
        -------
        A function that adds the next layer and says whether there was one.
        """
        from napari.layers import Layer

        waiting = [data for data in layer_data if not self._is_shown(store, data[1]["metadata"])]

        def add_next() -> bool:
            if not waiting or (joining and self.session.result_at(store) is None):
                return False
            selected = set(self.session.viewer.layers.selection)
            layer = Layer.create(*waiting.pop(0))
            with canvas.held(self.session, layer.visible):
                self.session.viewer.layers.insert(self._place_for(facts(layer)["slide_path"]), layer)
                # The person goes on with the layer she had: a new overlay takes neither tools nor keys from her.
                if selected:
                    self.session.viewer.layers.selection = selected
            return bool(waiting)

        return add_next

    def _place_for(self, slide_path: str) -> int:
        """Above a slide and its results, below what is drawn on it."""
        places = [
            number
            for number, layer in enumerate(self.session.viewer.layers)
            if same_path(facts(layer).get("slide_path", facts(layer).get("path", "")), slide_path)
            and facts(layer).get("kind") != "regions"
        ]
        return max(places) + 1 if places else len(self.session.viewer.layers)

    def _is_shown(self, store: str, metadata: dict[str, Any]) -> bool:
        kind = metadata["pathotune"]["kind"]
        return any(
            facts(layer).get("kind") == kind and same_path(facts(layer)["store"], store)
            for layer in self.session.viewer.layers
        )

    def repaint(self, result: Result, thumbnail: bool = False) -> None:
        """Show what changed in a result's grid; cheap, as nothing but this layer's picture is sent again."""
        seen = [layer for layer in (result.classes, result.probability) if layer is not None and layer.visible]
        with canvas.held(self.session, bool(seen)):
            for layer in seen:
                layer.refresh(thumbnail=thumbnail, highlight=False, extent=False)
        self.session.repainted.emit(result)


def same_path(first: str, second: str) -> bool:
    """Whether two path texts name one place."""
    return bool(first) and bool(second) and Path(first) == Path(second)
