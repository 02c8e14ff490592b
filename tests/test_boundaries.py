"""The three walls: the core knows no viewer, listing and forms cost no torch, and data flows one way."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VIEWER = {"napari", "magicgui", "qtpy", "superqt", "vispy", "PyQt5", "PyQt6", "PySide6", "napari_pathotune"}
MODELS = {"torch", "torchvision", "timm", "transformers", "open_clip", "peft"}
READERS = {"tiffslide", "zarr", "openslide", "tifffile"}

LISTINGS = {
    "the package": "import pathotune; dir(pathotune)",
    "the command line": "import pathotune.cli",
    "help": "from pathotune.cli import app\nfrom typer.testing import CliRunner\nCliRunner().invoke(app, ['--help'])",
    "backbones": "from pathotune.backbones import backbone_names, backbone_card\n"
    "[backbone_card(name).facts() for name in backbone_names()]",
    "methods": "from pathotune.methods import METHODS\n[(entry.name, entry.facts) for entry in METHODS.entries()]",
    "configs": "from pathotune.methods import METHODS, config_class\n[config_class(name)() for name in METHODS]\n"
    "from pathotune.training.schedule import TrainingConfig\nTrainingConfig()",
    "tasks": "from pathotune.tasks import load_task, task_names\n[load_task(name) for name in task_names()]",
    "slide readers": "from pathotune.slides import READERS\nlist(READERS)",
    "jobs and their client": "import pathotune.execution.job, pathotune.execution.client",
    "the plugin": "import napari_pathotune",
}


def loaded_after(code: str, *, offscreen: bool = False) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter that has run the code."""
    program = (
        f"{code}\nimport sys, json\nprint('\\n' + json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"} if offscreen else None
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=550, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return set(json.loads(run.stdout.splitlines()[-1]))


def modules_of(package: str) -> list[str]:
    """Names of a package and of all modules in it, without importing them."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    names = [package]
    for place in spec.submodule_search_locations:
        for found in pkgutil.iter_modules([place]):
            name = f"{package}.{found.name}"
            names += modules_of(name) if found.ispkg else [name]
    return [name for name in names if not name.endswith("__main__")]


def is_torch_room(module: str) -> bool:
    """Whether pyproject.toml lets the module import torch at its top: the one list that the linter follows too."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        ignored = tomllib.load(file)["tool"]["ruff"]["lint"]["per-file-ignores"]
    name = f"src/{module.replace('.', '/')}.py"
    return any(
        fnmatch.fnmatch(name, one)
        for pattern, rules in ignored.items()
        if "TID253" in rules and pattern.startswith("src/")
        for one in expanded(pattern)
    )


def expanded(pattern: str) -> list[str]:
    """``a/{b,c}.py`` as ``a/b.py`` and ``a/c.py``."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, _, after = rest.partition("}")
    return [before + one + after for one in inside.split(",")]


def test_the_rooms_are_read_from_the_project() -> None:
    assert is_torch_room("pathotune.backbones.surface") and is_torch_room("pathotune.training.loop")
    assert not is_torch_room("pathotune.backbones.card") and not is_torch_room("pathotune.methods.checkpoint")


@pytest.mark.slow
def test_no_module_of_the_core_loads_a_viewer() -> None:
    modules = modules_of("pathotune")
    assert len(modules) > 50
    loaded = loaded_after("\n".join(f"import {module}" for module in modules))
    assert not loaded & VIEWER


def test_only_the_rooms_that_may_load_torch_do() -> None:
    modules = [module for module in modules_of("pathotune") if not is_torch_room(module)]
    assert len(modules) > 50
    loaded = loaded_after("\n".join(f"import {module}" for module in modules))
    assert not loaded & MODELS


@pytest.mark.parametrize("what", LISTINGS)
def test_listing_costs_no_models_no_readers_and_no_viewer(what: str) -> None:
    loaded = loaded_after(LISTINGS[what])
    assert not loaded & (MODELS | READERS)
    assert not loaded & (VIEWER - {"napari_pathotune"})


@pytest.mark.slow
def test_the_plugin_adds_no_models_and_no_readers_to_napari() -> None:
    """The plugin with all its widgets, and a form of every method's options: only what napari itself brings."""
    for needed in ("napari", "magicgui", "qtpy"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    napari = "import napari, magicgui.widgets, npe2, qtpy.QtWidgets, napari.layers, napari.viewer"
    own = "\n".join(f"import {module}" for module in modules_of("napari_pathotune"))
    forms = """
from qtpy.QtWidgets import QApplication
application = QApplication([])
from napari_pathotune.forms import form_of
from pathotune.methods import METHODS, config_class
from pathotune.training.schedule import TrainingConfig
for config in [*(config_class(name)() for name in METHODS), TrainingConfig()]:
    form_of(config)
"""
    brought = loaded_after(napari, offscreen=True)
    loaded = loaded_after(f"{napari}\n{own}\n{forms}", offscreen=True)
    assert not (loaded - brought) & (MODELS | READERS)


def test_data_flows_one_way() -> None:
    """import-linter's contracts: the core knows no viewer, no arrow points back, methods do not know each other."""
    command = shutil.which("lint-imports", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if command is None:
        pytest.skip("import-linter is not installed here; the lint environment runs it")
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    run = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_the_walls_can_fall(tmp_path: Path) -> None:
    """The look at `sys.modules` sees what a module imports, so that the tests above can fail."""
    (tmp_path / "careless.py").write_text("import sklearn.metrics\n")
    assert "sklearn" in loaded_after(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import careless")
    assert "sklearn" not in loaded_after("import pathotune")
