"""What a TCGA barcode says: whose tissue it is, of which kind, and how the slide was made."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple

_BARCODE = re.compile(
    r"(?P<patient>TCGA[-.][A-Z0-9]{2}[-.][A-Z0-9]{4})"
    r"(?:[-.](?P<type>\d{2})(?P<vial>[A-Z])?(?:[-.](?P<portion>\d{2})[A-Z]?(?:[-.](?P<slide>(?:DX|TS|BS|MS)[A-Z0-9]*))?)?)?"
    r"(?![A-Z0-9])",
    re.IGNORECASE,
)

# Which sample stands for a patient: primary tumours first, then recurrences and metastases; never normal tissue.
TUMOUR_TYPES = ("01", "03", "09", "05", "02", "04", "06", "07", "08")
TYPE_NAMES = {
    "01": "primary tumour",
    "02": "recurrent tumour",
    "03": "primary blood cancer",
    "05": "additional primary tumour",
    "06": "metastasis",
    "07": "additional metastasis",
    "10": "normal blood",
    "11": "normal tissue",
}


class Barcode(NamedTuple):
    """Parts of a TCGA barcode; "" where the name does not go so far.

    patient : the first twelve signs, "TCGA-2G-AAM4".
    sample_type : "01" for a primary tumour, "06" for a metastasis, "11" for normal tissue.
    vial : "A" for the first.
    slide : "DX1" (diagnostic), "TS1", "MS1" or "BS1" (frozen: top, middle, bottom).
    """

    patient: str
    sample_type: str = ""
    vial: str = ""
    slide: str = ""

    @property
    def is_normal(self) -> bool:
        """Whether it is of normal tissue, or of a control."""
        return "10" <= self.sample_type <= "29"

    @property
    def is_frozen(self) -> bool:
        """Whether the slide is a frozen section, whose tissue looks other than that of diagnostic slides."""
        return self.slide[:2] in {"TS", "BS", "MS"}


def barcode_of(name: str) -> Barcode | None:
    """The TCGA barcode a name begins with, as slides, samples and patients have it; None where it has none.

    R writes points for hyphens and some tables small letters: both are read.
    """
    found = _BARCODE.match(PurePath(name.replace("\\", "/")).name)
    if found is None:
        return None
    parts = {key: (value or "").upper() for key, value in found.groupdict().items()}
    return Barcode(parts["patient"].replace(".", "-"), parts["type"], parts["vial"], parts["slide"])


def patient_of(name: str) -> str:
    """The patient of a TCGA barcode, or the name itself."""
    found = barcode_of(name)
    return name if found is None else found.patient
