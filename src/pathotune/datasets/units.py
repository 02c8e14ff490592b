"""What the numbers of an expression table are: said by the person, by the download's own description or by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pathotune.datasets.expression import Expression

# As Xena and cBioPortal name their files.
_NAMES = (
    (r"star_tpm|tpm-uq|\btpm\b|rsem_gene_tpm|_tpm", "log2(tpm+1)"),
    (r"star_fpkm-uq|fpkm[-_.]?uq", "log2(fpkm-uq+1)"),
    (r"star_fpkm|htseq_fpkm|fpkm", "log2(fpkm+1)"),
    (r"star_counts|htseq_counts", "log2(count+1)"),
    (r"hiseqv2|hiseq_v2|ga_?v2|expectedcount|norm_count", "log2(norm_count+1)"),
    (r"v2_rsem|rsem", "RSEM"),
    (r"zscores?", "z-score"),
)


def unit_of(path: Path, table: Expression, stated: str = "") -> dict[str, str]:
    """The unit of a table and who says so, in words.

    Looked for in what the person states, in the description that Xena offers beside a matrix (FILE.json, key "unit"),
    and in the file's name where the values agree with it: what is called TPM may hold logarithms or not.
    """
    if stated:
        return {"unit": stated, "says": "as stated"}
    for name in (f"{path.name}.json", f"{path.name.removesuffix('.gz')}.json", f"{path.name.split('.')[0]}.json"):
        try:
            data = json.loads((path.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and data.get("unit"):
            return {"unit": str(data["unit"]), "says": f"{name} beside the table"}
    scale = table.scale
    for pattern, unit in _NAMES:
        if re.search(pattern, path.name, re.IGNORECASE):
            if unit.startswith("log2") and scale != "log":
                unit = unit.removeprefix("log2(").removesuffix("+1)")
            return {"unit": unit, "says": f"the file's name, and its values are {_words(scale)}"}
    return {"unit": "unknown", "says": f"nothing says it; its values are {_words(scale)}; state it with --unit"}


def _words(scale: str) -> str:
    return {"log": "logarithms", "counts": "whole counts", "linear": "not logarithms"}[scale]
