"""Models without a row of tokens (CNN, Swin): features only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pathotune.backbones.surface import ROLES, Backbone, Features

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


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

    def modules_by_role(self, first_block: int = 0) -> dict[str, list[nn.Module]]:
        """By timm's usual names; a purely convolutional network has norms alone."""
        roles: dict[str, list[nn.Module]] = {role: [] for role in ROLES}
        for name, module in self.network.named_modules():
            last = name.rpartition(".")[2]
            if isinstance(module, NORMS):
                roles["norm"].append(module)
            elif not isinstance(module, nn.Linear):
                if last in {"attn", "mlp"} and any(isinstance(part, nn.Linear) for part in module.modules()):
                    roles["sublayer"].append(module)
            elif last == "qkv":
                roles["qkv"].append(module)
            elif name.endswith("attn.proj"):
                roles["proj"].append(module)
            elif ".mlp." in name:
                roles["mlp"].append(module)
        return roles

    @property
    def is_dynamic(self) -> bool:
        return self.card.any_size
