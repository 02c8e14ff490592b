"""From a slide to the tiles a model sees: what a tile is, where tiles lie, and how they are read ahead of the model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathotune.tiles.grid import tile_grid
    from pathotune.tiles.reader import TileReader
    from pathotune.tiles.stain import StainNormaliser
    from pathotune.tiles.tileset import LEVEL_RULE, Reading, TileSet
    from pathotune.tiles.tissue import TissueMask, tissue_mask

_HOMES = {
    "LEVEL_RULE": "pathotune.tiles.tileset",
    "Reading": "pathotune.tiles.tileset",
    "TileSet": "pathotune.tiles.tileset",
    "TissueMask": "pathotune.tiles.tissue",
    "tissue_mask": "pathotune.tiles.tissue",
    "tile_grid": "pathotune.tiles.grid",
    "TileReader": "pathotune.tiles.reader",
    "StainNormaliser": "pathotune.tiles.stain",
}

__all__ = [
    "LEVEL_RULE",
    "Reading",
    "StainNormaliser",
    "TileReader",
    "TileSet",
    "TissueMask",
    "tile_grid",
    "tissue_mask",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
