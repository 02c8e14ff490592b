"""The manifest is valid, its names are the ones napari matches, and the plugin's import costs nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

npe2 = pytest.importorskip("npe2")

MANIFEST = Path(__file__).resolve().parents[2] / "napari_pathotune" / "napari.yaml"
HEAVY = ("torch", "timm", "transformers", "tiffslide", "zarr", "tifffile", "skimage", "sklearn", "openslide")


@pytest.fixture(scope="module")
def manifest() -> npe2.PluginManifest:
    return npe2.PluginManifest.from_file(MANIFEST)


def test_manifest_is_valid_and_every_command_imports(manifest: npe2.PluginManifest) -> None:
    manifest.validate_imports()
    used = {reader.command for reader in manifest.contributions.readers}
    used |= {widget.command for widget in manifest.contributions.widgets}
    assert used <= {command.id for command in manifest.contributions.commands}


def test_name_is_the_distributions(manifest: npe2.PluginManifest) -> None:
    assert manifest.name == distribution("pathotune").metadata["Name"] == "pathotune"
    assert all(command.id.startswith("pathotune.") for command in manifest.contributions.commands)


def test_every_preference_has_a_title_and_is_read(manifest: npe2.PluginManifest) -> None:
    from napari_pathotune.compat import Preferences

    known = {}
    for group in manifest.contributions.configurations.values():
        for name, entry in group.properties.items():
            assert entry.title
            known[name] = entry.default
    assert known == vars(Preferences())


@pytest.mark.parametrize("name", ["a.svs", "b c.ndpi", "ü.ome.tif", "x.mrxs", "dir/y.tiff", "z.dcm"])
def test_slides_match_a_reader_pattern(manifest: npe2.PluginManifest, name: str) -> None:
    from fnmatch import fnmatch

    patterns = [pattern for reader in manifest.contributions.readers for pattern in reader.filename_patterns]
    assert any(fnmatch(name, pattern) for pattern in patterns)


def test_everyday_pictures_are_left_to_napari(manifest: npe2.PluginManifest) -> None:
    patterns = {pattern for reader in manifest.contributions.readers for pattern in reader.filename_patterns}
    assert not patterns & {"*.png", "*.jpg", "*.jpeg", "*"}


def test_import_and_first_form_are_light() -> None:
    code = (
        "import sys\n"
        "import napari_pathotune, napari_pathotune.reader, napari_pathotune.writer, napari_pathotune.sample_data\n"
        "import napari_pathotune.layers, napari_pathotune.session, napari_pathotune.drawings\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "before = set(sys.modules)\n"
        "from napari_pathotune.widgets.dock import PathoTuneDock\n"
        "dock = PathoTuneDock(ViewerModel())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules and name not in before])\n"
        f"print([name for name in {HEAVY[:3]!r} if name in sys.modules])\n"
        "dock.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]
