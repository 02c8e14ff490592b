"""The options of transcriptomics tuning: what is compared with what, and what of the backbone changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pathotune.methods.base import MethodConfig


@dataclass(frozen=True)
class TranscriptomicsConfig(MethodConfig):
    """Options of transcriptomics tuning, on spots (a tile each) or on patients (all tiles of their slides)."""

    objective: Annotated[
        Literal["direct", "contrastive", "joint"],
        {
            "tooltip": "direct: predict expression from the image. contrastive: image and expression of one sample "
            "shall be more alike than those of two. joint: both."
        },
    ] = "direct"
    mode: Annotated[
        Literal["features", "encoder"],
        {
            "tooltip": "features: the backbone stays frozen and a small adapter corrects its features; any machine. "
            "encoder: the backbone changes too, so that every tile passes it in every epoch."
        },
    ] = "features"
    tuned: Annotated[
        Literal["lora", "full", "prompts"],
        {
            "tooltip": "What changes in the mode encoder. lora: a low-rank part of each attention matrix. full: all "
            "weights. prompts: learned tokens at every block, the weights stay."
        },
    ] = "lora"
    rank: Annotated[int, {"min": 1, "max": 256, "tooltip": "Rank of what LoRA adds to a weight."}] = 8
    prompt_tokens: Annotated[int, {"min": 1, "max": 200, "tooltip": "Learned tokens per block (tuned=prompts)."}] = 10
    encoder_rate: Annotated[
        float,
        {
            "min": 1e-4,
            "max": 10.0,
            "step": 1e-3,
            "tooltip": "Learning rate in the backbone, as a share of the others'.",
        },
    ] = 0.1
    partner: Annotated[
        Literal["expression", "text", "table"],
        {
            "tooltip": "What the image is compared with in the contrast: the expression table, the cohort's report "
            "texts (column report), or the numbers of the clinical table."
        },
    ] = "expression"
    genes: Annotated[
        int,
        {"min": 1, "max": 100_000, "tooltip": "So many genes that vary most over the training samples are learned."},
    ] = 1000
    gene_names: Annotated[
        str,
        {"tooltip": "These genes in any case, separated by commas, or a text file with one in a line."},
    ] = ""
    size_factors: Annotated[
        bool,
        {
            "tooltip": "Divide counts by each sample's total first. Without it the depth of sequencing counts too: on "
            "spots it follows how dense the tissue is, which any image shows, and correlations look higher."
        },
    ] = True
    within_groups: Annotated[
        bool,
        {
            "tooltip": "Learn what differs within a section or cohort, not between them: else the organ or the batch "
            "is learned instead of the tissue."
        },
    ] = True
    correlation: Annotated[
        float,
        {"min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Weight of 1 - r per gene beside the squared error."},
    ] = 0.0
    contrast: Annotated[
        float,
        {"min": 0.0, "max": 100.0, "step": 0.05, "tooltip": "Weight of the contrast beside the prediction (joint)."},
    ] = 0.25
    temperature: Annotated[
        float, {"min": 1e-3, "max": 10.0, "step": 1e-3, "tooltip": "Of the contrast; lower is stricter."}
    ] = 0.07
    learn_temperature: Annotated[bool, {"tooltip": "Train the temperature too."}] = False
    projection: Annotated[int, {"min": 2, "max": 4096, "tooltip": "Width of the space both sides meet in."}] = 256
    hidden: Annotated[int, {"min": 2, "max": 8192, "tooltip": "Width of the partner's hidden layer."}] = 512
    dropout: Annotated[float, {"min": 0.0, "max": 0.9, "step": 0.05, "tooltip": "In the two encoders."}] = 0.2
    aggregator: Annotated[
        Literal["abmil", "topk", "mean"],
        {
            "tooltip": "How the tiles of a patient become one answer. abmil: gated attention. topk: each gene by its "
            "highest tiles, as in HE2RNA. mean: all alike. Spots have one tile."
        },
    ] = "abmil"
    tiles_per_patient: Annotated[
        int,
        {"min": 1, "max": 1_000_000, "tooltip": "Of more tiles a random part is drawn in each step."},
    ] = 1024
    encoder_tiles: Annotated[
        int,
        {
            "min": 1,
            "max": 10_000,
            "tooltip": "In the mode encoder so many tiles of a patient pass the backbone in each step. Four times as "
            "many, drawn once, are kept of every patient.",
        },
    ] = 16
    start: Annotated[
        Literal["ridge", "zero"],
        {
            "tooltip": "ridge: the prediction begins as the best linear one on the plain features, found at once. "
            "zero: it begins at nothing."
        },
    ] = "ridge"
    rate: Annotated[
        float,
        {"min": 1e-4, "max": 100.0, "step": 1e-3, "tooltip": "Share of the training's learning rate that is used."},
    ] = 0.1

    @property
    def predicts(self) -> bool:
        """Whether the prediction of genes is trained by gradient; else it is fitted on the finished features."""
        return self.objective != "contrastive"

    @property
    def contrasts(self) -> bool:
        """Whether two sides are compared."""
        return self.objective != "direct"

    @property
    def kept_tiles(self) -> int:
        """Tiles of each patient that are kept as pictures in the mode encoder; 0 in the other."""
        return 4 * self.encoder_tiles if self.mode == "encoder" else 0
