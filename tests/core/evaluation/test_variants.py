"""Methods as words with settings in brackets, what they come to in plots, and intervals of every score."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pathotune.errors import UnknownName, UsageError
from pathotune.evaluation.bootstrap import BINS, both_ways, drawn_scores, drawn_weights, interval
from pathotune.evaluation.compare import CompareConfig
from pathotune.evaluation.comparison_plots import bars, prompt_combinations
from pathotune.evaluation.summary import summarise, text_verdicts
from pathotune.evaluation.variants import control_pairs, expanded, groups_on, names_of, read_method
from pathotune.training.metrics import auc_ovr_macro, balanced_accuracy, ece, f1_macro


def test_settings_stand_in_brackets_or_behind_colons():
    for word in ("pathotune[ivp=off, ttp=off]", "pathotune:ivp=off:ttp=false"):
        name, options = read_method(word)
        assert name == "pathotune" and options.ivp == "off" and not options.ttp
    assert read_method("pathotune[tvp_tokens=off]").config.tvp_tokens == 0
    assert read_method("cite[text=random]").config.text == "random"
    assert read_method("linear_probe").config == read_method("linear_probe[]").config
    with pytest.raises(UnknownName):
        CompareConfig(methods=("pathofune",))
    with pytest.raises(UnknownName, match="colour"):
        CompareConfig(methods=("cite[colour=red]",))
    with pytest.raises(UsageError, match="bracket"):
        read_method("cite[text=random")
    with pytest.raises(UsageError, match="largest-slide"):
        CompareConfig(shot_unit="patient")


def test_commas_in_brackets_part_settings():
    assert names_of(["a, b[x=1,y=2],c", "a"]) == ("a", "b[x=1,y=2]", "c")
    with pytest.raises(UsageError, match="does not close"):
        names_of(["a[x=1,b"])


def test_a_star_stands_for_every_combination_of_prompts():
    words = expanded(["linear_probe", "pathotune[*,speed=interactive]"])
    assert words[0] == "linear_probe" and len(words) == 9
    found = {groups_on(read_method(word).config) for word in words[1:]}
    assert len(found) == 8 and ("tvp", "ttp", "ivp") in found and () in found
    assert all(read_method(word).config.speed == "interactive" for word in words[1:])
    assert groups_on(read_method("cite").config) is None
    assert len(CompareConfig(methods=("pathotune[*]",), seeds=1)) == 8
    with pytest.raises(UsageError, match="cite does not have"):
        expanded(["cite[*]"])


def test_controls_find_what_they_are_controls_of():
    words = ["cite", "cite[text=random]", "cite[scale=50]", "cite[scale=50,text=permuted]", "pathotune[text=random]"]
    assert control_pairs(words) == [
        ("cite", "cite[text=random]", "random vectors"),
        ("cite[scale=50]", "cite[scale=50,text=permuted]", "permuted sentences"),
    ]


def rows(method, wrong, seeds=2, count=60, backbone="b", shots="all"):
    """Rows that are wrong about these tiles."""
    labels = np.arange(count) % 2
    made = []
    for seed in range(seeds):
        said = labels.copy()
        said[wrong] = 1 - said[wrong]
        sure = np.random.default_rng(seed).uniform(0.6, 0.9, count)
        probabilities = np.where(np.eye(2)[said] > 0, sure[:, None], 1 - sure[:, None])
        made.append({
            "method": method, "backbone": backbone, "shots": shots, "seed": seed,
            "balanced_accuracy": balanced_accuracy(labels, said, 2), "auc": auc_ovr_macro(labels, probabilities),
            "f1": f1_macro(labels, said, 2), "ece": ece(labels, probabilities), "trainable_parameters": 5,
            "seconds": 1.0, "peak_memory_mb": 2.0, "probabilities": probabilities, "labels": labels,
            "groups": [str(number // 3) for number in range(count)],
        })  # fmt: skip
    return made


def test_the_text_earns_its_place_or_is_reported_not_to():
    hard = np.random.default_rng(0).choice(60, 24, replace=False)
    whole = [*rows("cite", hard[:6]), *rows("cite[text=random]", hard), *rows("cite[text=permuted]", hard[:6])]
    random, permuted = text_verdicts(whole)
    assert "its text earns its place" in random["said"] and random["difference"] == pytest.approx(0.3, abs=0.02)
    assert random["difference_ci95"][0] > 0 and random["p"] < 0.02
    assert "is not shown to help (+0.0 points" in permuted["said"] and permuted["p"] == 1.0
    assert text_verdicts(rows("cite", hard)) == []
    (harmed, _) = text_verdicts(
        [*rows("cite", hard), *rows("cite[text=random]", hard[:6])] * 2 + rows("cite[text=permuted]", hard)
    )
    assert "its text harms" in harmed["said"]


def test_every_score_has_its_interval_around_it():
    wrong = np.random.default_rng(1).choice(60, 15, replace=False)
    (entry,) = summarise(rows("x", wrong), ["a", "b"])
    for score in ("balanced_accuracy", "auc", "f1", "ece"):
        low, high = entry[f"{score}_ci95"]
        assert low <= entry[score] + 1e-9 and entry[score] <= high + 0.02 and high > low
    assert entry["ci95"] == entry["balanced_accuracy_ci95"] and entry["peak_memory_mb"] == 2.0


def test_drawn_scores_are_the_plain_scores_of_the_drawn_samples():
    random = np.random.default_rng(2)
    labels, group = random.integers(0, 3, 80), random.integers(0, 12, 80)
    probabilities = random.dirichlet(np.ones(3), 80)
    probabilities[:20] = np.round(probabilities[:20], 1) / np.round(probabilities[:20], 1).sum(axis=1, keepdims=True)
    where, weights = drawn_weights([f"g{one}" for one in group], draws=7)
    drawn = drawn_scores(probabilities, labels, where, weights)
    for number in range(7):
        taken = np.repeat(np.arange(80), weights[number][where].astype(int))
        said = probabilities[taken].argmax(axis=1)
        plain = {
            "balanced_accuracy": balanced_accuracy(labels[taken], said, 3),
            "auc": auc_ovr_macro(labels[taken], probabilities[taken]),
            "f1": f1_macro(labels[taken], said, 3),
            "ece": ece(labels[taken], probabilities[taken], BINS),
        }
        for score, value in plain.items():
            assert drawn[score][number] == pytest.approx(value, abs=1e-9), score
    assert drawn_weights(["one"] * 5) is None
    assert interval(None) is None and both_ways(np.array([1.0] * 99)) == pytest.approx(0.02)


def test_bars_show_prompt_combinations_from_chance_on():
    entries = summarise(
        [row for word in ("linear_probe", *expanded(["pathotune[*]"])) for row in rows(word, [3, 7, 20])], ["a", "b"]
    )
    chosen, labels = prompt_combinations(entries)
    assert len(chosen) == 8 and labels[chosen[0]["method"]] == "TVP + TTP + IVP"
    assert labels[chosen[-1]["method"]] == "no prompts"
    figure = bars(chosen, 0.5, "all", labels)
    assert figure.count('class="bar"') == 8 and figure.count('class="whisker"') == 8 and "TVP + IVP" in figure
    assert prompt_combinations(entries[:1]) == ([], {}) and bars([], 0.5, "") == ""


def test_the_longest_name_before_a_bar_is_not_cut_off():
    names = ("linear_probe", "pathotune[speed=interactive,tvp_tokens=0,ttp=off,ivp=off]")
    entries = summarise([row for name in names for row in rows(name, [3, 7])], ["a", "b"])
    for shown in (entries, entries[:1]):
        figure = bars(shown, 0.5, "all")
        picture = float(re.search(r'<svg [^>]*width="(\d+)"', figure)[1])
        ends = [(float(x), name) for x, name in re.findall(r'<text x="([\d.]+)"[^>]* class="value">([^<]+)<', figure)]
        assert len(ends) == len(shown)
        for end, name in ends:
            assert end - 6.5 * len(name) > 0, "12-pixel letters are about half as wide as high"
        begins, width = map(float, re.search(r'<rect x="([\d.]+)"[^>]* width="([\d.]+)"', figure).groups())
        assert begins + width < picture and begins > max(end for end, _ in ends)
