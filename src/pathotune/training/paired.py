"""Images and what was measured beside them: spots with their tile, patients with the tiles of their slides."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.datasets.expression import Expression, read_expression
from pathotune.datasets.spots import Spots, check_pitch, match_tiles, read_spots, section_expression
from pathotune.errors import FileMissing, NoTiles, TableUnreadable, UsageError
from pathotune.events import Event, Note, Step
from pathotune.features.featureset import FeatureHeader, FeatureSet, header
from pathotune.features.folder import feature_path, find_features, slide_stem
from pathotune.features.matching import check_features
from pathotune.training.tilepool import pool_of

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import Cohort, CohortInputs
    from pathotune.tiles.tileset import Reading
    from pathotune.training.tilepool import TilePool

SPOTS = ("spots", "visium")
GROUPS = ("cohort", "project", "site")
BATCH = 64
BLOCK_PITCHES = 4  # side of a block of spots that is held out together


@dataclass(frozen=True)
class Bag:
    """The tiles of a patient's slides: files of features and how many tiles each has."""

    files: tuple[tuple[Path, int], ...]

    def __len__(self) -> int:
        return sum(count for _, count in self.files)

    def load(self, most: int = 0, random: np.random.Generator | None = None) -> NDArray[np.float32]:
        """(m, D) all tiles, or `most` of them drawn without repetition."""
        total = len(self)
        if not most or total <= most or random is None:
            return np.concatenate([FeatureSet.load(path).features for path, _ in self.files])
        chosen = np.sort(random.choice(total, most, replace=False))
        parts, start = [], 0
        for path, count in self.files:
            own = chosen[(chosen >= start) & (chosen < start + count)] - start
            if len(own):
                parts.append(FeatureSet.load(path, rows=own).features)
            start += count
        return np.concatenate(parts)


@dataclass
class Paired:
    """Samples with both sides.

    Parameters
    ----------
    level : "spot" or "patient".
    names : of the samples.
    groups : section or cohort of each, within which correlations are taken.
    patients, split : of each; split is "train", "val", "test" or "".
    places_um : (n, 2) where spots lie, for blocks; None for patients.
    features : (n, D) float32 of spots, or None.
    bags : of patients, or None.
    images : (n, h, w, 3) uint8 of spots where the encoder is trained, or None.
    pool : pictures of some tiles of each patient where the encoder is trained, or None.
    expression : rows are the samples; None where there is none.
    cohort_row : of each sample, the row of the cohort it comes from (a patient's first).
    about : what the features say of themselves.
    notes : what does not line up, with counts.
    fingerprints : identities of the slides they come from, "" where the features do not say.
    """

    level: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    patients: tuple[str, ...]
    split: tuple[str, ...]
    cohort_row: NDArray[np.int64]
    about: FeatureHeader
    places_um: NDArray[np.float64] | None = None
    features: NDArray[np.float32] | None = None
    bags: tuple[Bag, ...] | None = None
    images: NDArray[np.uint8] | None = None
    pool: TilePool | None = None
    expression: Expression | None = None
    notes: tuple[str, ...] = field(default=())
    fingerprints: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Samples of these splits."""
        return np.asarray([index for index, name in enumerate(self.split) if name in splits], dtype=np.int64)


def is_of_spots(cohort: Cohort) -> bool:
    """Whether the cohort's rows are sections with measured spots."""
    return any(name in cohort.clinical for name in SPOTS)


def gather(
    inputs: CohortInputs,
    card: BackboneCard,
    reading: Reading,
    load: Any,
    cache: Path,
    *,
    images: bool = False,
    kept_tiles: int = 64,
    needs_expression: bool = True,
) -> Generator[Event, None, Paired]:
    """Bring images and expression together.

    Parameters
    ----------
    inputs : the cohort; with a column spots (or visium) its rows are sections, else slides of patients.
    card, reading : the backbone and how its tiles are read.
    load : gives the loaded backbone, where features have to be computed.
    cache : folder in which features of spots are kept that were computed here.
    images : keep the spots' tiles themselves too, or some tiles of each patient.
    kept_tiles : so many of each patient.
    needs_expression : whether it is an error where there is none.

    Raises
    ------
    TableUnreadable, FileMissing, FeaturesMismatch, NoTiles : nothing in common, or a file that cannot be used.
    """
    if is_of_spots(inputs.cohort):
        return (yield from _spots(inputs, card, reading, load, cache, images))
    found, bags, rows = yield from _patients(inputs, card, reading, needs_expression)
    if not images:
        return found
    cohort, mpp = inputs.cohort, inputs.slide_mpp
    pool = yield from pool_of(cohort, found.names, bags, rows, reading, kept_tiles, cache, mpp)
    return replace(found, pool=pool)


# -- spots ------------------------------------------------------------------------------------------------------------


def _spots(
    inputs: CohortInputs, card: BackboneCard, reading: Reading, load: Any, cache: Path, images: bool
) -> Generator[Event, None, Paired]:
    cohort, parts = inputs.cohort, []
    column = cohort.clinical[next(name for name in SPOTS if name in cohort.clinical)]
    table = None if inputs.expression is None else read_expression(inputs.expression)
    for row, where in enumerate(column):
        if not where:
            raise TableUnreadable(f"The slide {cohort.slides[row]} has no spots named in the cohort table.")
        spots = read_spots(beside(cohort, where), slide=cohort.slides[row])
        own = (cohort.clinical.get("expression") or ("",) * len(cohort))[row]
        measured = section_expression(replace(spots, slide=cohort.slides[row]), beside(cohort, own) if own else table)
        part = yield from _section(inputs, row, measured, card, reading, load, cache, images)
        parts.append(part)
        yield Step("sections", len(parts), len(cohort), unit="sections")
    return _joined(parts)


def beside(cohort: Cohort, where: str) -> Path:
    """A file that the cohort table names: as written, counted from the table's folder."""
    path = Path(where).expanduser()
    return path if cohort.path is None else cohort.path.parent / path


def _section(
    inputs: CohortInputs,
    row: int,
    spots: Spots,
    card: BackboneCard,
    reading: Reading,
    load: Any,
    cache: Path,
    images: bool,
) -> Generator[Event, None, Paired]:
    """One section: its spots that have both a tile and expression."""
    cohort, slide_path = inputs.cohort, inputs.cohort.slide_path(row)
    notes = list(spots.warnings)
    about, pictures = None, None
    stated = cohort.slide_mpp(row) or inputs.slide_mpp
    kept = _kept_features(inputs.features, cohort.slides[row], card, reading)
    if kept is None or images:
        computed = yield from _compute(slide_path, stated, spots, card, reading, load, cache, kept is None, images)
        kept, pictures, said = (computed[0] if kept is None else kept), computed[1], computed[2]
        notes += said
    match = match_tiles(spots, kept.coords_px0, kept.tile_px0)
    notes += list(match.notes)
    um = reading.mpp * reading.tile_px / float(np.mean(kept.tile_px0)) if kept.tile_px0[0] > 0 else 1.0
    if pictures is None:
        notes += list(check_pitch(spots, (um, um)))
    chosen = spots.take(match.spots)
    places = np.stack([chosen.x_px0, chosen.y_px0], axis=1) * um
    about = kept.header
    section = slide_stem(cohort.slides[row])
    count = len(chosen)
    return Paired(
        "spot",
        chosen.names,
        (section,) * count,
        (cohort.patients[row],) * count,
        (cohort.split[row],) * count,
        np.full(count, row, dtype=np.int64),
        about,
        places,
        kept.features[match.tiles],
        None,
        None if pictures is None else pictures[match.spots],
        None,
        chosen.expression,
        tuple(f"{section}: {note}" for note in notes),
        (about.slide_fingerprint,),
    )


def _kept_features(folder: Path | None, slide: str, card: BackboneCard, reading: Reading) -> FeatureSet | None:
    if folder is None:
        return None
    try:
        path = find_features(folder, slide)
    except FileMissing:
        if not Path(folder).is_dir():
            raise
        return None
    check_features(header(path), card, reading)
    return FeatureSet.load(path)


def _compute(
    slide_path: Path,
    stated: float | None,
    spots: Spots,
    card: BackboneCard,
    reading: Reading,
    load: Any,
    cache: Path,
    features: bool,
    images: bool,
) -> Generator[Event, None, tuple[Any, Any, tuple[str, ...]]]:
    """Features of tiles centred on the spots (kept in `cache`), and the tiles themselves where they are wanted."""
    from pathotune.slides import open_slide
    from pathotune.tiles.reader import TileReader

    with open_slide(slide_path, mpp=stated, icc=reading.icc) as slide:
        mpp = slide.require_mpp()
        said = check_pitch(spots, (mpp.x, mpp.y))
        size = reading.tile_px0(slide)
        corners = spots.corners_px0(size)
        backbone = load() if features else None
        target = feature_path(cache, slide_path)
        found = _cached(target, corners, slide.fingerprint, backbone, reading) if backbone is not None else None
        if found is not None and not images:
            return found, None, said
        with TileReader(slide, reading) as reader:
            values, pictures = [], []
            for start in range(0, len(corners), BATCH):
                part = corners[start : start + BATCH]
                tiles = np.asarray(reader.read_at(part[:, 0], part[:, 1]))
                if images:
                    pictures.append(tiles)
                if found is None and backbone is not None:
                    values.append(pooled(backbone, tiles))
                yield Step(f"tiles of {slide.name}", min(start + BATCH, len(corners)), len(corners))
        if found is None and backbone is not None:
            found = FeatureSet(
                np.concatenate(values),
                corners,
                card.name,
                reading.mpp,
                reading.tile_px,
                reading.image_px,
                size,
                slide.name,
                slide.fingerprint,
                extra={"backbone_sha256": backbone.weights_sha256, "reading": reading.to_dict(), "places": "spots"},
            )
            found.save(target)
        return found, (np.concatenate(pictures) if images else None), said


def _cached(
    path: Path, corners: NDArray[np.float64], fingerprint: str, backbone: Backbone, reading: Reading
) -> FeatureSet | None:
    """What was computed before of the very same tiles, or None."""
    if not path.is_file():
        return None
    about = header(path)
    same = (about.slide_fingerprint, about.extra.get("backbone_sha256"), about.extra.get("reading"))
    if same != (fingerprint, backbone.weights_sha256, reading.to_dict()) or about.count != len(corners):
        return None
    kept = FeatureSet.load(path)
    return kept if np.allclose(kept.coords_px0, corners, atol=0.01) else None


def pooled(backbone: Backbone, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, D) the frozen backbone's pooled features of tiles (n, h, w, 3)."""
    import torch

    device = next(backbone.parameters()).device
    with torch.inference_mode():
        values: Any = backbone(backbone.normalise(torch.from_numpy(tiles).to(device))).pooled
        return np.asarray(values.float().cpu().numpy())


def _joined(parts: Sequence[Paired]) -> Paired:
    """Sections as one set of samples; genes are those that all have."""
    expressions = [part.expression for part in parts if part.expression is not None]
    joined, note = join_expression(expressions)
    images = [part.images for part in parts if part.images is not None]
    return Paired(
        "spot",
        tuple(name for part in parts for name in part.names),
        tuple(name for part in parts for name in part.groups),
        tuple(name for part in parts for name in part.patients),
        tuple(name for part in parts for name in part.split),
        np.concatenate([part.cohort_row for part in parts]),
        parts[0].about,
        np.concatenate([part.places_um for part in parts]),
        np.concatenate([part.features for part in parts]),
        None,
        np.concatenate(images) if images else None,
        None,
        joined,
        (*(note for part in parts for note in part.notes), *note),
        tuple(name for part in parts for name in part.fingerprints),
    )


def join_expression(parts: Sequence[Expression]) -> tuple[Expression, tuple[str, ...]]:
    """Rows of several tables below each other, over the genes that all of them have, and what to say of the others."""
    if len(parts) == 1:
        return parts[0], ()
    common = set(parts[0].genes).intersection(*(part.genes for part in parts[1:]))
    genes = tuple(name for name in parts[0].genes if name in common)
    if not genes:
        raise TableUnreadable("The sections have no gene in common; are all tables named alike (symbols, Ensembl ids)?")
    every = set().union(*(part.genes for part in parts))
    rows = []
    for part in parts:
        columns = part.column_of()
        rows.append(part.columns([columns[name] for name in genes]))
    samples = tuple(name for part in parts for name in part.samples)
    notes = (f"{len(every) - len(genes)} genes are not measured in every section and were left out.",)
    joined = Expression(np.concatenate(rows), samples, genes, source=parts[0].source)
    return joined, notes if len(every) > len(genes) else ()


# -- patients ---------------------------------------------------------------------------------------------------------


def _patients(
    inputs: CohortInputs, card: BackboneCard, reading: Reading, needs_expression: bool
) -> Generator[Event, None, tuple[Paired, dict[str, list[tuple[Path, int]]], dict[str, list[int]]]]:
    """Patients, the feature files of each, and the row of the cohort of each file."""
    cohort = inputs.cohort
    if inputs.features is None:
        raise UsageError(
            "Patients are learned from tile features: give --features DIR (made with: pathotune features). "
            "For spots give the cohort table a column spots."
        )
    bags, rows_of, abouts, missing = _bags(inputs, card, reading)
    if missing:
        yield Note(f"{len(missing)} of {len(cohort)} slides have no features: {_some(missing)}.", "warning")
    if not abouts:
        raise NoTiles(f"None of the {len(cohort)} slides has features in {inputs.features}.")
    patients = [name for name in cohort.by_patient() if name in bags]
    notes = [f"{len(missing)} slides have no features."] if missing else []
    expression = None
    if inputs.expression is not None:
        whole = read_expression(inputs.expression, samples=[*cohort.patients, *map(slide_stem, cohort.slides)])
        rows = rows_of_patients(cohort, whole)
        without = [name for name in patients if name not in rows]
        if without:
            notes.append(f"{len(without)} of {len(patients)} patients have no expression: {_some(without)}.")
        patients = [name for name in patients if name in rows]
        unused = len(whole) - len({rows[name] for name in patients})
        if unused:
            notes.append(f"{unused} rows of {Path(whole.source).name} belong to no patient with slides.")
        if not patients:
            raise TableUnreadable(
                f"No patient of the cohort (for example {_some(list(cohort.by_patient()))}) is in "
                f"{Path(whole.source).name} (for example {_some(whole.samples)}); name both alike, or give the cohort "
                "table a column sample."
            )
        expression = replace(whole.take(rows[name] for name in patients), samples=tuple(patients))
        notes = [*whole.warnings, *notes]
    elif needs_expression:
        raise UsageError("Give --expression TABLE: it is what the images are tuned with.")
    first = {name: rows_[0] for name, rows_ in cohort.by_patient().items()}
    group = next((cohort.clinical[name] for name in GROUPS if name in cohort.clinical), None)
    paired = Paired(
        "patient",
        tuple(patients),
        tuple("all" if group is None else group[first[name]] or "all" for name in patients),
        tuple(patients),
        tuple(cohort.split[first[name]] for name in patients),
        np.asarray([first[name] for name in patients], dtype=np.int64),
        abouts[0],
        bags=tuple(Bag(tuple(bags[name])) for name in patients),
        expression=expression,
        notes=tuple(notes),
        fingerprints=tuple(about.slide_fingerprint for about in abouts),
    )
    return paired, bags, rows_of


def _bags(
    inputs: CohortInputs, card: BackboneCard, reading: Reading
) -> tuple[dict[str, list[tuple[Path, int]]], dict[str, list[int]], list[FeatureHeader], list[str]]:
    """Each patient's feature files and their rows of the cohort, what they say of themselves, and slides without."""
    bags: dict[str, list[tuple[Path, int]]] = {}
    rows: dict[str, list[int]] = {}
    abouts, missing = [], []
    for row, (slide, patient) in enumerate(zip(inputs.cohort.slides, inputs.cohort.patients, strict=True)):
        try:
            path = find_features(inputs.features or "", slide)
        except FileMissing:
            if not Path(inputs.features or "").is_dir():
                raise
            missing.append(slide)
            continue
        about = header(path)
        check_features(about, card, reading)
        abouts.append(about)
        if about.count:
            bags.setdefault(patient, []).append((path, about.count))
            rows.setdefault(patient, []).append(row)
    return bags, rows, abouts, missing


def rows_of_patients(cohort: Cohort, expression: Expression) -> dict[str, int]:
    """The row of expression of each patient.

    By the cohort's column sample, the patient's name, the slide's; or, for TCGA barcodes, by the patient's first twelve
    signs, a primary tumour before other samples.
    """
    known = expression.row_of()
    barcodes: dict[str, int] = {}
    order = sorted(range(len(expression)), key=lambda row: (expression.samples[row][13:15] != "01", row))
    for row in order:
        name = expression.samples[row].upper().replace(".", "-")
        if name.startswith("TCGA-"):
            barcodes.setdefault(name[:12], row)
    samples = cohort.clinical.get("sample")
    found: dict[str, int] = {}
    for patient, rows in cohort.by_patient().items():
        names = [*(samples[row] for row in rows if samples), patient, *(slide_stem(cohort.slides[row]) for row in rows)]
        tcga = [name.upper()[:12] for name in names if name.upper().startswith("TCGA-")]
        fitting = [known[name] for name in names if name in known] + [barcodes[n] for n in tcga if n in barcodes]
        if fitting:
            found[patient] = fitting[0]
    return found


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


# -- who learns and who judges ----------------------------------------------------------------------------------------


def divided(paired: Paired, fraction: float, seed: int) -> tuple[Paired, str]:
    """The samples with a split for each, and how it was made in words.

    What the cohort's column says is followed. Else a share of the patients is held out for choosing the epoch; where
    there are fewer than four, blocks of neighbouring spots.

    Raises
    ------
    NoTiles : there is nothing to learn from, or nothing to judge by.
    """
    said = np.asarray(paired.split)
    free = np.flatnonzero(said != "test")
    if (said == "val").any() and (said == "train").any():
        return paired, "the cohort's own split"
    random = np.random.default_rng(seed)
    patients = [paired.patients[index] for index in free]
    if len(set(patients)) >= 4:
        units, what = patients, "patients"
    elif paired.places_um is not None:
        units, what = _blocks(paired, free), "blocks of neighbouring spots"
    else:
        raise NoTiles(f"There are {len(set(patients))} patients to learn from; at least four are needed.")
    names = sorted(set(units))
    random.shuffle(names)
    held: set[str] = set()
    wanted = max(1, round(fraction * len(free)))
    for name in names:
        if sum(unit in held for unit in units) >= wanted or len(held) + 1 == len(names):
            break
        held.add(name)
    split = list(paired.split)
    for index, unit in zip(free, units, strict=True):
        split[index] = "val" if unit in held else "train"
    made = replace(paired, split=tuple(split))
    if not len(made.rows("train")) or not len(made.rows("val")):
        raise NoTiles(f"{len(free)} samples are too few to hold some of them out; give more.")
    return made, f"{len(held)} of {len(names)} {what} held out"


def _blocks(paired: Paired, rows: NDArray[np.int64]) -> list[str]:
    """Squares of four by four spots, by section."""
    from scipy.spatial import cKDTree

    if paired.places_um is None:
        return [paired.names[row] for row in rows]
    blocks = {}
    for group in dict.fromkeys(paired.groups[row] for row in rows):
        own = [row for row in rows if paired.groups[row] == group]
        places = paired.places_um[own]
        pitch = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(own) > 1 else 1.0
        cells = np.floor(places / (BLOCK_PITCHES * max(pitch, 1e-6))).astype(int)
        blocks.update({row: f"{group} {x} {y}" for row, (x, y) in zip(own, cells.tolist(), strict=True)})
    return [blocks[row] for row in rows]
