"""How a generated slide is stained and lit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import UnknownName


@dataclass(frozen=True)
class Stain:
    """Dyes as optical-density vectors, their strength, and the lamp.

    Parameters
    ----------
    nuclear, matrix, marker : optical density (red, green, blue) of one unit of the dye of nuclei, of cytoplasm and
        fibres, and of the immunohistochemical marker (used where `immuno` is true).
    nuclear_strength, matrix_strength : how much of each dye the tissue took up.
    immuno : epithelium carries the brown marker and the matrix dye is left out, as in immunohistochemistry.
    white : colour of the empty glass, 0..255.
    illumination : unevenness of the lamp over the slide, as a fraction.
    name : what it is called.
    """

    nuclear: tuple[float, float, float] = (0.65, 0.74, 0.33)
    matrix: tuple[float, float, float] = (0.08, 0.50, 0.30)
    marker: tuple[float, float, float] = (0.28, 0.58, 0.80)
    nuclear_strength: float = 1.0
    matrix_strength: float = 1.0
    immuno: bool = False
    white: tuple[float, float, float] = (245.0, 243.0, 246.0)
    illumination: float = 0.03
    name: str = "standard"

    @classmethod
    def named(cls, name: str) -> Stain:
        """One of the stains that come with pathotune.

        Raises
        ------
        UnknownName : there is none of that name.
        """
        if name not in STAINS:
            raise UnknownName("stain", name, STAINS)
        return STAINS[name]

    def varied(self, seed: int, amount: float = 1.0) -> Stain:
        """The same stain from another day: vectors, strengths and lamp differ a little."""
        rng = np.random.default_rng([seed, 0x57A1])

        def turned(vector: tuple[float, float, float], spread: float) -> tuple[float, float, float]:
            red, green, blue = np.maximum(np.asarray(vector) * (1 + amount * spread * rng.standard_normal(3)), 0.01)
            return float(red), float(green), float(blue)

        return replace(
            self,
            nuclear=turned(self.nuclear, 0.08),
            matrix=turned(self.matrix, 0.12),
            marker=turned(self.marker, 0.08),
            nuclear_strength=float(self.nuclear_strength * np.exp(amount * 0.15 * rng.standard_normal())),
            matrix_strength=float(self.matrix_strength * np.exp(amount * 0.18 * rng.standard_normal())),
            illumination=float(self.illumination * (1 + 0.5 * amount * rng.random())),
            name=f"{self.name} varied {seed}",
        )

    def colours(
        self, nuclear: NDArray[np.float32], matrix: NDArray[np.float32], marker: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """RGB (h, w, 3) of these amounts of dye (h, w); `marker` is where the tissue would carry it."""
        blue, pink = nuclear * np.float32(self.nuclear_strength), matrix * np.float32(self.matrix_strength)
        rgb = np.empty((*nuclear.shape, 3), dtype=np.uint8)
        for channel in range(3):
            density = blue * np.float32(self.nuclear[channel])
            if self.immuno:
                density += pink * marker * np.float32(self.marker[channel])
                density += pink * np.float32(0.26 * (self.matrix[channel] + self.nuclear[channel]))
            else:
                density += pink * np.float32(self.matrix[channel])
            rgb[..., channel] = np.clip(np.float32(self.white[channel]) * np.exp(-density) + 0.5, 0, 255)
        return rgb


STAINS: dict[str, Stain] = {
    "standard": Stain(),
    "pale": Stain(
        nuclear=(0.52, 0.66, 0.28), matrix=(0.05, 0.42, 0.22), nuclear_strength=0.72, matrix_strength=0.62, name="pale"
    ),
    "purple": Stain(
        nuclear=(0.74, 0.82, 0.30),
        matrix=(0.20, 0.52, 0.18),
        nuclear_strength=1.15,
        matrix_strength=0.95,
        white=(240.0, 238.0, 246.0),
        name="purple",
    ),
    "red": Stain(
        nuclear=(0.60, 0.80, 0.40),
        matrix=(0.06, 0.62, 0.44),
        matrix_strength=1.2,
        white=(247.0, 243.0, 240.0),
        name="red",
    ),
    "brown": Stain(nuclear=(0.70, 0.52, 0.30), nuclear_strength=0.75, immuno=True, name="brown"),
}
