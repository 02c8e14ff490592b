"""Models without a row of tokens (CNN, Swin): features only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pathotune.backbones.surface import Backbone, Features


class Pooled(Backbone):
    """A timm model that gives a map of features and its mean; prompts have no place in it."""

    @property
    def _net(self) -> Any:
        return self.network

    def forward(self, pixels: Tensor) -> Features:
        self._check_size(pixels)
        features = self._net.forward_features(pixels)
        pooled = self._net.forward_head(features)
        # timm's Swin models keep channels last, its CNNs keep them first.
        channels_last = features.ndim == 4 and features.shape[-1] == self.embed_dim != features.shape[1]
        if features.ndim == 4:
            features = features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
        cls = features.mean(dim=1)
        return Features(pooled if self.head is None else self.head(pooled), cls, features)

    @property
    def is_dynamic(self) -> bool:
        return self.card.any_size
