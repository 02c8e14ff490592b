"""The matrix of counts as 10x's Space Ranger writes it: HDF5, or a folder of matrix, barcodes and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pathotune.datasets.expression import Expression
from pathotune.datasets.genes import harmonised
from pathotune.errors import TableUnreadable

MATRICES = ("filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5")
FOLDERS = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")


def visium_matrix(folder: Path) -> Expression | None:
    """The counts of a Visium folder, genes only; None where it holds none.

    Raises
    ------
    TableUnreadable : a file is missing or is not what 10x writes; it is named.
    """
    file = next((folder / name for name in MATRICES if (folder / name).is_file()), None)
    if file is not None:
        return _matrix_h5(file)
    inner = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
    return None if inner is None else _matrix_mtx(inner)


def _matrix_h5(path: Path) -> Expression:
    """10x's HDF5: a matrix genes × barcodes by columns, which is barcodes × genes by rows."""
    import h5py
    from scipy import sparse

    try:
        with h5py.File(path, "r") as file:
            group = file["matrix"]
            genes, barcodes = (int(size) for size in group["shape"][:])
            parts = (group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:])
            names = [value.decode() for value in group["barcodes"][:]]
            ids = [value.decode() for value in group["features"]["id"][:]]
            symbols = [value.decode() for value in group["features"]["name"][:]]
            kinds = [value.decode() for value in group["features"]["feature_type"][:]]
    except (OSError, KeyError, ValueError) as error:
        raise TableUnreadable(f"{path.name} is no matrix as 10x writes it ({error}); copy it again.") from None
    values = sparse.csr_matrix(parts, shape=(barcodes, genes))
    return _gene_expression(path, values, names, ids, symbols, kinds)


def _matrix_mtx(folder: Path) -> Expression:
    """The same as text: matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), gzipped or not."""
    import gzip

    from scipy import io

    def found(*names: str) -> Path:
        for name in names:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
        raise TableUnreadable(
            f"{folder} has no {names[0]}; a 10x matrix has matrix.mtx, barcodes.tsv and features.tsv."
        )

    def lines(path: Path) -> list[list[str]]:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]

    path = found("matrix.mtx")
    try:
        values = io.mmread(str(path)).T.tocsr().astype(np.float32)
    except (ValueError, OSError) as error:
        raise TableUnreadable(f"{path.name} of {folder.name} is no matrix ({error}); copy it again.") from None
    names = [line[0] for line in lines(found("barcodes.tsv"))]
    features = lines(found("features.tsv", "genes.tsv"))
    if values.shape != (len(names), len(features)):
        raise TableUnreadable(
            f"{folder.name}: the matrix has {values.shape[1]} genes and {values.shape[0]} barcodes, but the lists "
            f"beside it name {len(features)} and {len(names)}; copy all three again."
        )
    kinds = [line[2] if len(line) > 2 else "Gene Expression" for line in features]
    return _gene_expression(path, values, names, [line[0] for line in features], [line[1] for line in features], kinds)


def _gene_expression(
    path: Path, values: Any, names: list[str], ids: list[str], symbols: list[str], kinds: list[str]
) -> Expression:
    """Only genes (no antibodies), by their symbols; symbols that come twice are told apart by their id."""
    keep = [index for index, kind in enumerate(kinds) if kind == "Gene Expression"]
    counted: dict[str, int] = {}
    for index in keep:
        counted[symbols[index]] = counted.get(symbols[index], 0) + 1
    genes = [symbols[i] if counted[symbols[i]] == 1 else harmonised(ids[i]) for i in keep]
    said = []
    if len(keep) < len(kinds):
        said.append(f"{len(kinds) - len(keep)} features of {path.name} are no genes and were left out.")
    return Expression(
        values[:, keep],
        tuple(names),
        tuple(genes),
        tuple(harmonised(ids[index]) for index in keep),
        source=str(path),
        warnings=tuple(said),
    )
