"""From a run's state to the file that ships: the teacher's weights under timm's names, float16, with their facts."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.pretraining.model import build_encoder

#: The features that a probe of the weights can read; those of `mean+std_patch` are the built-in backbone's.
POOLINGS = ("cls", "mean_patch", "cls+mean_patch", "mean+std_patch")


def export_weights(state: Path, output: Path, pooling: str = "cls") -> dict[str, str]:
    """Write the teacher of the saved run `state` to `output`; returns the metadata stored in it."""
    with safe_open(state, "pt") as file:
        meta = file.metadata()
        prefix = "model.teacher."
        weights = {
            key.removeprefix(prefix): file.get_tensor(key).to(torch.float16).contiguous()
            for key in sorted(file.keys())
            if key.startswith(prefix)
        }
    recipe = json.loads(meta["recipe"])
    facts = {
        "name": "pathotune-tiny",
        "architecture": "timm VisionTransformer img_size=224 patch_size=16 embed_dim=192 depth=12 num_heads=3",
        "mean": json.dumps(recipe["mean"]),
        "std": json.dumps(recipe["std"]),
        "mpp": "0.5",
        "pooling": pooling,
        "steps": meta["step"],
        "recipe": meta["recipe"],
        "licence": "BSD-3-Clause",
    }
    save_file(weights, output, metadata=facts)
    return facts


def load_encoder(path: Path) -> tuple[torch.nn.Module, dict[str, str]]:
    """The shipped encoder in float32, loaded strictly, and its facts."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    weights = {key: value.float() for key, value in load_file(path).items()}
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    encoder = build_encoder(depth)
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval(), facts
