"""What processors compute in 16 bits slowly or not at all, in 32 bits whatever precision the rest of a training has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class InFull(TorchFunctionMode):
    """Within it, some operators under a processor's autocast compute in float32 and give the type that autocast would.

    Depthwise convolutions: they are a few percent of the arithmetic, but torch has no fast 16-bit kernel for the
    gradient of a strided one's input, and a step of MobileNet takes nearly twice as long with it. Interpolation: torch
    has no 16-bit kernel for the one that avoids aliasing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        meant = func is F.interpolate or (func in CONVOLUTIONS and _depthwise(*args, **given))
        if not meant or not torch.is_autocast_enabled("cpu"):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            full: Any = [each.float() if isinstance(each, torch.Tensor) else each for each in args]
            given = {name: each.float() if isinstance(each, torch.Tensor) else each for name, each in given.items()}
            return func(*full, **given).to(torch.get_autocast_dtype("cpu"))


def _depthwise(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Of the arguments of a convolution: whether each channel has a kernel of its own, on a processor."""
    return bool(input.device.type == "cpu" and groups > 1 and weight.shape[1] == 1)
