"""Forward speed of pathotune-tiny beside ViT-S/16, in one interleaved run: python -m benchmarks.pretraining.speed."""

import argparse
import statistics
import time

import torch
from timm.models.vision_transformer import VisionTransformer

MODELS = {"pathotune-tiny (ViT-Ti/16)": (192, 3), "ViT-S/16": (384, 6)}
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(batch: int, rounds: int, device: str) -> dict[tuple[str, str], float]:
    """Median images per second of each model and number format; all take turns, so that a busy machine slows all."""
    encoders = {
        name: VisionTransformer(embed_dim=dim, depth=12, num_heads=heads, num_classes=0).eval().to(device)
        for name, (dim, heads) in MODELS.items()
    }
    images = torch.randn(batch, 3, 224, 224, device=device)
    seconds: dict[tuple[str, str], list[float]] = {(m, f): [] for m in MODELS for f in FORMATS}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for model, kind in seconds:
                taken = forward_seconds(encoders[model], images, FORMATS[kind])
                if number:  # the first round warms up
                    seconds[model, kind].append(taken)
    return {key: batch / statistics.median(values) for key, values in seconds.items()}


def forward_seconds(encoder: VisionTransformer, images: torch.Tensor, kind: torch.dtype) -> float:
    """Seconds of one forward pass in a number format."""
    began = time.perf_counter()
    with torch.autocast(images.device.type, dtype=kind, enabled=kind != torch.float32):
        result = encoder(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    assert torch.isfinite(result).all()
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretraining.speed", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    rates = measure(options.batch, options.rounds, options.device)
    slowest = rates["ViT-S/16", "float32"]
    print(f"batch {options.batch}, median of {options.rounds}, {options.device}, {torch.get_num_threads()} threads\n")
    print("| model | number format | images per second | ViT-S/16 in float32 = 1 |\n|---|---|---|---|")
    for (model, kind), rate in rates.items():
        print(f"| {model} | {kind} | {rate:.0f} | {rate / slowest:.1f} |")


if __name__ == "__main__":
    main()
