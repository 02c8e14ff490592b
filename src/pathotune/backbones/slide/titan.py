"""TITAN through the person's own copy of its authors' code, which runs only after she has agreed to it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathotune.backbones import weights
from pathotune.backbones.card import BackboneCard
from pathotune.backbones.slide.surface import Embedded, SlideEncoder
from pathotune.errors import BackboneUnavailable, MissingPackage, TuningMismatch
from pathotune.settings import read_json, settings, write_json

CODE = ("vision_transformer.py", "configuration_titan.py")
WEIGHTS = "model.safetensors"
PREFIX = "vision_encoder."
CELL_PX = 512
# What the authors' class takes, all of it from their own configuration.
ARGUMENTS = (
    *("grid_size", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "mlp_patch_embed_dim"),
    *("pos_encode_type", "attentional_pool", "attn_pooler_queries", "attn_pooler_heads"),
)


def build(card: BackboneCard, folder: Path | None, run_local_code: bool) -> Titan:
    """TITAN from a local copy of its repository.

    Parameters
    ----------
    folder : with its code and weights; None looks in the models folder under the card's name.
    run_local_code : the person has agreed that this code runs. It is remembered on this machine for exactly this code.

    Raises
    ------
    BackboneUnavailable
        There is no such copy, it lacks a file, or nobody agreed that its code runs.
    WeightsRefused
        The weights do not fit the network.
    """
    place = folder or _agreed_folder() or settings().models_dir / card.name
    missing = [name for name in (*CODE, WEIGHTS) if not (place / name).is_file()]
    if missing:
        raise BackboneUnavailable(
            f"{card.title} is published with its own code only ({card.licence}, at {card.where_to_ask}). Put a copy of "
            f"its repository into {place}, or name the folder with --set slide_weights=FOLDER; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not there."
        )
    if not run_local_code and not _is_agreed(place):
        raise BackboneUnavailable(
            f"{card.title} runs code of its authors ({' and '.join(CODE)} in {place}) on this machine, with all of "
            "your rights. Look at these files first; if you agree, say so with --set run_local_code=true."
        )
    network = _network(place)
    write_json(_agreements(), {"folder": str(place.resolve()), "sha256": _code_sha256(place)})
    tensors = weights.read_tensors(place / WEIGHTS)
    own = {name[len(PREFIX) :]: value for name, value in tensors.items() if name.startswith(PREFIX)}
    weights.load_strictly(network, own, card, WEIGHTS)
    return Titan(card, network)


def _agreements() -> Path:
    """Which code a person agreed to on this machine, and where it lies; a tuning file can never say so."""
    return settings().cache_dir / "titan-code.json"


def _code_sha256(folder: Path) -> str:
    """Of all code in the folder, as one file may import another."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _is_agreed(folder: Path) -> bool:
    """Whether exactly this code was agreed to before."""
    return read_json(_agreements()).get("sha256") == _code_sha256(folder)


def _agreed_folder() -> Path | None:
    known = read_json(_agreements()).get("folder")
    return Path(known) if isinstance(known, str) and Path(known).is_dir() else None


class _Context(NamedTuple):
    bias: Tensor | None
    foreground: Tensor  # (1, 1 + cells) bool, the class token first


class Titan(SlideEncoder):
    """TITAN's vision tower (Ding et al. 2024): tiles on a grid, distances as biases of the attention.

    The tokens lie in the order of the grid; `Embedded.order` says which tile each is. Two tiles in one cell are
    refused: the original adds up their features in silence.
    """

    depends_on_order = False

    def __init__(self, card: BackboneCard, network: nn.Module) -> None:
        super().__init__(card, int(card.arguments.get("feature_dim", 768)))
        self.network: Any = network
        blocks = network.blocks
        self._blocks: list[Any] = list(getattr(blocks, "modules_list", blocks))  # type: ignore[arg-type]
        self.depth = len(self._blocks)
        self.freeze()

    def _embed(self, features: Tensor, coords: Tensor, mask: Tensor | None) -> Embedded:
        if len(features) != 1:
            raise TuningMismatch(f"{self.card.title} takes one slide at a time.")
        place, shape = self._cells(coords[0])
        rows, columns = shape
        grid = features.new_zeros(rows * columns, features.shape[-1])
        grid[place] = features[0]
        where = torch.zeros(rows * columns, 2, dtype=torch.int64, device=coords.device)
        where[place] = coords[0].round().to(torch.int64)
        foreground = torch.zeros(rows * columns, dtype=torch.bool, device=features.device)
        foreground[place] = True
        network = self.network
        bias = None
        if network.pos_encode_type == "alibi":
            bias = network.get_alibi(rows, columns, foreground.view(1, rows, columns)).to(features)
            bias = bias.expand(1, *bias.shape[-3:])
        tokens = network.patch_embed(grid[None])
        tokens = network.norm_pre(
            network._pos_embed(tokens, where.view(1, rows, columns, 2).permute(0, 3, 1, 2), rows, columns)
        )
        shown = torch.cat([foreground.new_ones(1), foreground])
        return Embedded(tokens[:, shown], _Context(bias, shown[None]), torch.argsort(place))

    def _cells(self, coords: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The cell of each tile as one number, and the grid's shape."""
        cells = torch.floor((coords - coords.amin(dim=0)).to(torch.float64) / CELL_PX + 1e-6).to(torch.int64)
        rows, columns = (cells.amax(dim=0) + 1).tolist()
        place = cells[:, 0] * columns + cells[:, 1]
        double = len(place) - len(torch.unique(place))
        if double:
            raise TuningMismatch(
                f"{double} of {len(place)} tiles share a cell of {CELL_PX} pixels with another, so {self.card.title} "
                f"cannot tell them apart. It takes tiles of {CELL_PX} pixels at {self.card.mpp} µm that do not "
                "overlap, of one slide at a time."
            )
        return place, (int(rows), int(columns))

    def _layer(self, index: int, tokens: Tensor, context: Any) -> Tensor:
        computed: Tensor = self._blocks[index](tokens, context.bias, context.foreground)
        return computed

    def read_out(self, tokens: Tensor, context: Any = None) -> Tensor:
        """The attention pooler's vector after the final norm, (1, width)."""
        pooled, _ = self.network.forward_attn_pool(self.network.norm(tokens), bg_mask=context.foreground)
        result: Tensor = pooled.reshape(len(tokens), -1)
        return result

    def finish(self, tokens: Tensor, context: Any = None) -> Tensor:
        """The same as `read_out`: this is TITAN's own vector."""
        return self.read_out(tokens, context)


def _network(folder: Path) -> nn.Module:
    """The authors' network with their own settings; imports the two files of the folder as a package of its own."""
    package = "pathotune_local_" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    if package not in sys.modules:
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder.resolve())]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        settings_of: ModuleType = importlib.import_module(f"{package}.configuration_titan")
        network_of: ModuleType = importlib.import_module(f"{package}.vision_transformer")
        vision = settings_of.TitanConfig().vision_config
        network: nn.Module = network_of.VisionTransformer(**{name: getattr(vision, name) for name in ARGUMENTS})
    except ModuleNotFoundError as error:
        name = error.name or str(error)
        raise MissingPackage(name, "TITAN's code", f"pip install {name}") from None
    except (AttributeError, TypeError) as error:
        raise BackboneUnavailable(
            f"The code in {folder} is not laid out as TITAN's is ({error}). Get the release of the weights you have."
        ) from None
    return network
