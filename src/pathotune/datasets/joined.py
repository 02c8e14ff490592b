"""The files of a joined cohort: expression as AnnData or as a table, and text, each whole or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pathotune.datasets.expression import Expression
from pathotune.errors import MissingPackage, OutputRefused


def write_h5ad(table: Expression, path: Path, unit: Mapping[str, str]) -> Path:
    """Write expression as AnnData: samples × genes, with the unit in `uns`; the values are not copied.

    Raises
    ------
    MissingPackage : anndata is not installed.
    OutputRefused : the file cannot be written.
    """
    try:
        import anndata
    except ImportError:
        raise MissingPackage(
            "anndata",
            "Writing expression as h5ad",
            'pip install "pathotune[omics]" (or choose --expression-format csv.gz)',
        ) from None
    import pandas

    names = pandas.DataFrame(index=pandas.Index(table.samples, dtype=object))
    genes = pandas.DataFrame(index=pandas.Index(table.genes, dtype=object))
    if table.gene_ids:
        genes["gene_ids"] = list(table.gene_ids)
    data = anndata.AnnData(table.values, obs=names, var=genes)
    data.uns["unit"] = unit.get("unit", "unknown")
    return write_whole(path, data.write_h5ad)


def write_csv_gz(table: Expression, path: Path, unit: Mapping[str, str]) -> Path:
    """Write expression as a gzipped table, a row a sample; one row at a time.

    Raises
    ------
    OutputRefused : the file cannot be written.
    """

    def write(target: Path) -> None:
        with gzip.open(target, "wt", encoding="utf-8", newline="", compresslevel=4) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["sample", *table.genes])
            for row, name in enumerate(table.samples):
                numbers = table.columns(range(len(table.genes)))[row] if table.is_sparse else table.values[row]
                writer.writerow([name, *("" if value != value else f"{value:.7g}" for value in numbers.tolist())])

    return write_whole(path, write)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> Path:
    """Write text; raises OutputRefused where that fails."""
    return write_whole(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write beside the target and rename, so that no reader sees half a file."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
