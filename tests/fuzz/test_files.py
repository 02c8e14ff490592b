"""Files of pixels and numbers whose bytes are wrong: slides, tunings, features, stores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pathotune.inference.locations import store_path
from pathotune.inference.predictions import PredictionStore
from pathotune.methods.checkpoint import Tuning
from pathotune.slides import open_slide
from pathotune.tiles.tileset import Reading
from tests.fuzz.conftest import bounded, damaged, documents, sentence


def tiff(**options: Any) -> bytes:
    """A small pyramid."""
    file, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8)
    with tifffile.TiffWriter(file, **options) as writer:
        writer.write(pixels, tile=(32, 32), photometric="rgb", compression="adobe_deflate", subifds=0, metadata=None)
        writer.write(pixels[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1, metadata=None)
    return file.getvalue()


APERIO = "Aperio Image Library v12 \r\n80x96 (32x32) JPEG/RGB Q=85|AppMag = 20|MPP = 0.5"


def svs() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.full((96, 80, 3), 90, np.uint8), tile=(32, 32), photometric="rgb", description=APERIO, metadata=None
    )
    return file.getvalue()


@pytest.mark.parametrize(("name", "content"), [("a.tiff", tiff()), ("b.tif", tiff(bigtiff=True)), ("c.svs", svs())])
def test_slides(watched: Any, name: str, content: bytes) -> None:
    path = watched() / name

    @bounded
    @given(damaged(content))
    def opens_or_says(data: bytes) -> None:
        path.write_bytes(data)
        with sentence(), open_slide(path) as slide:
            json.dumps(slide.to_dict())
            for level in range(len(slide.levels)):
                assert slide.read(0, 0, 40, 40, level=level).shape == (40, 40, 3)

    opens_or_says()


def tuning_bytes(folder: Path) -> bytes:
    tuning = Tuning(
        method="linear_probe",
        config={"views": 1},
        task={},
        classes=[{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": None}],
        backbone={"name": "pathotune-tiny", "sha256": "0" * 64, "embed_dim": 192, "mpp": 0.5},
        reading=Reading(mpp=0.5, tile_px=64, image_px=64),
        tensors={"trained.head": np.ones((2, 3), np.float32)},
    )
    return tuning.save(folder / "t").read_bytes()


def test_tunings(watched: Any) -> None:
    content = tuning_bytes(watched())
    path = watched() / "damaged.pathotune.safetensors"

    @bounded
    @given(damaged(content))
    def loads_or_says(data: bytes) -> None:
        path.write_bytes(data)
        with sentence():
            Tuning.load(path)

    loads_or_says()


def test_tunings_with_odd_descriptions(watched: Any) -> None:
    content = tuning_bytes(watched())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header["__metadata__"]["pathotune"])
    path = watched() / "odd.pathotune.safetensors"

    @bounded
    @given(st.sampled_from(sorted(described)), documents)
    def loads_or_says(key: str, value: Any) -> None:
        text = json.dumps({**described, key: value})
        head = json.dumps({**header, "__metadata__": {"pathotune": text}}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])
        with sentence():
            Tuning.load(path)

    loads_or_says()


@bounded
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_store_lies_in_its_folder_whatever_the_names(slide: str, tuning: str) -> None:
    assert store_path(slide or "a", tuning or "t", "/results").parent == Path("/results")


def test_stores_with_odd_metadata(watched: Any) -> None:
    path = watched() / "a.pathotune.zarr"
    path.mkdir()
    keys = ["grid", "identity", "classes", "sources", "state", "shards", "format"]
    whole: dict[str, Any] = {
        "grid": {
            "rows": 2,
            "columns": 2,
            "origin_px0": [0, 0],
            "tile_px0": [9, 9],
            "stride_px0": [9, 9],
            "mpp": [1, 1],
        },
        "identity": {},
        "classes": [{"name": "a"}],
        "sources": [],
        "state": "running",
        "shards": {},
        "format": 1,
    }

    @bounded
    @given(st.sampled_from(keys), documents)
    def opens_or_says(key: str, value: Any) -> None:
        attributes = {"pathotune": {**whole, key: value}}
        (path / "zarr.json").write_text(json.dumps({"attributes": attributes, "node_type": "group", "zarr_format": 3}))
        with sentence():
            store = PredictionStore.open(path)
            assert store.grid and store.class_names and store.sources is not None and store.shards_done is not None
            assert store.is_complete in (True, False) and store.slide_fingerprint is not None

    opens_or_says()
