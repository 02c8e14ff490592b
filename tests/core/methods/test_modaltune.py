"""ModalTune's model: published numbers of weights, its invariants, and the faults of the official code it avoids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathotune.backbones.slide import load_slide_encoder
from pathotune.errors import TuningUnreadable, UsageError
from pathotune.methods import load_config
from pathotune.methods.base import trained_parameters
from pathotune.methods.modaltune.layers import StoredGradient, drop_path, text_loss
from pathotune.methods.modaltune.method import ModalTune, Patients

SMALL = {"gene_width": 16, "gene_tokens": 4, "mixer_depth": 1, "output_dim": 24}
MEMBER = (np.random.default_rng(0).random((7, 20)) < 0.4).astype(np.float32)
MEMBER[:, 0] = 1


def build(encoder=None, text_dim=10, member=MEMBER, seed=0, **settings):
    torch.manual_seed(seed)
    encoder = encoder or load_slide_encoder("small-slide", feature_dim=6)
    return ModalTune(load_config("modaltune", {**SMALL, **settings}), encoder, member, text_dim)


def awake(model, seed=1):
    """The same with gammas that are not 0, so that tiles see the side path."""
    generator = torch.Generator().manual_seed(seed)
    for interaction in model.interactions:
        with torch.no_grad():
            interaction.injector.gamma.copy_(torch.randn(model.backbone.width, generator=generator) * 0.3)
    return model


def patients(count=2, tiles=9, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    return Patients(
        torch.randn(count, tiles, 6, generator=generator),
        torch.randint(0, 30, (count, tiles, 2), generator=generator) * 256.0,
        None,
        torch.randn(count, 20, generator=generator),
        torch.ones(count, dtype=torch.bool),
    )._replace(**changes)


def trained(model):
    return {name: value for name, value in trained_parameters(model).items() if value.requires_grad}


@pytest.mark.parametrize(("read_out", "total"), [("sum", 33_524_890), ("concat", 33_921_178)])
def test_the_published_shape_has_the_computed_number_of_weights(read_out, total):
    member = np.zeros((331, 4987), dtype=np.float32)
    for row, size in enumerate([1, 199, *[29] * 319, *[28] * 10]):
        member[row, row : row + size] = 1
    assert member.sum() == 9731
    encoder = torch.nn.Module()
    encoder.width, encoder.depth = 768, 12
    model = ModalTune(load_config("modaltune", {"read_out": read_out}), encoder, member, 512)
    assert sum(value.numel() for value in model.gene_encoder.parameters()) == 25_102_170
    adapters = sum(value.numel() for value in model.interactions.parameters())
    assert adapters == 8_169_792
    assert model.place.numel() == 49_920 and sum(value.numel() for value in model.task.parameters()) == 4_608
    assert sum(value.numel() for value in trained(model).values()) == total
    assert model.spans == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_with_gamma_0_the_class_token_is_the_frozen_encoders_to_the_bit():
    model = build().eval()
    given = patients()
    tokens, context, _ = model.backbone.embed(given.features, given.coords)
    for layer in range(model.backbone.depth):
        tokens = model.backbone.layer(layer, tokens, context)
    plain = model.backbone.read_out(tokens, context)
    image = model(given, ("general",)).image[:, 0]
    assert torch.equal(image, plain)
    assert not torch.allclose(awake(model)(given, ("general",)).image[:, 0], plain, atol=1e-4)


def test_gradients_reach_the_listed_parts_and_nothing_else():
    model = awake(build(clinical_token=True)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = patients(clinical=torch.randn(2, 5), has_clinical=torch.ones(2, dtype=torch.bool))
    targets = model.targets(torch.randn(2, 3, 10))
    text_loss(model(given).vectors, targets).backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == set(trained(model))
    assert not any(name.startswith(("backbone.", "projector.")) for name in reached)
    torch.optim.AdamW(trained(model).values(), lr=0.1).step()
    after = model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith(("backbone.", "projector."))} <= same
    assert not any(module.training for module in model.backbone.modules())


def test_tiles_permuted_with_their_places_change_nothing():
    model = awake(build()).eval()
    given = patients()
    turned = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    other = given._replace(features=given.features[:, turned], coords=given.coords[:, turned])
    assert torch.allclose(model(given).vectors, model(other).vectors, atol=1e-5)
    moved = given._replace(features=given.features[:, turned])
    assert not torch.allclose(model(given).vectors, model(moved).vectors, atol=1e-4)


def test_the_loss_is_0_at_its_target_and_that_of_the_formula():
    vectors, targets = torch.randn(4, 3, 24), torch.randn(4, 3, 24)
    assert float(text_loss(targets * 7, targets)) == pytest.approx(0, abs=1e-6)
    p = functional.normalize(targets, dim=-1).softmax(dim=-1)
    q = functional.normalize(vectors, dim=-1).softmax(dim=-1)
    expected = 10 * (p * (p / q).log()).sum() / 4
    assert float(text_loss(vectors, targets)) == pytest.approx(float(expected), rel=1e-4)


def test_saved_and_loaded_it_gives_identical_vectors():
    model = awake(build(), seed=5).eval()
    state = model.trainable_state()
    assert not any(name.startswith("backbone.") for name in state)
    other = build(seed=9).eval()
    other.load_trainable_state(state)
    given, texts = patients(), torch.randn(2, 3, 10)
    assert torch.equal(model(given).vectors, other(given).vectors)
    # The random projector travels with the file: another seed would have made other targets.
    assert torch.equal(model.targets(texts), other.targets(texts))
    assert not torch.allclose(model.targets(texts), build(seed=10).targets(texts), atol=1e-2)
    del state["projector.first.weight"]
    with pytest.raises(TuningUnreadable, match="lacks projector"):
        other.load_trainable_state(state)


def test_without_expression_it_answers_as_from_the_task_token_alone():
    model = awake(build()).eval()
    given = patients()
    none = model(given._replace(has_genes=torch.tensor([False, True]))).vectors
    assert torch.equal(none[1], model(given).vectors[1])
    assert not torch.allclose(none[0], model(given).vectors[0], atol=1e-4)
    # Whatever stands where the expression is missing is never seen.
    noise = given._replace(genes=torch.full((2, 20), float("nan")), has_genes=torch.tensor([False, False]))
    assert torch.allclose(model(noise).vectors, model(given._replace(genes=None)).vectors, atol=1e-6)
    assert torch.allclose(model(noise).vectors[0], none[0], atol=1e-5)
    # A model without a gene encoder, with the same other weights, sees exactly what is left.
    bare = build(member=None).eval()
    state = {name: value for name, value in model.trainable_state().items() if not name.startswith("gene_encoder.")}
    state["place"] = state["place"][:1]
    bare.load_trainable_state(state)
    assert torch.allclose(bare(given).vectors[0], none[0], atol=1e-5)


def test_filled_up_patients_are_as_alone():
    model = awake(build()).eval()
    given = patients(count=1, tiles=6)
    filled = given._replace(
        features=functional.pad(given.features, (0, 0, 0, 4), value=3.0),
        coords=functional.pad(given.coords, (0, 0, 0, 4)),
        mask=torch.arange(10)[None] < 6,
    )
    assert torch.allclose(model(filled).vectors, model(given).vectors, atol=1e-5)


def test_prompts_one_by_one_are_prompts_together():
    model = awake(build()).eval()
    given = patients()
    together = model(given).vectors
    for number, name in enumerate(("general", "diagnosis", "survival")):
        assert torch.allclose(model(given, (name,)).vectors[:, 0], together[:, number], atol=1e-5)
    assert not torch.allclose(together[:, 0], together[:, 1], atol=1e-3)


def test_the_residual_is_added_once_unless_asked():
    clean, published = awake(build()).eval(), awake(build(double_residual=True)).eval()
    image, side = torch.randn(2, 5, 128), torch.randn(2, 5, 128)
    place, nothing = clean.place, torch.zeros(2, 5, dtype=torch.bool)
    gamma = clean.interactions[0].injector.gamma
    once, _ = clean.interactions[0].injector(image, side, place, nothing)
    read = clean.interactions[0].injector.attention(image, side, memory_place=place, hidden=nothing)[0]
    assert torch.allclose(once, image + gamma * read, atol=1e-6)
    twice, _ = published.interactions[0].injector(image, side, place, nothing)
    assert torch.allclose(twice, (1 + gamma) * image + gamma * read, atol=1e-6)
    plain = clean.interactions[0].extractors[0]
    both = published.interactions[0].extractors[0]
    added = side + plain.attention(side, image, query_place=place)[0]
    assert torch.allclose(plain(side, image, place, None)[0], added + plain.feed(added), atol=1e-6)
    assert torch.allclose(both(side, image, place, None)[0], added + side + both.feed(added + side), atol=1e-5)


def test_attention_maps_are_shares_of_the_tiles():
    model = awake(build(clinical_token=True)).eval()
    given = patients(clinical=torch.randn(2, 5), has_clinical=torch.tensor([True, False]))
    maps = model(given, attention=True).attention
    assert set(maps) == {"to clinical", "to task", "to gene", "task looks"}
    assert all(value.shape == (2, 3, 9) for value in maps.values())
    looks = maps.pop("task looks")
    assert torch.allclose(looks.sum(dim=-1), torch.ones(2, 3), atol=1e-5)
    assert torch.allclose(sum(maps.values()), torch.ones(2, 3, 9), atol=1e-5)
    assert torch.equal(maps["to clinical"][1], torch.zeros(3, 9)) and (maps["to clinical"][0] > 0).all()


def test_concat_reads_out_three_parts():
    model = build(read_out="concat").eval()
    assert model.fuse.in_features == 3 * 128
    given = patients()
    answer = model(given._replace(has_genes=torch.tensor([False, True])))
    assert torch.isfinite(answer.vectors).all()


def test_gradients_stored_part_by_part_are_those_of_the_sum():
    weight = torch.randn(5, requires_grad=True)
    unused = torch.randn(2, requires_grad=True)
    parts = [lambda: (weight**2).sum(), lambda: (weight * 3).sum()]
    (expected,) = torch.autograd.grad(sum(part() for part in parts), weight)
    values = [torch.autograd.grad(part(), weight)[0] for part in parts]
    loss = StoredGradient.apply(torch.tensor(2.0), [sum(values), None], weight, unused)
    found, of_unused = torch.autograd.grad(loss * 2, (weight, unused), allow_unused=True)
    assert torch.allclose(found, 2 * expected) and of_unused is None


def test_stochastic_depth_keeps_the_mean():
    torch.manual_seed(0)
    values = torch.ones(4000, 2, 3)
    dropped = drop_path(values, 0.25, True)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert drop_path(values, 0.25, False) is values


def test_readers_that_start_small_let_the_genes_be_seen():
    given = patients(count=8)
    other = given._replace(features=given.features.flip(0))  # the same genes, other tiles
    changes = {}
    for start in (1.0, 0.01):
        model = build(extractor_start=start).eval()
        sides = []
        for tiles in (given, other):
            found = []
            fused = model._fused

            def kept(image, side, hidden, found=found, fused=fused):
                found.append(side)
                return fused(image, side, hidden)

            model._fused = kept
            model(tiles, ("general",))
            model._fused = fused
            sides.append(found[0][:, 1:])
        apart = (sides[0] - sides[1]).norm() / (sides[0] - sides[0].mean(dim=0)).norm()
        changes[start] = apart.item()
    assert changes[0.01] < 0.1 * changes[1.0]
    # Nothing but the scale is another: the same draws, and the number of weights as published.
    plain, small = (dict(build(extractor_start=start).named_parameters()) for start in (1.0, 0.01))
    for name, value in plain.items():
        scaled = "interactions" in name and any(
            part in name for part in ("attention.output", "feed.second", "itself.output")
        )
        scaled = scaled and "injector" not in name
        assert torch.allclose(small[name], value * 0.01 if scaled else value), name


def test_gene_tokens_start_at_the_scale_asked_for():
    genes = patients().genes
    plain, strong = build().eval().gene_encoder, build(gene_start=16.0).eval().gene_encoder
    bias = plain.compress.bias[None, :, None]
    assert torch.allclose(strong(genes) - bias, 16 * (plain(genes) - bias), atol=1e-4)
    assert torch.equal(build().fuse.weight, build(gene_start=16.0).fuse.weight)


def test_prompts_that_do_not_exist_are_named():
    assert load_config("modaltune", {"prompts": "survival, general"}).prompt_names == ("general", "survival")
    with pytest.raises(UsageError, match=r"'stage'.*general, diagnosis, survival"):
        _ = load_config("modaltune", {"prompts": "stage"}).prompt_names
    with pytest.raises(UsageError, match="at least one"):
        _ = load_config("modaltune", {"prompts": ","}).prompt_names
