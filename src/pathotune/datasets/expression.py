"""Gene expression of samples or spots: tables of any layout, their common scale, z-scores of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathotune.datasets.genes import gene_likeness, harmonised, named
from pathotune.datasets.matrixtext import layout_of, rows_of
from pathotune.errors import FileMissing, MissingPackage, TableUnreadable, TuningUnreadable

Scale = Literal["counts", "linear", "log"]
LOG_CEILING = 40.0  # log2 of more than 10^12: no table of logarithms goes above it, and every linear one does
SAMPLED_ROWS = 200
BLOCK_COLUMNS = 2048
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "symbol", "feature_name", "gene_name", "gene_names", "hgnc_symbol")
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl")


@dataclass
class Expression:
    """Measured expression, one row a sample (patient, slide or spot) and one column a gene.

    Parameters
    ----------
    values : (samples, genes) float32 array, or a scipy CSR matrix of the same.
    samples, genes : names of the rows and of the columns; genes are symbols, or Ensembl ids without their version.
    gene_ids : Ensembl ids beside the symbols where the source has both, else ().
    source : the file or folder they came from.
    warnings : sentences about what was left out, merged or assumed.
    """

    values: Any
    samples: tuple[str, ...]
    genes: tuple[str, ...]
    gene_ids: tuple[str, ...] = ()
    source: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def is_sparse(self) -> bool:
        """Whether `values` is a scipy matrix."""
        return not isinstance(self.values, np.ndarray)

    @property
    def scale(self) -> Scale:
        """What kind of numbers these are.

        "counts" are whole and not negative, "log" has negative numbers or none above `LOG_CEILING`, "linear" (TPM,
        FPKM) is the rest.
        """
        sampled = self.values[: min(SAMPLED_ROWS, len(self))]
        sampled = sampled.data if self.is_sparse else sampled
        sampled = sampled[np.isfinite(sampled)]
        if not sampled.size:
            return "log"
        if sampled.min() >= 0 and bool((sampled == np.round(sampled)).all()):
            return "counts"
        return "log" if sampled.min() < 0 or sampled.max() <= LOG_CEILING else "linear"

    def row_of(self) -> dict[str, int]:
        """Row index of each sample's name."""
        return {name: index for index, name in enumerate(self.samples)}

    def column_of(self) -> dict[str, int]:
        """Column index of each gene, by its name and by its Ensembl id where one is known."""
        columns = {name: index for index, name in enumerate(self.gene_ids) if name}
        columns.update({name: index for index, name in enumerate(self.genes)})
        return columns

    def take(self, rows: Iterable[int]) -> Expression:
        """The samples at `rows`."""
        index = [int(row) for row in rows]
        return replace(self, values=self.values[index], samples=tuple(self.samples[row] for row in index))

    def columns(self, index: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """(samples, len(index)) the columns at `index`, as an array."""
        part = self.values[:, np.asarray(index, dtype=np.int64)]
        return np.asarray(part.toarray() if self.is_sparse else part, dtype=np.float32)

    def totals(self) -> NDArray[np.float64]:
        """(samples,) sum over all genes; missing values count as nothing."""
        if self.is_sparse:
            return np.asarray(self.values.sum(axis=1), dtype=np.float64).ravel()
        totals = np.zeros(len(self), dtype=np.float64)
        for start in range(0, len(self.genes), BLOCK_COLUMNS):
            totals += np.nansum(self.values[:, start : start + BLOCK_COLUMNS], axis=1, dtype=np.float64)
        return totals


# -- reading ----------------------------------------------------------------------------------------------------------


def read_expression(
    path: str | Path, *, samples: Iterable[str] = (), only: Callable[[str], bool] | None = None
) -> Expression:
    """Read a table of expression, whichever way round it stands.

    Parameters
    ----------
    path : .csv, .tsv or .txt (each also .gz), or .h5ad. The first column of a text table names its rows; columns that
        hold words are left out.
    samples : names that are known to be samples (a cohort's); they decide what is a row, before any guess by the names
        of genes.
    only : says of a sample's name whether it is wanted; the others take no memory.

    Returns
    -------
    Expression
        Rows are samples. Values are as they stand in the file; see `GeneScaler` for what makes them comparable.

    Raises
    ------
    FileMissing : no such file.
    TableUnreadable : it is no table of numbers, a row is too short or too long, or a sample's name comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileMissing(path, "expression table")
    if path.suffix.lower() in {".h5ad", ".h5"}:
        made = _read_h5ad(path)
        return made if only is None else made.take(row for row, name in enumerate(made.samples) if only(name))
    return _read_text(path, frozenset(samples), only or (lambda name: True))


def _read_text(path: Path, samples: frozenset[str], only: Callable[[str], bool]) -> Expression:
    layout = layout_of(path)
    header = [layout.header[index] for index in layout.numeric]
    genes_in_columns, said = _genes_are_columns(header, layout.first_names, samples)
    wanted = [index for index, name in enumerate(header) if genes_in_columns or only(name)]
    header = [header[index] for index in wanted]
    shape = (layout.rows, len(header)) if genes_in_columns else (len(header), layout.rows)
    values = np.empty(shape, dtype=np.float32)  # what is never written to takes no memory
    names: list[str] = []
    for name, numbers in rows_of(path, layout):
        if genes_in_columns and not only(name):
            continue
        if genes_in_columns:
            values[len(names)] = numbers
        else:
            values[:, len(names)] = numbers[wanted]
        names.append(name)
    values = values[: len(names)] if genes_in_columns else values
    warnings = list(said)
    if layout.words:
        warnings.append(f"{path.name}: columns that hold no numbers were left out: {named(layout.words)}.")
    rows, columns = (names, header) if genes_in_columns else (header, names)
    return _made(values, rows, columns, (), path, warnings)


def _genes_are_columns(header: list[str], rows: list[str], samples: frozenset[str]) -> tuple[bool, list[str]]:
    """Whether the columns are the genes, and what to say where it is a guess."""
    if samples:
        in_rows, in_columns = (sum(name in samples for name in names) for names in (rows, header))
        if in_rows or in_columns:
            return in_rows >= in_columns, []
    columns, lines = gene_likeness(header), gene_likeness(rows)
    if columns == lines:
        return True, [
            "Neither the columns nor the rows look like names of genes; the columns were taken for the genes."
        ]
    return columns > lines, []


def _read_h5ad(path: Path) -> Expression:
    try:
        import anndata
    except ImportError:
        raise MissingPackage("anndata", f"Reading {path.name}", 'pip install "pathotune[omics]"') from None
    from scipy import sparse

    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # anndata raises what h5py, zarr and its own registry raise
        raise TableUnreadable(
            f"{path.name} cannot be read as h5ad ({error}). Write it again with AnnData.write_h5ad; a 10x matrix "
            "(filtered_feature_bc_matrix.h5) is read with its whole Visium folder."
        ) from None
    matrix = data.layers.get("counts", data.X)
    if matrix is None:
        raise TableUnreadable(f"{path.name} holds no values (X is empty); write it again with its expression.")
    names = [str(name) for name in data.var_names]
    other = _first_column(data.var, SYMBOL_COLUMNS)
    ids = _first_column(data.var, ID_COLUMNS) or []
    if other is not None and gene_likeness(names[:SAMPLED_ROWS]) >= 1 and all(n.startswith("ENS") for n in names[:20]):
        names, ids = [symbol or name for symbol, name in zip(other, names, strict=True)], names
    values = matrix.astype(np.float32)
    values = values.tocsr() if sparse.issparse(values) else np.asarray(values, dtype=np.float32)
    said = [f"{path.name}: the layer 'counts' was taken, not X."] if "counts" in data.layers else []
    return _made(values, [str(name) for name in data.obs_names], names, ids, path, said)


def _first_column(frame: Any, wanted: Sequence[str]) -> list[str] | None:
    """The first of those columns as text, or None."""
    for column in frame.columns:
        if str(column).casefold() in wanted:
            return [str(value) if value == value else "" for value in frame[column]]
    return None


def _made(
    values: Any, rows: Sequence[str], columns: Sequence[str], ids: Sequence[str], path: Path, said: Sequence[str]
) -> Expression:
    """The expression with harmonised names; genes that come twice are merged."""
    doubled = sorted({name for name in rows if rows.count(name) > 1}) if len(set(rows)) < len(rows) else []
    if doubled:
        raise TableUnreadable(
            f"{path.name} names {named(doubled)} more than once; every sample needs a name of its own."
        )
    genes = [harmonised(name) for name in columns]
    made = Expression(
        values, tuple(rows), tuple(genes), tuple(harmonised(i) for i in ids), source=str(path), warnings=tuple(said)
    )
    return made if len(set(genes)) == len(genes) else _merged(made, path)


def renamed(expression: Expression, genes: Sequence[str]) -> Expression:
    """The same with other names for the genes (in their order); genes that now share a name are merged."""
    made = replace(expression, genes=tuple(genes))
    return made if len(set(genes)) == len(genes) else _merged(made, Path(expression.source))


def _merged(expression: Expression, path: Path) -> Expression:
    """Columns of one name made one: counts and linear values are added, logarithms averaged."""
    from scipy import sparse

    unique = list(dict.fromkeys(expression.genes))
    place = {name: index for index, name in enumerate(unique)}
    target = np.asarray([place[name] for name in expression.genes])
    weights = np.ones(len(target), dtype=np.float32)
    way = "averaged" if expression.scale == "log" else "added"
    if way == "averaged":
        weights /= np.bincount(target)[target].astype(np.float32)
    gather = sparse.csr_matrix((weights, (np.arange(len(target)), target)), shape=(len(target), len(unique)))
    ids = dict(zip(reversed(expression.genes), reversed(expression.gene_ids), strict=False))
    merged = expression.values @ gather
    return replace(
        expression,
        values=merged.tocsr() if expression.is_sparse else np.asarray(merged, dtype=np.float32),
        genes=tuple(unique),
        gene_ids=tuple(ids[name] for name in unique) if expression.gene_ids else (),
        warnings=(
            *expression.warnings,
            f"{path.name}: {len(target) - len(unique)} columns had the name of another gene and were {way} to it.",
        ),
    )


# -- what makes samples and genes comparable --------------------------------------------------------------------------


def log_normalised(
    expression: Expression, columns: Sequence[int] | NDArray[np.int64], scale: Scale, total: float
) -> NDArray[np.float32]:
    """Values on the common scale: counts → size factors → log1p; linear → log1p; logarithms as they are.

    Parameters
    ----------
    expression : the table; a size factor is a sample's sum over all of its genes divided by `total`.
    columns : which genes.
    scale : what kind of numbers they are (of the training table, so that all tables of one tuning are treated alike).
    total : the sum to which samples are brought, with counts.

    Returns
    -------
    (samples, len(columns)) float32.
    """
    values = expression.columns(columns)
    if scale == "log":
        return values
    if scale == "counts":
        totals = expression.totals()
        factors = np.where(totals > 0, totals / total, 1.0)
        values /= factors[:, None].astype(np.float32)
    result: NDArray[np.float32] = np.log1p(np.maximum(values, 0.0), dtype=np.float32)
    return result


def typical_total(expression: Expression, rows: Sequence[int] | None = None) -> float:
    """Median sum over genes of the samples at `rows` that have any; 1 where none has."""
    totals = expression.totals()
    totals = totals if rows is None else totals[list(rows)]
    totals = totals[totals > 0]
    return float(np.median(totals)) if totals.size else 1.0


def gene_statistics(
    expression: Expression, rows: Sequence[int] | None = None, scale: Scale | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and share of values above zero of every gene, on the common scale, over `rows`.

    `scale` says how to treat the numbers where it shall not be told from them: "linear" leaves counts without size
    factors.

    Missing values are passed over; a gene without any has mean 0, deviation 0 and share 0. Each is (genes,).
    """
    chosen = expression if rows is None else expression.take(rows)
    scale, total = scale or chosen.scale, typical_total(chosen)
    genes = len(expression.genes)
    mean, deviation, share = (np.zeros(genes) for _ in range(3))
    for start in range(0, genes, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, genes)
        block = log_normalised(chosen, np.arange(start, stop), scale, total).astype(np.float64)
        known = np.isfinite(block)
        count = np.maximum(known.sum(axis=0), 1)
        block[~known] = 0.0
        mean[start:stop] = block.sum(axis=0) / count
        off = np.where(known, block - mean[start:stop], 0.0)
        deviation[start:stop] = np.sqrt((off**2).sum(axis=0) / count)
        share[start:stop] = (block > 0).sum(axis=0) / count
    return mean, deviation, share


def variable_genes(
    expression: Expression,
    count: int = 1000,
    rows: Sequence[int] | None = None,
    least_share: float = 0.1,
    scale: Scale | None = None,
) -> tuple[str, ...]:
    """The genes that vary most over `rows` on the common scale, most variable first.

    Parameters
    ----------
    count : how many; fewer where fewer vary.
    rows : the training samples; all where None. Never give rows that are judged later.
    least_share : genes above zero in a smaller share of the samples are passed over (not for tables of logarithms,
        whose zero means nothing): on spots the largest variance is otherwise that of single drop-outs.
    """
    _, deviation, share = gene_statistics(expression, rows, scale)
    chosen = expression if rows is None else expression.take(rows)
    allowed = deviation > CONSTANT if chosen.scale == "log" else (deviation > CONSTANT) & (share >= least_share)
    order = np.argsort(-deviation, kind="stable")
    return tuple(expression.genes[index] for index in order if allowed[index])[:count]


CONSTANT = 1e-6
MOST_MISSING = 0.5


@dataclass(frozen=True)
class GeneScaler:
    """Mean and spread of each gene over the training rows: what a tuning keeps to read any later table alike.

    Parameters
    ----------
    genes : the genes, in the order of every array of theirs.
    mean, sd : (genes,) float32 on the common scale (see `log_normalised`); sd is above 0.
    scale, total : how the training table was brought to that scale.
    constant : genes that were asked for, but do not vary over the training rows; they are not among `genes`.
    unknown : genes that were asked for, but are not in the table.
    """

    genes: tuple[str, ...]
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    scale: Scale = "log"
    total: float = 1.0
    constant: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        expression: Expression,
        rows: Sequence[int] | None = None,
        genes: Iterable[str] | None = None,
        scale: Scale | None = None,
    ) -> GeneScaler:
        """Learn from the training rows alone.

        Parameters
        ----------
        expression : the table.
        rows : the training samples; all where None.
        genes : which genes (names or Ensembl ids of the table); all where None.
        scale : how to treat the numbers where it shall not be told from them: "linear" leaves counts without size
            factors.

        Raises
        ------
        TableUnreadable : none of the genes is in the table and varies.
        """
        wanted = expression.genes if genes is None else tuple(dict.fromkeys(genes))
        columns = expression.column_of()
        unknown = tuple(name for name in wanted if name not in columns)
        known = [name for name in wanted if name in columns]
        chosen = expression if rows is None else expression.take(rows)
        mean, deviation, _ = gene_statistics(chosen, scale=scale)
        varies = [name for name in known if deviation[columns[name]] > CONSTANT]
        if not varies:
            raise TableUnreadable(
                f"None of the {len(wanted)} genes asked for varies over the {len(chosen)} training samples of "
                f"{Path(expression.source).name or 'the table'} ({len(unknown)} are not in it at all). "
                "Check the names of the genes and of the samples."
            )
        index = [columns[name] for name in varies]
        still = tuple(name for name in known if deviation[columns[name]] <= CONSTANT)
        numbers = (mean[index].astype(np.float32), deviation[index].astype(np.float32))
        return cls(tuple(varies), *numbers, scale or chosen.scale, typical_total(chosen), still, unknown)

    def present(self, expression: Expression) -> NDArray[np.bool_]:
        """(genes,) which of the genes that table has."""
        columns = expression.column_of()
        return np.asarray([name in columns for name in self.genes], dtype=bool)

    def apply(self, expression: Expression) -> NDArray[np.float32]:
        """(samples, genes) z-scores of another table; NaN where it lacks a gene or a value.

        Raises
        ------
        TableUnreadable : it lacks more than half of the genes, or holds another kind of numbers.
        """
        where = Path(expression.source).name or "The table"
        has = self.present(expression)
        if has.mean() < 1 - MOST_MISSING:
            raise TableUnreadable(
                f"{where} lacks {int((~has).sum())} of the {len(has)} genes of the tuning (for example "
                f"{named([name for name, there in zip(self.genes, has, strict=True) if not there])}); "
                "are its genes named as in the training (symbols or Ensembl ids)?"
            )
        own = expression.scale
        if own != self.scale and "log" in (own, self.scale):
            words = {"counts": "counts", "linear": "values such as TPM or FPKM", "log": "logarithms"}
            raise TableUnreadable(
                f"{where} holds {words[own]}, but the tuning was made on {words[self.scale]}; give a table of the same."
            )
        columns = expression.column_of()
        index = [columns[name] for name, there in zip(self.genes, has, strict=True) if there]
        values = log_normalised(expression, index, self.scale, self.total)
        scores = np.full((len(expression), len(self.genes)), np.nan, dtype=np.float32)
        scores[:, has] = (values - self.mean[has]) / self.sd[has]
        return scores

    def undo(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Z-scores (…, genes) back on the common scale."""
        return np.asarray(scores * self.sd + self.mean, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts; mean and sd are the tensors of `tensors`."""
        return {
            "names": list(self.genes),
            "scale": self.scale,
            "total": self.total,
            "constant": list(self.constant),
            "unknown": list(self.unknown),
        }

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The numbers a tuning file keeps beside `to_dict`."""
        return {"genes.mean": self.mean, "genes.sd": self.sd}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> GeneScaler:
        """Make it again from `to_dict` and `tensors`.

        Raises
        ------
        TuningUnreadable : something is missing or does not fit together.
        """
        try:
            made = cls(
                tuple(str(name) for name in data["names"]),
                np.asarray(tensors["genes.mean"], dtype=np.float32),
                np.asarray(tensors["genes.sd"], dtype=np.float32),
                data.get("scale", "log"),
                float(data.get("total", 1.0)),
                tuple(data.get("constant", ())),
                tuple(data.get("unknown", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TuningUnreadable(f"The tuning's genes cannot be read ({error!r}); copy or make it again.") from None
        if not len(made.genes) == len(made.mean) == len(made.sd):
            raise TuningUnreadable("The tuning's genes and their means do not have the same number; make it again.")
        return made
