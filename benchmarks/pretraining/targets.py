"""What the masked model has to tell: pixels, and the colour and texture of each patch and of the tile."""

import torch
import torch.nn.functional as F

from benchmarks.pretraining.stain import stain_amounts

BANDS = 4  # octaves of detail, from one pixel up


def patchify(images: torch.Tensor, patch: int = 16) -> torch.Tensor:
    """Cut images into flattened patches, in the order in which timm's patch embedding reads them."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, rows * columns, channels * patch * patch)  # (batch, patches, 3 * patch * patch)


def detail_bands(planes: torch.Tensor) -> list[torch.Tensor]:
    """Laplacian bands of image planes, finest first; band k has half the side of band k - 1."""
    bands = []
    for _ in range(BANDS):
        coarse = F.avg_pool2d(planes, 2)
        bands.append(planes - F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        planes = coarse
    return bands


def coherence(plane: torch.Tensor) -> torch.Tensor:
    """How much the gradients of a plane share one direction: 0 for a lymphocyte crowd, near 1 for parallel fibres."""
    dx = plane[..., 1:, 1:] - plane[..., 1:, :-1]
    dy = plane[..., 1:, 1:] - plane[..., :-1, 1:]
    xx, yy, xy = ((a * b).mean(dim=(-2, -1)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    return ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy + 1e-6)


def tile_statistics(density: torch.Tensor) -> torch.Tensor:
    """Numbers about a whole tile: stain amounts, their spread, detail at four scales and its direction.

    `density` is the optical density (batch, 3, height, width); returns (batch, numbers).
    """
    stains = stain_amounts(density)  # (batch, 2, height, width)
    flat = stains[:, :, ::4, ::4].flatten(2)
    levels = torch.tensor([0.1, 0.5, 0.9], device=density.device)
    quantiles = torch.quantile(flat, levels, dim=2).permute(1, 2, 0).flatten(1)  # (batch, 6)
    parts = [density.mean(dim=(2, 3)), density.std(dim=(2, 3)), quantiles]
    smooth = stains
    for index, band in enumerate(detail_bands(stains)):
        square = band * band
        spread = square.mean(dim=(2, 3)).add(1e-8).sqrt()
        parts += [spread.log(), ((square * band).mean(dim=(2, 3)) / spread.pow(3)).clamp(-5, 5)]
        if index in (1, 2):
            smooth = F.avg_pool2d(smooth, 2)
            parts.append(coherence(smooth[:, :1]).flatten(1))
    return torch.cat(parts, dim=1)


def patch_statistics(images: torch.Tensor, density: torch.Tensor, patch: int = 16) -> torch.Tensor:
    """Numbers about each patch: mean and spread of each colour, detail of haematoxylin at three scales.

    Parameters are images in [0, 1] and their optical density; returns (batch, patches, numbers).
    """
    means = F.avg_pool2d(images, patch)
    spreads = (F.avg_pool2d(images.square(), patch) - means.square()).clamp_min(0).sqrt()
    maps = [means, spreads]
    for index, band in enumerate(detail_bands(stain_amounts(density)[:, :1])[:3]):
        energy = F.avg_pool2d(band.square(), patch >> index)
        maps.append(0.5 * (energy + 1e-5).log())
    return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)


def normalised_pixels(patches: torch.Tensor) -> torch.Tensor:
    """Pixels of each patch with mean 0 and spread 1, so that structure counts and not brightness (MAE, section 3)."""
    mean = patches.mean(dim=-1, keepdim=True)
    spread = patches.var(dim=-1, keepdim=True).add(1e-4).sqrt()
    return (patches - mean) / spread


class Standard(torch.nn.Module):
    """Mean and spread of a set of numbers, measured once, so that every target has the same weight."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))

    def fit(self, values: torch.Tensor) -> None:
        """Measure `values` (any shape, numbers last)."""
        flat = values.flatten(0, -2)
        self.mean.copy_(flat.mean(dim=0))
        self.spread.copy_(flat.std(dim=0).clamp_min(1e-3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values in units of their spread, cut at five of them."""
        return ((values - self.mean) / self.spread).clamp(-5, 5)
