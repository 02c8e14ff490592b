"""Whether the viewer can open: napari, Qt, a screen with OpenGL, and who else wants to read slides there."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version

from pathotune.diagnosis import Finding
from pathotune.diagnosis.trying import not_loaded, tried_apart

BINDINGS = ("PyQt6", "PyQt5", "PySide6", "PySide2")
INSTALL = "pip install 'pathotune[pyqt6]'"
SLIDE_READERS = (
    "napari-wsi",
    "napari-wsi-reader",
    "napari-openslide",
    "napari-tiff",
    "napari-bioio",
    "napari-aicsimageio",
)
MANIFEST = (
    "from npe2 import PluginManager\n"
    "manager = PluginManager.instance(); manager.discover()\n"
    "print(manager.get_manifest('pathotune').name)"
)
CONTEXT = (
    "from qtpy.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext\n"
    "app = QGuiApplication(['doctor']); context = QOpenGLContext()\n"
    "assert context.create(), 'no OpenGL context'\n"
    "surface = QOffscreenSurface(); surface.create()\n"
    "assert context.makeCurrent(surface), 'the OpenGL context does not work'\n"
    "print(app.platformName(), context.format().version())"
)


def check_viewer() -> Iterator[Finding]:
    """napari and one Qt binding."""
    if importlib.util.find_spec("napari") is None:
        text = "napari is not installed: the command line works, the viewer does not"
        yield Finding("viewer", "note", text, INSTALL)
        return
    found = [name for name in BINDINGS if importlib.util.find_spec(name) is not None]
    if not found:
        yield Finding("Qt", "trouble", "there is no Qt: napari cannot open a window", INSTALL)
        return
    numbers = version("napari")
    yield Finding("viewer", "ok", f"napari {numbers}, {', '.join(found)}")
    if len(found) > 1 and not os.environ.get("QT_API"):
        text = f"{' and '.join(found)} are both installed, which may mix"
        yield Finding("Qt", "note", text, f"Uninstall all but one, or set QT_API={found[0].lower()}.")
    release = tuple(int(part) for part in numbers.split(".")[:2] if part.isdecimal())
    if found == ["PyQt5"] and release >= (0, 10):
        text = f"napari {numbers} no longer works with PyQt5"
        yield Finding("Qt", "trouble", text, INSTALL)


def check_screen() -> Iterator[Finding]:
    """A screen, and OpenGL on it, tried with Qt itself."""
    if importlib.util.find_spec("qtpy") is None or not any(map(importlib.util.find_spec, BINDINGS)):
        return
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        text = "there is no screen (DISPLAY is not set): the command line works, the viewer does not"
        yield Finding("screen", "note", text, "Over ssh use ssh -X or a remote desktop; without any screen, xvfb-run.")
        return
    works, said = tried_apart(CONTEXT, longest_s=30)
    if works:
        yield Finding("OpenGL", "ok", said)
    else:
        fix = "Install the card's driver (on Linux also libgl1 and libegl1); over a remote desktop, one with OpenGL."
        yield Finding("OpenGL", "trouble", said, fix)


def check_other_readers() -> Iterator[Finding]:
    """Plugins that claim the same files, so that napari asks or takes the other."""
    installed = {(one.metadata["Name"] or "").lower() for one in distributions()}
    others = [name for name in SLIDE_READERS if name in installed]
    if others:
        text = f"{', '.join(others)} read slides in napari, too"
        yield Finding(
            "napari's readers", "note", text, "Open slides with pathotune view, or napari --plugin pathotune."
        )
    try:
        version("napari")
    except PackageNotFoundError:
        return
    works, said = tried_apart(MANIFEST)
    if not works:
        fix = "Install pathotune into the same environment as napari: pip install --force-reinstall --no-deps pathotune"
        yield not_loaded("plugin", said, f"napari does not find pathotune ({said})", fix)
