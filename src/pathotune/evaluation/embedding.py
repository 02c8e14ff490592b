"""A picture of vectors in two dimensions, coloured by any label: UMAP where it is installed, else t-SNE."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathotune.tasks import colour_blind_palette

SIDE, LEGEND, MARGIN, DOT = 720, 220, 24, 4
FEWEST, MOST, SHOWN_LABELS = 8, 5000, 20


def in_two_dimensions(vectors: NDArray[np.float32], seed: int = 0) -> tuple[NDArray[np.float32], str]:
    """(n, 2) where similar vectors lie near each other, and the name of the way."""
    scaled = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-6)
    if importlib.util.find_spec("umap") is not None:
        import umap

        made = umap.UMAP(n_components=2, random_state=seed, n_neighbors=min(15, len(vectors) - 1))
        return np.asarray(made.fit_transform(scaled), dtype=np.float32), "UMAP"
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(min(30, *scaled.shape), random_state=seed).fit_transform(scaled)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return np.asarray(placed, dtype=np.float32), "t-SNE"


def draw_embedding(
    vectors: NDArray[np.float32], labels: Sequence[str], target: str | Path, seed: int = 0
) -> Path | None:
    """Draw vectors as dots, one colour a label, with a legend.

    Parameters
    ----------
    vectors : (n, d); of more than 5,000 a random part is drawn.
    labels : (n,) any words; "" is drawn grey.
    target : the PNG to write.

    Returns
    -------
    The path, or None for fewer than eight vectors, which show nothing.
    """
    from PIL import Image, ImageDraw

    if len(vectors) < FEWEST:
        return None
    rows = list(range(len(vectors)))
    if len(rows) > MOST:
        rows = sorted(np.random.default_rng(seed).choice(len(rows), MOST, replace=False).tolist())
    places, way = in_two_dimensions(np.asarray(vectors)[rows], seed)
    low, high = places.min(axis=0), places.max(axis=0)
    pixels = MARGIN + (places - low) / np.maximum(high - low, 1e-6) * (SIDE - 2 * MARGIN)
    names = sorted({labels[row] for row in rows} - {""})
    colours = dict(zip(names, colour_blind_palette(len(names)), strict=True)) if names else {}
    picture = Image.new("RGB", (SIDE + LEGEND, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    for row, (x, y) in zip(rows, pixels, strict=True):
        colour = tuple(colours.get(labels[row], (150, 150, 150)))
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
    draw.text((SIDE, MARGIN), f"{way} of {len(rows)} vectors", fill="black")
    for index, name in enumerate(names[:SHOWN_LABELS]):
        top = MARGIN + 24 * (index + 1)
        draw.ellipse((SIDE, top, SIDE + 10, top + 10), fill=tuple(colours[name]))
        draw.text((SIDE + 16, top - 1), name[:28], fill="black")
    if len(names) > SHOWN_LABELS:
        draw.text((SIDE, MARGIN + 24 * (SHOWN_LABELS + 1)), f"and {len(names) - SHOWN_LABELS} more", fill="black")
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path
