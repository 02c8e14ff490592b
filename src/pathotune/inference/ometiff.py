"""A store's values as OME-TIFF, for programs that read no OME-Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.inference.provenance import provenance_of

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore


def write_ome_tiff(store: PredictionStore, labels: NDArray[np.uint8], names: list[str], path: Path) -> None:
    """Write the probability of each class (c, y, x) and, as a second picture, which class is taken (y, x).

    A pixel is one cell of the grid; its size stands in micrometres, and where the first one's centre lies on the slide.

    Parameters
    ----------
    labels : (rows, columns) number of the class from 1 on, 0 where nothing is predicted.
    names : of these numbers.
    """
    import tifffile

    (dy, dx), (y, x) = store.placement_um("probabilities")
    place = {"PhysicalSizeX": dx, "PhysicalSizeY": dy, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    values = np.asarray(store.probabilities[:], np.float32)

    def planes(count: int) -> dict[str, Any]:
        unit = ["µm"] * count
        return {"PositionX": [x] * count, "PositionY": [y] * count, "PositionXUnit": unit, "PositionYUnit": unit}

    said = {f"class {number}": name for number, name in enumerate(names, start=1)}
    said["pathotune"] = json.dumps(provenance_of(store), ensure_ascii=False)
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "tile": (256, 256)}
    with tifffile.TiffWriter(path, ome=True, bigtiff=values.nbytes > 2**31) as file:
        about = {"axes": "CYX", "Name": "probabilities", **place, "Plane": planes(len(values))}
        file.write(values, metadata={**about, "Channel": {"Name": store.class_names}, "MapAnnotation": said}, **options)
        file.write(labels, metadata={"axes": "YX", "Name": "classes", **place, "Plane": planes(1)}, **options)
