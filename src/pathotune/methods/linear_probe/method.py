"""The linear probe's model: the plain frozen backbone and a linear head."""

from __future__ import annotations

from pathotune.methods.prompted import PromptedMethod


class LinearProbe(PromptedMethod):
    """One linear layer on the backbone's pooled output; tiles pass the backbone once per run.

    Works with every backbone, convolutional ones too; attention where the backbone is a plain vision transformer.
    """
