"""Linear probe and 5-NN on held-out pixels: pathotune-tiny beside random weights and 36 colour and texture numbers."""

import argparse
import csv
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2gray, rgb2hsv
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from timm.models.vision_transformer import VisionTransformer

from benchmarks.pretraining.export import POOLINGS, load_encoder
from benchmarks.pretraining.stain import draw_jitter, mix, optical_density, stain_amounts, transmitted
from pathotune.backbones import backbone_card

SIDE = 224
WEIGHTS = Path(__file__).parents[1] / "resources/backbones/weights/pathotune-tiny.safetensors"
SECTION_MPP = {"C2": 0.696, "C3": 0.669, "C4": 0.690}
NEIGHBOURS = 5


@dataclass
class Tiles:
    """Tiles with their labels and the block of tissue each belongs to (the unit of the bootstrap)."""

    images: np.ndarray  # (tiles, 224, 224, 3) uint8
    labels: np.ndarray  # (tiles,) int
    blocks: np.ndarray  # (tiles,) int

    def __add__(self, other: "Tiles") -> "Tiles":
        shifted = other.blocks + self.blocks.max() + 1
        pairs = ((self.images, other.images), (self.labels, other.labels), (self.blocks, shifted))
        return Tiles(*(np.concatenate(pair) for pair in pairs))


def her2st_section(data: Path, section: str) -> Tiles:
    """Spots of one section with a known coarse label: 112 µm around the spot (its diameter is 100), at 0.5 µm/px."""
    Image.MAX_IMAGE_PIXELS = None  # the sections are larger than Pillow's guard against decompression bombs
    picture = Image.open(data / f"st/her2st/images/{section}.jpg").convert("RGB")
    half = SIDE * 0.5 / SECTION_MPP[section] / 2
    images, labels, blocks = [], [], []
    with (data / f"tiles/her2st_spots/{section}_spots.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["coarse"] in ("cancer", "immune"):
                x, y = float(row["pixel_x"]), float(row["pixel_y"])
                box = (x - half, y - half, x + half, y + half)
                images.append(np.asarray(picture.resize((SIDE, SIDE), Image.BILINEAR, box=box)))
                labels.append(int(row["coarse"] == "cancer"))
                blocks.append(int(row["x"]) // 4 * 1000 + int(row["y"]) // 4)
    return Tiles(np.array(images), np.array(labels), np.array(blocks))


def camelyon_half(data: Path, bottom: bool) -> Tiles:
    """Tiles of 224 level-0 pixels, every 112, of one half of the mosaic of tumor_001; tumour where half the mask is."""
    import tiffslide

    with tiffslide.TiffSlide(data / "wsi/camelyon16_tumor001_mosaic.tiff") as slide:
        width, height = slide.dimensions
        pixels = slide.read_region((0, 0), 0, (width, height), as_array=True)[..., :3]
    mask, valid = (
        np.asarray(Image.open(data / f"wsi/camelyon16_tumor001_mosaic_{name}.png").convert("L")) > 127
        for name in ("mask", "valid")
    )
    first, last = (height // 2, height) if bottom else (0, height // 2)
    images, labels, blocks = [], [], []
    for y in range(first, last - SIDE + 1, SIDE // 2):
        for x in range(0, width - SIDE + 1, SIDE // 2):
            cut = (slice(y, y + SIDE), slice(x, x + SIDE))
            tile = pixels[cut]
            if valid[cut].mean() > 0.99 and (tile.mean(axis=2) < 215).mean() > 0.3:
                images.append(tile)
                labels.append(int(mask[cut].mean() >= 0.5))
                blocks.append(y // 448 * 1000 + x // 448)
    return Tiles(np.array(images), np.array(labels), np.array(blocks))


def kather(data: Path) -> Tiles:
    """The 24 colorectal texture tiles, 8 classes of 3, each its own block."""
    folders = sorted(folder for folder in (data / "tiles/kather_texture_24").iterdir() if folder.is_dir())
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.glob("*.tif"))]
    images = [Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.BILINEAR) for file, _ in files]
    labels = np.array([label for _, label in files])
    return Tiles(np.array([np.asarray(image) for image in images]), labels, np.arange(len(files)))


def restained(tiles: Tiles, seed: int = 0) -> Tiles:
    """The same tiles with every tile's stains changed: a stand-in for the slide of another laboratory."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in np.array_split(tiles.images, max(1, len(tiles.images) // 64)):
        density = optical_density(torch.from_numpy(part.transpose(0, 3, 1, 2)).float() / 255)
        jitter = draw_jitter(len(part), 0.4, 0.05, 0.03, generator)
        changed = transmitted(mix(density, *jitter)).mul(255).round().byte()
        parts.append(changed.permute(0, 2, 3, 1).numpy())
    return Tiles(np.concatenate(parts), tiles.labels, tiles.blocks)


def colour_and_texture(image: np.ndarray) -> np.ndarray:
    """36 numbers of one tile: colour means and spreads, stain amounts, co-occurrence and local binary patterns."""
    numbers: list[float] = []
    for colours in (image / 255.0, rgb2hsv(image)):
        numbers += [*colours.mean(axis=(0, 1)), *colours.std(axis=(0, 1))]  # 12
    density = optical_density(torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255)
    for stain in stain_amounts(density)[0].numpy():
        numbers += [stain.mean(), stain.std(), *np.percentile(stain, [10, 90])]  # 8
    grey = rgb2gray(image)
    levels = np.minimum(grey * 32, 31).astype(np.uint8)
    pairs = graycomatrix(levels, [1, 3], [0, np.pi / 2], levels=32, symmetric=True, normed=True)
    for name in ("contrast", "homogeneity", "energy", "correlation"):
        numbers += [*graycoprops(pairs, name).mean(axis=1)]  # 8
    codes = local_binary_pattern((grey * 255).astype(np.uint8), 6, 1, method="uniform")
    numbers += [*np.bincount(codes.astype(int).ravel(), minlength=8)[:8] / codes.size]  # 8
    return np.array(numbers)


def colour_features(images: np.ndarray) -> np.ndarray:
    """Colour and texture numbers of many tiles, (tiles, 36)."""
    return np.array([colour_and_texture(image) for image in images])


@torch.inference_mode()
def encoder_features(
    encoder: VisionTransformer, mean: list[float], std: list[float], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Features of tiles (tiles, 224, 224, 3) for every pooling."""
    parts: dict[str, list[torch.Tensor]] = {"cls": [], "mean_patch": [], "std_patch": []}
    for part in np.array_split(images, math.ceil(len(images) / 32)):
        values = torch.from_numpy(part.transpose(0, 3, 1, 2).copy()).float() / 255
        values = (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        tokens = encoder.forward_features(values)
        parts["cls"].append(tokens[:, 0])
        parts["mean_patch"].append(tokens[:, 1:].mean(dim=1))
        parts["std_patch"].append(tokens[:, 1:].std(dim=1, correction=0))
    cls, mean_patch, std_patch = (torch.cat(values).float().numpy() for values in parts.values())
    return {
        "cls": cls,
        "mean_patch": mean_patch,
        "cls+mean_patch": np.hstack([cls, mean_patch]),
        "mean+std_patch": np.hstack([mean_patch, std_patch]),
    }


def random_encoder(seed: int = 0) -> VisionTransformer:
    """The same architecture with timm's random weights."""
    torch.manual_seed(seed)
    return VisionTransformer(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3, num_classes=0).eval()


def linear_probe(features: np.ndarray, tiles: Tiles) -> object:
    """Logistic regression on standardised features; its C is the best of six in cross-validation over blocks."""
    folds = list(StratifiedGroupKFold(4).split(features, tiles.labels, tiles.blocks))
    best, best_score = 1e-4, -1.0
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        scores = []
        for train, test in folds:
            probe = _logistic(strength).fit(features[train], tiles.labels[train])
            if len(set(tiles.labels[test])) == 2:
                scores.append(roc_auc_score(tiles.labels[test], probe.predict_proba(features[test])[:, 1]))
        if np.mean(scores) > best_score:
            best, best_score = strength, float(np.mean(scores))
    return _logistic(best).fit(features, tiles.labels)


def _logistic(strength: float) -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000))


def neighbours(features: np.ndarray, tiles: Tiles) -> object:
    """5-NN on standardised features."""
    return make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBOURS)).fit(features, tiles.labels)


def interval(truth: np.ndarray, score: np.ndarray, guess: np.ndarray, blocks: np.ndarray, draws: int = 1000) -> dict:
    """AUC and balanced accuracy with 95 % intervals from a bootstrap over blocks."""
    rng, names = np.random.default_rng(0), np.unique(blocks)
    members = [np.flatnonzero(blocks == name) for name in names]
    drawn = []
    while len(drawn) < draws:
        chosen = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        if len(set(truth[chosen])) == 2:
            drawn.append(
                (roc_auc_score(truth[chosen], score[chosen]), balanced_accuracy_score(truth[chosen], guess[chosen]))
            )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {
        "auc": (roc_auc_score(truth, score), low[0], high[0]),
        "balanced_accuracy": (balanced_accuracy_score(truth, guess), low[1], high[1]),
    }


def evaluate(train: Tiles, test: Tiles, known: np.ndarray, asked: np.ndarray) -> dict[str, dict]:
    """Both probes of one kind of features on one set: features `known` of the training tiles, `asked` of the others."""
    results = {}
    for name, make in (("linear", linear_probe), ("5-NN", neighbours)):
        probe = make(known, train)
        score, guess = probe.predict_proba(asked)[:, 1], probe.predict(asked)
        results[name] = interval(test.labels, score, guess, test.blocks)
    return results


def kather_accuracy(tiles: Tiles, values: np.ndarray) -> dict[str, float]:
    """Leave-one-out balanced accuracy on the 24 tiles: 1-NN and logistic regression (too few for more)."""
    guesses: dict[str, list[int]] = {"linear": [], "1-NN": []}
    for held in range(len(values)):
        keep = np.arange(len(values)) != held
        nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
        for name, probe in (("linear", _logistic(0.01)), ("1-NN", nearest)):
            guesses[name].append(int(probe.fit(values[keep], tiles.labels[keep]).predict(values[held : held + 1])[0]))
    return {name: balanced_accuracy_score(tiles.labels, guess) for name, guess in guesses.items()}


def test_sets(data: Path) -> dict[str, tuple[Tiles, Tiles]]:
    """The counted comparisons, and C4 with changed stains, as (train, test)."""
    known, c4 = her2st_section(data, "C2") + her2st_section(data, "C3"), her2st_section(data, "C4")
    return {
        "camelyon16 tumour/normal": (camelyon_half(data, bottom=False), camelyon_half(data, bottom=True)),
        "her2st cancer/immune": (known, c4),
        "her2st, C4 with changed stains (not counted)": (known, restained(c4)),
    }


def training_side_sets(data: Path) -> dict[str, tuple[Tiles, Tiles]]:
    """Comparisons that touch no test pixel: recipes and checkpoints are chosen with these."""
    c2, c3, top = her2st_section(data, "C2"), her2st_section(data, "C3"), camelyon_half(data, bottom=False)
    sets = {"C2 to C3": (c2, c3), "C3 to C2": (c3, c2), "C2 to C3 changed stains": (c2, restained(c3))}
    for number, (train, test) in enumerate(StratifiedGroupKFold(2).split(top.images, top.labels, top.blocks)):
        parts = [Tiles(top.images[i], top.labels[i], top.blocks[i]) for i in (train, test)]
        sets[f"mosaic top, fold {number}"] = (parts[0], parts[1])
    return sets


def rows_of(results: dict[str, dict[str, dict]]) -> list[str]:
    """The results of one set as rows of a Markdown table."""
    rows = []
    for kind, probes in results.items():
        cells = []
        for probe in ("linear", "5-NN"):
            for metric in ("auc", "balanced_accuracy"):
                value, low, high = probes[probe][metric]
                cells.append(f"{value:.3f} ({low:.2f}–{high:.2f})")
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    return rows


def read_by(weights: Path, facts: dict[str, str]) -> str:
    """The pooling of the built-in backbone's card; of other weights the one their file names."""
    return backbone_card("pathotune-tiny").pooling if weights == WEIGHTS else facts["pooling"]


class Describer:
    """All kinds of features of a set of tiles, each computed once."""

    def __init__(self, weights: Path, all_poolings: bool, only_weights: bool, pooling: str = "") -> None:
        encoder, facts = load_encoder(weights)
        self.mean, self.std = json.loads(facts["mean"]), json.loads(facts["std"])
        self.poolings = POOLINGS if all_poolings else (pooling or read_by(weights, facts),)
        self.encoders = {"pathotune-tiny": encoder}
        if not only_weights:
            self.encoders["random weights"] = random_encoder()
        self.colours = not only_weights
        self.done: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features by the name that the table shows."""
        if id(images) not in self.done:
            features = {}
            for name, encoder in self.encoders.items():
                pooled = encoder_features(encoder, self.mean, self.std, images)
                features |= {f"{name}, {pooling}": pooled[pooling] for pooling in self.poolings}
            if self.colours:
                features["36 colour and texture numbers"] = colour_features(images)
            self.done[id(images)] = (images, features)  # holding the array keeps its id its own
        return self.done[id(images)][1]


def main(arguments: list[str] | None = None) -> None:
    """Probe and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_probe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with wsi/, st/ and tiles/")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--training-side", action="store_true", help="only splits of training pixels, every pooling")
    parser.add_argument("--only-weights", action="store_true", help="leave out random weights and colour numbers")
    parser.add_argument("--pooling", choices=POOLINGS, help="how the patch tokens are read; else as the card says")
    parser.add_argument("--json", type=Path, help="write all numbers here too")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="The least populated class")
    describe = Describer(options.weights, options.training_side, options.only_weights, options.pooling)
    everything: dict[str, dict] = {}
    for title, (train, test) in (training_side_sets if options.training_side else test_sets)(options.data).items():
        counts = f"train {len(train.labels)} tiles, test {len(test.labels)} ({int(test.labels.sum())} of class 1)"
        print(f"\n**{title}**: {counts}, {len(np.unique(test.blocks))} blocks\n")
        print("| features | linear AUC | linear balanced acc. | 5-NN AUC | 5-NN balanced acc. |\n|---|---|---|---|---|")
        known, asked = describe(train.images), describe(test.images)
        # Many threads on such small tables cost more than they give.
        with threadpool_limits(1):
            everything[title] = {kind: evaluate(train, test, known[kind], asked[kind]) for kind in known}
        print("\n".join(rows_of(everything[title])), flush=True)
    if not options.training_side:
        everything["kather"] = print_kather(kather(options.data), describe)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


def print_kather(tiles: Tiles, describe: Describer) -> dict[str, dict[str, float]]:
    """Print and return the table of the 24 tiles."""
    print("\n**Kather, 24 tiles of 8 classes, leave one out (not counted)**: balanced accuracy\n")
    print("| features | linear | 1-NN |\n|---|---|---|")
    results = {kind: kather_accuracy(tiles, values) for kind, values in describe(tiles.images).items()}
    for kind, values in results.items():
        print(f"| {kind} | {values['linear']:.2f} | {values['1-NN']:.2f} |")
    return results


if __name__ == "__main__":
    main()
