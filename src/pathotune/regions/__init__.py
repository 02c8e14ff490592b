"""From what a person drew to tiles with a class: reading, writing, laying tiles and splitting them."""

from __future__ import annotations

from pathotune.regions.geojson import write_regions
from pathotune.regions.labelled import LabelledTiles, RegionReport, merge_tiles, why_no_tiles
from pathotune.regions.reading import read_regions
from pathotune.regions.region import Region, Regions, parse_class_map
from pathotune.regions.sampling import label_tiles
from pathotune.regions.split import Split, split_groups, split_tiles

__all__ = [
    "LabelledTiles",
    "Region",
    "RegionReport",
    "Regions",
    "Split",
    "label_tiles",
    "merge_tiles",
    "parse_class_map",
    "read_regions",
    "split_groups",
    "split_tiles",
    "why_no_tiles",
    "write_regions",
]
