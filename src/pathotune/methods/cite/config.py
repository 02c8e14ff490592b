"""CITE's options: how many tokens, which text model, and the sentences that stand for the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pathotune.methods.base import LateConfig

if TYPE_CHECKING:
    from pathotune.tasks import Task


@dataclass(frozen=True)
class CiteConfig(LateConfig):
    """Options of CITE (MICCAI 2023).

    The published recipe, where it differs from these defaults: `--set neck_start=identity --set standardise=false
    --set optimizer=sgd --lr 0.03 --set weight_decay=0 --set clip_norm=0 --batch-size 128`; with its text model,
    `--set text_encoder=hf:michiyasunaga/BioLinkBERT-large@pooler`, on the backbone clip-vit-b-16.
    """

    tokens: Annotated[
        int,
        {"min": 0, "max": 50, "tooltip": "Learned tokens at the input. 0, or a backbone that takes none: text alone."},
    ] = 1
    token_start: Annotated[
        Literal["token_mean", "normal", "zero"],
        {"tooltip": "token_mean: the mean of the tiles' own tokens, as published. normal: small random numbers."},
    ] = "token_mean"
    text_encoder: Annotated[
        str,
        {"tooltip": "auto, minilm, or hf: and the name or folder of a Hugging Face text model."},
    ] = "auto"
    class_sentences: Annotated[
        str,
        {
            "tooltip": "What stands for each class: name: sentence; name: sentence. Several wordings, separated by |, "
            "are averaged. A class not named here has its card's sentence, or its name."
        },
    ] = ""
    neck_start: Annotated[
        Literal["fit", "identity", "exact"],
        {
            "tooltip": "fit: the projection starts from a gentle regression onto the class sentences. identity: as "
            "published, from the features as they are, with a little noise. exact: without the noise, so that on a "
            "model of images and sentences it starts as its zero-shot answer."
        },
    ] = "fit"
    standardise: Annotated[
        bool, {"tooltip": "Bring each feature to zero mean and unit spread before the projection."}
    ] = True
    text: Annotated[
        Literal["own", "random", "permuted"],
        {
            "tooltip": "own: the sentences as they are. As controls, to see what the sentences are good for: random: "
            "fixed random vectors of the same length; permuted: every class gets another's sentence."
        },
    ] = "own"
    scale: Annotated[float, {"min": 1.0, "max": 1000.0, "tooltip": "The cosines are multiplied by this."}] = 100.0
    learn_scale: Annotated[bool, {"tooltip": "Learn the scale too."}] = False

    @property
    def text_encoder_wanted(self) -> str:
        """The text encoder's name or "auto"."""
        return self.text_encoder

    def sentences_for(self, task: Task, class_names: Sequence[str], mpp: float) -> tuple[str, ...]:
        """One entry per class, in their order; wordings of one class are separated by "|".

        Raises
        ------
        UsageError
            `class_sentences` cannot be read, or names a class that is not there.
        """
        from pathotune.prompts.classes import class_sentences
        from pathotune.prompts.text import moved_on

        sentences = class_sentences(self.class_sentences, task, class_names)
        return moved_on(sentences) if self.text == "permuted" else sentences
