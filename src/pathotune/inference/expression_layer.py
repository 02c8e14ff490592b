"""Predicted expression of a slide: a value for each gene and tile, in `expression/` of a prediction store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import MissingPackage, StoreMismatch, UnknownName
from pathotune.inference.locations import writing

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore

NAME = "expression"
# Genes are kept in a few files, each gene in chunks of its own, so that switching genes reads that gene alone.
FILES = 4
CHUNK = 256
UNITS = {
    "counts": "log1p of counts at {total:.0f} per sample",
    "linear": "log1p of the table's values",
    "log": "the table's logarithms",
}


@dataclass(frozen=True)
class ExpressionLayer:
    """Predicted expression in a store.

    genes : names, in the order of the arrays' first axis.
    r : correlation of each with what was measured on held-out samples; None where it could not be judged.
    r_of, r_samples : on what, "test" or "val", and of how many samples.
    unit : of the values.
    pathways : {name: indexes of its genes}.
    store : the store; where it says 0 in `labels`, nothing is predicted.
    """

    genes: tuple[str, ...]
    r: tuple[float | None, ...]
    r_of: str
    r_samples: int
    unit: str
    pathways: dict[str, list[int]]
    pathways_r: tuple[float | None, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    store: PredictionStore

    @classmethod
    def of(cls, store: PredictionStore) -> ExpressionLayer | None:
        """That of a store, or None where it has none."""
        facts = store.attrs.get(NAME)
        if not facts or not (store.path / NAME / "0").is_dir():
            return None
        return cls(
            genes=tuple(facts["genes"]),
            r=tuple(facts["r"]),
            r_of=facts["r_of"],
            r_samples=facts["r_samples"],
            unit=facts["unit"],
            pathways=dict(facts.get("pathways") or {}),
            pathways_r=tuple(facts.get("pathways_r") or ()),
            mean=tuple(facts["mean"]),
            sd=tuple(facts["sd"]),
            store=store,
        )

    def array(self, level: int = 0) -> Any:
        """The zarr array (gene, row, column) float16 of a pyramid level."""
        return self.store._array(f"{NAME}/{level}")

    def pyramid(self) -> list[Any]:
        """The zarr arrays of all levels; they lie where those of `probabilities` do (`store.placement_um`)."""
        return [self.array(level) for level in range(self.store.grid.levels("probabilities"))]

    def index(self, gene: str) -> int:
        """Where a gene stands; raises UnknownName."""
        if gene not in self.genes:
            raise UnknownName("gene in this prediction", gene, self.genes)
        return self.genes.index(gene)

    def gene(self, name: str, level: int = 0) -> NDArray[np.float32]:
        """(row, column) one gene's predicted values, NaN where nothing is predicted."""
        return self._masked(np.asarray(self.array(level)[self.index(name)], dtype=np.float32), level)

    def pathway(self, name: str, level: int = 0) -> NDArray[np.float32]:
        """(row, column) the mean z-score of a pathway's genes, NaN where nothing is predicted; raises UnknownName."""
        if name not in self.pathways:
            raise UnknownName("pathway in this prediction", name, self.pathways)
        total: NDArray[np.float32] = np.zeros(self.array(level).shape[1:], dtype=np.float32)
        members = self.pathways[name]
        for index in members:
            total += (np.asarray(self.array(level)[index], dtype=np.float32) - self.mean[index]) / self.sd[index]
        return self._masked(np.asarray(total / max(len(members), 1), np.float32), level)

    def _masked(self, values: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        labels = np.asarray(self.store.array("classes", level)[:])
        return np.where(labels > 0, values, np.nan).astype(np.float32)

    def at(self, x_px0: float, y_px0: float, gene: str) -> float | None:
        """A gene's value at a point in level-0 pixels, or None where nothing is predicted."""
        cell = self.store.grid.cell_at(x_px0, y_px0)
        if cell is None or not int(self.store.labels[cell]):
            return None
        return float(self.array()[(self.index(gene), *cell)])

    def table(self) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.intp]]:
        """(n, genes) values of the predicted tiles, (n, 2) their centres in level-0 pixels, (n, 2) their cells."""
        cells = np.argwhere(np.asarray(self.store.labels[:]) > 0)
        grid = self.store.grid
        centres = np.asarray(grid.origin_px0) + cells[:, ::-1] * np.asarray(grid.stride_px0)
        centres = centres + np.asarray(grid.tile_px0) / 2
        values = np.empty((len(cells), len(self.genes)), dtype=np.float32)
        for index in range(len(self.genes)):
            values[:, index] = np.asarray(self.array()[index])[cells[:, 0], cells[:, 1]]
        return values, centres, cells


def write_expression(
    store: PredictionStore,
    values: NDArray[np.float32],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    facts: dict[str, Any],
) -> None:
    """Put predicted expression into a store whose labels say which cells are predicted.

    The arrays appear whole, by one rename; a half-written layer is never seen.

    Parameters
    ----------
    values : (n, genes) of tiles, on the scale of the table.
    row, column : (n,) cells of the tiles.
    facts : what the attribute `pathotune` says of it: genes, r, r_of, r_samples, unit, pathways, mean, sd.

    Raises
    ------
    OutputRefused : the disk refuses.
    """
    import zarr

    grid, genes = store.grid, values.shape[1]
    temporary = store.path / f".{NAME}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(store.path):
        zarr.create_group(str(temporary), attributes={"ome": _ome(store, facts["genes"])})
        arrays = [
            _array(temporary / str(level), genes, grid.shape("probabilities", level))
            for level in range(grid.levels("probabilities"))
        ]
        part = -(-genes // FILES)
        for start in range(0, genes, part):
            stop = min(start + part, genes)
            sums = np.zeros((stop - start, grid.rows, grid.columns), dtype=np.float32)
            sums[:, row, column] = values[:, start:stop].T
            counts = np.zeros((grid.rows, grid.columns), dtype=np.float32)
            counts[row, column] = 1
            for level, array in enumerate(arrays):
                if level:
                    sums, counts = _halved(sums), _halved(counts[None])[0]
                shape = grid.shape("probabilities", level)
                mean = sums[:, : shape[0], : shape[1]] / np.maximum(counts[: shape[0], : shape[1]], 1)
                array[start:stop] = mean.astype(np.float16)
        shutil.rmtree(store.path / NAME, ignore_errors=True)
        os.replace(temporary, store.path / NAME)
    store._arrays = {name: array for name, array in store._arrays.items() if not name.startswith(f"{NAME}/")}
    store.attrs[NAME] = facts
    store.save_attributes()


def _array(path: Path, genes: int, shape: tuple[int, int]) -> Any:
    import zarr
    from zarr.codecs import ZstdCodec

    chunk = tuple(min(CHUNK, side) for side in shape)
    shard = (-(-genes // FILES), *(-(-side // part) * part for side, part in zip(shape, chunk, strict=True)))
    return zarr.create_array(
        str(path),
        shape=(genes, *shape),
        dtype="float16",
        chunks=(1, *chunk),
        shards=shard,
        fill_value=0,
        compressors=[ZstdCodec(level=3, checksum=True)],
        dimension_names=("gene", "y", "x"),
    )


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(k, rows, columns) sums of two by two."""
    rows, columns = (side + side % 2 for side in values.shape[1:])
    padded = np.zeros((values.shape[0], rows, columns), dtype=np.float32)
    padded[:, : values.shape[1], : values.shape[2]] = values
    return np.asarray(padded.reshape(len(values), rows // 2, 2, columns // 2, 2).sum(axis=(2, 4)))


def _ome(store: PredictionStore, genes: Sequence[str]) -> dict[str, Any]:
    """OME-Zarr 0.5's attribute; the axis of genes is one of channels."""
    datasets = []
    for level in range(store.grid.levels("probabilities")):
        scale, translate = store.placement_um("probabilities", level)
        steps = [
            {"type": "scale", "scale": [1.0, *scale]},
            {"type": "translation", "translation": [0.0, *translate]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    axes = [{"name": "c", "type": "channel"}, *space]
    return {
        "version": "0.5",
        "multiscales": [{"name": NAME, "axes": axes, "datasets": datasets, "type": "mean of values"}],
        "omero": {"channels": [{"label": gene} for gene in genes]},
    }


def _layer_of(store: PredictionStore) -> ExpressionLayer:
    layer = ExpressionLayer.of(store)
    if layer is None:
        raise StoreMismatch(
            f"{store.path.name} holds no predicted expression; predict with a transcriptomics tuning first."
        )
    return layer


def export_h5ad(store: PredictionStore, out: Path) -> None:
    """The layer as AnnData writes it: tiles × genes, places in µm and in level-0 pixels, each gene's correlation.

    Raises
    ------
    StoreMismatch : the store holds no expression.
    MissingPackage : anndata is not installed.
    """
    layer = _layer_of(store)
    try:
        import anndata
    except ImportError:
        raise MissingPackage("anndata", "Writing h5ad", 'pip install "pathotune[omics]"') from None
    import pandas

    from pathotune.inference.provenance import provenance_of

    values, centres, cells = layer.table()
    obs = pandas.DataFrame(
        {"x_px0": centres[:, 0], "y_px0": centres[:, 1], "row": cells[:, 0], "column": cells[:, 1]},
        index=[f"{row}_{column}" for row, column in cells.tolist()],
    )
    scores = [np.nan if value is None else value for value in layer.r]
    var = pandas.DataFrame({"r": scores, "mean": layer.mean, "sd": layer.sd}, index=list(layer.genes))
    data = anndata.AnnData(values, obs=obs, var=var)
    data.obsm["spatial"] = centres * np.asarray(store.grid.mpp)
    data.uns["pathotune"] = {
        "unit": layer.unit,
        "r_of": layer.r_of,
        "r_samples": layer.r_samples,
        "predicted": "from the image alone; not measured",
        "provenance": json.dumps(provenance_of(store), ensure_ascii=False),
    }
    data.write_h5ad(out)


def export_csv(store: PredictionStore, out: Path) -> None:
    """A row a tile: its centre in level-0 pixels, then a column a gene."""
    import csv

    layer = _layer_of(store)
    values, centres, _ = layer.table()
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["x_px0", "y_px0", *layer.genes])
        for (x, y), row in zip(centres.tolist(), values, strict=True):
            writer.writerow([f"{x:.2f}", f"{y:.2f}", *(f"{value:.5g}" for value in row)])
