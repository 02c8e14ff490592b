"""What a step of ModalTune costs in the published shape: seconds and memory against the number of tiles.

LongNet with 12 layers of 768 and random weights, 331 pathways with 9,731 memberships, three task prompts one after the
other, one patient a step, forward and backward.

    python benchmarks/modaltune_cost.py --tiles 3125,6250,12500,25000        (--prompts 1 for a third of the time)
    python benchmarks/modaltune_cost.py --precision bfloat16                 (what `tune` takes where it is faster)

Memory is the largest the process ever had, minus what it had before the first step; each size runs in a process of its
own. On the graphics card (`--device cuda`) it is what torch says.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

SIZES = [1, 199, *[29] * 319, *[28] * 10]
GENES = 4987


def model_of(device: str):
    """ModalTune in the published shape, with random weights."""
    import torch

    from pathotune.backbones.slide import load_slide_encoder
    from pathotune.methods import load_config
    from pathotune.methods.modaltune.method import ModalTune

    torch.manual_seed(0)
    member = np.zeros((len(SIZES), GENES), dtype=np.float32)
    for row, size in enumerate(SIZES):
        member[row, row : row + size] = 1
    encoder = load_slide_encoder("gigapath-slide", random_seed=0)
    config = load_config("modaltune", {"slide_encoder": "gigapath-slide", "gamma_start": 0.1})
    return ModalTune(config, encoder, member, 512).to(device).train()


def measured(tiles: int, prompts: int, device: str, precision: str) -> dict[str, float]:
    """Seconds of one step (the second, on a graphics card) and megabytes it needed at its peak."""
    import torch

    from pathotune.device import number_format
    from pathotune.methods.modaltune.layers import text_loss
    from pathotune.methods.modaltune.method import Patients

    model = model_of(device)
    parameters = [value for value in model.parameters() if value.requires_grad]
    side = int(np.ceil(np.sqrt(tiles)))
    cells = torch.arange(tiles)
    corners = torch.stack([cells // side, cells % side], dim=-1)[None] * 256.0
    patient = Patients(torch.randn(1, tiles, 1536), corners, None, torch.randn(1, GENES), torch.tensor([True]))
    patient = Patients(*(None if part is None else part.to(device) for part in patient))
    targets = torch.randn(1, 1, 256, device=device)
    before = memory(device)
    for _ in range(2 if device != "cpu" else 1):
        started = time.perf_counter()
        for prompt in ("general", "diagnosis", "survival")[:prompts]:
            with number_format(device, precision):
                vectors = model(patient, (prompt,)).vectors
            loss = text_loss(vectors, targets)
            torch.autograd.grad(loss, parameters, allow_unused=True)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {
        "tiles": tiles,
        "prompts": prompts,
        "seconds": round(seconds, 2),
        "peak_mb": round(memory(device) - before),
        "threads": torch.get_num_threads(),
    }


def memory(device: str) -> float:
    """The largest the process ever had, in megabytes; on a graphics card what torch had there."""
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def main() -> None:
    """Measure every size in a process of its own and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", default="3125,6250,12500,25000")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--one", action="store_true", help="measure here, for the first size, and print JSON")
    asked = parser.parse_args()
    sizes = [int(part) for part in asked.tiles.split(",")]
    if asked.one:
        print(json.dumps(measured(sizes[0], asked.prompts, asked.device, asked.precision)))
        return
    for size in sizes:
        command = [sys.executable, __file__, "--one", "--tiles", str(size), "--prompts", str(asked.prompts)]
        command += ["--device", asked.device, "--precision", asked.precision]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        said = json.loads(run.stdout.splitlines()[-1])
        print(
            f"{said['tiles']:>6} tiles: {said['seconds']:8.1f} s a step ({said['prompts']} prompts, {said['threads']} "
            f"threads), {said['peak_mb']:>6} MB on top, {1024 * said['peak_mb'] / said['tiles']:.0f} KB a tile",
            flush=True,
        )


if __name__ == "__main__":
    main()
