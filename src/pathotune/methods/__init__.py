"""The methods that can be tuned, by name, and the model a tuning file describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pathotune.errors import TuningMismatch
from pathotune.methods.base import MethodConfig
from pathotune.registry import Entry, Table

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.events import Event
    from pathotune.methods.checkpoint import Tuning

METHODS = Table(
    "method",
    (
        Entry(
            "pathotune",
            "pathotune.methods.pathotune.method:PathoTune",
            "PathoTune",
            {
                "title": "PathoTune",
                "summary": "Visual, textual and instance prompts in a frozen vision transformer, and a linear head.",
                "config": "pathotune.methods.pathotune.config:PathoTuneConfig",
                "level": "tile",
                "needs_prompts": True,
                "uses_text": True,
            },
        ),
        Entry(
            "cite",
            "pathotune.methods.cite.method:Cite",
            "CITE",
            {
                "title": "CITE",
                "summary": "Tokens and a projection that bring tiles close to the sentences of their classes.",
                "config": "pathotune.methods.cite.config:CiteConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": True,
                "classes_are_sentences": True,
            },
        ),
        Entry(
            "zero_shot",
            "pathotune.methods.zero_shot.method:ZeroShot",
            "Zero-shot by wording",
            {
                "title": "Zero-shot by wording",
                "summary": "A tile is what an image–text model finds it most like in words; nothing is trained.",
                "config": "pathotune.methods.zero_shot.config:ZeroShotConfig",
                "level": "tile",
                "needs_prompts": False,
                "needs_text_side": True,
                "uses_text": True,
                "classes_are_sentences": True,
            },
        ),
        Entry(
            "vpt",
            "pathotune.methods.vpt.method:Vpt",
            "Visual prompt tuning",
            {
                "title": "Visual prompt tuning",
                "summary": "Learned tokens at every block of a vision transformer, or at the first, and a linear head.",
                "config": "pathotune.methods.vpt.config:VptConfig",
                "level": "tile",
                "needs_prompts": True,
                "uses_text": False,
            },
        ),
        Entry(
            "linear_probe",
            "pathotune.methods.linear_probe.method:LinearProbe",
            "Linear probe",
            {
                "title": "Linear probe",
                "summary": "One linear layer on the frozen backbone's features: the quickest, and the yardstick.",
                "config": "pathotune.methods.linear_probe.config:LinearProbeConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "lora",
            "pathotune.methods.lora.method:Lora",
            "LoRA",
            {
                "title": "LoRA",
                "summary": "Low-rank matrices added to the weights of the backbone's blocks, and a linear head.",
                "config": "pathotune.methods.lora.config:LoraConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "adapter",
            "pathotune.methods.adapter.method:Adapter",
            "Adapters",
            {
                "title": "Adapters",
                "summary": "Small networks behind the backbone's attention and MLPs, and a linear head.",
                "config": "pathotune.methods.adapter.config:AdapterConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "ssf",
            "pathotune.methods.ssf.method:Ssf",
            "Scale and shift",
            {
                "title": "Scale and shift",
                "summary": "Every layer's output scaled and shifted, channel by channel, and a linear head.",
                "config": "pathotune.methods.ssf.config:SsfConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "bitfit",
            "pathotune.methods.bitfit.method:BitFit",
            "BitFit",
            {
                "title": "BitFit",
                "summary": "The backbone's biases are trained and nothing else in it, and a linear head.",
                "config": "pathotune.methods.bitfit.config:BitFitConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "full",
            "pathotune.methods.full.method:Full",
            "Full fine-tuning",
            {
                "title": "Full fine-tuning",
                "summary": "The whole backbone is trained, in a copy that the tuning file holds; slow, and large.",
                "config": "pathotune.methods.full.config:FullConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
                "holds": "backbone",
            },
        ),
        Entry(
            "scratch",
            "pathotune.methods.scratch.method:Scratch",
            "From scratch",
            {
                "title": "From scratch",
                "summary": "The same network trained from random weights: what the backbone's own are worth.",
                "config": "pathotune.methods.scratch.config:ScratchConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
                "holds": "network",
            },
        ),
        Entry(
            "neighbours",
            "pathotune.methods.neighbours.method:Neighbours",
            "Nearest neighbours",
            {
                "title": "Nearest neighbours",
                "summary": "A tile is what the most similar training tiles are; nothing is trained.",
                "config": "pathotune.methods.neighbours.config:NeighboursConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "class_means",
            "pathotune.methods.class_means.method:ClassMeans",
            "Nearest class mean",
            {
                "title": "Nearest class mean",
                "summary": "A tile is what the mean of a class is nearest to; nothing is trained.",
                "config": "pathotune.methods.class_means.config:ClassMeansConfig",
                "level": "tile",
                "needs_prompts": False,
                "uses_text": False,
            },
        ),
        Entry(
            "mil",
            "pathotune.methods.mil.method:Mil",
            "Multiple-instance learning",
            {
                "title": "Multiple-instance learning",
                "summary": "The class of a whole slide from its tiles, by attention or votes, from slide labels alone.",
                "config": "pathotune.methods.mil.config:MilConfig",
                "level": "slide",
                "needs_prompts": False,
                "uses_text": False,
                "trainer": "pathotune.execution.slide_tuning:tune_slides",
                "evaluator": "pathotune.evaluation.slides:evaluate_slides",
                "predictor": "pathotune.inference.slide_score:predict_score",
            },
        ),
        Entry(
            "modaltune",
            "pathotune.methods.modaltune.method:ModalTune",
            "ModalTune",
            {
                "title": "ModalTune",
                "summary": "Genes injected into a frozen slide encoder, towards the patient's labels as text.",
                "config": "pathotune.methods.modaltune.config:ModalTuneConfig",
                "level": "patient",
                "needs_prompts": False,
                "uses_text": True,
                "trainer": "pathotune.execution.patient_tuning:tune",
                "evaluator": "pathotune.evaluation.patients:evaluate",
                "predictor": "pathotune.inference.patient_score:predict",
            },
        ),
        Entry(
            "transcriptomics",
            "pathotune.methods.transcriptomics.method:Transcriptomics",
            "Transcriptomics tuning",
            {
                "title": "Transcriptomics tuning",
                "summary": "An encoder of images enhanced by expression measured beside them, on spots or on patients.",
                "config": "pathotune.methods.transcriptomics.config:TranscriptomicsConfig",
                "level": "spot",
                "needs_prompts": False,
                "uses_text": False,
                "trainer": "pathotune.training.transcriptomics:tune",
                "evaluator": "pathotune.evaluation.expression:evaluate",
                "predictor": "pathotune.inference.expression:predict_slide",
            },
        ),
    ),
)


def stage_of(method: str, stage: str) -> Callable[..., Iterator[Event]] | None:
    """What trains ("trainer"), judges ("evaluator") or predicts ("predictor") a method that does not go tile by tile.

    None where the method learns and answers tile by tile. Raises UnknownName.
    """
    path = (METHODS[method].facts or {}).get(stage)
    if path is None:
        return None
    loaded: Callable[..., Iterator[Event]] = Entry(method, str(path)).load()
    return loaded


def needs_no_tiles(method: str) -> bool:
    """Whether a tuning can be made from sentences alone; raises UnknownName."""
    return bool((METHODS[method].facts or {}).get("needs_text_side"))


def level_of(method: str) -> str:
    """What one sample of a method is: "tile", "slide", "patient" or "spot"; raises UnknownName."""
    return str((METHODS[method].facts or {}).get("level", "tile"))


def methods_of_level(*levels: str) -> tuple[str, ...]:
    """The names of the methods whose samples are of these levels."""
    return tuple(name for name in METHODS if level_of(name) in levels)


def config_class(method: str) -> type[MethodConfig]:
    """The config dataclass of a method (no torch is imported); raises UnknownName."""
    facts = METHODS[method].facts or {}
    loaded: type[MethodConfig] = Entry(method, str(facts["config"])).load()
    return loaded


def load_config(method: str, settings: Mapping[str, Any] | None = None) -> MethodConfig:
    """The method's config with these fields set (text or typed values); raises UnknownName or UsageError."""
    from pathotune.methods.options import with_settings

    return with_settings(config_class(method)(), settings or {})


def build_model(tuning: Tuning, backbone: Backbone) -> Any:
    """The model a tuning describes, on the backbone's device, frozen and ready to predict.

    Parameters
    ----------
    tuning : a loaded tuning.
    backbone : the backbone it was made with, loaded.

    Returns
    -------
    A `methods.base.Method` in eval mode. Its logits are already divided by the calibration temperature.

    Raises
    ------
    TuningMismatch
        The backbone is another one, has other weights, or another token width or pixel size.
    TuningUnreadable
        The tuning's tensors do not fit its method.
    """
    check_backbone(tuning, backbone)
    config = load_config(tuning.method, tuning.config)
    model = METHODS.load(tuning.method)(config, backbone, tuning.class_names, tuning.text_vectors)
    model.load_trainable_state(tuning.trained)
    model.head.temperature = float(tuning.calibration.get("temperature", 1.0))
    device = next(backbone.parameters()).device
    model.to(device).eval().requires_grad_(False)
    return model


def check_backbone(tuning: Tuning, backbone: Backbone) -> None:
    """Refuse another backbone than the one the tuning was made with, with the sentence that says which it needs."""
    need, card = tuning.backbone, backbone.card
    wanted = f"This tuning needs the backbone {need['name']}"
    check_backbone_name(tuning, card.name)
    if backbone.embed_dim != need["embed_dim"]:
        raise TuningMismatch(f"{wanted} with tokens {need['embed_dim']} wide; this one's are {backbone.embed_dim}.")
    reads = card.reading().mpp  # what a tuning is made at, also where the card of an everyday model states none
    if reads != need["mpp"]:
        raise TuningMismatch(f"{wanted} at {need['mpp']} µm per pixel; this one reads {reads} µm per pixel.")
    if need.get("sha256") and backbone.weights_sha256 != need["sha256"]:
        raise TuningMismatch(
            f"{wanted} with the weights {need['sha256'][:12]}…; the ones loaded are "
            f"{str(backbone.weights_sha256)[:12]}…. Get the same release of the backbone, or tune again."
        )


def check_backbone_name(tuning: Tuning, name: str) -> None:
    """Refuse a backbone of another name, before its weights are looked for."""
    need = tuning.backbone["name"]
    if name != need:
        raise TuningMismatch(
            f"This tuning needs the backbone {need}, not {name}. Load that backbone, or tune again on this one."
        )
