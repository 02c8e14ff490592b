"""Going on from a saved tuning with more regions: its options, its tensors, and the split it was made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pathotune.methods import check_backbone, load_config
from pathotune.methods.base import MethodConfig
from pathotune.methods.checkpoint import Tuning
from pathotune.training.session import Session, Sides, session_path

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.prompts.text import SentenceVectors

HEAD = ("head.linear.weight", "head.linear.bias")


@dataclass(frozen=True)
class Start:
    """Where a training goes on from.

    Attributes
    ----------
    path : the tuning's file.
    method, config : of the tuning.
    sides : what it learned from and was judged by, as far as its session folder is there.
    tuning : the tuning itself.
    """

    path: Path
    method: str
    config: MethodConfig
    sides: Sides
    tuning: Tuning

    def state_for(self, class_names: Sequence[str], text: SentenceVectors) -> tuple[dict[str, np.ndarray] | None, str]:
        """Tensors to start from for these classes, and a sentence where not all of them could be kept.

        A class that was not there before starts from nothing known: its row of the head is zero. None where the
        sentences' vectors have another width, as another text encoder gives them.
        """
        state = {name: value.copy() for name, value in self.tuning.trained.items()}
        before = self.tuning.text_vectors
        if (before is None) != (text.vectors is None) or (
            before is not None and text.vectors is not None and before.shape[1] != text.vectors.shape[1]
        ):
            return None, "The text encoder is another one than the saved tuning's, so the training starts from nothing."
        old = self.tuning.class_names
        if tuple(class_names) == old:
            return state, ""
        # A head of fixed sentences has no rows of its own.
        for name in (name for name in HEAD if name in state):
            rows = np.zeros((len(class_names), *state[name].shape[1:]), dtype=np.float32)
            for index, one in enumerate(class_names):
                if one in old:
                    rows[index] = state[name][old.index(one)]
            state[name] = rows
        new = [name for name in class_names if name not in old]
        gone = [name for name in old if name not in class_names]
        parts = [f"new: {', '.join(new)}"] if new else []
        parts += [f"no longer there: {', '.join(gone)}"] if gone else []
        return state, f"The classes have changed ({'; '.join(parts)})." if parts else ""


def start_from(path: str | Path, backbone: Backbone) -> Start:
    """Read a tuning to go on from.

    Raises
    ------
    FileMissing, TuningUnreadable
        There is no tuning.
    TuningMismatch
        It was made with another backbone.
    """
    tuning = Tuning.load(path)
    check_backbone(tuning, backbone)
    config = load_config(tuning.method, tuning.config)
    return Start(Path(path), tuning.method, config, Session(session_path(path)).sides(), tuning)
