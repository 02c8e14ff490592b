"""A backbone enhanced by transcriptomics tuning: the same surface, images alone, features that know of expression."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pathotune.backbones import weights
from pathotune.backbones.enhanced_card import ENDING, enhanced_facts, find_enhanced
from pathotune.backbones.surface import Backbone, Features
from pathotune.backbones.tile.own_tokens import WithTokens
from pathotune.backbones.tile.wrapped import Wrapped
from pathotune.errors import BackboneUnavailable, WeightsRefused

ADAPTER, ENCODER = "trained.adapter.", "trained.encoder."
PROMPTS = "prompts"


class ResidualAdapter(nn.Module):
    """Features and a small correction of them: ``z + up(GELU(down(z)))`` on standardised features.

    The last layer begins at zero, so that it is the identity before the first step.

    Parameters
    ----------
    width : D, of the features.
    hidden : of the layer between; a quarter of D where 0.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, hidden: int = 0) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden or max(width // 4, 1))
        self.up = nn.Linear(self.down.out_features, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def standardise(self, features: Tensor) -> None:
        """Take mean and spread of training features (n, D)."""
        self.mean.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0).clamp(min=1e-6))

    def inner(self, features: Tensor) -> Tensor:
        """(…, D) → (…, D) corrected, on the standardised scale: what heads look at."""
        scaled = (features - self.mean) / self.spread
        corrected: Tensor = scaled + self.up(nn.functional.gelu(self.down(scaled)))
        return corrected

    def forward(self, features: Tensor) -> Tensor:
        """(…, D) → (…, D) corrected, on the features' own scale: what other methods look at."""
        scaled = (features - self.mean) / self.spread
        corrected: Tensor = features + self.spread * self.up(nn.functional.gelu(self.down(scaled)))
        return corrected


class LowRankWeight(nn.Module):
    """A weight and a trained matrix of low rank added to it (LoRA, Hu et al. 2022); zero at the start."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, into = weight.shape
        self.down = nn.Parameter(torch.empty(rank, into, device=weight.device))
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The sum."""
        return weight + (self.up @ self.down).to(weight.dtype)


def low_rank_weights(network: nn.Module, layers: list[nn.Module], rank: int) -> dict[str, LowRankWeight]:
    """Put a low-rank part on the weight of each of these layers of a network; by the weight's name in the network."""
    names = {id(module): name for name, module in network.named_modules()}
    found = {}
    for layer in layers:
        attribute = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
        part = LowRankWeight(getattr(layer, attribute), rank)
        parametrize.register_parametrization(layer, attribute, part)
        found[f"{names[id(layer)]}.{attribute}"] = part
    return found


class Enhanced(Wrapped):
    """A backbone whose pooled feature passes a trained adapter; all else is the base's.

    Parameters
    ----------
    base : the backbone, its weights changed already where the tuning did that.
    adapter : of its pooled feature's width.
    name, title : of the new backbone's card.
    """

    def __init__(self, base: Backbone, adapter: ResidualAdapter, name: str, title: str) -> None:
        # No weights of a hub or a file belong to this card: they are those of the base and of the tuning.
        super().__init__(dataclasses.replace(base.card, name=name, title=title, hub_id="", file_sha256=""), base)
        self.adapter = adapter
        self.freeze()

    def forward(self, pixels: Tensor) -> Features:
        """The base's features, the pooled one corrected."""
        return self._corrected(self.network(pixels))

    def _corrected(self, features: Features) -> Features:
        with torch.autocast(features.pooled.device.type, enabled=False):
            return dataclasses.replace(features, pooled=self.adapter(features.pooled.float()))

    def _finish(self, tokens: Tensor) -> Features:
        return self._corrected(self.network._finish(tokens))


def enhanced(base: Backbone, tensors: Mapping[str, np.ndarray], name: str, title: str) -> Enhanced:
    """The backbone that a transcriptomics tuning makes of its base.

    Parameters
    ----------
    base : as loaded; it stays as it is.
    tensors : of the tuning file, under their names there.

    Raises
    ------
    WeightsRefused : a tensor is missing, of another shape, or not finite.
    """
    changed = {key[len(ENCODER) :]: value for key, value in tensors.items() if key.startswith(ENCODER)}
    parts = {key[len(ADAPTER) :]: value for key, value in tensors.items() if key.startswith(ADAPTER)}
    if "down.weight" not in parts:
        raise WeightsRefused(f"{name} holds no adapter of features, so it enhances no backbone.")
    adapter = ResidualAdapter(parts["down.weight"].shape[1], parts["down.weight"].shape[0])
    if adapter.up.out_features != base.output_dim:
        raise WeightsRefused(
            f"{name} corrects features {adapter.up.out_features} wide, but {base.card.title} gives {base.output_dim}."
        )
    if not all(np.isfinite(value).all() for value in (*parts.values(), *changed.values())):
        raise WeightsRefused(f"{name} holds numbers that are not finite; tune again.")
    try:
        adapter.load_state_dict({key: torch.as_tensor(value) for key, value in parts.items()})
    except RuntimeError as error:
        raise WeightsRefused(f"{name} does not hold the adapter it should ({error}); tune again.") from None
    made = Enhanced(changed_backbone(base, changed, name), adapter, name, title)
    made.weights_sha256 = weights.content_sha256(made)
    return made


def changed_backbone(base: Backbone, changed: Mapping[str, np.ndarray], name: str) -> Backbone:
    """The backbone with what a tuning changed: prompts beside it, weights in a copy; itself where that is nothing.

    Raises
    ------
    WeightsRefused, TuningMismatch : it does not fit.
    """
    parts = {key: value for key, value in changed.items() if key != PROMPTS}
    if parts:
        base = copy.deepcopy(base)
        change_weights(base.network, parts, name)
    return WithTokens(base, torch.as_tensor(changed[PROMPTS])) if PROMPTS in changed else base


def change_weights(network: nn.Module, changed: Mapping[str, np.ndarray], name: str) -> None:
    """Put a tuning's weights into a network: low-rank parts are added, whole tensors take the place of the old."""
    own = network.state_dict(keep_vars=True)
    with torch.no_grad():
        for key, value in changed.items():
            target = key.removesuffix(".down").removesuffix(".up")
            if target not in own:
                raise WeightsRefused(f"{name} changes {target}, which its backbone does not have.")
            if key.endswith(".down"):
                continue
            new = torch.as_tensor(value)
            if key.endswith(".up"):
                new = own[target] + new @ torch.as_tensor(changed[f"{target}.down"])
            if new.shape != own[target].shape:
                raise WeightsRefused(f"{name} changes {target} to another shape; it was made for another backbone.")
            own[target].copy_(new)


def load_enhanced(path: Path, load_base: Callable[[str], Backbone]) -> Enhanced:
    """The enhanced backbone of a tuning file.

    Parameters
    ----------
    path : of the tuning, or only its name (see `find_enhanced`).
    load_base : loads the backbone it was made on, by name.

    Raises
    ------
    BackboneUnavailable : there is no such file, it is no transcriptomics tuning, or its base is not here.
    WeightsRefused : it does not fit its base.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    found = find_enhanced(path)
    about = enhanced_facts(found)["backbone"]
    base_name, wanted = str(about["name"]), str(about.get("sha256") or "")
    try:
        tensors = load(found.read_bytes())
    except (SafetensorError, ValueError):
        raise BackboneUnavailable(f"{found.name} is damaged; copy it again from where it was made.") from None
    base = load_base(base_name)
    if wanted and base.weights_sha256 != wanted:
        raise WeightsRefused(
            f"{found.name} was made on other weights of {base_name} (SHA-256 {wanted[:8]}…) than those here "
            f"({base.weights_sha256[:8]}…)."
        )
    return enhanced(base, tensors, found.name, f"{base.card.title} enhanced by {found.name.removesuffix(ENDING)}")
