"""Generated slides that look like histology, with every class known: the sample, and the ground truth of tests.

>>> from pathotune.slides.synthetic import SyntheticSlide, write_sample
>>> slide = SyntheticSlide(4096, 3072, mpp=0.5, seed=1, stain="pale")
>>> slide.render(1000, 1000, 512, 512).shape
(512, 512, 3)
"""

from __future__ import annotations

from pathotune.slides.synthetic.layout import CLASSES, LOOK_ALIKES, TissueClass
from pathotune.slides.synthetic.nests import Nest, place_nests
from pathotune.slides.synthetic.slide import SyntheticSlide
from pathotune.slides.synthetic.stains import STAINS, Stain
from pathotune.slides.synthetic.writing import write_pyramid, write_sample

__all__ = [
    "CLASSES",
    "LOOK_ALIKES",
    "STAINS",
    "Nest",
    "Stain",
    "SyntheticSlide",
    "TissueClass",
    "place_nests",
    "write_pyramid",
    "write_sample",
]
