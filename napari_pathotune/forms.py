"""A config dataclass as a magicgui form and back: labels, ranges, choices and tooltips come from its annotations."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit, SpinBox, create_widget
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QFileDialog

CHOOSE = "choose"  # of a combo box: a file is asked for

# Fields whose name alone is no plain English.
LABELS = {
    "tvp_tokens": "Visual prompts",
    "tvp_depth": "They enter",
    "ttp": "Sentence prompts",
    "ttp_depth": "They enter",
    "ivp": "Instance prompts",
    "ivp_tokens": "How many per tile",
    "ivp_depth": "They enter",
    "vrm_width": "Refine module width",
    "lr": "Learning rate",
    "val_fraction": "Held out",
    "split_by": "Held out by",
    "max_tiles_per_class": "Tiles per class, at most",
    "batch_size": "Tiles per step",
}


class FloatText(LineEdit):
    """A number typed as text, so that 3e-5 stays 3e-5: a spin box rounds to the decimals of its step."""

    def __init__(self, value: float | None = 0.0, low: float | None = None, high: float | None = None, **kwargs: Any):
        self.low, self.high = low, high
        super().__init__(**kwargs)
        self.value = value

    def get_value(self) -> float:
        """The number; raises ValueError with what would do where the text is none or out of range."""
        text = str(super().get_value()).strip().replace(",", ".")
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{self.label} is a number such as 0.001 or 1e-3, not {text!r}.") from None
        if number != number or (self.low is not None and number < self.low):
            raise ValueError(f"{self.label} is at least {self.low:g}, not {text}.")
        if self.high is not None and number > self.high:
            raise ValueError(f"{self.label} is at most {self.high:g}, not {text}.")
        return number

    @property
    def value(self) -> float:
        """The number as typed."""
        return self.get_value()

    @value.setter
    def value(self, number: float | str | None) -> None:
        text = number if isinstance(number, str) else f"{float(number or 0):.12g}"
        self._widget._mgui_set_value(text)


class OptionalNumber(LineEdit):
    """A whole number or a float that may be left empty for "chosen by itself"."""

    def __init__(self, value: float | None = None, kind: type = int, nullable: bool = True, **kwargs: Any):
        self.kind = kind
        super().__init__(**kwargs)
        self.value = value
        self.native.setPlaceholderText("automatic")

    @property
    def value(self) -> float | None:
        """The number, or None where the field is empty; raises ValueError for other text."""
        text = str(self._widget._mgui_get_value()).strip()
        if not text:
            return None
        try:
            number: float = self.kind(text)
        except ValueError:
            raise ValueError(f"{self.label} is a number, or empty for automatic, not {text!r}.") from None
        return number

    @value.setter
    def value(self, number: float | None) -> None:
        self._widget._mgui_set_value("" if number is None else f"{number:.12g}")


class FileChoice(ComboBox):
    """One of a few words, or a file: those that were offered, or one that is asked for by the last entry.

    Parameters
    ----------
    words : the values that are no files, each with what it is called.
    wanted : what the dialog asks for.
    files : which ones it shows, as Qt writes it.
    """

    def __init__(self, value: str, words: Mapping[str, str], wanted: str, files: str, **kwargs: Any):
        self._wanted, self._files, self._before = wanted, files, value
        self._offered = dict(words)
        if value not in self._offered:
            self._offered[value] = Path(value).name
        super().__init__(value=value, choices=self._entries(), **kwargs)
        self.changed.connect(self._on_changed)

    def offer(self, path: str, name: str = "") -> None:
        """List a file; what is chosen stays."""
        if path not in self._offered:
            self._offered[path] = name or Path(path).name
            # As a choice of magicgui's it would come after the entry that asks for a file.
            self._default_choices = self._entries()
            with QSignalBlocker(self.native):
                self.native.insertItem(self.native.count() - 1, self._offered[path], path)

    def _entries(self) -> list[tuple[str, str]]:
        return [*((text, value) for value, text in self._offered.items()), (f"{self._wanted}…", CHOOSE)]

    @property
    def value(self) -> str:
        """The word, or the file's path."""
        return str(super().value)

    @value.setter
    def value(self, value: str) -> None:
        if value != CHOOSE:
            self.offer(value)
        ComboBox.value.fset(self, value)

    def _on_changed(self, value: str) -> None:
        if value == CHOOSE:
            chosen, _ = QFileDialog.getOpenFileName(self.native, self._wanted, "", self._files)
            self.value = chosen or self._before
        else:
            self._before = value


def form_of(config: Any, only: Sequence[str] | None = None, labels: bool = True) -> Container:
    """A form that shows the config's fields.

    Parameters
    ----------
    config : an instance of a dataclass whose fields are annotated for magicgui.
    only : names of the fields to show, in this order; all where None.
    """
    hints = get_type_hints(type(config), include_extras=True)
    names = list(only) if only is not None else [field.name for field in dataclasses.fields(config) if field.init]
    widgets = [_widget(name, hints[name], getattr(config, name)) for name in names]
    container = Container(widgets=widgets, labels=labels)
    container.margins = (0, 0, 0, 0)
    return container


def config_from(form: Container, config: Any) -> Any:
    """A copy of `config` with what the form says.

    Raises
    ------
    UsageError : a field holds no usable value; the sentence names it and says what would do.
    """
    from pathotune.errors import UsageError

    changes = {}
    for widget in form:
        try:
            changes[widget.name] = widget.value
        except ValueError as error:
            raise UsageError(str(error)) from None
    return dataclasses.replace(config, **changes)


def show_config(form: Container, config: Any) -> None:
    """Set the form's fields from a config of the same class."""
    for widget in form:
        widget.value = getattr(config, widget.name)


def label_of(name: str) -> str:
    """A field's name in plain words: `warmup_epochs` → "Warmup epochs"."""
    text = LABELS.get(name) or name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _widget(name: str, hint: Any, value: Any) -> ValueWidget:
    facts: dict[str, Any] = {}
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        for extra in extras:
            facts |= extra if isinstance(extra, dict) else {}
    tooltip = str(facts.pop("tooltip", ""))
    shared: dict[str, Any] = {"name": name, "label": str(facts.pop("label", label_of(name))), "tooltip": tooltip}
    widget = _by_type(hint, value, facts, shared)
    native = widget.native
    native.setAccessibleName(shared["label"])
    native.setAccessibleDescription(tooltip)
    native.setMinimumWidth(60)
    return widget


def _by_type(hint: Any, value: Any, facts: dict[str, Any], shared: dict[str, Any]) -> ValueWidget:
    optional = _optional(hint)
    if optional in (int, float):
        return OptionalNumber(value=value, kind=optional, **shared)
    if "files" in facts:
        return FileChoice(value, facts["words"], facts["wanted"], facts["files"], **shared)
    if get_origin(hint) is Literal or "choices" in facts:
        return ComboBox(value=value, choices=list(facts.get("choices", get_args(hint))), **shared)
    if hint is bool:
        return CheckBox(value=value, text="", **shared)
    if hint is float:
        return FloatText(value=value, low=facts.get("min"), high=facts.get("max"), **shared)
    if hint is int:
        # magicgui keeps the range a spin box is made with; ours must hold the value whatever the default range is.
        low, high = facts.get("min", 0), facts.get("max", 2**31 - 1)
        return SpinBox(value=value, min=low, max=high, step=facts.get("step", 1), **shared)
    if hint is str:
        return LineEdit(value=value, **shared)
    widget = create_widget(value=value, annotation=hint, options=facts, **shared)
    if not isinstance(widget, ValueWidget):
        raise TypeError(f"{shared['name']} of type {hint} has no form field")
    return widget


def _optional(hint: Any) -> Any:
    """X of `X | None`, else None."""
    if get_origin(hint) not in (Union, types.UnionType):
        return None
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else None
