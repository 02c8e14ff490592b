"""Suggest next: places the tuning is undecided about, one after the other, each decided with one key."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QHBoxLayout, QLabel, QScrollArea, QSpinBox, QVBoxLayout, QWidget

from napari_pathotune import compat
from napari_pathotune.corrections import Round, fit_width, frame_layer, show_frames
from napari_pathotune.drawing_board import DrawingBoard
from napari_pathotune.layers import facts
from napari_pathotune.session import JobState, Session, same_path
from napari_pathotune.widgets.parts import button, heading, named, text_label
from napari_pathotune.widgets.pictures import POLL_MS
from napari_pathotune.widgets.suggest_list import ClassButtons, PlaceList

if TYPE_CHECKING:
    from napari_pathotune.slide_drawing import SlideDrawing

USUAL_COUNT = 12
ROOM_MS = 250  # after which the dock has made room for what appeared
KEYS_TEXT = "Keys: A or Enter accepts, 1–9 gives the class of that number, S skips, N next, P previous."
NOTHING_PREDICTED = "Predict a part of the slide first: places are suggested where something is predicted."


class SuggestPanel(QWidget):
    """Asks for places, shows them one by one, and takes the answers down as corrections.

    Keys hold while the frames' layer is the active one, or while the panel has the focus, so that none of the keys for
    drawing changes its meaning.

    Parameters
    ----------
    session : the viewer's session.
    board : what is drawn.
    """

    suggested = Signal(int)
    decided = Signal(int)
    finished = Signal()
    place_chosen = Signal(str, object)
    tune_again_asked = Signal()
    possible = Signal(bool)

    def __init__(self, session: Session, board: DrawingBoard) -> None:
        super().__init__()
        self.session, self.board = session, board
        self.round: Round | None = None
        self.layer: Any = None
        self.ask = button(
            "Suggest next", "Find places the tuning is undecided about, unlike each other and what is labelled."
        )
        self.number = QSpinBox()
        named(self.number, "Number of places", "How many places are suggested at once.")
        self.number.setRange(1, 200)
        self.number.setValue(USUAL_COUNT)
        self.hint, self.what = text_label(), text_label()
        self.list, self.classes = PlaceList(), ClassButtons()
        self.back = button("Previous", "Go to the place before (P).", "Previous place")
        self.yes = button("Accept", "The predicted class is right (A or Enter).", "Accept the predicted class")
        self.pass_over = button("Skip", "Leave this place undecided (S); its like is not suggested again.", "Skip")
        self.forward = button("Next", "Go to the next place (N).", "Next place")
        self.tune_again = button(
            "Tune again", "Go on from the last tuning with the corrections (T).", "Tune again with the corrections"
        )
        self._decide = QWidget()
        self._skipped: dict[str, list[tuple[float, float]]] = {}
        self._was_open: set[int] = set()
        self._before: tuple[Any, Any, Any] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pathotune-suggest")
        self._search: Future[Any] | None = None
        self._searched: SlideDrawing | None = None
        self._was_possible: bool | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._on_time)
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(self.ask, 1)
        top.addWidget(self.number)
        top.addWidget(QLabel("places"))  # as a suffix it is cut off beside the theme's large buttons
        steps = QHBoxLayout()
        for control in (self.back, self.yes, self.pass_over, self.forward):
            steps.addWidget(control)
        inner = QVBoxLayout(self._decide)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(4)
        inner.addWidget(self.what)
        inner.addLayout(steps)
        inner.addWidget(self.classes)
        inner.addWidget(text_label(f"<small>{KEYS_TEXT}</small>"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(heading("Correct it where it is undecided"))
        layout.addLayout(top)
        for widget in (self.hint, self.list, self._decide, self.tune_again):
            layout.addWidget(widget)

    def _connect(self) -> None:
        self.ask.clicked.connect(self.suggest)
        self.back.clicked.connect(lambda: self.go(-1))
        self.forward.clicked.connect(lambda: self.go(1))
        self.yes.clicked.connect(self.accept)
        self.pass_over.clicked.connect(self.skip)
        self.tune_again.clicked.connect(self._on_tune_again)
        self.classes.chosen.connect(self.assign)
        self.list.itemClicked.connect(lambda item: self.show_place(self.list.row(item)))
        self.board.changed.connect(self._on_drawn)
        self.session.active_changed.connect(self._on_slide_changed)
        self.session.results_changed.connect(self._on_results)
        self.session.repainted.connect(self._on_results)
        self.session.stage_changed.connect(self._on_stage_changed)
        self.session.viewer.layers.events.removed.connect(self._on_layer_removed)
        compat.camera(self.session.viewer).events.zoom.connect(self._on_zoom)
        self.destroyed.connect(self._timer.stop)

    def keys(self) -> dict[str, Callable[[], None]]:
        """What each key does while places are suggested."""
        keys: dict[str, Callable[[], None]] = {
            "A": self.accept,
            "Return": self.accept,
            "Enter": self.accept,
            "S": self.skip,
            "N": lambda: self.go(1),
            "P": lambda: self.go(-1),
            "T": self._on_tune_again,
        }
        for number in range(1, 10):
            keys[str(number)] = partial(self._assign_numbered, number - 1)
        return keys

    def keyPressEvent(self, event: Any) -> None:
        """Qt: a key that none of the controls in the panel had a use for."""
        acts: dict[str, Any] = {**self.keys(), "Left": partial(self.go, -1), "Right": partial(self.go, 1)}
        act = acts.get(QKeySequence(event.key()).toString())
        held = event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        if self.round is None or act is None or held != Qt.KeyboardModifier.NoModifier:
            super().keyPressEvent(event)
        else:
            act()

    # -- state

    @property
    def places(self) -> list[Any]:
        """The places that are suggested now."""
        return self.round.places if self.round is not None else []

    @property
    def current(self) -> int:
        """Which of them is looked at."""
        return self.round.current if self.round is not None else 0

    @property
    def is_searching(self) -> bool:
        """Places are being looked for."""
        return self._search is not None

    @property
    def can_suggest(self) -> bool:
        """Something is predicted on the slide that is worked on."""
        if self.session.viewer is None:
            return False
        result = self.session.result
        return self.board.active is not None and result is not None and not result.is_empty

    def refresh(self) -> None:
        """Show how things stand: what can be pressed, which places are decided, what is said of the current one."""
        able, one = self.can_suggest, self.round
        if able != self._was_possible:
            self._was_possible = able
            self.possible.emit(able)
        self.ask.setEnabled(able and not self.is_searching)
        for widget in (self.list, self._decide):
            widget.setVisible(one is not None)
        self.tune_again.setVisible(one is not None and not one.open and bool(one.decided))
        if one is None:
            self._say("Looking for places…" if self.is_searching else "" if able else NOTHING_PREDICTED)
            return
        self.list.show_answers(one)
        self.classes.show_round(one)
        self._say_current(one)

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self.hint.setVisible(bool(text))

    def _say_current(self, one: Round) -> None:
        left, place = len(one.open), one.place
        said = sorted(place.probabilities.items(), key=lambda item: -item[1])[:2]
        parts = ", ".join(f"{escape(name)} {value:.0%}" for name, value in said)
        answer = one.answer(one.current)
        state = f"you said <b>{escape(answer)}</b>" if answer else "skipped" if one.is_skipped(one.current) else ""
        self.what.setText(f"<b>{one.current + 1} of {len(one.places)}</b>: {parts}" + (f"; {state}" if state else ""))
        done = f"{len(one.decided)} decided" + (f", {left} to go" if left else ". Tune again with them, or look on.")
        self._say(done if one.decided or not left else "")

    # -- asking

    def suggest(self) -> None:
        """Look for places in a thread; `suggested` tells when they are there."""
        drawing, result = self.board.active, self.session.result
        if drawing is None or result is None or not self.can_suggest:
            self._say(NOTHING_PREDICTED)
            return
        path = str(facts(drawing.slide_layer)["path"])
        self._keep_skipped()
        self._end_round()
        regions = self.board.regions_of(drawing.slide_layer)
        skipped = list(self._skipped.get(path, ()))
        self._search = self._pool.submit(_find, result.store, regions, self.number.value(), skipped)
        self._searched = drawing
        self._timer.start()
        self.refresh()

    def _on_time(self) -> None:
        if self._search is not None and self._search.done():
            search, self._search = self._search, None
            self._take(search)
        if self._search is None:
            self._timer.stop()

    def _take(self, search: Future[Any]) -> None:
        from pathotune.errors import PathotuneError

        drawing = self._searched
        try:
            places = search.result()
        except PathotuneError as error:
            self.refresh()
            self._say(str(error))
            return
        if drawing is None or self.board.active is not drawing:
            self.refresh()
            return  # another slide is worked on by now
        self.begin(Round(drawing, places))

    def begin(self, suggested: Round) -> None:
        """Start with these places."""
        self.round = suggested
        self._was_open = set(suggested.open)
        viewer = self.session.viewer
        camera = compat.camera(viewer)
        self._before = viewer.layers.selection.active, tuple(camera.center), float(camera.zoom)
        self.layer = viewer.add_layer(frame_layer(suggested.drawing))
        for key, act in self.keys().items():
            name = {"Return": "Enter", "Enter": ""}.get(key, key)
            if name:
                self.layer.bind_key(name, lambda _, act=act: act(), overwrite=True)
        self.list.show_round(suggested)
        self.show_place(0)
        self.list.setFocus()
        QTimer.singleShot(ROOM_MS, self._bring_into_sight)
        self.suggested.emit(len(suggested.places))

    def _bring_into_sight(self) -> None:
        """Scroll the dock to the panel: it lies below everything that was needed before."""
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        if parent is not None and self.round is not None:
            # From below up, so that of what does not fit the upper part is seen.
            parent.ensureWidgetVisible(self._decide, 0, 4)
            parent.ensureWidgetVisible(self.list, 0, 4)

    # -- going and deciding

    def show_place(self, index: int) -> None:
        """Go to a place: the view moves there, and keys hold."""
        one = self.round
        if one is None:
            return
        one.current = index % len(one.places)
        if self.layer is not None:
            show_frames(self.layer, one, self.board.zoom)
            self.session.viewer.layers.selection.active = self.layer
        self.refresh()
        self.place_chosen.emit(one.slide_path, one.place.box_px0)

    def go(self, step: int) -> None:
        """Go on by so many places, round at the ends."""
        if self.round is not None:
            self.show_place(self.round.current + step)

    def accept(self) -> None:
        """The predicted class is right."""
        if self.round is not None:
            self.assign(self.round.place.class_name)

    def assign(self, class_name: str) -> None:
        """The current place is of this class: it joins the corrections."""
        one = self.round
        if one is not None and self.board.trying(lambda: one.decide(class_name)):
            self._decided(one)

    def _assign_numbered(self, at: int) -> None:
        names = self.round.drawing.document.palette.names if self.round is not None else ()
        if at < len(names):
            self.assign(names[at])

    def skip(self) -> None:
        """There is no answer to the current place."""
        one = self.round
        if one is not None and self.board.trying(one.skip):
            self._keep_skipped()
            self._decided(one)

    def _decided(self, one: Round) -> None:
        index = one.current
        self._was_open = set(one.open)
        more = one.to_next_open()
        if more:
            self.show_place(one.current)
        self.decided.emit(index)
        if not more:
            self._show_all_decided(one)

    def _show_all_decided(self, one: Round) -> None:
        if self.layer is not None:
            show_frames(self.layer, one, self.board.zoom)
        self.refresh()
        self._look_back()
        self.finished.emit()

    def _on_tune_again(self) -> None:
        if self.round is not None and not self.round.open and self.round.decided:
            self.tune_again_asked.emit()

    # -- the end of a round

    def stop(self) -> None:
        """Put the places away; what was decided stays."""
        self._keep_skipped()
        self._end_round()
        self.refresh()

    def _keep_skipped(self) -> None:
        if self.round is not None:
            known = self._skipped.setdefault(self.round.slide_path, [])
            known += [place for place in self.round.skipped_px0 if place not in known]

    def _end_round(self) -> None:
        layer, before, self.round, self.layer, self._before = self.layer, self._before, None, None, None
        self.list.show_round(None)
        viewer = self.session.viewer
        if viewer is not None and layer is not None and layer in viewer.layers:
            viewer.layers.remove(layer)
            if before is not None and before[0] in viewer.layers:
                viewer.layers.selection.active = before[0]

    def _look_back(self) -> None:
        """The view as it was before the first place: there the next prediction is compared with this one."""
        if self._before is not None and self.session.viewer is not None:
            camera = compat.camera(self.session.viewer)
            camera.center, camera.zoom = self._before[1], self._before[2]

    def _on_drawn(self) -> None:
        """Something was drawn or undone; a place that is open again is the one to look at."""
        one = self.round
        if one is None:
            return
        again = set(one.open) - self._was_open
        self._was_open = set(one.open)
        if again and one.current not in again:
            self.show_place(min(again))
        else:
            if self.layer is not None:
                show_frames(self.layer, one, self.board.zoom)
            self.refresh()

    def _on_results(self, _: Any = None) -> None:
        # While a prediction runs this comes twice a second: only what changed is worth a look.
        if self.can_suggest != self._was_possible:
            self.refresh()

    def _on_stage_changed(self, job: JobState) -> None:
        """A tuning that starts takes the corrections along: a round that is all decided is over."""
        if job.command == "tune" and job.stage == "starting" and self.round is not None and not self.round.open:
            self.stop()

    def _on_slide_changed(self) -> None:
        layer = None if self.session.viewer is None else self.session.active_layer
        if self.round is not None and (layer is None or not same_path(facts(layer)["path"], self.round.slide_path)):
            self.stop()
        else:
            self.refresh()

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.layer = None
            self.stop()

    def _on_zoom(self, event: Any = None) -> None:
        if self.layer is not None:
            fit_width(self.layer, float(compat.camera(self.session.viewer).zoom))


def _find(store: str, regions: Any, count: int, skipped: list[tuple[float, float]]) -> list[Any]:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.inference.suggest import suggest_places

    return suggest_places(PredictionStore.open(store), regions, count, skipped_px0=skipped)
