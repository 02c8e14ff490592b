"""Zero-shot's options: the sentences of the classes, and the wordings they are put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pathotune.methods.base import MethodConfig

if TYPE_CHECKING:
    from pathotune.tasks import Task


@dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Options of classification by wording alone (CLIP, Radford et al. 2021; for pathology PLIP, CONCH)."""

    trains_on_features: ClassVar[bool] = True

    class_sentences: Annotated[
        str,
        {
            "tooltip": "What stands for each class: name: sentence; name: sentence. Several wordings, separated by |, "
            "are averaged. A class not named here has its card's sentence, or its name."
        },
    ] = ""
    ensemble: Annotated[
        str,
        {
            "tooltip": "Each class's sentence is put into several wordings, and their vectors are averaged: zero-shot, "
            "or a YAML file with your own list, in which {class} stands for the class. Empty: as it stands."
        },
    ] = "zero-shot"
    stained_with: Annotated[
        str,
        {"tooltip": "The slides' stain, for the sentences: IHC, trichrome, PAS, … Empty: as the task card says."},
    ] = ""
    text: Annotated[
        Literal["own", "random", "permuted"],
        {
            "tooltip": "own: the sentences as they are. As controls, to see what the sentences are good for: random: "
            "fixed random vectors of the same length; permuted: every class gets another's sentence."
        },
    ] = "own"
    scale: Annotated[
        float,
        {"min": 0.0, "max": 1000.0, "tooltip": "The cosines are multiplied by this. 0: as the model was trained."},
    ] = 0.0

    @property
    def text_encoder_wanted(self) -> str:
        """Always the backbone's own text side: no other lies in the space of its images."""
        return "own"

    def sentences_for(self, task: Task, class_names: Sequence[str], mpp: float) -> tuple[str, ...]:
        """One entry per class, in their order; its wordings are separated by "|".

        Raises
        ------
        UsageError
            `class_sentences` cannot be read, or names a class that is not there.
        UnknownName, FileMissing, TableUnreadable
            The ensemble is none.
        """
        from pathotune.prompts.classes import as_phrase, class_sentences
        from pathotune.prompts.templates import filled, load_template, values_of
        from pathotune.prompts.text import moved_on, restained, split_sentences

        sentences = class_sentences(self.class_sentences, task, class_names)
        if self.ensemble:
            template, values = load_template(self.ensemble), values_of(restained(task, self.stained_with), mpp)
            sentences = tuple(
                " | ".join(
                    wording
                    for phrase in split_sentences(sentence)
                    for wording in filled(template, {**values, "class": as_phrase(phrase)})
                )
                for sentence in sentences
            )
        return moved_on(sentences) if self.text == "permuted" else sentences
