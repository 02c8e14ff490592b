"""The training loop: a generator of records, resumable, which says so when the features collapse."""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.pretraining.data import CropSampler, Source, batches
from benchmarks.pretraining.export import load_encoder
from benchmarks.pretraining.model import GRID, Pretrainer, correlation, encode, window_positions
from benchmarks.pretraining.stain import chain, draw_jitter, mix, optical_density, transmitted
from benchmarks.pretraining.targets import normalised_pixels, patch_statistics, patchify, tile_statistics


class CollapsedRun(RuntimeError):
    """The class features of different tiles have become the same few directions."""

    def __init__(self, step: int, rank: float, least: float) -> None:
        super().__init__(
            f"step {step}: the class features span {rank:.1f} effective directions, fewer than {least:.1f}: the run "
            "has collapsed. Start again with a smaller --learning-rate or a larger --pixel-weight."
        )


@dataclass
class Recipe:
    """Every number of a run; what is not named on the command line has the value of the shipped weights."""

    steps: int = 7600
    final_steps: int = 400
    cooldown: int = 2400
    warmup: int = 100
    tiles: int = 32
    side: int = 160
    final_tiles: int = 16
    final_side: int = 224
    seen: float = 0.3
    asked: float = 0.3
    depth: int = 12
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    momentum: float = 0.994
    pixel_weight: float = 1.0
    patch_weight: float = 0.5
    tile_weight: float = 0.5
    latent_weight: float = 0.5
    summary_weight: float = 0.5
    correlation_weight: float = 0.02
    shared_jitter: float = 0.25
    settled_jitter: float = 0.1
    view_jitter: float = 0.1
    coarsest_mpp: float = 1.0
    least_rank: float = 4.0
    seed: int = 0
    report_every: int = 100
    save_every: int = 200
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    begun_from: str = ""  # SHA-256 of the weights that the run began with; empty where it began from random ones


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, stay, then fall to nothing over the last `cooldown` steps: a run can be lengthened before it cools."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * rise * warmth(recipe, step)


def warmth(recipe: Recipe, step: int) -> float:
    """1 until the cooldown, then a straight fall to 0 at the last step."""
    return max(0.0, min(1.0, (recipe.steps - step) / max(1, recipe.cooldown)))


def stain_strength(recipe: Recipe, step: int) -> float:
    """Strength of the stain jitter that a tile's views share: other laboratories first, at last nearly the tile's own.

    What varies throughout is learned to be ignored; what a stain tells about the tissue of one slide is learned last.
    """
    return recipe.settled_jitter + (recipe.shared_jitter - recipe.settled_jitter) * warmth(recipe, step)


def effective_rank(features: torch.Tensor) -> float:
    """How many directions the features span: exponential of their variances' entropy (Roy and Vetterli, 2007)."""
    centred = features.double() - features.double().mean(dim=0)
    variances = torch.linalg.svdvals(centred).square()
    if variances.sum() <= 1e-12:
        return 0.0
    share = variances / variances.sum()
    return float((-(share * share.clamp_min(1e-12).log()).sum()).exp())


def measure_colours(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and spread of each colour of uint8 images, in [0, 1]: the normalisation constants of the model."""
    values = images.float().div(255).transpose(0, 1).flatten(1)
    return [round(v, 4) for v in values.mean(dim=1).tolist()], [round(v, 4) for v in values.std(dim=1).tolist()]


class Run:
    """One pretraining run: model, optimiser and the place where it is kept."""

    def __init__(self, recipe: Recipe, sources: list[Source], folder: Path, device: str = "cpu") -> None:
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        resolutions = (0.25, recipe.coarsest_mpp)
        self.sampler = CropSampler(sources, recipe.side, resolutions)
        self.final_sampler = CropSampler(sources, recipe.final_side, resolutions)
        torch.manual_seed(recipe.seed)
        # The monitored tiles are drawn like the others, from a seed that no step uses.
        self.monitor = self.sampler.batch(256, recipe.seed + 10**6, 0)[0]
        small = self.monitor[:2].float() / 255
        density = optical_density(small)
        patch_numbers = patch_statistics(small, density).shape[2]
        self.model = Pretrainer(tile_statistics(density).shape[1], patch_numbers, recipe.depth)
        self.model.to(self.device)
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.95))
        self.step = 0
        self._measure_targets()

    def _groups(self) -> list[dict[str, object]]:
        trainable = self.model.trainable()
        matrices = [p for p in trainable if p.ndim > 1 and p.shape[0] > 1]
        others = [p for p in trainable if not (p.ndim > 1 and p.shape[0] > 1)]
        return [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def _measure_targets(self) -> None:
        if not self.recipe.mean:
            self.recipe.mean, self.recipe.std = measure_colours(self.monitor)
        images = self.monitor.float().to(self.device) / 255
        generator = torch.Generator().manual_seed(self.recipe.seed)
        jitter = self._shared_jitter(len(images), self.recipe.shared_jitter, generator)
        density = mix(optical_density(images), *jitter)
        self.model.tile_standard.fit(tile_statistics(density))
        self.model.patch_standard.fit(patch_statistics(transmitted(density), density))

    def _shared_jitter(
        self, count: int, strength: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The stain of another laboratory for most tiles, the same for every view of a tile."""
        matrices, offsets = draw_jitter(count, strength, 0.16 * strength, 0.08 * strength, generator)
        keep = torch.rand(count, generator=generator) < 0.3
        matrices[keep], offsets[keep] = torch.eye(3), 0.0
        return matrices, offsets

    def _view_jitter(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A small change of the stain, drawn apart for every view."""
        return draw_jitter(count, self.recipe.view_jitter, 0.01, 0.01, generator)

    def is_final(self, step: int) -> bool:
        """Whether the step is of the last stage: full tiles, and a teacher that has learned enough to be followed."""
        return step >= self.recipe.steps - self.recipe.final_steps

    def batch(self, step: int) -> torch.Tensor:
        """The pairs of crops of one step."""
        if self.is_final(step):
            return self.final_sampler.batch(self.recipe.final_tiles, self.recipe.seed, step)
        return self.sampler.batch(self.recipe.tiles, self.recipe.seed, step)

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to the normalised, flattened patches that the encoder reads."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.recipe.mean, self.recipe.std))
        return patchify((images - mean) / std)

    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """All losses of one step. `batch` is (2, tiles, 3, side, side) uint8: the tile and its neighbour."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        tiles = batch.shape[1]
        density = optical_density(batch.to(self.device).flatten(0, 1).float().div_(255))
        shared = self._shared_jitter(tiles, stain_strength(self.recipe, step), generator)
        both = (shared[0].repeat(2, 1, 1), shared[1].repeat(2, 1))
        views = mix(density, *chain(both, self._view_jitter(2 * tiles, generator)))
        side = batch.shape[-1] // 16
        count = side * side
        order = torch.rand(2 * tiles, count, generator=generator).argsort(dim=1).to(self.device)
        seen, rest = order[:, : int(count * self.recipe.seen)], order[:, int(count * self.recipe.seen) :]
        asked = rest[:, : int(count * self.recipe.asked)]
        corners = torch.randint(GRID - side + 1, (2 * tiles, 2), generator=generator)
        places = window_positions(corners, side).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            losses = self._masked_losses(views, places, seen, asked)
            states, tokens = losses.pop("states"), losses.pop("tokens")
            if self.is_final(step):
                whole = mix(density[:tiles], *chain(shared, self._view_jitter(tiles, generator)))
                latent, summary = self.model.look(self.patches(transmitted(whole)), places[:tiles])
                told, guess = self.model.to_summary(tokens).float(), self.model.to_latent(states[:tiles]).float()
                losses["latent"] = F.smooth_l1_loss(guess, gather(latent, asked[:tiles]))
                losses["summary"] = F.smooth_l1_loss(told, torch.cat([summary, summary]))
        return losses

    def _masked_losses(
        self, views: torch.Tensor, places: torch.Tensor, seen: torch.Tensor, asked: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses that need no teacher, with the decoder's states and the class tokens for those that do."""
        model, images = self.model, transmitted(views)
        patches = self.patches(images)
        tokens, _ = encode(model.student, gather(patches, seen), places.gather(1, seen))
        states = model.decode(tokens, places.gather(1, seen), places.gather(1, asked))
        pixels = normalised_pixels(gather(patches, asked))
        numbers = model.patch_standard(gather(patch_statistics(images, views), asked))
        tile_numbers = model.tile_standard(tile_statistics(views))
        return {
            "pixel": F.mse_loss(model.to_pixels(states).float(), pixels),
            "patch": F.smooth_l1_loss(model.to_patch_numbers(states).float(), numbers),
            "tile": F.smooth_l1_loss(model.to_tile_numbers(tokens[:, 0]).float(), tile_numbers),
            "correlation": correlation(tokens[:, 0].float()),
            "states": states,
            "tokens": tokens[:, 0],
        }

    def weights_of_losses(self) -> dict[str, float]:
        """The weight of each loss."""
        names = ("pixel", "patch", "tile", "latent", "summary", "correlation")
        return {name: getattr(self.recipe, f"{name}_weight") for name in names}

    def train(self) -> Iterator[dict[str, float]]:
        """Train to the last step; yields one record of means every `report_every` steps."""
        recipe, sums, counts, began = self.recipe, {}, {}, time.perf_counter()
        for step, batch in batches(self.batch, self.step, recipe.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step)
            losses, weights = self.losses(batch, step), self.weights_of_losses()
            total = sum(weights[name] * loss for name, loss in losses.items())
            self.optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.model.trainable(), 1.0)
            self.optimiser.step()
            # A young teacher follows closely, an old one slowly.
            self.model.follow(min(recipe.momentum, (step + 1) / (step + 10)))
            self.step = step + 1
            for name, loss in losses.items():
                sums[name], counts[name] = sums.get(name, 0.0) + float(loss.detach()), counts.get(name, 0) + 1
            if self.step % recipe.report_every == 0 or self.step == recipe.steps:
                means = {name: sums[name] / counts[name] if name in sums else math.nan for name in weights}
                seconds = (time.perf_counter() - began) / max(counts.values())
                yield self._record(means, batch.shape[1], seconds)
                sums, counts, began = {}, {}, time.perf_counter()
            if self.step % recipe.save_every == 0 or self.step == recipe.steps:
                self.save()

    def _record(self, means: dict[str, float], tiles: int, seconds: float) -> dict[str, float]:
        record = {"step": float(self.step), **means, "rank": effective_rank(self.class_features())}
        record["learning_rate"] = learning_rate(self.recipe, self.step - 1)
        record["views_per_second"] = 2 * tiles / seconds
        bad = not math.isfinite(means["pixel"])
        if bad or (self.step > 2 * self.recipe.warmup and record["rank"] < self.recipe.least_rank):
            raise CollapsedRun(self.step, record["rank"], self.recipe.least_rank)
        return record

    @torch.no_grad()
    def class_features(self) -> torch.Tensor:
        """The teacher's class token of the monitored tiles, (256, 192)."""
        side = self.recipe.side // 16
        middle = torch.full((64, 2), (GRID - side) // 2)
        features = []
        for part in self.monitor.split(64):
            patches = self.patches(part.to(self.device).float() / 255)
            places = window_positions(middle[: len(part)], side).to(self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                features.append(encode(self.model.teacher, patches, places)[0][:, 0].float())
        return torch.cat(features)

    def save(self) -> None:
        """Write the run's state: a new file first, then the swap, so that a killed run leaves a whole one."""
        tensors = {f"model.{key}": value.contiguous() for key, value in self.model.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
        meta = {"step": str(self.step), "recipe": json.dumps(asdict(self.recipe))}
        part = self.folder / "state.part.safetensors"
        save_file({key: value.detach().cpu() for key, value in tensors.items()}, part, metadata=meta)
        part.replace(self.folder / "state.safetensors")

    def begin_from(self, weights: Path) -> None:
        """Begin with exported weights in student and teacher, and read pixels as they do; decoder and heads are new."""
        encoder, facts = load_encoder(weights)
        self.model.student.load_state_dict(encoder.state_dict())
        self.model.teacher.load_state_dict(encoder.state_dict())
        self.recipe.mean, self.recipe.std = json.loads(facts["mean"]), json.loads(facts["std"])
        self.recipe.begun_from = hashlib.sha256(weights.read_bytes()).hexdigest()

    def load(self, path: Path) -> None:
        """Go on from a saved state; the recipe of this run holds, its measured constants come from the file."""
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        saved = json.loads(meta["recipe"])
        self.recipe.mean, self.recipe.std, self.step = saved["mean"], saved["std"], int(meta["step"])
        self.recipe.begun_from = saved.get("begun_from", "")
        model = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        self.model.load_state_dict(model)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})


def gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick tokens: values (batch, tokens, dim), index (batch, picked) to (batch, picked, dim)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))


def saved_recipe(path: Path) -> Recipe:
    """The recipe that a saved state was made with."""
    with safe_open(path, "pt") as file:
        values = json.loads(file.metadata()["recipe"])
    known = {item.name for item in fields(Recipe)}
    return Recipe(**{name: value for name, value in values.items() if name in known})


def describe(record: dict[str, float]) -> str:
    """One line of a record for the terminal."""
    return "  ".join(f"{name} {np.format_float_positional(value, precision=4)}" for name, value in record.items())
