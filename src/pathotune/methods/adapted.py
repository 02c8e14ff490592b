"""Methods that change the backbone, in a copy that shares with it all that stays frozen, and a head behind it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pathotune.errors import TuningMismatch
from pathotune.methods.base import MethodOutput
from pathotune.methods.tile import TileMethod
from pathotune.prompts.insert import PromptedEncoder

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone


class AdaptedMethod(TileMethod):
    """Base of the methods that train something inside the backbone.

    The backbone that is given stays as it is, as others use it too. What is trained stands in the state under
    "tuned." and the name it has in the copy; the copy's frozen numbers are the backbone's own, and are not stored.
    """

    # -- what a method fills in -----------------------------------------------------------------------------------

    what: ClassVar[str] = "weights"
    """What in a backbone the method works on, for the sentence that says there is none."""

    def own_weights(self, backbone: Backbone) -> Iterable[Tensor]:
        """Those of the backbone's own parameters (and counts of batch norms) that the copy has for itself."""
        return ()

    def change(self, backbone: Backbone, first_block: int) -> None:
        """Put trained parts into the copy, from that block on."""

    @property
    def changes_embedding(self) -> bool:
        """Whether what lies below the first block is trained too."""
        return False

    # -- the copy -------------------------------------------------------------------------------------------------

    def make_encoder(self, backbone: Backbone, text_vectors: np.ndarray | None) -> PromptedEncoder:
        """The copy, changed."""
        first = self.config.first_block(backbone.depth) if backbone.takes_prompts else 0
        encoder = PromptedEncoder(sharing_copy(backbone, self.own_weights(backbone)), {}, first)
        self.change(encoder.backbone, first)
        encoder.backbone.train(False)
        # Before the encoder becomes a part of this module: a parameter goes by the first name it is met under.
        self.tuned = tree_of(own_tensors(encoder.backbone, backbone))
        if not any(True for _ in self.tuned.parameters()):
            raise TuningMismatch(
                f"{backbone.card.title or backbone.card.name} has no {self.what}, which is what this method changes. "
                "Choose another backbone, or the method linear_probe."
            )
        return encoder

    # -- pixels to answers ----------------------------------------------------------------------------------------

    @property
    def kept_blocks(self) -> int:
        """Blocks below the first that is changed."""
        return self.encoder.first_layer

    @property
    def looks_at_tokens(self) -> bool:
        """Always: what is kept of a tile passes further blocks."""
        return True

    @property
    def looks_at_pixels(self) -> bool:
        """Never: what `lower` gives is enough."""
        return False

    @property
    def begins_at_pixels(self) -> bool:
        """Whether nothing lies below what is trained."""
        return self.changes_embedding or not self.backbone.takes_prompts

    def lower(self, pixels: Tensor) -> Tensor:
        """The tokens below the first block that is changed, (b, prefix + P, C); the pixels where nothing lies below."""
        return pixels if self.begins_at_pixels else self.encoder.lower(pixels)

    def upper(self, lower: Tensor, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """The changed blocks on what `lower` gave."""
        if not self.backbone.takes_prompts:
            return self.answer(self.backbone(lower))
        tokens = self.backbone.embed(lower) if self.begins_at_pixels else lower
        return self.answer(*self.encoder.upper(tokens, pixels, attention))

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """Logits, features and attention of normalised tiles (b, 3, h, w)."""
        return self.upper(self.lower(pixels), pixels, attention)


class WholeMethod(AdaptedMethod):
    """Base of the methods that train every weight of the copy, at a rate of its own."""

    @property
    def changes_embedding(self) -> bool:
        """Always."""
        return True

    def own_weights(self, backbone: Backbone) -> Iterable[Tensor]:
        """All parameters."""
        return backbone.parameters()

    def rate_share(self, name: str) -> float:
        """That of the config's `rate` for the network, the whole for the head."""
        return float(self.config.rate) if name.startswith("tuned.") else 1.0


def sharing_copy(backbone: Backbone, own: Iterable[Tensor] = ()) -> Backbone:
    """A backbone that is built alike and has the same numbers in the same memory, but for `own`, which it may train."""
    apart = {id(value) for value in own}
    kept = [value for value in (*backbone.parameters(), *backbone.buffers()) if id(value) not in apart]
    twin = copy.deepcopy(backbone, {id(value): value for value in (*kept, backbone.card)})
    for parameter in own_tensors(twin, backbone).values():
        parameter.requires_grad_(isinstance(parameter, nn.Parameter))
    return twin


def own_tensors(twin: Backbone, backbone: Backbone) -> dict[str, Tensor]:
    """What the copy does not share with the backbone, by name."""
    shared = {id(value) for value in (*backbone.parameters(), *backbone.buffers())}
    return {name: value for name, value in twin.state_dict(keep_vars=True).items() if id(value) not in shared}


def tree_of(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Modules without a function that hold tensors under their dotted names."""
    tree = nn.Module()
    for name, value in tensors.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        if isinstance(value, nn.Parameter):
            node.register_parameter(last, value)
        else:
            node.register_buffer(last, value)
    return tree


# -- changes of one linear map ----------------------------------------------------------------------------------------


class Change(nn.Module, ABC):
    """Something learned about a linear map, as a step after it and as another weight and bias.

    Both are the same; the step is quicker to train, the weights are what is read where a library or the attention
    read-out does not call the layer.
    """

    @abstractmethod
    def forward(self, values: Tensor, output: Tensor) -> Tensor:
        """What becomes of the layer's output (…, out) on `values` (…, in)."""

    @abstractmethod
    def weight(self, weight: Tensor) -> Tensor:
        """The changed weight (out, in)."""

    def bias(self, bias: Tensor | None) -> Tensor | None:
        """The changed bias (out,)."""
        return bias


class Changed(nn.Module):
    """A frozen layer with a change; seen from outside it is a layer with other weights."""

    def __init__(self, layer: nn.Module, change: Change) -> None:
        super().__init__()
        self.layer: Any = layer
        self.change = change

    def forward(self, values: Tensor) -> Tensor:
        """The layer's output, changed."""
        changed: Tensor = self.change(values, self.layer(values))
        return changed

    @property
    def weight(self) -> Tensor:
        """The layer's weight, changed."""
        changed: Tensor = self.change.weight(self.layer.weight)
        return changed

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, changed."""
        changed: Tensor | None = self.change.bias(self.layer.bias)
        return changed


class _OfParameter(nn.Module):
    """A change of a weight or bias, as torch's parametrisations take it."""

    def __init__(self, change: Change, name: str) -> None:
        super().__init__()
        self.change, self.name = change, name

    def forward(self, value: Tensor) -> Tensor:
        changed: Tensor = getattr(self.change, self.name)(value)
        return changed


def put_change(backbone: Backbone, module: nn.Module, change: Change) -> None:
    """Put a change into the copy, where this module of it stands.

    Parameters
    ----------
    backbone : the copy.
    module : one of its `modules_by_role`: a layer, or torch's MultiheadAttention for its three projections.
    change : of as many outputs as the module has.
    """
    if isinstance(module, nn.MultiheadAttention):
        # It is never called as a layer: its weights are handed to one fused function.
        parametrize.register_parametrization(module, "in_proj_weight", _OfParameter(change, "weight"))
        if module.in_proj_bias is not None:
            parametrize.register_parametrization(module, "in_proj_bias", _OfParameter(change, "bias"))
        return
    name = next(name for name, part in backbone.named_modules() if part is module)
    parent, _, last = name.rpartition(".")
    setattr(backbone.get_submodule(parent), last, Changed(module, change))


def map_size(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer or of the projections of torch's MultiheadAttention."""
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    out, into = weight.shape  # type: ignore[union-attr, misc]
    return int(into), int(out)  # type: ignore[has-type]


def new(*shape: int, like: Tensor | nn.Module) -> nn.Parameter:
    """Zeros to be trained, on the same device."""
    device = like.device if isinstance(like, Tensor) else next(like.parameters()).device
    return nn.Parameter(torch.zeros(shape, device=device))
