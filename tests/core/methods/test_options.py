"""Options from text: right types, and errors that say what would do."""

from __future__ import annotations

import pytest

from pathotune.errors import UnknownName, UsageError
from pathotune.methods import METHODS, config_class, load_config
from pathotune.methods.options import options_of, parse_settings, with_settings
from pathotune.training.schedule import TrainingConfig


def test_text_becomes_the_fields_type():
    config = load_config("pathotune", {"tvp_tokens": "5", "ttp": "no", "ivp": "off", "sentences": "a|b"})
    assert (config.tvp_tokens, config.ttp, config.ivp, config.sentences) == (5, False, "off", "a|b")
    assert with_settings(TrainingConfig(), {"lr": "3e-5"}).lr == 3e-5


def test_typed_values_pass_too():
    config = load_config("pathotune", {"tvp_tokens": 5, "ttp": False, "vrm_width": 32.0})
    assert config.vrm_width == 32 and isinstance(config.vrm_width, int)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tvp_tokens": "many"}, "whole number, not 'many'"),
        ({"tvp_tokens": "2.5"}, "whole number"),
        ({"tvp_tokens": 2.5}, "whole number"),
        ({"tvp_tokens": "-1"}, "between 0 and 200, not '-1'. The nearest that will do is 0"),
        ({"tvp_tokens": "999"}, "nearest that will do is 200"),
        ({"ttp": "perhaps"}, "true or false"),
        ({"ivp": "big"}, "vrm, mean_patch, attn_pool, off"),
    ],
)
def test_a_bad_value_is_refused_with_what_would_do(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_config("pathotune", settings)


def test_not_a_number_is_no_number():
    with pytest.raises(UsageError):
        with_settings(TrainingConfig(), {"lr": "nan"})


def test_an_unknown_field_lists_the_known_ones():
    with pytest.raises(UnknownName, match="Did you mean 'tvp_tokens'") as caught:
        load_config("pathotune", {"tvp_token": "5"})
    assert "ivp_tokens" in str(caught.value)


def test_pairs():
    assert parse_settings(["a=1", "b = x=y "]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UsageError, match="key=value"):
        parse_settings(["a"])


@pytest.mark.parametrize("config", [*(config_class(name) for name in METHODS), TrainingConfig])
def test_every_field_is_a_control_with_a_tooltip_and_a_default_in_range(config):
    for option in options_of(config).values():
        assert option.tooltip, option.name
        if option.choices:
            assert option.default in option.choices
        if option.kind in (int, float):
            assert option.minimum is not None and option.maximum is not None
            assert option.minimum <= option.default <= option.maximum
