"""What is known of a backbone before anything is loaded: its card, read from YAML and checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import FileMissing, TableUnreadable, UnknownName
from pathotune.resources import resource_root

if TYPE_CHECKING:
    from pathotune.tiles.tileset import Reading

LOADERS = ("timm", "transformers", "open_clip", "pathotune", "none")
KINDS = ("tile", "slide")
POOLINGS = ("cls", "avg", "head", "cls+mean_patch", "mean+std_patch", "attn_pool", "pooler", "gap", "none")
VERIFIED = ("never", "architecture", "reference")
# The pixel size at which tiles are read for a model that was trained on everyday pictures and knows none.
MPP_WHERE_NONE_IS_STATED = 0.5


@dataclass(frozen=True)
class BackboneCard:
    """Facts of one backbone; everything needed to build, load, feed and cite it.

    Attributes
    ----------
    kind : "tile" (an image in, features out) or "slide" (features of many tiles in).
    loader : library whose own class is built ("timm", "transformers", "open_clip"; "pathotune" for slide encoders,
        which are built here; "none" where there is no loader).
    architecture, arguments : the library's model name or class and its arguments, as plain data.
    embed_dim : width of a token inside the transformer, which a prompt token has to have.
    output_dim : width of the pooled feature.
    class_index : where among the prefix tokens the class token stands.
    prefix_tokens : class token and registers before the patches.
    image_size : side in pixels of what the model is fed; `tile_px` pixels at `mpp` µm are resized to it.
    pooling : how the pooled feature is made (the means and spreads over "patch" tokens leave registers out).
    head : layers after the pooling, for example ["linear 1024 768", "gelu", "linear 768 768"].
    rename, ignore : prefixes of tensor names in the published file → ours, and patterns of those we do not use.
    files : names of the weights in the hub's repository, tried in order; `weights` a file beside a person's own card.
    file_sha256 : of the shipped file, checked when loading.
    convert : "timm" runs timm's own conversion of foreign checkpoints (DINOv2's names) over the tensors.
    needs : optional packages; also_at : further hub ids of the same weights; where : a page where there is no hub.
    any_size : a network without positions, which reads images of any size.
    text : the text side of an image–text model, as `backbones.text.towers` reads it; empty where there is none.
    gated : whether the hub asks for an agreement first (None: not known).
    verified : "never", "architecture" (builds with the published number of parameters) or "reference" (the same
        numbers as the authors' own loading path).
    loadable, reason : False with the reason where no architecture or loader is known.
    tolerance : largest relative difference of the features that another number format may bring.
    """

    name: str
    title: str
    kind: str
    loader: str
    hub_id: str = ""
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    embed_dim: int | None = None
    output_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    prefix_tokens: int = 0
    class_index: int = 0
    patch_size: int | None = None
    image_size: int | None = None
    tile_px: int | None = None
    mpp: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pooling: str = "none"
    head: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    weights: str = ""
    file_sha256: str = ""
    gated: bool | None = None
    licence: str = ""
    non_commercial: bool | None = None
    no_derivatives: bool | None = None
    params_m: float | None = None
    takes_prompts: bool = False
    verified: str = "never"
    loadable: bool = True
    reason: str = ""
    tolerance: float = 0.03
    domain: str = "pathology"
    needs: tuple[str, ...] = ()
    also_at: tuple[str, ...] = ()
    where: str = ""
    convert: str = ""
    any_size: bool = False
    text: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    folder: Path | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`; (0, 0) where there are none."""
        if not self.image_size or not self.patch_size:
            return (0, 0)
        return (self.image_size // self.patch_size,) * 2

    @property
    def where_to_ask(self) -> str:
        """The page of the weights, or "" where the card names none."""
        return f"https://huggingface.co/{self.hub_id.split(':')[0]}" if self.hub_id else self.where

    def facts(self) -> dict[str, Any]:
        """What `pathotune backbones --json` shows; `available` means here, without a download."""
        from pathotune.backbones.locate import is_available

        return {
            "name": self.name,
            "title": self.title,
            "kind": self.kind,
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "image_size": self.image_size,
            "mpp": self.mpp,
            "params_m": self.params_m,
            "licence": self.licence or None,
            "gated": self.gated,
            "available": is_available(self),
            "takes_prompts": self.takes_prompts,
            "reads_text": bool(self.text),
            "verified": self.verified,
            "output_dim": self.output_dim,
            "tile_px": self.tile_px,
            "domain": self.domain,
            "non_commercial": self.non_commercial,
            "no_derivatives": self.no_derivatives,
            "loadable": self.loadable,
            "reason": self.reason or None,
            "hub_id": self.hub_id or None,
            "notes": self.notes or None,
        }

    def reading(self) -> Reading:
        """How tiles are read for this backbone (`pathotune.tiles.Reading`)."""
        from pathotune.tiles.tileset import Reading

        image_px = self.image_size or 224
        mpp = self.mpp or MPP_WHERE_NONE_IS_STATED
        return Reading(mpp=mpp, tile_px=self.tile_px or image_px, image_px=image_px, decode="reduced")


def card_folder() -> Path:
    """The folder of the cards that ship with pathotune."""
    return resource_root() / "backbones"


def backbone_names() -> tuple[str, ...]:
    """Names of all shipped cards, the built-in one first."""
    names = sorted(path.stem for path in card_folder().glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: name != "pathotune-tiny"))


def backbone_card(name: str | Path) -> BackboneCard:
    """The card of that name, or a person's own from a YAML file.

    Parameters
    ----------
    name : a name of `backbone_names`, the path of a file that ends in .yaml or .yml, or a transcriptomics tuning.

    Raises
    ------
    UnknownName
        No card of that name; lists the known ones.
    FileMissing, TableUnreadable
        The file is not there, or is not a card; the sentence names the key.
    """
    path = Path(name)
    if path.name.endswith(".pathotune.safetensors"):
        from pathotune.backbones.enhanced_card import enhanced_card

        return enhanced_card(path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise FileMissing(path, "backbone card")
        return read_card(path)
    if str(name) not in backbone_names():
        raise UnknownName("backbone", str(name), backbone_names())
    return _shipped(card_folder() / f"{name}.yaml")


def all_cards() -> tuple[BackboneCard, ...]:
    """Every shipped card, in the order of `backbone_names`."""
    return tuple(backbone_card(name) for name in backbone_names())


@cache
def _shipped(path: Path) -> BackboneCard:
    return read_card(path)


def read_card(path: Path) -> BackboneCard:
    """Read and check one YAML card; raises TableUnreadable with the key that is wrong."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableUnreadable(f"{path.name} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise TableUnreadable(f"{path.name} is not a backbone card: it must be a mapping with a name and a loader.")
    return card_from_dict(data, path)


def card_from_dict(data: dict[str, Any], path: Path) -> BackboneCard:
    """A checked card from plain data; `path` is where it came from, for the sentences and relative weights."""
    known = {item.name for item in dataclasses.fields(BackboneCard)} - {"folder"}
    for key in data:
        if key not in known:
            raise TableUnreadable(
                f"{path.name} has the key {key!r}, which a card does not know. Known: {', '.join(sorted(known))}."
            )
    for key in ("name", "title", "kind", "loader"):
        if not isinstance(data.get(key), str) or not data[key]:
            raise TableUnreadable(f"{path.name} needs the key {key!r} as text.")
    values = {key: _plain(value) for key, value in data.items()}
    for key in ("mean", "std"):
        if values.get(key) is not None:
            values[key] = _three_numbers(values[key], key, path)
    for key in ("head", "ignore", "files", "needs", "also_at"):
        values[key] = tuple(values.get(key) or ())
    card = BackboneCard(**values, folder=path.parent)
    _check(card, path)
    return card


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _three_numbers(value: Any, key: str, path: Path) -> tuple[float, float, float]:
    if not isinstance(value, tuple) or len(value) != 3 or not all(isinstance(item, int | float) for item in value):
        raise TableUnreadable(f"{path.name}: {key!r} must be three numbers (red, green, blue), got {value!r}.")
    return (float(value[0]), float(value[1]), float(value[2]))


def _check(card: BackboneCard, path: Path) -> None:
    def wrong(key: str, why: str) -> TableUnreadable:
        return TableUnreadable(f"{path.name}: {key!r} is {getattr(card, key)!r}; {why}.")

    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", card.name):
        raise wrong("name", "use small letters, digits, points and hyphens")
    for key, choices in (
        ("kind", KINDS),
        ("loader", LOADERS),
        ("pooling", POOLINGS),
        ("verified", VERIFIED),
        ("convert", ("", "timm")),
    ):
        if getattr(card, key) not in choices:
            raise wrong(key, f"choose one of {', '.join(choices)}")
    for key in ("embed_dim", "output_dim", "depth", "num_heads", "patch_size", "image_size", "tile_px"):
        value = getattr(card, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
            raise wrong(key, "it must be a whole number above 0")
    if not isinstance(card.text, Mapping):
        raise wrong("text", "it must be a mapping with the kind of the text side")
    if card.mpp is not None and not 0.05 <= float(card.mpp) <= 20:
        raise wrong("mpp", "it is in micrometres per pixel, usually 0.25 to 2")
    if card.std is not None and min(card.std) <= 0:
        raise wrong("std", "each number must be above 0")
    if not card.loadable:
        if not card.reason:
            raise wrong("reason", "a card that cannot be loaded must say why")
        return
    if card.loader == "none" or (card.kind == "slide") != (card.loader == "pathotune"):
        raise wrong("loader", "only a tile model can be loaded by a library, and only a slide model by pathotune")
    required = ["architecture", "embed_dim", "output_dim", "image_size", "mean", "std"]
    if card.kind == "slide":
        required = ["architecture", "embed_dim", "output_dim", "depth", "num_heads", "mpp"]
    if card.takes_prompts:
        required += ["depth", "num_heads", "patch_size"]
    for key in required:
        if not getattr(card, key):
            raise wrong(key, "a card that can be loaded must state it")
    if card.patch_size and card.image_size and card.image_size % card.patch_size:
        nearest = round(card.image_size / card.patch_size) * card.patch_size
        raise wrong("image_size", f"it must be a multiple of the patch size {card.patch_size}, for example {nearest}")
