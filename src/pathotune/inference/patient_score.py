"""What a ModalTune tuning says of patients and slides: the model from its file, class, risk, attention and pathways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import TuningMismatch, TuningUnreadable, UsageError
from pathotune.events import Event, Finished, Note
from pathotune.features import FeatureSet
from pathotune.inference.pathway_attribution import pathway_attribution, write_attributions
from pathotune.inference.slide_score import ATTENTION, SlideAnswer, predict_score
from pathotune.inference.work import OnMismatch
from pathotune.training.patient_models import OF_CLASSES, OF_SURVIVAL, PromptModels, speaking
from pathotune.training.patients import PatientTable, member_matrix, patient_table, samples_of, with_genes

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.datasets.expression import GeneScaler
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.modaltune.method import ModalTune
    from pathotune.slides.slide import Slide


@dataclass(frozen=True)
class PatientModel:
    """A loaded tuning of patients.

    scaler : of its genes; None where it takes none.
    models : its linear models by prompt.
    """

    tuning: Tuning
    model: ModalTune
    scaler: GeneScaler | None
    models: dict[str, PromptModels]
    device: str

    @property
    def prompts(self) -> tuple[str, ...]:
        """The task prompts it was trained with."""
        return tuple(self.models)


def load_patient_model(
    tuning: Tuning, device: str = "cpu", *, slide_weights: str = "", run_local_code: bool = False
) -> PatientModel:
    """The model a tuning file describes, frozen, with its linear models.

    Parameters
    ----------
    slide_weights, run_local_code : of the slide encoder, where it is not where such weights usually are; never taken
        from the file.

    Raises
    ------
    BackboneUnavailable : the slide encoder's weights are not here.
    TuningMismatch : they are not those the tuning was made with.
    TuningUnreadable : the file's tensors do not fit its method.
    """
    from pathotune.backbones.slide import load_slide_encoder
    from pathotune.datasets.expression import GeneScaler
    from pathotune.methods import load_config
    from pathotune.methods.modaltune.method import ModalTune

    config: Any = load_config(tuning.method, tuning.config)
    try:
        width, text_dim = int(tuning.training["features"]["width"]), int(tuning.training["text_dim"])
        need = tuning.backbone["slide_encoder"]
    except (KeyError, TypeError, ValueError):
        raise TuningUnreadable(f"{tuning.name} is no complete tuning of patients; make it again.") from None
    encoder = load_slide_encoder(
        config.slide_encoder, feature_dim=width, weights=slide_weights or None, run_local_code=run_local_code
    )
    if need.get("sha256") and encoder.weights_sha256 != need["sha256"]:
        raise TuningMismatch(
            f"This tuning needs {need['title']} with the weights {need['sha256'][:12]}…; the ones here are "
            f"{encoder.weights_sha256[:12]}…. Get the same release of it, or tune again."
        )
    scaler = None if tuning.genes is None else GeneScaler.from_dict(tuning.genes, tuning.tensors)
    member = None if scaler is None else member_matrix(tuning.tensors, len(scaler.genes))
    model = ModalTune(config, encoder, member, text_dim)
    model.load_trainable_state(tuning.trained)
    model.to(device).eval().requires_grad_(False)
    sites = tuple(tuning.training.get("sites") or ())
    models = {name: PromptModels.from_tensors(tuning.tensors, name, sites) for name in config.prompt_names}
    return PatientModel(tuning, model, scaler, models, device)


def patients_of(loaded: PatientModel, inputs: CohortInputs, class_names: tuple[str, ...]) -> PatientTable:
    """The patients of a cohort with what tables say of them; expression where there is a table and the tuning takes it.

    Raises
    ------
    UsageError : the cohort has no patients.
    """
    table = patient_table(inputs.cohort, inputs, class_names)
    if loaded.scaler is None or inputs.expression is None:
        if loaded.scaler is not None:
            notes = ("Without --expression everybody is answered from image and task alone.",)
            empty = np.zeros((len(table), len(loaded.scaler.genes)), dtype=np.float32)
            return replace(table, genes=empty, notes=(*table.notes, *notes))
        return table
    from pathotune.datasets.expression import read_expression

    expression = read_expression(inputs.expression, samples=table.names)
    return with_genes(table, samples_of(table, inputs.cohort, expression), expression, loaded.scaler)


def predict(
    slide: Slide | str | Path,
    tuning: Tuning,
    out: str | Path,
    *,
    backbone: Backbone | None = None,
    inputs: CohortInputs | None = None,
    cancel: Callable[[], bool] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    resume: bool = True,
    on_mismatch: OnMismatch = "refuse",
) -> Iterator[Event]:
    """Predict one slide into its store: class, risk, where the task token looked, and how tiles attend to the genes.

    With expression, NAME.pathways.csv comes beside the store: how much each pathway speaks for the class and the risk.
    The fused vectors of all prompts stand in the store.

    Parameters
    ----------
    inputs : says where features and expression are; the sample is called as the slide, or begins with its name.
    The others are those of `inference.slide_score.predict_score`.

    Raises
    ------
    UsageError : the tuning has no classes; judge it with `pathotune evaluate`.
    """
    if not tuning.class_names:
        raise UsageError(
            f"{tuning.name} knows survival alone, which has no map of classes; pathotune evaluate --cohort gives risks."
        )
    from pathotune.device import pick_device

    chosen = pick_device(device)
    loaded = load_patient_model(tuning, chosen)
    table = None if inputs is None else patients_of(loaded, inputs, tuning.class_names)
    if table is not None:
        for note in table.notes:
            yield Note(note)
    attributions: dict[str, NDArray[np.float64]] = {}

    def ask(_: Tuning, features: FeatureSet, __: str) -> SlideAnswer:
        return answer(loaded, features, table, attributions)

    stream = predict_score(
        slide,
        tuning,
        out,
        backbone=backbone,
        inputs=inputs,
        cancel=cancel,
        device=device,
        precision=precision,
        batch_size=batch_size,
        resume=resume,
        on_mismatch=on_mismatch,
        ask=ask,
    )
    for event in stream:
        if isinstance(event, Finished) and attributions and event.result.get("store"):
            store = Path(event.result["store"])
            target = store.with_name(f"{store.name.removesuffix('.pathotune.zarr')}.pathways.csv")
            names = (tuning.genes or {}).get("pathways") or [str(number) for number in range(len(attributions))]
            yield Finished(event.result | {"pathways": str(write_attributions(target, names, attributions))})
        else:
            yield event


def answer(
    loaded: PatientModel,
    features: FeatureSet,
    table: PatientTable | None = None,
    attributions: dict[str, NDArray[np.float64]] | None = None,
) -> SlideAnswer:
    """What is said of one slide; `table` has its patient as the only row, with or without expression.

    Attention under the name "attention" is where the task token looked (the mean over the extractors); "attention to
    genes" is how much of each tile's own attention goes to the genes (the mean over injectors and heads). Both are
    times the number of tiles over their sum, so that 1 is the slide's mean.
    """
    import torch

    from pathotune.training.modaltune import answer as asked

    classes, survival = speaking(loaded.prompts, OF_CLASSES), speaking(loaded.prompts, OF_SURVIVAL)
    given = _given(loaded, features, table)
    with torch.no_grad():
        said = asked(loaded.model, given, loaded.prompts, attention=True)
    vectors = torch.nn.functional.normalize(said.vectors[0].float(), dim=-1).cpu().numpy()  # (prompts, d)
    number = loaded.prompts.index(classes)
    sites = [table.sites[0] if table is not None and len(table) else ""]
    probabilities = loaded.models[classes].probabilities(vectors[number : number + 1], sites)
    if probabilities is None:
        raise UsageError(f"{loaded.tuning.name} learned no classes; pathotune evaluate --cohort gives risks.")
    cox = loaded.models[survival].cox
    chosen = loaded.prompts.index(survival)
    risk = None if cox is None else round(float(cox.risk(vectors[chosen : chosen + 1])[0]), 6)
    with_expression = given.has_genes is not None and bool(given.has_genes.any())
    maps = {ATTENTION: said.attention["task looks"][0, number]}
    if with_expression:
        maps[f"{ATTENTION} to genes"] = said.attention["to gene"][0, number]
    if with_expression and attributions is not None:
        attributions.update(_attributed(loaded, given, int(probabilities[0].argmax())))
    attention = {name: _relative(values.float().cpu().numpy()) for name, values in maps.items()}
    facts = {
        "risk": risk,
        "with_expression": with_expression,
        "vectors": {name: np.round(vectors[row], 6).tolist() for row, name in enumerate(loaded.prompts)},
    }
    tiles = np.repeat(probabilities.astype(np.float32), len(features), axis=0)
    return SlideAnswer(probabilities[0], tiles, attention, facts)


def vectors_of(loaded: PatientModel, features: FeatureSet) -> NDArray[np.float32]:
    """(prompts, d) vectors of length 1 of one slide from image and task token alone."""
    import torch

    from pathotune.training.modaltune import answer as asked

    with torch.no_grad():
        said = asked(loaded.model, _given(loaded, features, None), loaded.prompts)
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(said.vectors[0].float(), dim=-1).cpu().numpy()
    return vectors


def _given(loaded: PatientModel, features: FeatureSet, table: PatientTable | None) -> Any:
    """One slide with its patient's modalities as the model takes them."""
    import torch

    from pathotune.methods.modaltune.method import Patients

    scale = features.tile_px / float(np.mean(features.tile_px0))
    device, scaler = loaded.device, loaded.scaler
    genes, has_genes, clinical, has_clinical = None, None, None, None
    if scaler is not None:
        has = table is not None and len(table) == 1 and table.genes is not None and bool(table.has_genes[0])
        row = table.genes[:1] if has and table is not None and table.genes is not None else None
        genes = torch.zeros(1, len(scaler.genes)) if row is None else torch.from_numpy(row)
        has_genes = torch.tensor([has])
    if loaded.model.clinical is not None:
        oldest = float(loaded.tuning.training.get("oldest") or 100.0)
        numbers, known = (np.zeros((1, 5), np.float32), np.zeros(1, bool)) if table is None else table.clinical(oldest)
        clinical, has_clinical = torch.from_numpy(numbers[:1]), torch.from_numpy(known[:1])

    def here(value: Any) -> Any:
        return None if value is None else value.to(device)

    return Patients(
        torch.from_numpy(features.features)[None].to(device),
        torch.from_numpy(features.coords_px0 * scale)[None].to(device),
        None,
        here(genes),
        here(has_genes),
        here(clinical),
        here(has_clinical),
    )


def _attributed(loaded: PatientModel, given: Any, predicted: int) -> dict[str, NDArray[np.float64]]:
    """By column of the table: attributions to the predicted class's logit, and to the risk."""
    classes, survival = speaking(loaded.prompts, OF_CLASSES), speaking(loaded.prompts, OF_SURVIVAL)
    found, own = {}, loaded.models[classes].classes
    if own is not None:
        weights = own.weights[predicted] - own.weights.mean(axis=0)
        found[f"for {loaded.tuning.class_names[predicted]}"] = _linear(loaded, given, classes, weights, own.standard)
    cox = loaded.models[survival].cox
    if cox is not None:
        found["for a higher risk"] = _linear(loaded, given, survival, cox.weights, cox.standard)
    return found


def _linear(
    loaded: PatientModel, given: Any, prompt: str, weights: NDArray[np.float64], standard: Any
) -> NDArray[np.float64]:
    import torch

    slope = torch.as_tensor(weights / standard.spread, dtype=torch.float32, device=loaded.device)
    values, _ = pathway_attribution(loaded.model, given, prompt, lambda vector: vector @ slope)
    return values


def _relative(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Times the number of tiles over their sum: 1 is the mean."""
    total = float(values.sum())
    return values * (len(values) / total) if total > 0 else np.ones_like(values)
