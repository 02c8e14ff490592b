"""ModalTune's options: slide encoder, side path, text targets, and what happens where a modality is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pathotune.errors import UsageError
from pathotune.methods.base import MethodConfig

# The task prompts there are, in the order of their numbers.
PROMPTS = ("general", "diagnosis", "survival")
# What is used where the options of the training are left as they are; they are meant for tiles.
PUBLISHED_RATE, PUBLISHED_DECAY, PUBLISHED_EPOCHS = 1e-4, 5e-4, 15


@dataclass(frozen=True)
class ModalTuneConfig(MethodConfig):
    """Options of ModalTune (ICCV 2025).

    Defaults are as published, but: the small slide encoder, a clean residual, three patients a step where the encoder
    can, and modality dropout, which is ours. Where the options of the training are left alone it trains 15 epochs at a
    learning rate of 1e-4 with weight decay 5e-4.
    """

    slide_encoder: Annotated[
        Literal["small-slide", "gigapath-slide", "titan-slide"],
        {"tooltip": "The frozen model of the whole slide. The large ones take features of one backbone only."},
    ] = "small-slide"
    slide_weights: Annotated[
        str, {"tooltip": "Its weights file or folder, where it is not in the models folder or the hub's cache."}
    ] = ""
    run_local_code: Annotated[
        bool, {"tooltip": "TITAN only: I have looked at the code in that folder and let it run on this machine."}
    ] = False
    read_out: Annotated[
        Literal["sum", "concat"],
        {"tooltip": "How image, gene and task vector become one: as published sum (Prov-GigaPath) or concat (TITAN)."},
    ] = "sum"
    prompts: Annotated[
        str,
        {"tooltip": "The tasks that are trained together: general, diagnosis, survival, or some of them, with commas."},
    ] = "general,diagnosis,survival"
    interactions: Annotated[int, {"min": 1, "max": 12, "tooltip": "Blocks of injector and extractor."}] = 3
    heads: Annotated[int, {"min": 1, "max": 32, "tooltip": "Heads of the adapters' attention."}] = 12
    compression: Annotated[
        float, {"min": 0.05, "max": 1.0, "step": 0.05, "tooltip": "Width of the adapters, as a part of the encoder's."}
    ] = 0.25
    drop_path: Annotated[
        float,
        {"min": 0.0, "max": 0.9, "step": 0.05, "tooltip": "Stochastic depth of the adapters (TITAN: 0.2)."},
    ] = 0.1
    gamma_start: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.1, "tooltip": "How much of the side path tiles see at first."}
    ] = 0.0
    extractor_start: Annotated[
        float,
        {
            "min": 0.001,
            "max": 1.0,
            "step": 0.01,
            "tooltip": "Scale of what the side path reads from the tiles, and from itself, before the first step. When "
            "small (0.03) genes are not drowned by what untrained readers read. Not in the paper; for few patients.",
        },
    ] = 1.0
    gene_start: Annotated[
        float,
        {
            "min": 0.1,
            "max": 100.0,
            "step": 1.0,
            "tooltip": "Scale of the gene tokens before the first step. Larger (2 to 16), genes are learned as soon as "
            "the image is; too large, in its place. Not in the paper; for few patients.",
        },
    ] = 1.0
    train_gamma: Annotated[bool, {"tooltip": "Off: tiles never see more of the side path than at first."}] = True
    gene_width: Annotated[int, {"min": 8, "max": 1024, "tooltip": "Width of the small net of each pathway."}] = 256
    gene_tokens: Annotated[int, {"min": 1, "max": 512, "tooltip": "Tokens that all pathways together become."}] = 64
    mixer_depth: Annotated[int, {"min": 0, "max": 12, "tooltip": "Layers that mix the pathways."}] = 3
    gene_dropout: Annotated[
        float, {"min": 0.0, "max": 0.9, "step": 0.05, "tooltip": "Dropout in the gene encoder."}
    ] = 0.25
    clinical_token: Annotated[
        bool,
        {"tooltip": "One token of age, stage, T, N and M from the clinical table. The stage is also in the targets."},
    ] = False
    modality_dropout: Annotated[
        float,
        {
            "min": 0.0,
            "max": 0.95,
            "step": 0.05,
            "tooltip": "How often a patient's expression (and clinical token) is withheld in training, so that "
            "patients without get an answer. Not in the paper.",
        },
    ] = 0.3
    text_encoder: Annotated[
        str, {"tooltip": "auto, minilm, or hf: and the name or folder of a Hugging Face text model."}
    ] = "auto"
    target: Annotated[
        Literal["text", "one_hot"],
        {"tooltip": "text: the sentences' vectors, as published. one_hot: a number for each different sentence."},
    ] = "text"
    projector: Annotated[
        Literal["random", "identity"],
        {"tooltip": "random: targets pass a fixed random net, as published. identity: the sentences' own vectors."},
    ] = "random"
    centre_targets: Annotated[
        bool,
        {
            "tooltip": "Take the training patients' mean off the targets of each prompt first, so that what differs "
            "between patients is all there is to learn. Not in the paper; for few patients or epochs."
        },
    ] = False
    output_dim: Annotated[
        int, {"min": 8, "max": 2048, "tooltip": "Width of the fused vector, with the random projector."}
    ] = 256
    temperature: Annotated[
        float, {"min": 0.01, "max": 10.0, "step": 0.05, "tooltip": "Of the softmax of both sides of the loss."}
    ] = 1.0
    time_unit: Annotated[
        Literal["months", "days", "years"], {"tooltip": "What the column time counts; the sentences say it too."}
    ] = "months"
    survival_bins: Annotated[
        int, {"min": 1, "max": 10, "tooltip": "Quantile bins of the time to the event, of the training patients."}
    ] = 4
    most_tiles: Annotated[
        int,
        {"min": 16, "max": 1_000_000, "tooltip": "Of a patient with more tiles a random part, in its order."},
    ] = 25_000
    patients_per_step: Annotated[
        int, {"min": 1, "max": 64, "tooltip": "1 is as published; the large slide encoders take one at a time anyway."}
    ] = 3
    double_residual: Annotated[
        bool, {"tooltip": "Add what came twice, as the published code does: only for weights made with it."}
    ] = False

    @property
    def text_encoder_wanted(self) -> str:
        """The text encoder's name or "auto"; "" for targets without text."""
        return self.text_encoder if self.target == "text" else ""

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """The task prompts that are trained, in the order of `PROMPTS`.

        Raises
        ------
        UsageError : one that does not exist, or none.
        """
        asked = [name.strip() for name in self.prompts.split(",") if name.strip()]
        for name in asked:
            if name not in PROMPTS:
                raise UsageError(f"There is no task prompt {name!r}; choose of {', '.join(PROMPTS)}.")
        if not asked:
            raise UsageError(f"Name at least one task prompt of {', '.join(PROMPTS)}.")
        return tuple(name for name in PROMPTS if name in asked)
