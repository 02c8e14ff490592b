"""Who opens slides in napari from now on: this plugin, once the person agrees, or napari as before."""

from __future__ import annotations

from typing import Any

from napari_pathotune import compat

NAME = "pathotune"
# For what people call a slide; the person's own choices for any of them are left alone.
PATTERNS = (
    "*.svs",
    "*.ndpi",
    "*.scn",
    "*.bif",
    "*.mrxs",
    "*.vms",
    "*.vmu",
    "*.svslide",
    "*.tif",
    "*.tiff",
    "*.geojson",
)
# What was agreed to while a window of ours prefers our reader for a while; it stays when that window closes.
_agreed: set[str] = set()


def prefer_our_reader() -> bool:
    """Menu entry and command palette: ask, and let napari open slides with this plugin from now on.

    Returns
    -------
    Whether anything was changed.
    """
    chosen = _plugins().extension2reader
    ours = [pattern for pattern in PATTERNS if chosen.get(pattern, NAME) == NAME]
    others = {pattern: chosen[pattern] for pattern in PATTERNS if pattern not in ours}
    text = f"From now on napari opens {', '.join(ours)} with PathoTune, without asking which reader to take."
    if others:
        kept = ", ".join(f"{pattern} ({reader})" for pattern, reader in others.items())
        text += f" What you chose yourself stays: {kept}."
    text += " The entry “Leave slides to napari again” takes this back."
    if not ours or not compat.agrees("Open slides with PathoTune?", text):
        return False
    _plugins().extension2reader = {**_plugins().extension2reader, **dict.fromkeys(ours, NAME)}
    _agreed.update(ours)
    _tell("Slides open with PathoTune from now on.")
    return True


def leave_to_napari() -> bool:
    """Menu entry and command palette: napari chooses or asks again for what was opened with this plugin.

    Returns
    -------
    Whether anything was changed.
    """
    chosen = _plugins().extension2reader
    kept = {pattern: reader for pattern, reader in chosen.items() if pattern not in PATTERNS or reader != NAME}
    _agreed.clear()
    if kept == chosen:
        _tell("Nothing was set to open with PathoTune, so nothing has changed.")
        return False
    _plugins().extension2reader = kept
    _tell("napari chooses the reader for slides again, or asks.")
    return True


class OurReaderPreferred:
    """While this is open, napari takes our reader for slides without asking; the person's own choices stay."""

    def __enter__(self) -> None:
        chosen = _plugins().extension2reader
        self._added = {pattern: NAME for pattern in PATTERNS if pattern not in chosen}
        _plugins().extension2reader = {**chosen, **self._added}

    def __exit__(self, *problem: object) -> None:
        # Asked again: what the person set in the meantime stays hers.
        _plugins().extension2reader = {
            pattern: reader
            for pattern, reader in _plugins().extension2reader.items()
            if not (pattern in self._added and reader == NAME and pattern not in _agreed)
        }


def _plugins() -> Any:
    from napari.settings import get_settings

    return get_settings().plugins


def _tell(text: str) -> None:
    from napari_pathotune.compat import show_info

    show_info(text)
