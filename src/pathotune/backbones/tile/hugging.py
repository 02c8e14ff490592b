"""transformers' own image models (ViT, DINOv2 with and without registers, CLIP, SigLIP); no code from a hub is run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pathotune.backbones.card import BackboneCard
from pathotune.backbones.surface import Backbone, Features, float32, heads_first
from pathotune.backbones.tile.heads import build_head
from pathotune.backbones.weights import refuse_misfits, rename
from pathotune.errors import BackboneUnavailable, TableUnreadable, WeightsRefused

# Class of the model → class of its configuration.
CLASSES = {
    "ViTModel": "ViTConfig",
    "Dinov2Model": "Dinov2Config",
    "Dinov2WithRegistersModel": "Dinov2WithRegistersConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "SiglipVisionModel": "SiglipVisionConfig",
}
# What a publisher's config.json may say about the architecture; everything else in it is left alone.
ARCHITECTURE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "layerscale_value",
    "use_swiglu_ffn",
    "num_register_tokens",
    "projection_dim",
    "vision_use_head",
)


def build(card: BackboneCard, depth: int | None = None) -> Backbone:
    """The network of a card with transformers' start values, wrapped for the surface."""
    overrides = {} if depth is None else {"num_hidden_layers": depth}
    return HuggingTransformer(card, _model_class(card)(_config(card, overrides)), build_head(card))


class HuggingTransformer(Backbone):
    """A vision transformer of transformers behind the surface."""

    def __init__(self, card: BackboneCard, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__(card, network, head)
        self._measure()

    def _measure(self) -> None:
        config = self._core.config
        self.depth = len(self._layers)
        self.num_heads = config.num_attention_heads
        registers = getattr(config, "num_register_tokens", 0) if hasattr(self._embeddings, "register_tokens") else 0
        self.prefix_tokens = int(self.has_class_token) + registers

    # -- the parts, wherever this class of model keeps them --------------------------------------------------------

    @property
    def _core(self) -> Any:
        return getattr(self.network, "vision_model", self.network)

    @property
    def _embeddings(self) -> Any:
        return self._core.embeddings

    @property
    def _layers(self) -> Any:
        core = self._core
        if hasattr(core, "layers"):
            return core.layers
        return core.encoder.layer if hasattr(core.encoder, "layer") else core.encoder.layers

    @property
    def _norm(self) -> Any:
        return self._core.layernorm if hasattr(self._core, "layernorm") else self._core.post_layernorm

    @property
    def has_class_token(self) -> bool:
        return hasattr(self._embeddings, "cls_token") or hasattr(self._embeddings, "class_embedding")

    @property
    def is_dynamic(self) -> bool:
        return "Dinov2" in self.card.architecture

    # -- the surface -----------------------------------------------------------------------------------------------

    def _embed(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self._embeddings(pixels)
        before = getattr(self._core, "pre_layrnorm", None)
        normed: Tensor = tokens if before is None else before(tokens)
        return normed

    def _block(self, index: int, tokens: Tensor, extra: int) -> Tensor:
        layer = self._layers[index]
        # Older transformers ask for a second mask in CLIP and answer with tuples.
        masks = [None] * (2 if "causal_attention_mask" in inspect.signature(layer.forward).parameters else 1)
        result = layer(tokens, *masks)
        after: Tensor = result[0] if isinstance(result, tuple) else result
        return after

    def _finish(self, tokens: Tensor) -> Features:
        normed = self._norm(tokens)
        patches = normed[:, self.prefix_tokens :]
        cls = normed[:, 0] if self.has_class_token else patches.mean(dim=1)
        if self.card.pooling != "head":
            return Features(self._pool(normed, cls, patches), cls, patches)
        network: Any = self.network
        if hasattr(network, "visual_projection"):
            return Features(network.visual_projection(cls), cls, patches)
        return Features(self._core.head(normed), cls, patches)

    def _queries_and_keys(self, index: int, tokens: Tensor, extra: int, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        layer = self._layers[index]
        tokens = float32(_part(layer, "norm1", "layernorm_before", "layer_norm1"), tokens)
        attention = _part(layer, "attention", "self_attn")
        query = _part(attention, "q_proj", "attention.query")
        key = _part(attention, "k_proj", "attention.key")
        queries = heads_first(float32(query, tokens[:, rows]), self.num_heads)
        keys = heads_first(float32(key, tokens), self.num_heads)
        return queries, keys, float(queries.shape[-1] ** -0.5)

    def _roles_of_block(self, index: int) -> dict[str, list[nn.Module]]:
        layer = self._layers[index]
        attention = _part(layer, "attention", "self_attn")
        known = {id(module) for module in attention.modules()}
        names = {"q": "query", "k": "key", "v": "value"}
        return {
            "qkv": [_part(attention, f"{part}_proj", f"attention.{name}") for part, name in names.items()],
            "proj": [_part(attention, "o_proj", "out_proj", "output.dense")],
            "mlp": [m for m in layer.modules() if isinstance(m, nn.Linear) and id(m) not in known],
            "norm": [m for m in layer.modules() if isinstance(m, nn.LayerNorm)],
            # Older transformers have no module for the MLP of ViT: its second layer gives what is added.
            "sublayer": [attention, _part(layer, "mlp", "output.dense")],
        }

    def _last_norms(self) -> list[nn.Module]:
        return [self._norm]

    def load_tensors(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """Through from_pretrained, which knows the names of older releases; every difference refuses."""
        config = _config(self.card, _published(self.card, source.parent))
        transformers.utils.logging.disable_progress_bar()
        own = {name: value.float() for name, value in rename(tensors, self.card).items()}
        heads = {name[5:]: own.pop(name) for name in list(own) if self.head is not None and name.startswith("head.")}
        network, report = _model_class(self.card).from_pretrained(
            None, config=config, state_dict=own, output_loading_info=True, ignore_mismatched_sizes=True
        )
        misshapen = [str(item[0]) if isinstance(item, tuple) else str(item) for item in report["mismatched_keys"]]
        refuse_misfits(self.card, source.name, report["missing_keys"], report["unexpected_keys"], misshapen)
        self.network = network.float()
        if self.head is not None:
            refuse_misfits(
                self.card, source.name, self.head.state_dict().keys() - heads, heads.keys() - self.head.state_dict()
            )
            self.head.load_state_dict(heads)
        self._measure()
        if not all(bool(torch.isfinite(value).all()) for value in self.network.parameters()):
            raise WeightsRefused(f"{source.name} holds NaN or infinity; fetch it again.")


def _part(module: nn.Module, *paths: str) -> Any:
    for path in paths:
        try:
            return module.get_submodule(path)
        except AttributeError:
            continue
    raise BackboneUnavailable(
        f"transformers {transformers.__version__} keeps {' or '.join(paths)} of {type(module).__name__} elsewhere; "
        "install the newest pathotune."
    )


def _model_class(card: BackboneCard) -> Any:
    if card.architecture not in CLASSES:
        raise TableUnreadable(
            f"The card of {card.name} names {card.architecture!r}; of transformers {', '.join(CLASSES)} are known."
        )
    found = getattr(transformers, card.architecture, None)
    if found is None:
        raise BackboneUnavailable(
            f"{card.title} needs transformers' {card.architecture}, which version {transformers.__version__} lacks; "
            "install a newer transformers."
        )
    # The pooler of ViTModel is a trained head that no pathology feature uses.
    return _WithoutPooler(found) if card.architecture == "ViTModel" else found


class _WithoutPooler:
    """ViTModel, always built without its pooler."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, config: Any) -> nn.Module:
        network: nn.Module = self._model(config, add_pooling_layer=False)
        return network

    def from_pretrained(self, *places: Any, **options: Any) -> Any:
        return self._model.from_pretrained(*places, add_pooling_layer=False, **options)


def _config(card: BackboneCard, overrides: Mapping[str, Any]) -> Any:
    config = getattr(transformers, CLASSES[card.architecture])(**{**card.arguments, **overrides})
    for key, wanted in (("hidden_size", card.embed_dim), ("patch_size", card.patch_size)):
        if getattr(config, key) != wanted:
            raise WeightsRefused(
                f"config.json gives {key} {getattr(config, key)}, the card of {card.name} {wanted}: another model."
            )
    return config


def _published(card: BackboneCard, folder: Path) -> dict[str, Any]:
    """What the publisher's config.json beside the weights says of the architecture; {} without one."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise WeightsRefused(f"{path.name} beside the weights of {card.title} is damaged; fetch it again.") from None
    data = {**data, **data.get("vision_config", {})}
    return {key: data[key] for key in ARCHITECTURE_KEYS if key in data}
