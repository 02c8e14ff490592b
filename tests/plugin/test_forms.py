"""A config becomes a form and comes back the same: every method's, the training's and the prediction's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

pytest.importorskip("magicgui")

from pathotune.errors import UsageError
from pathotune.methods import METHODS, config_class
from pathotune.training.schedule import TrainingConfig

pytestmark = pytest.mark.usefixtures("qapp")


@dataclass(frozen=True)
class Example:
    tiny: Annotated[float, {"min": 0.0, "max": 1.0, "step": 1e-4, "tooltip": "Trap: rounded to its step."}] = 3e-5
    count: Annotated[int, {"min": 1, "max": 9}] = 3
    large: Annotated[int, {"min": 0, "max": 5_000_000}] = 1_234_567
    kind: Literal["a", "b"] = "b"
    on: bool = True
    text: str = "ü"
    batch: int | None = None


def configs() -> list[Any]:
    from napari_pathotune.widgets.predict import PredictOptions

    return [Example(), TrainingConfig(lr=3e-5), PredictOptions(), *(config_class(name)() for name in METHODS)]


@pytest.mark.parametrize("number", range(3 + len(METHODS)))
def test_form_gives_back_what_it_was_given(number: int) -> None:
    from napari_pathotune.forms import config_from, form_of

    config = configs()[number]
    assert config_from(form_of(config), type(config)()) == config


@pytest.mark.parametrize("value", [3e-5, 1e-12, 0.1 + 0.2, 1.0, 0.123456789])
def test_floats_survive(value: float) -> None:
    from napari_pathotune.forms import config_from, form_of

    assert config_from(form_of(Example(tiny=value)), Example()).tiny == pytest.approx(value, rel=1e-11)


def test_every_field_is_named_and_explained() -> None:
    from napari_pathotune.forms import form_of

    for config in configs()[1:]:
        for widget in form_of(config):
            assert widget.native.accessibleName() == widget.label
            assert widget.tooltip, f"{type(config).__name__}.{widget.name} has no tooltip"


@pytest.mark.parametrize("text", ["5x", "", "nan", "-1", "2"])
def test_a_bad_number_is_refused_with_its_name(text: str) -> None:
    from napari_pathotune.forms import config_from, form_of

    form = form_of(Example())
    form["tiny"].value = text
    with pytest.raises(UsageError, match="Tiny"):
        config_from(form, Example())


def test_optional_number_is_empty_or_a_number() -> None:
    from napari_pathotune.forms import config_from, form_of, show_config

    form = form_of(Example())
    show_config(form, dataclasses.replace(Example(), batch=16))
    assert config_from(form, Example()).batch == 16
    show_config(form, Example())
    assert config_from(form, Example()).batch is None


def test_an_option_that_is_a_word_or_a_file_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QFileDialog

    from napari_pathotune.forms import CHOOSE, config_from, form_of, show_config

    config, file = config_class("mil")(), str(tmp_path / "Köln tiles.pathotune.safetensors")
    form = form_of(config)
    field = form["prompts"]
    assert [value for _, value in field._entries()] == ["none", "weak", CHOOSE]
    asked = [("", ""), (file, "")]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: asked.pop(0))
    field.value = "weak"
    field.value = CHOOSE
    assert config_from(form, config).prompts == "weak", "who chooses no file keeps what was chosen"
    field.value = CHOOSE
    assert (
        config_from(form, config).prompts == file and field.native.currentText() == "Köln tiles.pathotune.safetensors"
    )
    other = str(tmp_path / "study.pathotune.safetensors")
    field.offer(other, "study")
    assert config_from(form, config).prompts == file, "what is offered later is not chosen by that"
    assert [field.native.itemText(row) for row in (-1 + field.native.count(), -2 + field.native.count())] == [
        "A tuning of tiles, or of ModalTune…",
        "study",
    ]
    show_config(form, dataclasses.replace(config, prompts="elsewhere.pathotune.safetensors"))
    assert config_from(form, config).prompts == "elsewhere.pathotune.safetensors"
