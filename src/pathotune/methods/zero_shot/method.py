"""Zero-shot's model: the plain frozen backbone, and cosines of its features to the classes' sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pathotune.errors import TuningMismatch
from pathotune.losses.cosine import WordingHead
from pathotune.methods.prompted import PromptedMethod
from pathotune.prompts.text import alike

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.zero_shot.config import ZeroShotConfig

# What CLIP's cosines are multiplied by; for a model whose file does not say.
USUAL_SCALE = 100.0


class ZeroShot(PromptedMethod):
    """A class's logit is the scaled cosine between a tile and the class's sentence, both by one image–text model.

    Raises
    ------
    TuningMismatch
        There are no sentence vectors, or they do not lie in the space of the backbone's features.
    """

    config: ZeroShotConfig

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> WordingHead:
        """Cosines to the classes' sentences, without a projection."""
        classes = len(self.class_names)
        if text_vectors is None or len(text_vectors) != classes:
            found = 0 if text_vectors is None else len(text_vectors)
            raise TuningMismatch(f"Zero-shot has {found} sentences for {classes} classes; it needs one for each.")
        if text_vectors.shape[1] != backbone.output_dim:
            raise TuningMismatch(
                f"The sentences are {text_vectors.shape[1]} numbers each and the features of {backbone.card.title} "
                f"{backbone.output_dim}: they are of two models, so their cosine says nothing."
            )
        usual = float(backbone.card.text.get("scale", USUAL_SCALE))
        return WordingHead(backbone.output_dim, text_vectors, self.config.scale or backbone.text_scale or usual)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person on classes that the text side cannot tell apart."""
        return alike(self.class_names, self.head.texts.cpu().numpy())
