"""The text side of image–text models: sentences into the space in which the same model's images lie."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pathotune.backbones.card import BackboneCard, backbone_card
from pathotune.backbones.text import TextEncoder
from pathotune.backbones.text.sentences import BATCH, fetch
from pathotune.backbones.weights import read_tensors, refuse_misfits
from pathotune.errors import BackboneUnavailable, MissingPackage, TableUnreadable, UsageError, WeightsRefused
from pathotune.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("clip", "siglip", "open_clip", "bert")
# What a publisher's config.json may say of the text side; everything else in it is left alone.
ARCHITECTURE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "projection_dim",
    "projection_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# Tables of positions and poolers nobody reads, which older files carry along.
CARRIED_ALONG = ("*position_ids", "*attn_mask", "*token_type_ids")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class TextSide:
    """What a card says of the text side of its model.

    Parameters
    ----------
    kind : "clip" and "siglip" are transformers' classes, "open_clip" is that library's, "bert" is a BERT with a
        projection, as open_clip and others put behind it.
    context : tokens a sentence may have.
    arguments : the architecture, where no config.json beside the weights says it.
    prefix : how the names of its tensors begin in the file that holds the image side too; several may be tried.
    tokenizer : "" for the files beside the weights, "open_clip" for CLIP's own, a file's name, or a hub id.
    tokenizer_at : where that file can be had.
    hub_id : the hub's repository with its weights, where it is not the image side's.
    pooling, projection : of a BERT: "cls" or "pooler"; "none", "linear" or "mlp".
    scale : what the cosines are multiplied by where the file does not say.
    """

    kind: str
    context: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ("",)
    tokenizer: str = ""
    tokenizer_at: str = ""
    hub_id: str = ""
    pooling: str = "cls"
    projection: str = "none"
    scale: float = 100.0


def text_side(card: BackboneCard) -> TextSide:
    """The card's text side; raises UsageError where it has none, TableUnreadable where its card is faulty."""
    if not card.text:
        raise UsageError(
            f"{card.title} has no text side, so sentences cannot be compared with its images. "
            f"Models that have one: {', '.join(cards_with_text())}."
        )
    known = {item.name for item in dataclasses.fields(TextSide)}
    facts = dict(card.text)
    unknown = sorted(set(facts) - known)
    if unknown or facts.get("kind") not in KINDS or not isinstance(facts.get("context"), int):
        what = f"the key {unknown[0]!r}" if unknown else "no known kind or no context"
        raise TableUnreadable(
            f"The text side on the card of {card.name} has {what}; it needs kind ({', '.join(KINDS)}) and context, "
            f"and may have {', '.join(sorted(known - {'kind', 'context'}))}."
        )
    prefix = facts.get("prefix", "")
    facts["prefix"] = (prefix,) if isinstance(prefix, str) else tuple(prefix)
    return TextSide(**facts)


def cards_with_text() -> tuple[str, ...]:
    """Names of the shipped image–text models."""
    from pathotune.backbones.card import all_cards

    return tuple(card.name for card in all_cards() if card.text and card.loadable)


def load_tower(argument: str) -> TextEncoder:
    """The text side of a model of the catalogue, or of a person's own card in YAML."""
    return tower_encoder(backbone_card(argument))


def tower_encoder(card: BackboneCard, weights: str | Path | None = None) -> TextEncoder:
    """The text side of an image–text model as a text encoder called ``tower:NAME``.

    Parameters
    ----------
    card : of the model.
    weights : the file or folder the image side was read from; looked for as for the image side without it.

    Raises
    ------
    UsageError
        The model has no text side.
    BackboneUnavailable, WeightsRefused
        Its weights or its tokenizer are not here, or do not fit.
    """
    from pathotune.backbones import locate

    side = text_side(card)
    if side.hub_id and (weights is None or not _holds_text(Path(weights))):
        # The publisher of the image side left the text side out; it lies in a folder or on a hub page of its own.
        card = dataclasses.replace(card, name=f"{card.name}-text", hub_id=side.hub_id, files=(), weights="")
        weights = None
    path, _ = locate.find_weights(card, None if weights is None else Path(weights))
    stat = path.stat()
    identity = f"tower {card.name} {path.name} {stat.st_size} {stat.st_mtime_ns}"
    loaded: list[_Tower] = []

    def compute(sentences: list[str]) -> NDArray[np.float32]:
        if not loaded:
            loaded.append(_Tower(card, side, path))
        return loaded[0].encode(sentences)

    return TextEncoder(f"tower:{card.name.removesuffix('-text')}", card.output_dim or 0, identity, compute)


def _holds_text(path: Path) -> bool:
    """Whether a folder a person named is of the publisher who keeps both sides together."""
    folder = path if path.is_dir() else path.parent
    return "text_config" in _json(folder / "config.json")


class _Tower:
    """Tokeniser and network of a text side, in evaluation mode on the CPU."""

    def __init__(self, card: BackboneCard, side: TextSide, path: Path) -> None:
        self.card, self.side, self.path = card, side, path
        build = {"clip": _clip, "siglip": _siglip, "open_clip": _open_clip, "bert": _bert}[side.kind]
        self.network = build(card, side, path).float().eval().requires_grad_(False)
        self.tokenize = _tokenizer(card, side, path)

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Vectors of length 1, (n, dim)."""
        rows = []
        with torch.no_grad():
            for start in range(0, len(sentences), BATCH):
                vectors = self._vectors(self.tokenize(sentences[start : start + BATCH]))
                rows.append(torch.nn.functional.normalize(vectors.float(), dim=-1))
        found: NDArray[np.float32] = torch.cat(rows).numpy()
        if not np.isfinite(found).all():
            raise WeightsRefused(f"The text side of {self.card.title} gives NaN; fetch {self.path.name} again.")
        return found

    def _vectors(self, tokens: Any) -> Tensor:
        if self.side.kind == "clip":
            return self.network(**tokens).text_embeds  # type: ignore[no-any-return]
        if self.side.kind == "siglip":
            # It was trained on padded sentences without a mask.
            return self.network(input_ids=tokens["input_ids"]).pooler_output  # type: ignore[no-any-return]
        return self.network(tokens)  # type: ignore[no-any-return]


# -- networks ---------------------------------------------------------------------------------------------------------


def _clip(card: BackboneCard, side: TextSide, path: Path) -> nn.Module:
    import transformers

    return _of_transformers(
        transformers.CLIPTextModelWithProjection,
        transformers.CLIPTextConfig(**_architecture(side, path)),
        card,
        path,
        ("text_model.", "text_projection."),
    )


def _siglip(card: BackboneCard, side: TextSide, path: Path) -> nn.Module:
    import transformers

    config = transformers.SiglipTextConfig(**_architecture(side, path))
    return _of_transformers(transformers.SiglipTextModel, config, card, path, ("text_model.",))


def _architecture(side: TextSide, path: Path) -> dict[str, Any]:
    """The card's architecture, with what the publisher's config.json says of it on top."""
    published = _json(path.parent / "config.json")
    # The outer document's projection is the one both sides share.
    said = {**published.get("text_config", {}), **{k: published[k] for k in ("projection_dim",) if k in published}}
    return {**side.arguments, **{key: said[key] for key in ARCHITECTURE_KEYS if key in said}}


def _of_transformers(model: Any, config: Any, card: BackboneCard, path: Path, prefixes: tuple[str, ...]) -> nn.Module:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    own = {name: value.float() for name, value in read_tensors(path).items() if name.startswith(prefixes)}
    own = {name: value for name, value in own.items() if not _is_carried_along(name)}
    if not own:
        raise _no_text(card, path)
    network, report = model.from_pretrained(
        None, config=config, state_dict=own, output_loading_info=True, ignore_mismatched_sizes=True
    )
    misshapen = [str(item[0]) if isinstance(item, tuple) else str(item) for item in report["mismatched_keys"]]
    refuse_misfits(card, path.name, report["missing_keys"], report["unexpected_keys"], misshapen)
    built: nn.Module = network
    return built


def _open_clip(card: BackboneCard, side: TextSide, path: Path) -> nn.Module:
    try:
        from open_clip.transformer import QuickGELU, TextTransformer
    except ImportError:
        raise MissingPackage(
            "open_clip_torch", f"The text side of {card.title}", "pip install 'pathotune[openclip]'"
        ) from None
    arguments = {key: value for key, value in side.arguments.items() if key != "quick_gelu"}
    quick = side.arguments.get("quick_gelu")
    if quick is None:  # it leaves no trace in the tensors
        model = _json(path.parent / "open_clip_config.json").get("model_cfg")
        if model is None:
            raise WeightsRefused(
                f"{card.title} needs the publisher's open_clip_config.json beside {path.name}: it says which "
                "activation the model was trained with, and the weights do not."
            )
        quick = bool(model.get("quick_gelu", False))
    network: nn.Module = TextTransformer(
        context_length=side.context,
        output_dim=card.output_dim,
        act_layer=QuickGELU if quick else nn.GELU,
        **arguments,
    )
    _fill(network, card, side, path)
    return network


def _bert(card: BackboneCard, side: TextSide, path: Path) -> nn.Module:
    import transformers

    config = transformers.BertConfig(**_architecture(side, path))
    inner = transformers.BertModel(config, add_pooling_layer=side.pooling == "pooler")
    network = _BertWithProjection(inner, _projection(side, config.hidden_size, card), side.pooling)
    _fill(network, card, side, path)
    return network


class _BertWithProjection(nn.Module):
    """A BERT, one vector of what it gives, and the projection behind it; names as open_clip has them."""

    def __init__(self, transformer: nn.Module, projection: nn.Module, pooling: str) -> None:
        super().__init__()
        self.transformer, self.proj, self.pooling = transformer, projection, pooling

    def forward(self, tokens: Any) -> Tensor:
        """(b, dim) of tokenised sentences."""
        output = self.transformer(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        pooled = output.pooler_output if self.pooling == "pooler" else output.last_hidden_state[:, 0]
        projected: Tensor = self.proj(pooled)
        return projected


def _projection(side: TextSide, width: int, card: BackboneCard) -> nn.Module:
    out = card.output_dim or width
    if side.projection == "none":
        return nn.Identity()
    if side.projection == "linear":
        return nn.Linear(width, out, bias=False)
    middle = (width + out) // 2
    return nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, out, bias=False))


def _fill(network: nn.Module, card: BackboneCard, side: TextSide, path: Path) -> None:
    """Copy the file's tensors of the text side into the network; every name and shape has to match."""
    tensors, own = read_tensors(path), network.state_dict()
    found: dict[str, Tensor] = {}
    for prefix in side.prefix:
        part = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if not prefix:
            part = {name: value for name, value in part.items() if name in own}
        found.update(part)
    found = {_in_our_names(name, own): value for name, value in found.items() if not _is_carried_along(name)}
    if not found:
        raise _no_text(card, path)
    misshapen = [name for name in own if name in found and own[name].shape != found[name].shape]
    missing = [name for name in own.keys() - found.keys() if not _is_carried_along(name)]
    refuse_misfits(card, path.name, missing, found.keys() - own.keys(), misshapen)
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)


def _in_our_names(name: str, own: Mapping[str, Any]) -> str:
    """A BERT that stands alone in its file has no name for itself there."""
    return f"transformer.{name}" if name not in own and f"transformer.{name}" in own else name


def _is_carried_along(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in CARRIED_ALONG)


def _no_text(card: BackboneCard, path: Path) -> WeightsRefused:
    return WeightsRefused(
        f"{path.name} holds no text side of {card.title}, only its image side; get the publisher's whole file."
    )


# -- tokenisers -------------------------------------------------------------------------------------------------------


def _tokenizer(card: BackboneCard, side: TextSide, path: Path) -> Callable[[list[str]], Any]:
    """Sentences → what the network takes."""
    if side.tokenizer == "open_clip":
        from open_clip.tokenizer import SimpleTokenizer

        plain = SimpleTokenizer(context_length=side.context)
        return lambda sentences: plain(sentences)
    if side.tokenizer.endswith(".json"):
        return _from_file(card, side, path)
    here = any((path.parent / name).is_file() for name in TOKENIZER_FILES)
    source: str | Path = path.parent if here else side.tokenizer or side.hub_id or card.hub_id
    tokenizer = fetch("AutoTokenizer", source, f"tower:{card.name}")
    padding = "max_length" if side.kind == "siglip" else True

    def tokenize(sentences: list[str]) -> Any:
        return tokenizer(sentences, padding=padding, truncation=True, max_length=side.context, return_tensors="pt")

    return tokenize


def _from_file(card: BackboneCard, side: TextSide, path: Path) -> Callable[[list[str]], Any]:
    """A tokeniser whose one file its authors keep beside their code; every sentence is padded to the full length."""
    import transformers

    places = [path.parent, settings().models_dir / card.name]
    file = next((place / side.tokenizer for place in places if (place / side.tokenizer).is_file()), None)
    if file is None:
        raise BackboneUnavailable(
            f"The text side of {card.title} needs its tokenizer {side.tokenizer}, which its authors keep at "
            f"{side.tokenizer_at or card.where_to_ask}. Put it into {places[0]} or {places[1]}."
        )
    marks = {"bos_token": "<start_of_text>", "eos_token": "<end_of_text>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), **marks)

    def tokenize(sentences: list[str]) -> Any:
        return tokenizer(
            sentences, padding="max_length", truncation=True, max_length=side.context, return_tensors="pt"
        )["input_ids"]

    return tokenize


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
