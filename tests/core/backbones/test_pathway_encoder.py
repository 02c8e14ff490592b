"""The pathway gene encoder: as many small nets as pathways, run at once, in the published number of weights."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from pathotune.backbones.gene.pathways import PathwayEncoder, parameters_of

MEMBER = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])


# 331 pathways with 9,731 memberships, the smallest of 1 gene and the largest of 199.
PUBLISHED_SIZES = [1, 199, *[29] * 319, *[28] * 10]


def member_of(sizes, genes=4987, seed=0):
    member = np.zeros((len(sizes), genes), dtype=np.float32)
    random = np.random.default_rng(seed)
    for row, size in enumerate(sizes):
        member[row, random.choice(genes, size, replace=False)] = 1
    return member


def encoder(**options):
    torch.manual_seed(0)
    return PathwayEncoder(MEMBER, **{"width": 12, "tokens": 3, "inner": 8, "depth": 2, **options}).eval()


def test_the_published_shape_has_the_computed_number_of_weights():
    sizes = PUBLISHED_SIZES
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (331, 9731, 1, 199)
    made = PathwayEncoder(member_of(sizes))
    assert sum(value.numel() for value in made.parameters()) == 25_102_170 == parameters_of(sizes)
    nets = ("first_weight", "first_bias", "second_weight", "second_bias")
    assert sum(getattr(made, name).numel() for name in nets) == 24_353_024
    with torch.no_grad():
        assert made(torch.randn(2, 4987)).shape == (2, 64, 768)


def test_all_nets_at_once_are_the_nets_one_by_one():
    made = encoder()
    genes = torch.randn(4, 5)
    start = 0
    for row, members in enumerate(MEMBER):
        index = np.flatnonzero(members)
        first = genes[:, index] @ made.first_weight[start : start + len(index)] + made.first_bias[row]
        second = functional.elu(first) @ made.second_weight[row] + made.second_bias[row]
        assert torch.allclose(made.pathways(made.members(genes))[:, row], functional.elu(second), atol=1e-6)
        start += len(index)


def test_a_pathway_sees_its_own_genes_only():
    made = encoder()
    genes = torch.randn(1, 5, requires_grad=True)
    for row, members in enumerate(MEMBER):
        (gradient,) = torch.autograd.grad(made.pathways(made.members(genes))[:, row].sum(), genes)
        assert torch.equal(gradient[0] != 0, torch.from_numpy(members != 0))


def test_patients_do_not_mix_and_every_weight_learns():
    made = encoder()
    genes = torch.randn(3, 5)
    assert torch.allclose(made(genes)[1:2], made(genes[1:2]), atol=1e-6)
    made.train()(genes).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in made.parameters())


def test_a_net_of_many_genes_starts_as_loud_as_one_of_few():
    torch.manual_seed(0)
    made = PathwayEncoder(member_of([4, 400], genes=500), width=8, tokens=2, inner=64, depth=1)
    loud = made.pathways(made.members(torch.randn(200, 500))).std(dim=(0, 2))
    assert 0.5 < float(loud[0] / loud[1]) < 2


def test_names_of_the_state_do_not_depend_on_the_pathways():
    few = PathwayEncoder(MEMBER[:2], width=12, tokens=3, inner=8, depth=2)
    assert few.state_dict().keys() == encoder().state_dict().keys()
