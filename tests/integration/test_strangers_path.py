"""The recipes of CONTRIBUTING, followed by a stranger in a copy: one file and one line, and everything knows of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "src" / "pathotune").is_dir(), reason="only in a checkout"),
]

AGGREGATOR = '''"""The tile that differs most from the mean of all."""

from __future__ import annotations

import torch
from torch import Tensor

from pathotune.aggregators.base import Aggregator, Pooled, in_chunks


class Oddest(Aggregator):
    """The embedded tile farthest from the mean."""

    def pool(self, features: Tensor, coords: Tensor | None) -> Pooled:
        """One bag with at least one tile."""
        embedded = in_chunks(self.embed, features)
        far = (embedded - embedded.mean(dim=0)).square().sum(dim=1)  # (n,)
        weights = torch.softmax(far, dim=0)
        return Pooled(weights @ embedded, weights, None, embedded)

    def alone(self, features: Tensor) -> Tensor:
        """(n, d') the embedded tiles themselves."""
        return in_chunks(self.embed, features)
'''
LINE = (
    '        Entry("toy", "pathotune.aggregators.toy:Oddest", "Oddest tile", '
    '{"summary": "The odd one.", "permutation_invariant": True, "attends": True}),\n'
)
CARD = """name: toy-backbone
title: Toy backbone
kind: tile
loader: timm
hub_id: stranger/toy
architecture: vit_tiny_patch16_224
arguments: {reg_tokens: 3, global_pool: token}
embed_dim: 192
output_dim: 192
depth: 12
num_heads: 3
prefix_tokens: 4
patch_size: 16
image_size: 224
tile_px: 224
mpp: 0.5
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
pooling: cls
licence: CC0-1.0
params_m: 5.5
takes_prompts: true
"""


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, its resources and the contract tests, with both toys added."""
    folder = tmp_path_factory.mktemp("clone")
    ignored = shutil.ignore_patterns("__pycache__", "pictures")
    for part in ("src", "resources", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", folder)
    before = files_of(folder)
    (folder / "src/pathotune/aggregators/toy.py").write_text(AGGREGATOR, encoding="utf-8")
    table = folder / "src/pathotune/aggregators/__init__.py"
    text = table.read_text(encoding="utf-8")
    head, found, rest = text.partition('        Entry(\n            "mean"')
    assert found
    table.write_text(head + LINE + found + rest, encoding="utf-8")
    (folder / "resources/backbones/toy-backbone.yaml").write_text(CARD, encoding="utf-8")
    after = files_of(folder)
    new, changed = set(after) - set(before), {name for name in before if after[name] != before[name]}
    assert len(new) == 2 and len(changed) == 1, "a file each, and one table"
    lines = after[changed.pop()].count(b"\n") - len(text.splitlines())
    assert lines == 1
    return folder


def run(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (clone / "src", clone)))
    return subprocess.run(
        [sys.executable, *words],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def passed(answer: Any) -> int:
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
    return int(re.search(r"(\d+) passed", answer.stdout).group(1))  # type: ignore[union-attr]


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore")


def test_the_contract_tests_pick_up_the_aggregator(clone: Path) -> None:
    assert passed(run(clone, *PYTEST, "tests/core/test_every_aggregator.py", "-k", "toy")) > 5


def test_the_contract_tests_pick_up_the_backbone(clone: Path) -> None:
    assert passed(run(clone, *PYTEST, "tests/core/test_every_backbone.py", "-k", "toy")) > 3


def test_commands_and_options_know_them(clone: Path) -> None:
    listed = run(clone, "-m", "pathotune", "backbones", "--json")
    assert "toy-backbone" in {card["name"] for card in json.loads(listed.stdout)}
    code = "from pathotune.methods import load_config; print(load_config('mil', {'aggregator': 'toy'}).aggregator)"
    assert run(clone, "-c", code).stdout.strip() == "toy"
