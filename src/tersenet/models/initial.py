"""Initial weights that several families share."""

from __future__ import annotations

from typing import Literal

from torch import nn


def he_normal(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Convolutions followed by ReLU: N(0, σ²) with σ² = 2 / (k² · output channels), biases 0; in place.

    With "fan_in" input channels instead of output channels. He et al. (2015), Delving Deep into Rectifiers, equations
    14 and 10. Other layers are left as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
