"""Stain jitter in optical-density space: tissue keeps its structure, the stains change their strength and hue."""

import torch

#: Haematoxylin, eosin and a residual as rows of optical density in red, green and blue (Ruifrok and Johnston, 2001).
STAIN_OD = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])


def optical_density(images: torch.Tensor) -> torch.Tensor:
    """Optical density (natural logarithm) of images in [0, 1]; nothing is darker than one grey level."""
    return images.clamp_min(1 / 255).log_().neg_()  # (batch, 3, height, width)


def transmitted(density: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] from their optical density."""
    return density.neg().exp_().clamp_(0, 1)


def mix(density: torch.Tensor, matrices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Optical density through one affine map per image: `matrices` (batch, 3, 3) act on rows, `offsets` (batch, 3)."""
    maps = matrices.transpose(1, 2).to(density.device)
    mixed = torch.baddbmm(offsets[:, :, None].to(density.device), maps, density.flatten(2))
    return mixed.reshape(density.shape)


def stain_amounts(density: torch.Tensor) -> torch.Tensor:
    """Amounts of haematoxylin and eosin in each pixel of an optical-density image, (batch, 2, height, width)."""
    unmix = torch.linalg.inv(STAIN_OD)[:, :2].T.to(density.device)
    return torch.matmul(unmix, density.flatten(2)).reshape(len(density), 2, *density.shape[2:])


def draw_jitter(
    count: int, strength: float, hue: float, offset: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one affine map in optical density per image.

    `strength` is the largest change of a stain's amount as a natural logarithm, `hue` the spread of the stain vectors,
    `offset` the spread of the background. Returns matrices (count, 3, 3) and offsets (count, 3).
    """
    factors = ((torch.rand(count, 3, generator=generator) * 2 - 1) * strength).exp()
    vectors = STAIN_OD + hue * torch.randn(count, 3, 3, generator=generator)
    vectors = vectors / vectors.norm(dim=2, keepdim=True) * STAIN_OD.norm(dim=1)[None, :, None]
    matrices = torch.linalg.inv(STAIN_OD) @ (factors[:, :, None] * vectors)
    offsets = offset * torch.randn(count, 3, generator=generator)
    return matrices, offsets


def chain(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The one affine map that does `first` and then `second`."""
    offsets = torch.einsum("bc,bcd->bd", first[1], second[0]) + second[1]
    return first[0] @ second[0], offsets
