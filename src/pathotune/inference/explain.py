"""Where in a tile an answer comes from: attention rolled out over all blocks, and occlusion as a check of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pathotune.inference.plan import ROLLOUT
from pathotune.prompts.insert import Encoded

if TYPE_CHECKING:
    from pathotune.methods.base import MethodOutput
    from pathotune.prompts.insert import PromptedEncoder

OCCLUSION_BATCH = 64


class RolledOut(nn.Module):
    """A tile method whose attention maps are rolled out over all blocks, in place of the last block's own.

    Parameters
    ----------
    model : what `methods.build_model` gave.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def attention_sources(self) -> tuple[str, ...]:
        """The model's sources, marked as rolled out."""
        return tuple(name + ROLLOUT for name in self.model.attention_sources)

    def forward(self, pixels: Tensor, attention: bool = False) -> MethodOutput:
        """The model's answer for normalised tiles (b, 3, h, w)."""
        if not (attention and self.attention_sources):
            plain: MethodOutput = self.model(pixels)
            return plain
        features, maps = rollout(self.model.encoder, pixels)
        answer: MethodOutput = self.model.answer(features, {name + ROLLOUT: map_ for name, map_ in maps.items()})
        return answer


def rollout(encoder: PromptedEncoder, pixels: Tensor) -> Encoded:
    """Which patches what the last block gives is made of, as far as attention tells (Abnar and Zuidema 2020).

    In every block a token is half itself and half what it attends to. A prompt is made of no patch where it enters;
    where its group enters again before a later block, it starts anew there.

    Parameters
    ----------
    encoder : with a backbone that has a row of tokens.
    pixels : (b, 3, h, w) normalised.

    Returns
    -------
    The features, and for "cls" and each prompt group (b, rows, columns) float32: of what comes from patches, the share
    of each. A single token's map (`encoder.reads_tokens`) is in shares of what its group's tokens have of the patches
    on average, so that the mean of the tokens' maps is the group's.
    """
    backbone, layout = encoder.backbone, encoder.layout
    prefix, places = backbone.prefix_tokens, layout.places(backbone.prefix_tokens)
    rows, columns = backbone.grid
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        # (b, tokens now, tokens of the embedding): what each token is made of.
        made_of = torch.eye(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1, 1)
        for index in range(encoder.first_layer):
            made_of = _passed(made_of, backbone.attention_matrix(index, tokens))
            tokens = backbone.block(index, tokens)

        def watch(index: int, tokens: Tensor, entered: tuple[str, ...]) -> None:
            nonlocal made_of
            if made_of.shape[1] < tokens.shape[1]:
                slots = made_of.new_zeros(len(made_of), layout.total, made_of.shape[2])
                made_of = torch.cat([made_of[:, :prefix], slots, made_of[:, prefix:]], dim=1)
            for name in entered:
                made_of[:, places[name]] = 0.0
            made_of = _passed(made_of, backbone.attention_matrix(index, tokens, layout.total))

        features = encoder.upper(tokens, pixels, watch=watch).features
        first = backbone.card.class_index
        cls = slice(first, first + 1) if backbone.has_class_token else slice(prefix + layout.total, None)
        maps = {}
        whole: dict[str, Tensor] = {}
        for name, place in {"cls": cls, **encoder.attention_places}.items():
            shares = made_of[:, place, -rows * columns :].mean(dim=1)
            group = name.split()[0]
            whole.setdefault(group, shares.sum(dim=1, keepdim=True))  # the group itself comes before its tokens
            maps[name] = (shares / whole[group]).reshape(-1, rows, columns)
    return Encoded(features, maps)


def _passed(made_of: Tensor, attention: Tensor) -> Tensor:
    """What tokens are made of behind a block with this attention (b, n, n)."""
    return (made_of + attention @ made_of) / 2


def occlusion(
    logits: Callable[[Tensor], Tensor],
    pixels: Tensor,
    cells: tuple[int, int],
    classes: Tensor | None = None,
    batch: int = OCCLUSION_BATCH,
) -> Tensor:
    """How much less a class is believed when a part of the tile is covered with the tile's mean colour.

    It asks the whole model, whatever that is, once for each part: a check of attention maps on a few tiles.

    Parameters
    ----------
    logits : from normalised tiles (n, 3, h, w) to (n, K).
    pixels : (b, 3, h, w) normalised.
    cells : rows and columns of parts; neither may be more than the tile has pixels.
    classes : (b,) class indexes; the predicted ones without.
    batch : tiles per call of `logits`.

    Returns
    -------
    (b, rows, columns) float32: the loss of the class's log-probability. Positive where the part speaks for the class.
    """
    rows, columns = cells
    height, width = pixels.shape[-2:]
    found = []
    with torch.no_grad():
        whole = logits(pixels).float().log_softmax(dim=1)
        asked = whole.argmax(dim=1) if classes is None else classes
        for tile, label, before in zip(pixels, asked.tolist(), whole, strict=True):
            mean = tile.mean(dim=(1, 2))[:, None, None]
            covered = tile.repeat(rows * columns, 1, 1, 1)
            for part, view in enumerate(covered):
                row, column = divmod(part, columns)
                view[
                    :,
                    row * height // rows : (row + 1) * height // rows,
                    column * width // columns : (column + 1) * width // columns,
                ] = mean
            after = torch.cat([logits(one).float().log_softmax(dim=1)[:, label] for one in covered.split(batch)])
            found.append((before[label] - after).reshape(rows, columns))
    return torch.stack(found)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of two maps of the same tiles, (b, rows, columns) each: (b,) from -1 to 1."""
    ranks = [values.flatten(1).argsort(dim=1).argsort(dim=1).double() for values in (first, second)]
    centred = [values - values.mean(dim=1, keepdim=True) for values in ranks]
    lengths = centred[0].norm(dim=1) * centred[1].norm(dim=1)
    correlation: Tensor = (centred[0] * centred[1]).sum(dim=1) / lengths.clamp_min(1e-12)
    return correlation
