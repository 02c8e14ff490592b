"""Tensors from files, without ever running what a file may hold, and fitted strictly to a network."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.backbones.card import BackboneCard
from pathotune.errors import WeightsRefused

if TYPE_CHECKING:
    import torch

# Where training scripts put the model inside what they save.
_WRAPPERS = ("state_dict", "model", "teacher", "model_state_dict")


def part_names(index: Path) -> list[str]:
    """File names of a model in several parts; a name that leaves the folder is refused."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        raise WeightsRefused(f"{index.name} is not an index of weight files.") from None
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsRefused(f"{index.name} names {name!r}, which is no safetensors file beside it.")
    return names


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a weights file by name.

    Raises
    ------
    WeightsRefused
        Not a weights file, damaged, or a pickle that holds more than tensors.
    """
    if path.name.endswith(".index.json"):
        tensors: dict[str, torch.Tensor] = {}
        for name in part_names(path):
            if not (path.parent / name).is_file():
                raise WeightsRefused(f"{path.name} lists {name}, which is not beside it; fetch all parts.")
            tensors.update(read_tensors(path.parent / name))
        return tensors
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".bin", ".pt", ".pth"}:
        return _read_pickle(path)
    raise WeightsRefused(f"{path.name} is no weights file; .safetensors is preferred, .bin, .pt and .pth are read too.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsRefused(f"{path.name} cannot be read as safetensors ({error}); fetch it again.") from None


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise WeightsRefused(
            f"{path.name} holds more than tensors or is damaged ({first}); it is not opened, because such a file "
            "can run any code. Ask for a .safetensors file, or convert it on a machine you can lose."
        ) from None
    for _ in range(2):
        if isinstance(data, Mapping) and not all(isinstance(value, torch.Tensor) for value in data.values()):
            data = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), data)
    if not isinstance(data, Mapping):
        raise WeightsRefused(f"{path.name} holds a {type(data).__name__}, not tensors by name.")
    return {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)}


def text_scale(tensors: Mapping[str, torch.Tensor]) -> float:
    """What an image–text model multiplies its cosines by, from its own file; 0 where the file does not say.

    Every such model keeps its logarithm under this name.
    """
    value = tensors.get("logit_scale")
    if value is None or value.numel() != 1 or not bool(value.float().isfinite().all()):
        return 0.0
    return float(value.float().exp())


def rename(tensors: Mapping[str, torch.Tensor], card: BackboneCard) -> dict[str, torch.Tensor]:
    """The file's names as the card translates them, without those it says are not used."""
    result: dict[str, torch.Tensor] = {}
    prefixes = sorted(card.rename, key=len, reverse=True)
    for name, value in tensors.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in card.ignore):
            continue
        prefix = next((item for item in prefixes if name.startswith(item)), None)
        ours = name if prefix is None else card.rename[prefix] + name[len(prefix) :]
        if ours in result:
            raise WeightsRefused(f"The card of {card.name} gives two tensors of the file the one name {ours!r}.")
        result[ours] = value
    return result


def refuse_misfits(
    card: BackboneCard, source: str, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str] = ()
) -> None:
    """Raise WeightsRefused naming what does not fit; nothing is ever left at its random start."""
    faults = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        listed = sorted(name.removeprefix("network.") for name in names)  # as the file's maker calls them
        if listed:
            shown = ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
            faults.append(f"{len(listed)} {what} ({shown})")
    if faults:
        raise WeightsRefused(
            f"{source} does not fit {card.title}: tensors {'; '.join(faults)}. "
            "It may be another model or another version; check the file against the card's hub page."
        )


def load_strictly(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], card: BackboneCard, source: str
) -> None:
    """Copy tensors into a module; every name and shape has to match both ways."""
    import torch

    own = module.state_dict()
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    refuse_misfits(card, source, own.keys() - tensors.keys(), tensors.keys() - own.keys(), misshapen)
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsRefused(f"{source} has a tensor with NaN or infinity ({name}); fetch it again.")
    module.load_state_dict(dict(tensors), strict=True)


def content_sha256(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all saved tensors: the same for every container and library version."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous()
        digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
        digest.update(memoryview(flat.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fill_randomly(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter numbers that depend on the seed and its own name and shape alone.

    A library's own start changes with its version and leaves class tokens, biases and layer scales at 0 or 1e-5, so
    that a test would not see them. Here matrices keep the size of what passes (std 1/sqrt(fan in)), norms and scales
    lie around 1, biases around 0.
    """
    import torch

    with torch.no_grad():
        for name, value in module.named_parameters():
            digest = hashlib.sha256(f"{seed} {name} {tuple(value.shape)}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(_scaled(noise, name).to(value.dtype))


def _scaled(noise: torch.Tensor, name: str) -> torch.Tensor:
    if noise.ndim <= 1:
        return 0.05 * noise if name.endswith("bias") else 1 + 0.05 * noise
    if "token" in name or "pos" in name or "embedding" in name:
        return 0.2 * noise
    scaled: torch.Tensor = noise * noise[0].numel() ** -0.5
    return scaled
