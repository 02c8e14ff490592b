"""However many threads read the tiles and run the model, each class is drawn as often, and its pixels are its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pathotune.regions import Regions
from pathotune.tiles import reader
from pathotune.training import examples
from pathotune.training.kept import KeptTiles
from pathotune.training.loop import Run, tune
from pathotune.training.schedule import TrainingConfig
from pathotune.training.tilepass import TilePass

TRAINING = TrainingConfig(epochs=3, batch_size=8, tiles_per_epoch=24, precision="float32", stain_jitter=0.0)
RARE, COMMON = 3, 12


@pytest.fixture
def uneven(source: Any) -> Any:
    """Twelve regions of pale stroma, three of dark tumour."""
    tumour = [region for region in source.regions if region.class_name == "tumour"][:RARE]
    stroma = [region for region in source.regions if region.class_name == "stroma"]
    assert len(stroma) == COMMON
    return dataclasses.replace(source, regions=Regions([*stroma, *tumour], "drawn"))


@pytest.fixture
def with_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """So many threads read tiles and so many run the model; with none the caller reads and runs alone."""
    before, real = torch.get_num_threads(), reader.TileReader

    def use(count: int) -> None:
        if count:
            monkeypatch.setattr(reader, "TileReader", functools.partial(real, threads=count))
        torch.set_num_threads(max(1, count))

    yield use
    torch.set_num_threads(before)


def trained_on(
    workers: int, with_threads: Any, backbone: Any, source: Any, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Of every step the drawn tiles, their labels, and the pixels that the model was given."""
    tiles, labels, pixels = [], [], []
    step, inputs = Run.step, TilePass.inputs

    def step_seen(run: Run, batch: np.ndarray, rate: float) -> float:
        tiles.append(batch)
        labels.append(run.examples.labels[batch])
        assert run.tiles.lanes.count == max(1, workers)
        return step(run, batch, rate)

    def inputs_seen(passed: TilePass, batch: np.ndarray, looks: Any = None) -> Any:
        found = inputs(passed, batch, looks)
        if looks is not None:
            assert found.images is not None
            pixels.append(found.images)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", step_seen)
        patch.setattr(TilePass, "inputs", inputs_seen)
        with_threads(workers)
        list(tune([source], "bitfit", {}, backbone, TRAINING, out=folder / f"t{workers}"))
    return tiles, labels, pixels


def test_each_class_is_drawn_as_often_with_no_one_and_two_workers(
    tiny_backbone: Any, uneven: Any, tmp_path: Any, with_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, first = tiny_backbone(), None
    # With none the tiles are those that the training before has read: no thread reads any.
    for workers in (1, 2, 0):
        if workers:
            monkeypatch.setattr(examples, "TILES", KeptTiles(10**8))
        tiles, labels, pixels = trained_on(workers, with_threads, backbone, uneven, tmp_path, monkeypatch)
        assert len(labels) == len(pixels) == 9
        for batch, shown in zip(labels, pixels, strict=True):
            assert np.bincount(batch, minlength=2).tolist() == [4, 4]
            is_dark = shown.mean(axis=(1, 2, 3)) < 170
            assert np.array_equal(is_dark, batch == 1), "the label is that of the pixels"
        drawn = np.concatenate(tiles)
        assert len(set(drawn[np.concatenate(labels) == 0].tolist())) > RARE, "no worker repeats another's draws"
        first = first or (tiles, pixels)
        for one, other in zip((tiles, pixels), first, strict=True):
            assert all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True))
