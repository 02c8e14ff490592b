"""Classes to draw with: colours that can be told apart, and a file's names mapped by what they mean."""

from __future__ import annotations

import pytest

from pathotune.errors import UsageError
from pathotune.regions.palette import (
    Palette,
    PaletteClass,
    colour_blind,
    palette_of,
    qupath_colours,
    start_palette,
    suggest_mapping,
)
from pathotune.tasks import colour_blind_palette, qupath_palette


def test_the_start_has_qupaths_names_in_colour_blind_safe_colours() -> None:
    start = start_palette()
    assert set(start.names) <= set(qupath_palette())
    trained = [one.color for one in start if not one.name.endswith("*")]
    assert trained == colour_blind_palette(len(trained))
    assert qupath_colours(start).color_of("Tumor") == qupath_palette()["Tumor"]
    assert colour_blind(qupath_colours(start)) == start


def test_a_new_class_has_a_colour_of_its_own() -> None:
    palette = start_palette()
    for number in range(12):
        palette = palette.add(f"class {number}")
    colors = [one.color for one in palette if not one.name.endswith("*")]
    assert len(set(colors)) == len(colors)
    free = palette.remove(["class 0"]).add("again")
    assert len({one.color for one in free}) == len({one.color for one in palette})


def test_order_can_be_changed_and_names_cannot_be_twice() -> None:
    palette = start_palette().move("Other", 0)
    assert palette.names[0] == "Other" and set(palette.names) == set(start_palette().names)
    with pytest.raises(UsageError, match="same name"):
        Palette([PaletteClass("a", (0, 0, 0)), PaletteClass("a", (1, 1, 1))])
    assert palette.add(" two   words ").names[-1] == "two words"


def test_names_of_a_file_are_mapped_by_case_spelling_and_meaning() -> None:
    palette = palette_of({"Tumor": None, "Stroma": None, "Immune cells": None})
    assert suggest_mapping(["tumor", "Tumour", "carcinoma", "stroma", "Lymphocytes", "Gland", "Tumors"], palette) == {
        "tumor": "Tumor",
        "Tumour": "Tumor",
        "carcinoma": "Tumor",
        "stroma": "Stroma",
        "Lymphocytes": "Immune cells",
        "Gland": "Gland",
        "Tumors": "Tumor",
    }
