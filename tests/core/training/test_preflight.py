"""The table before a training: what it says is what the training then does."""

from __future__ import annotations

import dataclasses

import pytest
import shapely

from pathotune.methods import load_config
from pathotune.regions import Region, Regions
from pathotune.tiles.tileset import Reading
from pathotune.training import examples as examples_module
from pathotune.training.preflight import Costs, SlideFacts, estimate, facts_of, preflight
from pathotune.training.schedule import TrainingConfig

READING = Reading(0.5, 64, 64)
FACTS = SlideFacts((768.0, 512.0), (0.5, 0.5))
COSTS = Costs(read=0.01, lower=0.02, learn=0.03, judge=0.01, kept_mb=0.1)


def drain(generator):
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value


def test_it_says_what_the_training_does(source):
    training = TrainingConfig(seed=3)
    table = preflight([(source.regions, FACTS)], READING, training)
    examples = drain(examples_module.gather([source], READING, training))
    assert table.problem == "" and table.tiles == len(examples.labels) == 24
    assert table.training == examples.tiles_per_class(examples.train)
    assert table.validation == examples.tiles_per_class(examples.validation)
    rows = [row for row in table.regions if row.validation]
    assert sum(row.validation for row in rows) == len(examples.validation)
    assert not any(row.training for row in rows)


def test_facts_of_a_source_give_the_same_table(source):
    regions, facts = facts_of(source, READING)
    assert (facts.size_px0, facts.mpp, facts.patient) == (FACTS.size_px0, FACTS.mpp, "Doe, Jane")
    one, two = preflight([(regions, facts)], READING), preflight([(source.regions, FACTS)], READING)
    assert one == two


CAUSES = {
    "line": (shapely.LineString([(0, 0), (300, 300)]), "a", "no area"),
    "no class": (shapely.box(0, 0, 90, 90), None, "no class"),
    "no training class": (shapely.box(0, 0, 90, 90), "Region*", r"ends in \*"),
    "ignored": (shapely.box(0, 0, 90, 90), "Ignore*", "excluded"),
    "off the slide": (shapely.box(5000, 5000, 5090, 5090), "a", "off the slide"),
    "too thin": (shapely.box(0, 0, 700, 6), "a", "nowhere wide enough"),
    "covered by smaller ones": (shapely.box(520, 300, 600, 380), "a", "smaller regions"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_of_no_tiles_has_its_sentence(source, cause):
    import re

    shape, name, sentence = CAUSES[cause]
    regions = [*source.regions, Region(shape, name)]
    if cause == "covered by smaller ones":
        regions.append(Region(shapely.box(521, 301, 599, 379), "b"))
    table = preflight([(Regions(regions, "drawn"), FACTS)], READING, class_names=("a", "stroma", "tumour"))
    if cause == "covered by smaller ones":
        table = preflight([(Regions(regions, "drawn"), FACTS)], READING)
    row = table.regions[24]
    assert row.tiles == row.training == row.validation == 0
    assert re.search(sentence, row.reason), row.reason


def test_a_class_in_other_words_is_pointed_out(source):
    regions = Regions([*source.regions, Region(shapely.box(70, 70, 120, 120), "Tumour")], "drawn")
    table = preflight([(regions, FACTS)], READING, class_names=("stroma", "tumour"))
    assert "Tumour=tumour" in table.regions[24].reason


def test_what_hinders_a_training_is_a_sentence_and_no_error(source):
    assert "Nothing is drawn" in preflight([], READING).problem
    assert "Nothing is drawn" in preflight([(Regions(), FACTS)], READING).problem
    only = Regions([region for region in source.regions if region.class_name == "tumour"], "drawn")
    table = preflight([(only, FACTS)], READING)
    assert "one class" in table.problem and sum(row.tiles for row in table.regions) == 12
    assert table.tiles == 0


def test_regions_beyond_the_limit_per_class_say_so(source):
    table = preflight([(source.regions, FACTS)], READING, TrainingConfig(max_tiles_per_class=5))
    assert table.tiles == 10
    left_out = [row for row in table.regions if not row.training and not row.validation]
    assert len(left_out) == 14 and all("Only 5 tiles" in row.reason for row in left_out)


def test_it_is_ready_for_json(source):
    import json

    data = json.loads(json.dumps(preflight([(source.regions, FACTS)], READING).to_dict()))
    assert data["tiles"] == 24 and len(data["regions"]) == 24


def test_an_estimate_grows_with_tiles_and_epochs_and_shrinks_with_what_is_there(source):
    table = preflight([(source.regions, FACTS)], READING)
    config, training = load_config("pathotune", {"speed": "interactive"}), TrainingConfig()
    found = estimate(table, COSTS, config, training, 64)
    assert found.tiles == 24 and 0 < found.seconds[0] < found.seconds[1] and found.megabytes > 0
    longer = estimate(table, COSTS, config, dataclasses.replace(training, epochs=30), 64)
    assert longer.seconds[1] > found.seconds[1]
    swept = estimate(table, COSTS, config, dataclasses.replace(training, sweep="short"), 64)
    assert swept.seconds[0] > found.seconds[0]
    again = estimate(table, COSTS, config, training, 64, goes_on=True, tiles_kept=24)
    assert again.seconds[1] < found.seconds[1]
    full = estimate(table, COSTS, load_config("pathotune", {}), training, 64)
    assert full.seconds[1] > found.seconds[1]


def test_the_probe_times_a_model_and_keeps_nothing(tiny_backbone):
    from pathotune.training.prefix import forget_prefixes, kept_prefixes
    from pathotune.training.probe import measure

    forget_prefixes()
    settings = {"speed": "interactive", "vrm_width": 8}
    costs = measure(tiny_backbone(), "pathotune", settings, TrainingConfig(precision="float32"), text_width=8)
    assert min(costs.lower, costs.learn, costs.judge, costs.kept_mb) > 0
    assert measure(tiny_backbone(), "pathotune", {"vrm_width": 8}, TrainingConfig(precision="float32"), 8).lower == 0
    assert len(kept_prefixes("another", "float32", 1)) == 0
    probe = measure(tiny_backbone("convolutional"), "linear_probe", {}, TrainingConfig(precision="float32"))
    assert probe.lower > 0


def test_a_probe_that_is_solved_costs_one_pass_of_every_look(source):
    table, training = preflight([(source.regions, FACTS)], READING), TrainingConfig()
    found = estimate(table, COSTS, load_config("linear_probe"), training, 64)
    learned, judged = sum(table.training.values()), sum(table.validation.values())
    once = COSTS.fixed + 24 * COSTS.read + (learned + judged) * (COSTS.lower + COSTS.judge)
    assert found.seconds == (pytest.approx(once), pytest.approx(once))
    longer = dataclasses.replace(training, epochs=30, sweep="short")
    assert estimate(table, COSTS, load_config("linear_probe"), longer, 64).seconds == found.seconds
    looks = estimate(table, COSTS, load_config("linear_probe", {"views": 3}), training, 64)
    assert looks.seconds[1] - once == pytest.approx(2 * learned * COSTS.lower)
