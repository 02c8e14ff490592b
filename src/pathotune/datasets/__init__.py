"""Tables of samples that others made: tiles with labels, cohorts of slides, expression and pathways."""

from __future__ import annotations

from pathotune.datasets.cohort import Cohort, CohortInputs, read_cohort
from pathotune.datasets.tiles import TileTable, read_tile_table

__all__ = ["Cohort", "CohortInputs", "TileTable", "read_cohort", "read_tile_table"]
