"""Tiles through a method's model: what is frozen below the first prompt is computed once per tile and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathotune.device import Precision, number_format
from pathotune.errors import NotFinite
from pathotune.training.augment import Augmentation, Variants
from pathotune.training.draws import batches
from pathotune.training.kept import KEY_BYTES
from pathotune.training.prefix import PrefixCache, kept_prefixes

if TYPE_CHECKING:
    from pathlib import Path

    from pathotune.backbones.surface import Backbone
    from pathotune.methods.base import MethodOutput
    from pathotune.training.examples import Examples

EVALUATION_BATCH = 64
# More lanes than this leave each with too few tiles of a batch.
MOST_LANES = 4

Found = TypeVar("Found")
Part = TypeVar("Part")


class Inputs(NamedTuple):
    """What the model gets of some tiles: kept values of the frozen part, pixels, or both."""

    kept: NDArray[Any] | None  # (b, …) what `Method.lower` gave
    images: NDArray[np.uint8] | None  # (b, side, side, 3)

    def __len__(self) -> int:
        return len(self.images if self.kept is None else self.kept)  # type: ignore[arg-type]

    def part(self, rows: Any) -> Inputs:
        """Some of the tiles."""
        return Inputs(*(None if values is None else values[rows] for values in self))


class Lanes:
    """Threads that each run the model on a part of a batch.

    On a CPU all cores on one layer wait for each other at its end; a part of the batch for each core does not. Results
    come in the order of the parts, so that sums over them do not depend on which thread was quicker.

    Parameters
    ----------
    device : elsewhere than on a CPU there is one lane.
    """

    def __init__(self, device: str) -> None:
        threads = torch.get_num_threads()
        self.count = min(MOST_LANES, threads) if device == "cpu" else 1
        self._pool = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(
                self.count,
                "pathotune-training",
                initializer=torch.set_num_threads,
                initargs=(max(1, threads // self.count),),
            )

    def map(self, work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
        """`work` on every part, in their order; the first error is raised when all have ended."""
        if self._pool is None or len(parts) == 1:
            return [work(part) for part in parts]
        waiting = [self._pool.submit(work, part) for part in parts]
        errors = [error for future in waiting if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in waiting]

    def close(self) -> None:
        """Give the threads back."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class TilePass:
    """The examples' tiles through one model.

    Parameters
    ----------
    model : a `methods.base.Method`.
    backbone : its backbone.
    examples : the tiles.
    device : where both are.
    looks : how training tiles may look; where `lower` is worth keeping these are fixed, else drawn anew each time.
    augmentation : the looks drawn anew; None leaves the tiles as they are.
    cache_bytes : of the kept values, in memory; a quarter as much again for the tiles' looks.
    spill : folder for what is beyond that.
    """

    def __init__(
        self,
        model: Any,
        backbone: Backbone,
        examples: Examples,
        device: str,
        looks: Variants,
        augmentation: Augmentation | None,
        cache_bytes: int = 0,
        spill: Path | None = None,
    ) -> None:
        self.model, self.backbone, self.examples, self.device = model, backbone, examples, device
        self.looks, self.augmentation = looks, augmentation
        self.precision = Precision("float32")
        self.computed = 0  # tiles that went through the frozen part
        self.lanes = Lanes(device)
        self._cache_bytes, self._spill = cache_bytes, spill
        self._cache: PrefixCache | None = None
        # A tile is drawn many times; it is turned and stained once for each of its looks.
        self._looked = PrefixCache("uint8", cache_bytes // 4)

    @property
    def keeps(self) -> bool:
        """Whether the frozen part is computed once per look of a tile."""
        return bool(self.model.kept_blocks) and bool(len(self.examples.keys))

    def choose(self, precision: Precision) -> None:
        """Compute in this number format from here on."""
        self.precision = precision
        if not self.keeps:
            return
        facts = (
            self.backbone.weights_sha256 or self.backbone.weights_source,
            self.backbone.card.name,
            f"{self.model.kept_blocks} blocks" if self.model.looks_at_tokens else "features",
            precision.name,
            self.device.partition(":")[0],
        )
        # Values that were computed with 8 bits lose nothing that counts in 11; in float32 every bit is kept.
        dtype = "float32" if precision.name == "float32" or not self.model.looks_at_tokens else "float16"
        self._cache = kept_prefixes(" | ".join(facts), dtype, self._cache_bytes, self._spill)
        self._cache.retire(set(self.examples.keys), KEY_BYTES)

    def use_own_cache(self) -> None:
        """Keep values for this object alone, not for the next training of this process."""
        self._cache = PrefixCache("float32", self._cache_bytes)

    def compute(self, tiles: NDArray[np.int64]) -> NDArray[Any]:
        """Values of the frozen part for tiles as they are, computed now and not kept."""
        return self._compute(tiles, np.zeros(len(tiles), dtype=np.int64))

    def lower(self, tiles: NDArray[np.int64]) -> Tensor:
        """What the frozen part gives for a few tiles as they are, on the device; from what is kept, if it is."""
        kept = self.inputs(tiles).kept
        if kept is not None:
            return torch.from_numpy(kept).to(self.device).float()
        with torch.no_grad(), self.format():
            values: Tensor = self.model.lower(self.pixels(self.examples.images[tiles]))
        return values

    def close(self) -> None:
        """Give threads and files back; what is in memory stays for the next training of this process."""
        self.lanes.close()
        if self._cache is not None:
            self._cache.drop_files()

    # -- what goes in ---------------------------------------------------------------------------------------------

    def inputs(self, tiles: NDArray[np.int64], looks: NDArray[np.integer[Any]] | None = None) -> Inputs:
        """What the model gets of these tiles, as these looks show them (as they are without)."""
        if not self.keeps:
            images = np.ascontiguousarray(self.examples.images[tiles])
            return Inputs(None, images if looks is None or self.augmentation is None else self.augmentation(images))
        looks = np.zeros(len(tiles), dtype=np.int64) if looks is None else looks
        kept = self._lower(tiles, looks)
        return Inputs(kept, self._images(tiles, looks) if self.model.looks_at_pixels else None)

    def _images(self, tiles: NDArray[np.int64], looks: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        images = np.ascontiguousarray(self.examples.images[tiles])
        changed = np.flatnonzero(looks)
        if not len(changed):
            return images
        names = [self.examples.keys[tile] for tile in tiles[changed].tolist()]
        keys = [self.looks.key(name, int(look)) for name, look in zip(names, looks[changed], strict=True)]
        places = self._looked.find(keys)
        made, there = np.flatnonzero(places < 0), np.flatnonzero(places >= 0)
        self._looked.take(places[there], images, changed[there])
        if len(made):
            rows = changed[made]
            images[rows] = self.looks(images[rows], [names[index] for index in made.tolist()], looks[rows])
            if self.model.looks_at_pixels:  # else they are seen once
                self._looked.keep([keys[index] for index in made.tolist()], images[rows])
        return images

    def _lower(self, tiles: NDArray[np.int64], looks: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Values of the frozen part (b, …); what is not kept yet is computed and kept."""
        if self._cache is None:
            self.choose(self.precision)
        cache = self._cache
        if cache is None:
            raise RuntimeError("a method whose lower part is not worth keeping has no values to keep")
        keys = [
            self.looks.key(self.examples.keys[tile], look)
            for tile, look in zip(tiles.tolist(), looks.tolist(), strict=True)
        ]
        places = cache.find(keys)
        missing, there = np.flatnonzero(places < 0), np.flatnonzero(places >= 0)
        values: NDArray[Any] | None = None
        if len(missing):
            # A tile drawn twice into one batch is computed once.
            first: dict[bytes, int] = {}
            for row in missing.tolist():
                first.setdefault(keys[row], row)
            rows = np.fromiter(first.values(), dtype=np.int64)
            computed = self._compute(tiles[rows], looks[rows]).astype(cache.dtype, copy=False)
            cache.keep([keys[row] for row in rows.tolist()], computed)
            values = np.empty((len(tiles), *computed.shape[1:]), dtype=cache.dtype)
            position = {keys[row]: number for number, row in enumerate(rows.tolist())}
            for row in missing.tolist():
                values[row] = computed[position[keys[row]]]
        if values is None:
            values = np.empty((len(tiles), *cache.shape), dtype=cache.dtype)
        cache.take(places[there], values, there)
        return values

    def _compute(self, tiles: NDArray[np.int64], looks: NDArray[np.integer[Any]]) -> NDArray[Any]:
        images = self._images(tiles, looks)
        self.computed += len(tiles)

        def lower(part: NDArray[np.uint8]) -> NDArray[Any]:
            with torch.inference_mode(), self.format():
                values: Tensor = self.model.lower(self.pixels(part))
                return np.asarray(values.float().cpu().numpy())

        return np.concatenate(self.lanes.map(lower, self._parts(images)))

    def _parts(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """A batch cut for the lanes."""
        size = min(EVALUATION_BATCH, -(-len(values) // self.lanes.count))
        return [values[start : start + size] for start in range(0, len(values), size)]

    # -- through the model ----------------------------------------------------------------------------------------

    def pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """Normalised pixels (b, 3, h, w) on the device."""
        return self.backbone.normalise(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))

    def forward(self, inputs: Inputs) -> MethodOutput:
        """The model's answer, with a gradient where one is asked for."""
        if inputs.kept is None:
            if inputs.images is None:
                raise RuntimeError("neither pixels nor kept values")
            answer: MethodOutput = self.model(self.pixels(inputs.images))
            return answer
        kept = torch.from_numpy(inputs.kept).to(self.device).float()
        pixels = self.pixels(inputs.images) if inputs.images is not None else kept.new_empty(0)
        answer = self.model.upper(kept, pixels)
        return answer

    def answers(self, tiles: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and features (n, D) of tiles as they are, without a gradient.

        Raises
        ------
        NotFinite
            A logit is NaN or infinite.
        """
        return joined(self.answers_by_batch(tiles))

    def answers_by_batch(
        self, tiles: NDArray[np.int64], looks: NDArray[np.integer[Any]] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same, batch after batch; as these looks (n,) show the tiles, where they are given."""

        def work(inputs: Inputs) -> tuple[Tensor, Tensor]:
            with torch.inference_mode(), self.format():
                answer = self.forward(inputs)
                return answer.logits, answer.features

        for rows in batches(np.arange(len(tiles)), EVALUATION_BATCH):
            inputs = self.inputs(tiles[rows], None if looks is None else looks[rows])
            logits, features = joined(self.lanes.map(work, self.cut(inputs, EVALUATION_BATCH)))
            if not bool(torch.isfinite(logits).all()):
                raise NotFinite(
                    "The model gives values that are not finite. Lower the learning rate with --lr, "
                    "or use --set precision=float32."
                )
            yield logits, features

    def cut(self, inputs: Inputs, most: int) -> list[Inputs]:
        """A batch cut for the lanes, in parts of at most so many tiles."""
        size = min(most, -(-len(inputs) // self.lanes.count))
        return [inputs.part(slice(start, start + size)) for start in range(0, len(inputs), size)]

    def format(self) -> Any:
        """The context in which the model computes."""
        return number_format(self.device, self.precision)


def joined(parts: Any) -> tuple[Tensor, Tensor]:
    """Pairs of logits and features of batches as those of all tiles."""
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features)
