"""How the tiles of a slide become one vector, by name: listing is free, torch is loaded on use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pathotune.registry import Entry, Table

if TYPE_CHECKING:
    from pathotune.aggregators.base import Aggregator

AGGREGATORS = Table(
    "aggregator",
    (
        Entry(
            "mean",
            "pathotune.aggregators.mean:Mean",
            "Mean",
            {"summary": "The mean of all tiles: the yardstick.", "permutation_invariant": True, "attends": False},
        ),
        Entry(
            "soft_vote",
            "pathotune.aggregators.mean:SoftVote",
            "Soft vote",
            {
                "summary": "The mean of the tiles' class probabilities, as CITE decides for a slide.",
                "permutation_invariant": True,
                "attends": True,
            },
        ),
        Entry(
            "topk",
            "pathotune.aggregators.topk:TopK",
            "Top tiles",
            {
                "summary": "The mean score of the few tiles that speak most for a class.",
                "permutation_invariant": True,
                "attends": True,
            },
        ),
        Entry(
            "abmil",
            "pathotune.aggregators.abmil:GatedAttention",
            "Gated attention (ABMIL)",
            {
                "summary": "A weighted mean; a small gated network says how much each tile counts.",
                "permutation_invariant": True,
                "attends": True,
            },
        ),
        Entry(
            "clam_sb",
            "pathotune.aggregators.clam:ClamSingleBranch",
            "CLAM (one branch)",
            {
                "summary": "Gated attention whose most and least attended tiles also learn the class.",
                "permutation_invariant": True,
                "attends": True,
            },
        ),
        Entry(
            "transmil",
            "pathotune.aggregators.transmil:TransMIL",
            "TransMIL",
            {
                "summary": "A small transformer over all tiles of a slide, which knows where each one lies.",
                "permutation_invariant": False,
                "attends": True,
            },
        ),
    ),
)


def build_aggregator(name: str, dim: int, outputs: int, **options: Any) -> Aggregator:
    """The aggregator of that name with fresh weights; raises UnknownName.

    Parameters
    ----------
    dim : width of the tiles' features.
    outputs : K, classes or other numbers that are to be told of a slide.
    options : of `aggregators.base.Aggregator`.
    """
    built: Aggregator = AGGREGATORS.load(name)(dim, outputs, **options)
    return built
