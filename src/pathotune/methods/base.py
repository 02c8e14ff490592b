"""The contract of a method: its config, what it asks of a backbone, and what it answers for a tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from pathotune.errors import TuningMismatch, TuningUnreadable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathotune.tasks import Task


# How the linear head of a method begins that trains more than the head.
HeadStart = Annotated[
    Literal["probe", "zero"],
    {"tooltip": "probe: the head starts from a gentle logistic regression. zero: from nothing."},
]
# Inverse L2 penalty of that regression: weak enough a fit that what lies before the head still gets gradients.
HEAD_START_STRENGTH = 0.003


class MethodOutput(NamedTuple):
    """What a method says of a batch of tiles."""

    logits: Tensor  # (b, K) float32, calibrated where the model comes from a tuning
    features: Tensor  # (b, D) float32, what the head sees
    attention: dict[str, Tensor]  # source → (b, rows, columns) float32, the share of attention each patch gets


@dataclass(frozen=True)
class MethodConfig:
    """Base of all method configs; every field is one control of a form and one `--set` of the command line."""

    # Tiles pass the backbone once, and the method trains on what came out.
    trains_on_features: ClassVar[bool] = False

    @property
    def is_interactive(self) -> bool:
        """Whether seconds count more than the last point of accuracy: automatic epochs are then fewer."""
        return False

    @property
    def is_solved(self) -> bool:
        """Whether the head is all there is to train and is solved for, under several penalties (`penalties.solve`)."""
        return False

    @property
    def text_encoder_wanted(self) -> str:
        """The text encoder's name, "auto", or "" where the method uses no text."""
        return ""

    @property
    def first_fit(self) -> float:
        """How strongly a linear head is fitted before the first step (`losses.head.LinearHead`); 0 is not at all."""
        return HEAD_START_STRENGTH if getattr(self, "head_start", "zero") == "probe" else 0.0

    def first_block(self, depth: int) -> int:
        """The first of so many blocks that the method has a part in; what lies below is the plain backbone's."""
        return 0

    def sentences_for(self, task: Task, class_names: Sequence[str], mpp: float) -> tuple[str, ...]:
        """The sentences whose vectors the method takes; empty where it uses no text.

        Parameters
        ----------
        task : the task card.
        class_names : the classes that are learned, in the order of the logits; the card may know more or fewer.
        mpp : micrometres per pixel at which tiles are read.
        """
        return ()


@dataclass(frozen=True)
class LateConfig(MethodConfig):
    """Base of the configs of methods that may begin late in the backbone: what lies below is computed once per tile."""

    speed: Annotated[
        Literal["full_depth", "interactive"],
        {
            "tooltip": "interactive: only the last third of the blocks is prompted or changed; what lies below is "
            "computed once per tile, so that tuning takes seconds. full_depth: from the first block on, as published."
        },
    ] = "full_depth"
    first_layer: Annotated[
        int,
        {
            "min": 0,
            "max": 100,
            "tooltip": "The first block that is prompted or changed, where the speed does not set it. 0 is the first.",
        },
    ] = 0

    @property
    def is_interactive(self) -> bool:
        """Whether seconds count more than the last point of accuracy."""
        return self.speed == "interactive"

    def first_block(self, depth: int) -> int:
        """The first of so many blocks that is prompted or changed: the later of the two asked."""
        last_third = depth - math.ceil(depth / 3)
        return max(self.first_layer, last_third) if self.is_interactive else self.first_layer


class Method(Protocol):
    """What the training loop, the prediction and the tuning file need from a method's model (a torch module).

    `__init__(config, backbone, class_names, text_vectors)`: text_vectors is (M, D_t) float32 or None.
    """

    config: MethodConfig
    class_names: tuple[str, ...]
    head: Any

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person on what this backbone and these sentences come to."""

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """The attention maps `forward` can give for this backbone."""

    @property
    def kept_blocks(self) -> int:
        """Blocks of the backbone that `lower` runs; 0 where it is not worth keeping."""

    @property
    def looks_at_tokens(self) -> bool:
        """Whether `upper` goes on with tokens through further blocks; False where it takes the finished features."""

    @property
    def looks_at_pixels(self) -> bool:
        """Whether `upper` reads the pixels; where not, it may be given an empty tensor for them."""

    def rate_share(self, name: str) -> float:
        """The share of the learning rate at which this one of `trained_parameters` is trained; 1 as a rule."""

    def lower(self, pixels: Tensor) -> Tensor:
        """What nothing trained has a part in; may be kept for a tile from one epoch to the next."""

    def upper(self, lower: Tensor, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """The trained part on what `lower` gave."""

    def __call__(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """`upper(lower(pixels), pixels)` for normalised tiles (b, 3, h, w)."""

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Look once at the training tiles before the first step (standardise, warm head).

        Parameters
        ----------
        features : (n, D).
        labels : (n,) class indexes.
        lower : what `lower` gives for a few of them.
        """

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Every trained tensor and every one that cannot be computed again, by name."""

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `trainable_state` gave; raises TuningUnreadable where a name or shape differs."""


def is_backbone_key(name: str) -> bool:
    """Whether a state name belongs to the frozen backbone; under "tuned." stands what was trained in a copy of it."""
    return not name.startswith("tuned.") and (name.startswith("backbone.") or ".backbone." in name)


def trained_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of the module's state without its backbone's, as float32 arrays."""
    return {
        name: np.array(value.detach().float().cpu().numpy(), dtype=np.float32, order="C", copy=True)
        for name, value in module.state_dict().items()
        if not is_backbone_key(name)
    }


def load_trained_arrays(module: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Copy arrays made by `trained_arrays` into the module.

    Raises
    ------
    TuningUnreadable
        A tensor is missing, unknown, of another shape, or not finite; the sentence names it.
    """
    import torch

    own = {name: value for name, value in module.state_dict().items() if not is_backbone_key(name)}
    if set(own) != set(arrays):
        missing, unknown = sorted(set(own) - set(arrays)), sorted(set(arrays) - set(own))
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise TuningUnreadable(f"The tuning does not fit its own method: it {' and '.join(parts)}. Tune again.")
    for name, value in own.items():
        array = arrays[name]
        if tuple(array.shape) != tuple(value.shape):
            raise TuningMismatch(
                f"The tuning's tensor {name} has the shape {tuple(array.shape)}, but this backbone needs "
                f"{tuple(value.shape)}. Use the backbone it was made with."
            )
        if not np.isfinite(array).all():
            raise TuningUnreadable(f"The tuning's tensor {name} holds values that are not finite. Tune again.")
        with torch.no_grad():
            value.copy_(torch.as_tensor(array))


def trained_parameters(module: nn.Module) -> dict[str, Any]:
    """The parameters that training changes, by name: all but the backbone's."""
    return {name: value for name, value in module.named_parameters() if not is_backbone_key(name)}
