"""Slides open with this plugin once the person agrees, and with what napari had before once she takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("napari")

from napari_pathotune import compat, reader_choice
from napari_pathotune.reader_choice import OurReaderPreferred, leave_to_napari, prefer_our_reader


@pytest.fixture
def plugins() -> Iterator[Any]:
    """The plugins' settings, with one choice of the person's own; put back afterwards."""
    from napari.settings import get_settings

    settings = get_settings().plugins
    before = dict(settings.extension2reader)
    settings.extension2reader = {"*.tif": "napari", "*.png": "pathotune"}
    yield settings
    leave_to_napari()
    settings.extension2reader = before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the person is asked; she says yes."""
    questions: list[str] = []
    monkeypatch.setattr(compat, "agrees", lambda title, text: questions.append(text) or True)
    monkeypatch.setattr(reader_choice, "_tell", lambda text: None)
    return questions


def test_agreed_to_and_taken_back(plugins: Any, asked: list[str]) -> None:
    before = dict(plugins.extension2reader)
    assert prefer_our_reader()
    assert plugins.extension2reader["*.svs"] == plugins.extension2reader["*.ndpi"] == "pathotune"
    assert plugins.extension2reader["*.tif"] == "napari", "her own choice stays"
    assert "*.svs" in asked[0] and "*.tif (napari)" in asked[0]
    assert leave_to_napari()
    assert plugins.extension2reader == before, "what is no slide was never ours to take back"
    assert not leave_to_napari()


def test_nothing_changes_without_consent(plugins: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(plugins.extension2reader)
    monkeypatch.setattr(compat, "agrees", lambda title, text: False)
    assert not prefer_our_reader() and plugins.extension2reader == before


def test_our_reader_is_preferred_while_the_window_is_open_only(plugins: Any) -> None:
    before = dict(plugins.extension2reader)
    with OurReaderPreferred():
        assert plugins.extension2reader["*.svs"] == "pathotune" and plugins.extension2reader["*.tif"] == "napari"
    assert plugins.extension2reader == before


def test_what_is_agreed_to_in_our_window_outlives_it(plugins: Any, asked: list[str]) -> None:
    with OurReaderPreferred():
        assert prefer_our_reader()
    assert plugins.extension2reader["*.svs"] == "pathotune"
    with OurReaderPreferred():
        assert leave_to_napari()
        plugins.extension2reader = {**plugins.extension2reader, "*.scn": "napari"}
    assert "*.svs" not in plugins.extension2reader and plugins.extension2reader["*.scn"] == "napari"
