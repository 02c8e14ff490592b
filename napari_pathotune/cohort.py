"""A table of slides as a tuning would learn from it, in words, and the job that starts it: no viewer, no Qt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pathotune.plan import free_path

if TYPE_CHECKING:
    from pathotune.datasets.cohort import Cohort
    from pathotune.execution.job import Job

# What belongs to a cohort beside its table: argument of the job, what it is called, and whether it is a folder.
COMPANIONS = (
    ("features", "Tile features", "A folder of features that are there already; without it they are extracted.", True),
    ("expression", "Expression", "Gene expression of the patients or spots (csv, tsv, gz, h5ad).", False),
    ("pathways", "Pathways", "Gene sets (gmt or csv).", False),
    ("clinical", "Clinical", "Clinical columns of the patients.", False),
)


@dataclass(frozen=True)
class CohortPlan:
    """The table and what belongs to it.

    companions : path by the names in `COMPANIONS`.
    """

    cohort: Cohort
    companions: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> str:
        """What the table holds, in one or two sentences."""
        table = self.cohort
        parts = [f"{len(table)} slides of {len(set(table.patients))} patients"]
        labels = Counter(label for label in table.labels if label is not None)
        if labels:
            parts.append(", ".join(f"{name} {labels[name]}" for name in table.classes))
        if table.has_survival:
            parts.append("with survival")
        splits = Counter(split for split in table.split if split)
        counts = ", ".join(f"{name} {count}" for name, count in splits.items())
        return "; ".join(parts) + "." + (f" Split in the table: {counts}." if counts else "")

    def suggested_name(self, method: str, backbone: str) -> str:
        """A name for the tuning from the table's."""
        stem = self.cohort.path.stem if self.cohort.path is not None else "cohort"
        return f"{stem}-{method}-{backbone}"

    def job(self, name: str, arguments: dict[str, Any]) -> Job:
        """The tuning as data.

        Parameters
        ----------
        name : of the tuning file; a number is added where it is taken.
        arguments : `method`, `config`, `backbone` and `training` as a tune job takes them.
        """
        from pathotune.execution.job import Job

        companions = {key: str(path) for key, path in self.companions.items()}
        out = free_path(name)
        return Job("tune", {"cohort": str(self.cohort.path), **companions, **arguments, "out": str(out)})


def said_of(result: dict[str, Any]) -> list[str]:
    """The sentences a finished tuning on a cohort says of itself."""
    said = [str(line) for line in result.get("said") or ()]
    if result.get("out"):
        said.append(f"Saved as {Path(str(result['out'])).name}.")
    return said
