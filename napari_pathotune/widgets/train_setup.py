"""What a pathologist need not know: backbone, method and training options, folded away with defaults that work."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.forms import CHOOSE, FileChoice, config_from, form_of
from napari_pathotune.reader import results_folder
from napari_pathotune.widgets.parts import LINK_COLOR, Card, Fold, combo, heading

if TYPE_CHECKING:
    from pathotune.backbones import BackboneCard
    from pathotune.tiles import Reading
    from pathotune.training.schedule import TrainingConfig

# What the dock asks for where the person chose nothing: seconds count, as she goes round the loop many times. No method
# was ahead of the linear probe in our own tables (docs/methods-compared.md), and it goes round in seconds.
DEFAULT_METHOD = "linear_probe"
START = {"speed": "interactive"}


class TrainSetup(QWidget):
    """Backbone with its card, method with its options, training options.

    Parameters
    ----------
    levels : what one sample of the methods that are offered is ("tile", "slide", "patient", "spot").
    """

    changed = Signal()

    def __init__(self, levels: tuple[str, ...] = ("tile",)) -> None:
        super().__init__()
        self._levels = levels
        self.backbone = combo("Backbone", "The frozen model the prompts are tuned in.")
        self.backbone_card = Card("About this backbone")
        self.method = combo("Method", "How the backbone is adapted.")
        self.method_fold = Fold("Options of the method", "How many prompts, where they enter, which sentences.")
        self.training_fold = Fold("Training", "Epochs, learning rate, how regions are held out, seed.")
        self._row = 0  # of the backbone that was chosen last
        self.method_form: Any = None
        self._method_config: Any = None
        self._training_config, self.training_form = self._training()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (
            heading("Backbone"),
            self.backbone,
            self.backbone_card,
            heading("Method"),
            self.method,
            self.method_fold,
            self.training_fold,
        ):
            layout.addWidget(widget)
        self._fill()
        self.backbone.currentIndexChanged.connect(self._on_backbone_changed)
        self.method.currentIndexChanged.connect(self._on_method_changed)
        self.method_fold.head.toggled.connect(self._offer_tunings)
        self._on_backbone_changed()
        self._on_method_changed()

    def _training(self) -> tuple[Any, Any]:
        from pathotune.training.schedule import TrainingConfig

        wanted = compat.preferences()
        config = TrainingConfig(device=wanted.device, precision=wanted.precision)  # type: ignore[arg-type]
        form = form_of(config)
        self.training_fold.put(form.native)
        form.changed.connect(lambda *_: self.changed.emit())
        return config, form

    def _fill(self) -> None:
        from pathotune.backbones import all_cards
        from pathotune.backbones.enhanced_card import known_enhanced
        from pathotune.methods import METHODS, methods_of_level

        for card in all_cards():
            if card.kind == "tile":
                self.backbone.addItem(card.title, card.name)
        self.backbone.addItem("Enhanced by expression…", CHOOSE)
        tip = "A tuning of the method transcriptomics: its backbone, enhanced by what was measured beside the images."
        self.backbone.setItemData(self.backbone.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        for path in known_enhanced():
            self.offer(path)
        for name in methods_of_level(*self._levels):
            self.method.addItem(METHODS[name].title, name)
        self.method.setCurrentIndex(max(0, self.method.findData(DEFAULT_METHOD)))

    def offer(self, path: Path) -> int:
        """List a transcriptomics tuning among the backbones; its row, or -1 with a sentence where it is none."""
        from pathotune.backbones.enhanced_card import enhanced_card
        from pathotune.errors import PathotuneError

        row = int(self.backbone.findData(str(path)))
        if row >= 0:
            return row
        try:
            title = enhanced_card(path).title
        except PathotuneError as error:
            compat.show_error(str(error))
            return -1
        row = self.backbone.findData(CHOOSE)
        with QSignalBlocker(self.backbone):
            self.backbone.insertItem(row, title, str(path))
        return int(row)

    def _choose_enhanced(self) -> None:
        """Ask for a transcriptomics tuning, and choose it; what was chosen before stays where there is none."""
        chosen, _ = QFileDialog.getOpenFileName(
            self, "A tuning of the method transcriptomics", "", "Tunings (*.pathotune.safetensors)"
        )
        row = self.offer(Path(chosen)) if chosen else -1
        self.backbone.setCurrentIndex(row if row >= 0 else self._row)

    @property
    def backbone_name(self) -> str:
        """Of the chosen backbone, as a part of other names."""
        from pathotune.backbones.enhanced_card import ENDING

        card = self.card
        return card.name.removesuffix(ENDING) if card is not None else ""

    @property
    def card(self) -> BackboneCard | None:
        """The card of the chosen backbone."""
        from pathotune.backbones import backbone_card
        from pathotune.errors import BackboneUnavailable

        name = self.backbone.currentData()
        try:
            return backbone_card(name) if name and name != CHOOSE else None
        except BackboneUnavailable:  # the file of an enhanced one was moved meanwhile
            return None

    @property
    def reading(self) -> Reading | None:
        """How the chosen backbone reads tiles."""
        card = self.card
        return None if card is None else card.reading()

    def config(self) -> dict[str, Any]:
        """The method's options as plain values; raises UsageError for a field without a usable one."""
        from pathotune.methods.options import as_plain

        return as_plain(config_from(self.method_form, self._method_config))

    def training(self) -> dict[str, Any]:
        """The training options as plain values; raises UsageError for a field without a usable one."""
        from pathotune.methods.options import as_plain

        return as_plain(config_from(self.training_form, self._training_config))

    def training_config(self) -> TrainingConfig:
        """The training options; the defaults where a field holds no usable value."""
        from pathotune.errors import UsageError

        try:
            config: TrainingConfig = config_from(self.training_form, self._training_config)
        except UsageError:
            config = self._training_config
        return config

    def method_config(self) -> Any:
        """The method's options; the defaults where a field holds no usable value."""
        from pathotune.errors import UsageError

        try:
            return config_from(self.method_form, self._method_config)
        except UsageError:
            return self._method_config

    def summary(self) -> str:
        """What is set, in one line."""
        return f"{self.method.currentText()} on {self.backbone.currentText()}"

    @property
    def problem(self) -> str:
        """Why the chosen method cannot be had on the chosen backbone, in a sentence; "" where it can."""
        from pathotune.methods.fitting import unavailable_reason

        card = self.card
        if card is None:
            return f"{self.backbone.currentText()} is not where it was; choose another backbone."
        return unavailable_reason(self.method.currentData(), card)

    def _on_backbone_changed(self) -> None:
        if self.backbone.currentData() == CHOOSE:
            self._choose_enhanced()
            return
        self._row = self.backbone.currentIndex()
        card = self.card
        self.backbone_card.show_lines(backbone_lines(card) if card is not None else [])
        if card is not None:
            self._grey_out(card)
        self.changed.emit()

    def _grey_out(self, card: BackboneCard) -> None:
        """Methods that cannot be had on this backbone are grey, with the reason as their tooltip."""
        from pathotune.methods import METHODS
        from pathotune.methods.fitting import unavailable_reason

        items = self.method.model()
        for row in range(self.method.count()):
            name = self.method.itemData(row)
            reason = unavailable_reason(name, card)
            items.item(row).setEnabled(not reason)
            summary = str((METHODS[name].facts or {}).get("summary", ""))
            self.method.setItemData(row, reason or summary, Qt.ItemDataRole.ToolTipRole)

    def _on_method_changed(self) -> None:
        from pathotune.methods import load_config

        name = self.method.currentData()
        known = getattr(type(load_config(name)), "__dataclass_fields__", {})
        self._method_config = load_config(name, {key: value for key, value in START.items() if key in known})
        self.method_form = form_of(self._method_config)
        self.method_fold.put(self.method_form.native)
        self.method_fold.setVisible(len(self.method_form) > 0)
        self._offer_tunings(self.method_fold.head.isChecked())
        self.changed.emit()

    def _offer_tunings(self, is_open: bool) -> None:
        """Where an option is a tuning's file, list those there are; not before somebody looks, as files are read."""
        fields = [field for field in self.method_form if isinstance(field, FileChoice)] if is_open else []
        for path, title in usable_tunings() if fields else ():
            for field in fields:
                field.offer(path, title)


def usable_tunings() -> list[tuple[str, str]]:
    """Path and name of the tunings on this machine whose features learning from slides can take."""
    from napari_pathotune.widgets.library import added_folders
    from pathotune.methods import METHODS, level_of
    from pathotune.methods.library import Library

    found = Library().list(dict.fromkeys([results_folder(), *added_folders()]))
    return [
        (str(one.path), one.name)
        for one in found
        if not one.problem and one.method in METHODS and level_of(one.method) in ("tile", "patient")
    ]


def backbone_lines(card: BackboneCard) -> list[str]:
    """A backbone's card: size, licence, gate, and whether it is on this machine."""
    from pathotune.backbones.licences import tuning_warning

    known = card.facts()
    size = f"{card.params_m:g} M parameters" if card.params_m else ""
    reads = f"reads at {card.mpp:g} µm per pixel" if card.mpp else ""
    lines = [", ".join(escape(part).replace(" ", "\u00a0") for part in (size, reads) if part)]
    lines.append(escape(f"Licence: {card.licence or 'not stated'}"))
    if warning := tuning_warning(card):
        lines.append(f"<b>{escape(warning)}</b>")
    if not card.loadable:
        lines.append(f"<b>Cannot be loaded yet:</b> {escape(card.reason)}")
    elif known["available"]:
        lines.append("On this machine: yes")
    else:
        gate = "asks for an agreement first" if card.gated else "downloaded on first use"
        page = f' · <a href="{card.where_to_ask}" style="color: {LINK_COLOR}">its page</a>' if card.where_to_ask else ""
        lines.append(f"On this machine: no ({gate}){page}")
    if not card.takes_prompts:
        lines.append("Takes no prompt tokens: methods made of them are grey.")
    return lines
