"""Whether the metadata of a store are such as we write: a store may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FORMAT = 1
REQUIRED = ("grid", "identity", "classes", "sources", "state", "shards")
MOST_CELLS = 2**40


def fault_of(attributes: Mapping[str, Any]) -> str:
    """What is wrong with a store's attribute `pathotune`, in a few words; "" where nothing is."""
    lacking = [key for key in REQUIRED if key not in attributes]
    if lacking:
        return f"lacks {lacking[0]}"
    checks = {
        "format": _is_count(attributes.get("format", 0)),
        "identity": isinstance(attributes["identity"], dict),
        "classes": _are_classes(attributes["classes"]),
        "sources": _are_names(attributes["sources"]),
        "reliability": _are_names(attributes.get("reliability", [])),
        "features": _is_count(attributes.get("features", 0)),
        "state": isinstance(attributes["state"], str),
        "shards": _are_shards(attributes["shards"]),
        "grid": _is_grid(attributes["grid"]),
    }
    return next((f"has no usable {key}" for key, is_good in checks.items() if not is_good), "")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_classes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value)
    )


def _are_shards(value: Any) -> bool:
    return isinstance(value, dict) and all(
        index.isdecimal()
        and isinstance(shard, dict)
        and shard.get("state") in ("done", "partial")
        and _is_count(shard.get("tiles"))
        for index, shard in value.items()
    )


def _is_grid(value: Any) -> bool:
    if not isinstance(value, dict) or not {"rows", "columns", "origin_px0", "tile_px0", "stride_px0", "mpp"} <= set(
        value
    ):
        return False
    pairs = [value[name] for name in ("origin_px0", "tile_px0", "stride_px0", "mpp")]
    pairs.append(value.get("patches", [0, 0]))
    rows, columns = value["rows"], value["columns"]
    return (
        set(value) <= {"rows", "columns", "origin_px0", "tile_px0", "stride_px0", "mpp", "patches"}
        and _is_count(rows)
        and _is_count(columns)
        and 0 < rows * columns <= MOST_CELLS
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs)
        and all(number > 0 for pair in pairs[1:4] for number in pair)
        and all(map(_is_count, pairs[4]))
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )
