"""A person's own tiny backbone under a licence that forbids much, for tests of what is said and what is kept quiet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from tiny import tiny_card
from typer.testing import CliRunner

from pathotune.cli import app

COPIED = ("title", "kind", "loader", "architecture", "arguments", "embed_dim", "output_dim", "depth", "num_heads")
COPIED += ("patch_size", "image_size", "tile_px", "mpp", "pooling", "prefix_tokens", "takes_prompts")


@pytest.fixture
def make_card(tiny_backbone: Any) -> Callable[[Path], Path]:
    """Writes a card under CC-BY-NC-ND with its weights beside it into a folder."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        network = tiny_backbone("plain", 3).network
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "w.safetensors")
        card = tiny_card("plain")
        facts = {name: getattr(card, name) for name in COPIED} | {"mean": [0.5] * 3, "std": [0.5] * 3}
        facts |= {"name": "bound", "licence": "CC-BY-NC-ND-4.0", "non_commercial": True, "no_derivatives": True}
        (folder / "card.yaml").write_text(yaml.safe_dump(facts | {"weights": "w.safetensors"}), encoding="utf-8")
        return folder / "card.yaml"

    return make


@pytest.fixture
def pathotune() -> Callable[..., Any]:
    """Runs a command of the program; its answer, which must be a success."""

    def run(*words: Any, code: int = 0) -> Any:
        answer = CliRunner().invoke(app, [str(word) for word in words])
        assert answer.exit_code == code, answer.output + repr(answer.exception)
        return answer

    return run
