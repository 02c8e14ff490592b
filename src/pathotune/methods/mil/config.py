"""The options of learning from whole slides: the aggregator, and which features of tiles it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pathotune.aggregators import AGGREGATORS
from pathotune.methods.base import MethodConfig

# Both from the table, so that a new aggregator needs no word here.
if TYPE_CHECKING:
    AggregatorName = str
else:
    AggregatorName = Literal[tuple(AGGREGATORS)]
_AGGREGATORS = "How the tiles of a slide become one answer. " + " ".join(
    f"{entry.name}: {str((entry.facts or {})['summary']).rstrip('.').lower()}." for entry in AGGREGATORS.entries()
)


@dataclass(frozen=True)
class MilConfig(MethodConfig):
    """Options of multiple-instance learning."""

    trains_on_features: ClassVar[bool] = True

    aggregator: Annotated[AggregatorName, {"tooltip": _AGGREGATORS}] = "abmil"
    prompts: Annotated[
        str,
        {
            "tooltip": "none: features of the plain backbone. weak: first tune prompts on tiles that carry their "
            "slide's label, then take the features of the prompted backbone. Or the file of a tile tuning to take "
            "them from, or of a ModalTune tuning, whose slide vectors then stand beside the features.",
            "words": {"none": "none: the plain backbone", "weak": "weak: tuned on the slides' own labels first"},
            "wanted": "A tuning of tiles, or of ModalTune",
            "files": "Tunings (*.pathotune.safetensors)",
        },
    ] = "none"
    rounds: Annotated[
        int,
        {
            "min": 1,
            "max": 4,
            "tooltip": "With weak prompts: tune so many times. From the second on, the tiles that carry the label are "
            "those the aggregator looked at most.",
        },
    ] = 1
    weak_tiles: Annotated[
        int,
        {"min": 1, "max": 10_000, "tooltip": "With weak prompts: tiles drawn of each slide that carry its label."},
    ] = 24
    weak_method: Annotated[str, {"tooltip": "With weak prompts: the method that is tuned on tiles."}] = "pathotune"
    weak_settings: Annotated[
        str,
        {"tooltip": "With weak prompts: options of that method, as key=value; key=value."},
    ] = "speed=interactive"
    hidden: Annotated[
        int, {"min": 0, "max": 4096, "tooltip": "Width tiles are brought to first. 0 leaves features as they are."}
    ] = 128
    dropout: Annotated[
        float, {"min": 0.0, "max": 0.9, "step": 0.05, "tooltip": "Part of that width that is left out in a step."}
    ] = 0.25
    k: Annotated[int, {"min": 1, "max": 1000, "tooltip": "Tiles that count: of topk, and at each end of clam_sb."}] = 8
    instance_weight: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "Part of the loss that single tiles have (clam_sb)."},
    ] = 0.3
    mass: Annotated[
        bool,
        {
            "tooltip": "abmil and clam_sb: also tell how much there was to look at, which attention divides by. For "
            "classes that are a matter of amount; not in the papers."
        },
    ] = False
    centre: Annotated[
        bool,
        {
            "tooltip": "Take the mean of a slide's tiles off each of them first: what all of them share, such as the "
            "stain, is then not seen. For slides of other laboratories than those that were learned from."
        },
    ] = False
    tiles_per_slide: Annotated[
        int,
        {"min": 0, "max": 1_000_000, "tooltip": "In a step at most so many tiles of a slide, drawn anew. 0: 4096."},
    ] = 0

    @property
    def takes_prompts(self) -> bool:
        """Whether features come from a tuned backbone."""
        return self.prompts.strip().lower() not in {"", "none"}

    @property
    def is_weak(self) -> bool:
        """Whether prompts are first tuned on tiles that carry their slide's label."""
        return self.prompts.strip().lower() == "weak"
