"""The adapters' model: small networks behind the frozen attention and MLP of each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pathotune.methods.adapted import AdaptedMethod

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.adapter.config import AdapterConfig


class Bottleneck(nn.Module):
    """Two linear layers with a GELU between, added to what goes in; zero at the start.

    Parameters
    ----------
    channels, width : outside and inside.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, values: Tensor) -> Tensor:
        """(…, channels) → the same."""
        added: Tensor = self.up(nn.functional.gelu(self.down(values)))
        return values + added


class Adapter(AdaptedMethod):
    """Bottleneck adapters behind attention and MLP, before these are added to the tokens (Houlsby et al. 2019)."""

    config: AdapterConfig
    what = "attention and MLPs with linear layers"

    def change(self, backbone: Backbone, first_block: int) -> None:
        """An adapter behind every sublayer that is asked for."""
        sublayers = backbone.modules_by_role(first_block)["sublayer"]
        for sublayer in sublayers if self.config.places == "both" else sublayers[1::2]:
            linear = [part for part in sublayer.modules() if isinstance(part, nn.Linear)]
            adapter = Bottleneck(linear[-1].out_features, self.config.width).to(linear[-1].weight.device)
            sublayer.add_module("adapter", adapter)
            # A row of layers now ends in its adapter; behind any other library's module it is called by this hook.
            if not isinstance(sublayer, nn.Sequential):
                sublayer.register_forward_hook(_adapted)


def _adapted(sublayer: Any, _: Any, output: Any) -> Any:
    """The output of a sublayer through its adapter; attention may give a tuple that begins with it."""
    if isinstance(output, tuple):
        return (sublayer.adapter(output[0]), *output[1:])
    return sublayer.adapter(output)
