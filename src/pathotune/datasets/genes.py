"""Names of genes: what looks like one, and one way of writing each."""

from __future__ import annotations

import re
from collections.abc import Sequence

ENSEMBL = re.compile(r"^(ENS[A-Z]{0,4}G\d{6,})(\.\d+)?(_PAR_Y)?$", re.IGNORECASE)
WITH_ENTREZ = re.compile(r"^([^|]+)\|(\d+)$")
SYMBOL = re.compile(r"^[A-Za-z][A-Za-z0-9]{0,9}(-[A-Za-z0-9]{1,5}|\.\d{1,2})?$")
# What names of samples look like and those of genes never: barcodes of TCGA, of Visium, and array positions.
SAMPLE = re.compile(
    r"^(TCGA-|GTEX-|TARGET-|CPTAC|GSM\d|SRR\d|[ACGT]{10,}(-\d+)?$|\d+x\d+$|\d+$|"
    r"(sample|patient|spot|slide|case|cell)[ _-]?\d)",
    re.IGNORECASE,
)
# Genes that nearly every table of human or mouse expression has.
_FAMILIAR = (
    "ACTB ACTG1 AKT1 ALB APOE APP AR ATM B2M BAX BCL2 BRAF BRCA1 BRCA2 CALM1 CCND1 CCNE1 CD3D CD3E CD4 CD44 CD68 "
    "CD74 CD8A CDH1 CDK4 CDKN2A COL1A1 COL1A2 COL3A1 CTNNB1 CXCL12 CXCL9 EEF1A1 EEF2 EGFR EPCAM ERBB2 ERBB3 ESR1 "
    "FN1 FOXA1 GAPDH GATA3 GRB7 HLA-A HLA-B HLA-C HLA-DRA HSP90AB1 IDH1 IL6 JAK2 JUN KRAS KRT18 KRT19 KRT5 KRT8 "
    "LGALS1 MALAT1 MKI67 MLH1 MSH2 MT-CO1 MT-CO2 MT-ND1 MYC MYH9 NOC2L NOTCH1 NPM1 NRAS PCNA PDGFRB PGR PIK3CA "
    "PTEN PTPRC RB1 RPL10 RPL13 RPL3 RPLP0 RPS18 RPS27 RPS6 SAMD11 SCGB2A2 SDHA SFTPC SMAD4 SOX2 SPARC STAT1 "
    "STK11 TGFB1 TGFB2 TMSB4X TP53 TP63 TUBA1B TXN UBB UBC VEGFA VIM XIST YWHAZ A1BG A2M"
)
FAMILIAR = frozenset(_FAMILIAR.split())


def harmonised(name: str) -> str:
    """One way of writing a gene's name: Ensembl ids without their version, "TP53|7157" without the Entrez number.

    Symbols stay as they are: a dot is part of names such as FO538757.1.
    """
    text = name.strip().strip('"')
    ensembl = ENSEMBL.match(text)
    if ensembl:
        # The copy on the Y chromosome has the same id with a mark and is another gene to those who count.
        return ensembl.group(1).upper() + (ensembl.group(3) or "").upper()
    entrez = WITH_ENTREZ.match(text)
    if entrez:
        return entrez.group(1) if entrez.group(1) != "?" else f"ENTREZ{entrez.group(2)}"
    return text


def gene_likeness(names: Sequence[str]) -> float:
    """How much these look like names of genes.

    0 is not at all. Ensembl ids and familiar genes count most, names written like a symbol a little, and what only
    samples are called counts against it.
    """
    if not names:
        return 0.0
    score = 0.0
    for name in names:
        text = harmonised(name)
        if ENSEMBL.match(name.strip().strip('"')) or text.startswith("ENTREZ"):
            score += 1.0
        elif SAMPLE.match(text):
            score -= 1.0
        elif text.upper() in FAMILIAR:
            score += 5.0
        elif SYMBOL.match(text) and text.upper() == text and any(letter.isalpha() for letter in text[:2]):
            score += 0.2
    return max(score / len(names), 0.0)


def named(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list for a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(str(name)) for name in names[:most]) + more
