"""A tuning and the backbone it is used with."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from pathotune.backbones import backbone_card
from pathotune.errors import TuningMismatch
from pathotune.methods import check_backbone
from pathotune.methods.fitting import backbone_to_load


@pytest.mark.parametrize("stated", [None, 0.5])
def test_a_tuning_fits_the_backbone_it_was_made_on_whether_its_card_states_a_pixel_size_or_not(
    stated: float | None,
) -> None:
    card = dataclasses.replace(backbone_card("pathotune-tiny"), mpp=stated)
    backbone: Any = SimpleNamespace(card=card, embed_dim=card.embed_dim, weights_sha256="0" * 64, weights_source="file")
    # As `training.record` writes it: the pixel size tiles were read at.
    facts = {"name": card.name, "embed_dim": card.embed_dim, "sha256": "0" * 64, "mpp": card.reading().mpp}
    tuning: Any = SimpleNamespace(backbone=facts)
    check_backbone(tuning, backbone)
    backbone.card = dataclasses.replace(card, mpp=0.25)
    with pytest.raises(TuningMismatch, match=r"at 0\.5 µm per pixel; this one reads 0\.25"):
        check_backbone(tuning, backbone)


def test_a_tuning_on_ones_own_card_says_how_to_give_the_card() -> None:
    facts = {"name": "my-vit", "embed_dim": 48, "sha256": "", "mpp": 0.5}
    tuning: Any = SimpleNamespace(backbone=facts, name="tumour")
    with pytest.raises(TuningMismatch, match=r"needs the backbone my-vit.*--backbone CARD\.yaml"):
        backbone_to_load(tuning)
    facts["name"] = "pathotune-tiny"
    assert backbone_to_load(tuning) == backbone_to_load(tuning, "pathotune-tiny") == "pathotune-tiny"
    with pytest.raises(TuningMismatch, match="not uni"):
        backbone_to_load(tuning, "uni")
