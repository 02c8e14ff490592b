"""How a tuning is trained: its options as a form, and the learning rate over its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.tiles.tileset import Reading


@dataclass(frozen=True)
class TrainingConfig:
    """Options of the training loop; the defaults are meant for 20 to 20,000 tiles without a look at them.

    An epoch is a number of draws, not a pass over the tiles: with few tiles each comes several times (turned and
    mirrored), with many an epoch is still short enough that early stopping is asked often.
    """

    epochs: Annotated[
        int,
        {"min": 0, "max": 1000, "tooltip": "At most so many epochs. 0: 20, 6 in the interactive mode; going on, half."},
    ] = 0
    batch_size: Annotated[int, {"min": 1, "max": 1024, "tooltip": "Tiles per step."}] = 32
    lr: Annotated[
        float,
        {"min": 1e-7, "max": 1.0, "step": 1e-5, "tooltip": "Learning rate after the warm-up."},
    ] = 3e-3
    weight_decay: Annotated[float, {"min": 0.0, "max": 1.0, "step": 1e-5, "tooltip": "Weight decay."}] = 1e-4
    optimizer: Annotated[
        Literal["adamw", "sgd"],
        {"tooltip": "adamw: what works at the usual rate. sgd: plain steps, as papers have them, at a rate of 0.03."},
    ] = "adamw"
    clip_norm: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 0.1,
            "label": "Largest gradient",
            "tooltip": "A step's gradient is cut at this norm, so that one odd batch does no harm. 0: never cut.",
        },
    ] = 1.0
    warmup_epochs: Annotated[
        int, {"min": 0, "max": 100, "tooltip": "Epochs in which the learning rate rises to its full value."}
    ] = 2
    patience: Annotated[
        int,
        {
            "min": 0,
            "max": 1000,
            "tooltip": "Stop after so many epochs without a better validation score. 0: 8, 3 in the interactive mode.",
        },
    ] = 0
    tiles_per_epoch: Annotated[
        int,
        {"min": 0, "max": 1_000_000, "tooltip": "Draws per epoch. 0: as many as there are tiles, but 128 to 2048."},
    ] = 0
    val_fraction: Annotated[
        float, {"min": 0.05, "max": 0.9, "step": 0.05, "tooltip": "Share of the tiles held out for validation."}
    ] = 0.25
    split_by: Annotated[
        Literal["region", "slide", "patient"],
        {"tooltip": "What stays whole when tiles are held out: never is one region on both sides."},
    ] = "region"
    stain: Annotated[
        Literal["none", "macenko"],
        {
            "tooltip": "macenko: the dyes of every slide are brought to one reference first, in training and in every "
            "prediction. For slides of several laboratories."
        },
    ] = "none"
    augment: Annotated[bool, {"tooltip": "Turn and mirror the training tiles, and vary their stain a little."}] = True
    stain_jitter: Annotated[
        float,
        {"min": 0.0, "max": 0.5, "step": 0.01, "tooltip": "How much the stain varies: 0.05 is 5 % of its density."},
    ] = 0.05
    looks: Annotated[
        int,
        {
            "min": 1,
            "max": 64,
            "tooltip": "In the interactive mode each training tile is seen in so many turned and restained looks, each "
            "computed once. More vary more and take longer.",
        },
    ] = 4
    sweep: Annotated[
        Literal["off", "short"],
        {
            "label": "Try a few settings first",
            "tooltip": "short: try the learning rate, a third and three times of it on a few tiles first (and other "
            "stain jitter outside the interactive mode), and go on with the best. It takes seconds.",
        },
    ] = "off"
    max_tiles_per_class: Annotated[
        int,
        {"min": 1, "max": 1_000_000, "tooltip": "Of more tiles a random part is used, the same for the same seed."},
    ] = 20_000
    cache_mb: Annotated[
        int,
        {
            "min": 0,
            "max": 1_000_000,
            "step": 128,
            "tooltip": "Memory for what the frozen part of the backbone gave for tiles; beyond it a file is used.",
        },
    ] = 1024
    session_mb: Annotated[
        int,
        {
            "min": 0,
            "max": 1_000_000,
            "step": 128,
            "tooltip": "Decoded tiles up to this size are kept in the folder NAME.session, to tune again sooner.",
        },
    ] = 256
    seed: Annotated[int, {"min": 0, "max": 2**31 - 1, "tooltip": "The same seed gives the same tuning."}] = 0
    device: Annotated[str, {"tooltip": "auto, cpu, cuda, cuda:1, mps."}] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        {"tooltip": "auto: bfloat16 where it is faster here and agrees with float32 on a few tiles."},
    ] = "auto"

    def settled(self, is_interactive: bool = False, goes_on: bool = False) -> TrainingConfig:
        """The same with every automatic number filled in.

        Parameters
        ----------
        is_interactive : whether seconds count more than the last point of accuracy.
        goes_on : whether it starts from a saved tuning.
        """
        epochs, patience = (6, 3) if is_interactive else (20, 8)
        if goes_on:
            epochs, patience = epochs // 2, max(2, patience // 2)
        return replace(self, epochs=self.epochs or epochs, patience=self.patience or patience)

    def reading_of(self, card: BackboneCard) -> Reading:
        """How tiles are read for this backbone and these options."""
        return replace(card.reading(), stain=self.stain)

    def draws_per_epoch(self, tiles: int) -> int:
        """Tiles drawn in one epoch."""
        return self.tiles_per_epoch or min(max(tiles, 128), 2048)


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Learning rate of a step: a straight rise to `peak`, then a half cosine to zero.

    Parameters
    ----------
    step : from 0 to steps - 1.
    steps : of the whole training.
    warmup_steps : of these, in the rise.
    peak : highest rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
