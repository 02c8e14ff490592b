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


def test_preferences_nobody_changed_are_told_without_all_plugins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = pytest.importorskip("napari.settings")
    if not hasattr(settings, "_PLUGIN_SETTINGS"):
        pytest.skip("napari before 0.9 has no such preferences")
    from napari_pathotune.compat import Preferences, preferences

    asked: list[str] = []

    def ask(name: str) -> object:
        asked.append(name)
        raise KeyError(name)

    monkeypatch.setattr(settings, "_PLUGIN_SETTINGS", {})
    monkeypatch.setattr(settings, "_CFG_PATH", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(settings, "get_plugin_settings", ask)
    assert preferences() == Preferences() and not asked
    (tmp_path / "pathotune.yaml").write_text("display: {opacity: 0.2}")
    assert preferences() == Preferences() and asked == ["pathotune"], "a file with changes is read"
    (tmp_path / "pathotune.yaml").unlink()
    monkeypatch.setattr(settings, "_PLUGIN_SETTINGS", {"pathotune": None})
    preferences()
    assert len(asked) == 2, "what is in memory counts"


@pytest.mark.parametrize("name", ["a.svs", "b c.ndpi", "ü.ome.tif", "x.mrxs", "dir/y.tiff", "z.dcm"])
def test_slides_match_a_reader_pattern(manifest: npe2.PluginManifest, name: str) -> None:
    from fnmatch import fnmatch

    patterns = [pattern for reader in manifest.contributions.readers for pattern in reader.filename_patterns]
    assert any(fnmatch(name, pattern) for pattern in patterns)


def test_everyday_pictures_are_left_to_napari(manifest: npe2.PluginManifest) -> None:
    patterns = {pattern for reader in manifest.contributions.readers for pattern in reader.filename_patterns}
    assert not patterns & {"*.png", "*.jpg", "*.jpeg", "*"}


def test_menus_lead_to_every_widget_and_to_the_choice_of_reader(manifest: npe2.PluginManifest) -> None:
    in_menus = {item.command for items in manifest.contributions.menus.values() for item in items}
    assert {widget.command for widget in manifest.contributions.widgets} <= in_menus
    assert {"pathotune.prefer_our_reader", "pathotune.leave_to_napari", "pathotune.side_by_side"} <= in_menus
    constants = pytest.importorskip("napari._app_model.constants._menus")
    assert all(constants.is_menu_contributable(menu) for menu in manifest.contributions.menus)


def test_the_command_palette_offers_what_can_be_done_without_a_path(manifest: npe2.PluginManifest) -> None:
    from napari.plugins._npe2 import _npe2_manifest_to_actions

    offered = {
        action.id: action.enablement is None or action.enablement.eval({})
        for action in _npe2_manifest_to_actions(manifest)[0]
    }
    called_with_a_path = {reader.command for reader in manifest.contributions.readers}
    called_with_a_path |= {writer.command for writer in manifest.contributions.writers}
    assert {name for name, is_offered in offered.items() if not is_offered} == called_with_a_path
    assert {name for name, is_offered in offered.items() if is_offered} == {
        "pathotune.prefer_our_reader",
        "pathotune.leave_to_napari",
        "pathotune.side_by_side",
    }


def test_the_hub_finds_what_it_shows(manifest: npe2.PluginManifest) -> None:
    about = distribution("pathotune").metadata
    classifiers = about.get_all("Classifier")
    assert "Framework :: napari" in classifiers
    assert any(line.startswith("Operating System ::") for line in classifiers)
    assert sum(line.startswith("Programming Language :: Python :: 3.") for line in classifiers) >= 2
    assert 20 < len(about["Summary"]) < 200 and about["Requires-Python"] and about["License-Expression"]
    addresses = {line.split(",")[0] for line in about.get_all("Project-URL")}
    assert {"Documentation", "Source"} <= addresses
    assert manifest.display_name == "PathoTune" and manifest.visibility == "public"
    assert manifest.categories, "checked against the hub's own list when the manifest is read"


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
