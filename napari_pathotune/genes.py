"""Predicted genes of a result as a layer, and what was measured on spots beside it: no viewer, no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pathotune.doubts import made_for
from napari_pathotune.layers import MICROMETRES, LayerData
from napari_pathotune.session import Result

if TYPE_CHECKING:
    from pathotune.datasets.spots import Spots
    from pathotune.inference.expression_layer import ExpressionLayer

GENE, MEASURED = "gene", "measured"
COLORMAP = "magma"
PATHWAY = "Pathway "
Array = np.ndarray[Any, Any]


class Genes:
    """What a store predicts of genes and pathways; one of them is read at a time, so another costs no inference.

    Parameters
    ----------
    store : path of the store.
    """

    def __init__(self, store: str, expression: ExpressionLayer) -> None:
        self.store, self.expression = store, expression

    @classmethod
    def of(cls, store: str | Path) -> Genes | None:
        """Those of a store; None where it has none."""
        from pathotune.errors import PathotuneError
        from pathotune.inference.expression_layer import ExpressionLayer
        from pathotune.inference.predictions import PredictionStore

        try:
            found = ExpressionLayer.of(PredictionStore.open(store))
        except PathotuneError:
            return None  # not written yet
        return None if found is None else cls(str(store), found)

    @property
    def names(self) -> list[str]:
        """Genes, best predicted first, then pathways."""
        known = self.expression
        order = sorted(range(len(known.genes)), key=lambda index: -(known.r[index] or -2.0))
        return [known.genes[index] for index in order] + [f"{PATHWAY}{name}" for name in known.pathways]

    def r(self, name: str) -> float | None:
        """How a gene or pathway correlates with what was measured on held-out samples; None where nobody knows."""
        known = self.expression
        if name.startswith(PATHWAY):
            at = list(known.pathways).index(name.removeprefix(PATHWAY))
            return known.pathways_r[at] if at < len(known.pathways_r) else None
        return known.r[known.index(name)]

    def label(self, name: str) -> str:
        """The name with its correlation."""
        r = self.r(name)
        return name if r is None else f"{name} (r {r:.2f})"

    def judged(self, name: str) -> str:
        """In a sentence, how far the prediction of this name can be believed."""
        known, r = self.expression, self.r(name)
        if r is None:
            return "How well it is predicted is not known: nothing was held out to judge it on."
        on = {"test": "test samples", "val": "held-out samples"}.get(known.r_of, "samples")
        return (
            f"r {r:.2f} with what was measured on {known.r_samples} {on} it was not tuned on. Predicted, not measured."
        )

    def unit(self, name: str) -> str:
        """Of the values."""
        return "mean z-score of its genes" if name.startswith(PATHWAY) else self.expression.unit

    def values(self, name: str) -> Array:
        """(rows, columns) float32, NaN where nothing is predicted."""
        if name.startswith(PATHWAY):
            return self.expression.pathway(name.removeprefix(PATHWAY))
        return self.expression.gene(name)

    def measured(self, spots: Spots, name: str) -> Array:
        """(n,) what was measured on spots, on the scale of the prediction.

        Raises
        ------
        TableUnreadable : the gene, or every gene of the pathway, was not measured.
        """
        from pathotune.datasets.expression import log_normalised
        from pathotune.errors import TableUnreadable

        known, table = self.expression, spots.expression
        if table is None:
            raise TableUnreadable(f"{Path(spots.source).name} says nothing of expression; give a table of it too.")
        members = known.pathways[name.removeprefix(PATHWAY)] if name.startswith(PATHWAY) else [known.index(name)]
        columns = table.column_of()
        there = [index for index in members if known.genes[index] in columns]
        if not there:
            raise TableUnreadable(f"{name} was not measured in {Path(table.source).name}.")
        facts = known.store.attrs["expression"]
        wanted = [columns[known.genes[index]] for index in there]
        values = log_normalised(table, wanted, facts.get("scale", "log"), float(facts.get("total", 1.0)))
        if not name.startswith(PATHWAY):
            return np.asarray(values[:, 0])
        z = (values - np.asarray(known.mean)[there]) / np.asarray(known.sd)[there]
        return np.asarray(np.nanmean(z, axis=1), dtype=np.float32)

    def beside(self, spots: Spots, measured: Array, predicted: Array) -> str:
        """In a sentence, how the prediction of a name agrees with what was measured on the spots of this slide.

        Parameters
        ----------
        measured : (n,) of the spots, as `measured` gives it.
        predicted : (rows, columns) of the same name, as `values` gives it.
        """
        grid = self.expression.store.grid
        cells = [grid.cell_at(x, y) for x, y in zip(spots.x_px0.tolist(), spots.y_px0.tolist(), strict=True)]
        there = np.asarray([np.nan if cell is None else predicted[cell] for cell in cells])
        both = np.isfinite(there) & np.isfinite(measured)
        counted = f"{int(both.sum())} of {len(spots)} measured spots lie on predicted tiles"
        if both.sum() < 3 or not there[both].std() or not measured[both].std():
            return f"{counted}."
        r = float(np.corrcoef(there[both], measured[both])[0, 1])
        return f"{counted}: r {r:.2f} on this slide, which says little where it was learned from."


def limits_of(*parts: Array) -> tuple[float, float]:
    """Colour limits that a few values do not decide: the 2nd and 98th percentile of all that is there."""
    present = np.concatenate([part[np.isfinite(part)] for part in parts])
    if not present.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(present, (2, 98)))
    return (low, high) if high > low else (low, low + 1e-6)


def gene_layer(result: Result, genes: Genes, name: str) -> LayerData:
    """A gene's prediction as a hidden heat map over the result's cells."""
    values = genes.values(name)
    options = {**made_for(result, GENE, genes.label(name)), "colormap": COLORMAP, "contrast_limits": limits_of(values)}
    return values, {**options, "opacity": 0.75}, "image"


@dataclass(frozen=True)
class MeasuredSpots:
    """Spots of the open slide on which expression was measured."""

    spots: Spots
    slide_path: str
    um: tuple[float, float]  # (y, x) size of a level-0 pixel

    def layer(self, values: Array, limits: tuple[float, float], label: str) -> LayerData:
        """The spots as discs in the colours of the prediction; those without a value are left out of sight."""
        finite = np.where(np.isfinite(values), values, limits[0])
        options = {
            "name": f"measured {label}",
            "size": self.size,
            "features": {"value": finite},
            "face_color": "value",
            "face_colormap": COLORMAP,
            "face_contrast_limits": limits,
            "border_color": [0.5, 0.5, 0.5, 0.9],
            "border_width": 0.06,
            "scale": self.um,
            "units": MICROMETRES,
            "metadata": {"pathotune": {"kind": MEASURED, "slide_path": self.slide_path}},
        }
        return self.places, options, "points"

    @property
    def places(self) -> Array:
        """(n, 2) centres (y, x); the centre of level-0 pixel (0, 0) lies at 0 in napari."""
        return np.stack([self.spots.y_px0, self.spots.x_px0], axis=1) - 0.5

    @property
    def size(self) -> float:
        """Of a disc in level-0 pixels: as the platform says, else half the way to the next spot."""
        known = self.spots.diameter_px0
        if known == known:
            return float(known)
        pitch = self.spots.pitch_px0
        return pitch / 2 if pitch == pitch else 100.0 / self.um[0]


def read_measured(path: Path, table: Path | None, slide_path: str, um: tuple[float, float]) -> MeasuredSpots:
    """Spots and what was measured on them.

    Parameters
    ----------
    path : a Visium folder, or a table of places.
    table : of the expression, where the spots have none of their own.

    Raises
    ------
    TableUnreadable, FileMissing : they cannot be read or do not belong together.
    """
    from pathotune.datasets.spots import read_spots, section_expression

    return MeasuredSpots(section_expression(read_spots(path), table), slide_path, um)
