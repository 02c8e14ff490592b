"""What every aggregator in the table promises."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pathotune.aggregators import AGGREGATORS, build_aggregator
from pathotune.aggregators.base import CHUNK
from pathotune.aggregators.transmil import PLAIN_UP_TO, nystrom_attention
from pathotune.errors import UnknownName

DIM, OUTPUTS = 12, 3
every = pytest.mark.parametrize("name", list(AGGREGATORS))
INVARIANT = [entry.name for entry in AGGREGATORS.entries() if (entry.facts or {})["permutation_invariant"]]


def built(name, **options):
    torch.manual_seed(0)
    return build_aggregator(name, DIM, OUTPUTS, **{"hidden": 16, "k": 4} | options).eval()


def bag(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    places = torch.randperm(4 * count, generator=random)[:count]
    side = max(1, int(count**0.5) * 2)
    return torch.randn(count, DIM, generator=random), torch.stack([places % side, places // side], dim=1)


@every
@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("hidden", [0, 16])
def test_vector_and_weights_have_their_shapes_and_weights_sum_to_one(name, count, hidden):
    model = built(name, hidden=hidden)
    features, coords = bag(count)
    pooled = model(features, coords)
    assert pooled.vector.shape == (model.out_dim,)
    assert model.out_dim == OUTPUTS or not model.gives_logits
    assert torch.isfinite(pooled.vector).all()
    assert pooled.weights.shape == (count,)
    assert (pooled.weights >= 0).all() and pooled.weights.sum().item() == pytest.approx(1, abs=1e-5)
    if pooled.class_weights is not None:
        assert pooled.class_weights.shape == (OUTPUTS, count)
        assert torch.allclose(pooled.class_weights.sum(dim=1), torch.ones(OUTPUTS), atol=1e-5)


@every
def test_an_empty_bag_is_a_vector_of_zeros(name):
    model = built(name)
    pooled = model(torch.zeros(0, DIM), torch.zeros(0, 2))
    assert pooled.vector.shape == (model.out_dim,) and not pooled.vector.any()
    assert pooled.weights.shape == (0,)
    assert not model(torch.ones(3, DIM), None, torch.zeros(3, dtype=torch.bool)).weights.any()


@every
def test_masked_tiles_change_nothing(name):
    model = built(name)
    features, coords = bag(20)
    mask = torch.arange(20) % 3 > 0
    masked, alone = model(features, coords, mask), model(features[mask], coords[mask])
    assert torch.allclose(masked.vector, alone.vector, atol=1e-6)
    assert torch.allclose(masked.weights[mask], alone.weights, atol=1e-6) and not masked.weights[~mask].any()


@pytest.mark.parametrize(("name", "with_places"), [*((name, False) for name in INVARIANT), ("transmil", True)])
def test_the_order_of_the_tiles_does_not_matter(name, with_places):
    model = built(name)
    features, coords = bag(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    before = model(features, coords if with_places else None)
    after = model(features[order], coords[order] if with_places else None)
    assert torch.allclose(before.vector, after.vector, atol=1e-5)
    assert torch.allclose(before.weights[order], after.weights, atol=1e-6)


def test_transmil_sees_where_tiles_lie():
    model = built("transmil")
    features, coords = bag(50)
    other = coords.flip(0)
    assert not torch.allclose(model(features, coords).vector, model(features, other).vector, atol=1e-4)


@every
def test_tiles_alone_are_bags_of_one(name):
    model = built(name)
    features, _ = bag(5)
    one_by_one = torch.stack([model(row[None], torch.zeros(1, 2)).vector for row in features])
    assert torch.allclose(model.alone(features), one_by_one, atol=1e-5)


@every
def test_every_parameter_learns(name):
    model = built(name).train()
    head = torch.nn.Linear(model.out_dim, OUTPUTS)
    features, coords = bag(40)
    pooled = model(features, coords)
    logits = pooled.vector if model.gives_logits else head(pooled.vector)
    loss = functional.cross_entropy(logits[None], torch.tensor([1]))
    further = model.bag_loss(pooled, 1)
    (loss if further is None else loss + further).backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    # A softmax knows no constant: the bias below it moves all scores alike.
    assert silent in ([], ["attention.weigh.bias"])


@every
def test_a_bag_of_two_kinds_is_learned(name):
    """Slides with some tiles of a kind against slides without any, which every aggregator can tell apart."""
    torch.manual_seed(0)
    model = build_aggregator(name, DIM, 2, hidden=16, k=4, dropout=0.0)
    head = torch.nn.Linear(model.out_dim, 2)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)

    def slide(number):
        features, coords = bag(30, number)
        if number % 2:
            features[:6, 0] += 4
        return features, coords

    for step in range(80):
        features, coords = slide(step)
        pooled = model(features, coords)
        logits = pooled.vector if model.gives_logits else head(pooled.vector)
        loss = functional.cross_entropy(logits[None], torch.tensor([step % 2]))
        further = model.bag_loss(pooled, step % 2)
        optimizer.zero_grad()
        (loss if further is None else loss + further).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = 0
        for number in range(1000, 1020):
            pooled = model(*slide(number))
            logits = pooled.vector if model.gives_logits else head(pooled.vector)
            right += int(logits.argmax()) == number % 2
    assert right >= 17


@every
def test_a_slide_of_a_hundred_thousand_tiles(name):
    model = build_aggregator(name, DIM, OUTPUTS, hidden=8).eval()
    features, coords = bag(100_000)
    with torch.no_grad():
        pooled = model(features, coords)
    assert pooled.weights.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", INVARIANT)
def test_parts_of_a_large_bag_give_what_the_whole_gives(name):
    model = built(name)
    features, _ = bag(CHUNK + 100)
    whole = model(features)  # with gradients all at once
    with torch.no_grad():
        parts = model(features)
    assert torch.allclose(whole.vector, parts.vector, atol=1e-5)
    assert torch.allclose(whole.weights, parts.weights, atol=1e-7)


def test_nystrom_is_near_exact_attention_where_tokens_resemble_their_neighbours():
    torch.manual_seed(0)
    count = PLAIN_UP_TO + 1000
    slow = torch.linspace(0, 6, count)[None, :, None] * torch.randn(1, 1, 8)
    query, key, value = slow.sin(), slow.cos(), slow.sin() + 0.1 * torch.randn(1, count, 8)
    exact = functional.scaled_dot_product_attention(query, key, value)
    near = nystrom_attention(query, key, value, 64)
    assert float((near - exact).abs().mean()) < 0.05 * float(exact.abs().mean())


@pytest.mark.parametrize("name", ["abmil", "clam_sb"])
def test_attention_mass_says_how_much_there_was_to_attend_to(name):
    model = built(name, mass=True)
    features, _ = bag(30)
    plain = built(name)(features)
    pooled = model(features)
    assert pooled.vector.shape == (model.out_dim,) == (17,)
    assert torch.allclose(pooled.vector[:-1], plain.vector, atol=1e-6)
    # Twice the same tiles are the same slide; tiles that score higher are more to attend to.
    assert torch.allclose(model(torch.cat([features, features])).vector, pooled.vector, atol=1e-5)
    most = features[pooled.weights.argmax()][None].expand(30, -1)
    assert model(most).vector[-1] > pooled.vector[-1]
    one_by_one = torch.stack([model(row[None]).vector for row in features[:4]])
    assert torch.allclose(model.alone(features[:4]), one_by_one, atol=1e-5)


def test_clams_instance_loss_needs_two_ends():
    model = built("clam_sb")
    assert model.bag_loss(model(torch.ones(1, DIM)), 0) is None
    assert model.bag_loss(model(bag(9)[0]), 0) > 0


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UnknownName, match="abmil"):
        build_aggregator("abmill", DIM, OUTPUTS)


@every
@pytest.mark.parametrize("mass", [False, True])
def test_what_tiles_bring_to_a_class_adds_up_to_its_logit(name, mass):
    from pathotune.methods.mil.config import MilConfig
    from pathotune.methods.mil.method import Mil

    torch.manual_seed(0)
    model = Mil(MilConfig(aggregator=name, hidden=16, k=4, mass=mass), DIM, ("a", "b", "c")).eval()
    features, coords = bag(20)
    said = model(features, coords)
    found = model.speaking(said)
    if said.pooled.class_weights is None and not model.aggregator.is_weighted_mean:
        assert found is None
        return
    assert found.shape == (OUTPUTS, 20) and (found >= 0).all()
    assert ((found.sum(dim=1) - 1).abs() < 1e-5).logical_or(found.sum(dim=1) == 0).all()
    if said.pooled.class_weights is not None:
        assert torch.equal(found, said.pooled.class_weights)
        return
    # Each tile alone, weighed, and the mass shared out: together they are the slide's logits.
    rest = said.pooled.vector[model.aggregator.width :].expand(20, -1)
    alone = model.head(torch.cat([said.pooled.embedded, rest], dim=1))
    assert torch.allclose(said.weights @ alone, said.logits, atol=1e-5)
    parts = (said.weights[:, None] * (alone - alone.mean(dim=1, keepdim=True))).clamp_min(0).T
    assert torch.allclose(found * parts.sum(dim=1, keepdim=True), parts, atol=1e-6)


@every
def test_centred_features_do_not_tell_what_all_tiles_of_a_slide_share(name):
    from pathotune.methods.mil.config import MilConfig
    from pathotune.methods.mil.method import Mil

    features, coords = bag(20)
    for centre in (True, False):
        torch.manual_seed(0)
        model = Mil(MilConfig(aggregator=name, hidden=16, k=4, centre=centre), DIM, ("a", "b", "c")).eval()
        here, elsewhere = model(features, coords).logits, model(features + 3.0, coords).logits
        assert torch.allclose(here, elsewhere, atol=1e-4) == centre
        assert torch.allclose(model.alone(features), model.alone(features + 3.0), atol=1e-4) == centre
        assert model(features[:0], coords[:0]).logits.isfinite().all()
