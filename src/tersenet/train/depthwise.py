"""Depthwise convolutions in 32 bits on a processor, whatever precision the rest of a training has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class DepthwiseInFull(TorchFunctionMode):
    """Within it, depthwise convolutions under a processor's autocast compute in float32 and give what autocast would.

    They are a few percent of the arithmetic, but torch has no fast 16-bit kernel for the gradient of a strided one's
    input: a step of MobileNet takes 2.5 times as long with it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func not in CONVOLUTIONS or not torch.is_autocast_enabled("cpu") or not _depthwise(*args, **given):
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
