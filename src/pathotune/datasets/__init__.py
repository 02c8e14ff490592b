"""Tables of samples that others made: tiles with labels, and later cohorts and expression."""

from __future__ import annotations

from pathotune.datasets.tiles import TileTable, read_tile_table

__all__ = ["TileTable", "read_tile_table"]
