"""PathoTune's options: which prompts there are, how many, and where they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pathotune.methods.base import LateConfig

if TYPE_CHECKING:
    from pathotune.tasks import Task


@dataclass(frozen=True)
class PathoTuneConfig(LateConfig):
    """Options of PathoTune.

    The defaults follow the recommended implementation of the method; where the published abstract is silent they are
    ours (the number of prompts, the depth of the text and instance prompts, the head's start).
    """

    tvp_tokens: Annotated[
        int,
        {"min": 0, "max": 200, "tooltip": "Task visual prompts: learned tokens per block. 0 switches them off."},
    ] = 10
    tvp_depth: Annotated[
        Literal["deep", "shallow"],
        {"tooltip": "deep: tokens of their own at every block. shallow: only at the first."},
    ] = "deep"
    ttp: Annotated[
        bool,
        {"tooltip": "Task textual prompts: sentences on task and stain, through a text encoder, as tokens."},
    ] = True
    ttp_depth: Annotated[
        Literal["shallow", "deep"],
        {"tooltip": "deep: the sentences' tokens enter again before every block."},
    ] = "shallow"
    text_encoder: Annotated[
        str,
        {"tooltip": "auto, minilm, or hf: and the name or folder of a Hugging Face text model."},
    ] = "auto"
    sentences: Annotated[
        str,
        {
            "tooltip": "Your own sentences, separated by |. {classes}, {tissue}, {stain}, {looks} and {magnification} "
            "are filled in. Empty: one on the task and one on the stain, from the task."
        },
    ] = ""
    template: Annotated[
        str,
        {
            "tooltip": "Empty: the task card's sentences, or task-and-stain. task-organ-stain-magnification: one on "
            "each. stain-only. Or a YAML file with your own list of sentences."
        },
    ] = ""
    stained_with: Annotated[
        str,
        {"tooltip": "The slides' stain, for the sentences: IHC, trichrome, PAS, … Empty: as the task card says."},
    ] = ""
    text: Annotated[
        Literal["own", "random", "permuted"],
        {
            "tooltip": "own: the sentences as they are. As controls, to see what the sentences are good for: random: "
            "fixed random vectors of the same length; permuted: the sentences of another task."
        },
    ] = "own"
    ivp: Annotated[
        Literal["vrm", "mean_patch", "attn_pool", "off"],
        {"tooltip": "Instance visual prompts, made from the tile: by the visual refine module, or from its patches."},
    ] = "vrm"
    ivp_tokens: Annotated[int, {"min": 1, "max": 36, "tooltip": "Instance visual prompts per tile."}] = 4
    ivp_depth: Annotated[
        Literal["shallow", "deep"],
        {"tooltip": "deep: the instance tokens enter again before every block."},
    ] = "shallow"
    vrm_width: Annotated[
        int,
        {"min": 8, "max": 512, "step": 8, "tooltip": "Channels of the refine module's first convolution."},
    ] = 64
    head_input: Annotated[
        Literal["pooled", "cls"],
        {"tooltip": "What the linear head sees: the backbone's own pooled output, or the class token."},
    ] = "pooled"
    head_start: Annotated[
        Literal["probe", "zero"],
        {"tooltip": "probe: the head starts from a gentle logistic regression. zero: from nothing."},
    ] = "probe"

    @property
    def text_encoder_wanted(self) -> str:
        """The text encoder's name or "auto"; "" where textual prompts are off."""
        return self.text_encoder if self.ttp else ""

    def sentences_for(self, task: Task, class_names: Sequence[str], mpp: float) -> tuple[str, ...]:
        """The person's own sentences, else one on the task and one on stain and magnification."""
        from pathotune.prompts.templates import filled, values_of
        from pathotune.prompts.text import another_task, restained, split_sentences, task_sentences

        if not self.ttp:
            return ()
        task = restained(task, self.stained_with)
        if self.text == "permuted":
            return task_sentences(another_task(task), mpp, self.template)
        own = split_sentences(self.sentences)
        return filled(own, values_of(task, mpp)) if own else task_sentences(task, mpp, self.template)
