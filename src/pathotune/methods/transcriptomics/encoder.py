"""The backbone as transcriptomics tuning trains it: by LoRA, all weights or prompts, tiles in parts that fit memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathotune.backbones.tile.enhanced import PROMPTS, low_rank_weights
from pathotune.backbones.tile.own_tokens import WithTokens
from pathotune.device import Precision, choose_precision, number_format
from pathotune.errors import TuningMismatch
from pathotune.prompts.visual import LearnedPrompts

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.transcriptomics.config import TranscriptomicsConfig

PASS = 64  # tiles that pass the backbone at a time; of more with a gradient each part is computed once more for it


class TunedEncoder:
    """A backbone in which something is trained.

    Parameters
    ----------
    config : says what.
    backbone : loaded; it stays as it is.
    device : where it runs.
    probe : a few tiles that the number format is chosen by.
    precision : that is asked for, or auto.
    augment : whether tiles are turned while learning.

    Attributes
    ----------
    parameters : what is trained, by its name in the tuning file.
    precision : the number format tiles pass in; weights and gradients of the trained stay float32.
    """

    def __init__(
        self,
        config: TranscriptomicsConfig,
        backbone: Backbone,
        device: str,
        probe: NDArray[np.uint8],
        precision: str = "auto",
        augment: bool = True,
    ) -> None:
        self.device, self.augment = device, augment
        self.backbone, self.parameters = _prepared(config, backbone)

        def pooled(tiles: Tensor) -> Tensor:
            result: Tensor = backbone(backbone.normalise(tiles)).pooled
            return result.float()

        tiles = torch.from_numpy(probe.copy())
        self.precision = choose_precision(
            pooled, tiles, device, precision, backbone.card.tolerance, backbone.speed_name
        )

    def exactly(self) -> None:
        """From here on in float32, as what is saved is judged and used later."""
        self.precision = Precision("float32")

    def __call__(self, images: NDArray[np.uint8], rows: NDArray[np.int64], turned: bool = False) -> Tensor:
        """(n, D) of these rows of tiles (N, h, w, 3); turned or mirrored while learning, all of a part alike."""
        parts = [rows[start : start + PASS] for start in range(0, len(rows), PASS)]
        again = torch.is_grad_enabled() and len(parts) > 1
        found = []
        for part in parts:
            tiles = torch.from_numpy(np.ascontiguousarray(images[part]))
            if turned and self.augment:
                tiles = torch.rot90(tiles, int(torch.randint(4, ())), (1, 2))
                tiles = tiles.flip(2) if bool(torch.randint(2, ())) else tiles
            tiles = tiles.contiguous().to(self.device)
            values = checkpoint(self._pooled, tiles, use_reentrant=False) if again else self._pooled(tiles)
            found.append(values)
        return torch.cat(found)

    def _pooled(self, tiles: Tensor) -> Tensor:
        with number_format(self.device, self.precision):
            pooled: Tensor = self.backbone(self.backbone.normalise(tiles)).pooled
        return pooled.float()


def _prepared(config: TranscriptomicsConfig, given: Backbone) -> tuple[Backbone, dict[str, nn.Parameter]]:
    """The backbone to train, and what is trained in it by its name in the network."""
    if config.tuned == "prompts":
        layers, patch = given.depth or 1, given.card.patch_size or 16
        start = LearnedPrompts(config.prompt_tokens, given.embed_dim or 1, patch, layers).values.to(
            next(given.parameters()).device
        )
        made = WithTokens(given, start)
        made.tokens.requires_grad_(True)
        return made, {PROMPTS: made.tokens}
    backbone = copy.deepcopy(given)
    if config.tuned == "full":
        for value in backbone.network.parameters():
            value.requires_grad_(True)
        return backbone, dict(backbone.network.named_parameters())
    roles = backbone.modules_by_role()
    layers_ = [*roles["qkv"], *roles["proj"]]
    if not layers_:
        raise TuningMismatch(
            f"{backbone.card.title} has no attention whose weights LoRA could change; use --set tuned=full."
        )
    parts = low_rank_weights(backbone.network, layers_, config.rank)
    return backbone, {f"{name}.{side}": getattr(part, side) for name, part in parts.items() for side in ("down", "up")}
