"""A file of resources/, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pathotune.errors import FileMissing


@cache
def resource_root() -> Path:
    """The folder that holds the resources."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "_resources", here.parents[1] / "resources"):
        if candidate.is_dir():
            return candidate
    raise FileMissing(here / "_resources", "resources folder")


def resource(*parts: str) -> Path:
    """The path of one resource, for example `resource("tasks", "tumour.yaml")`; raises FileMissing."""
    path = resource_root().joinpath(*parts)
    if not path.exists():
        raise FileMissing(path, "resource")
    return path
