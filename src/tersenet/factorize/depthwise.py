"""factorize.depthwise: convolutions become depthwise separable ones, which begin as what the trained ones computed."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tersenet.core.stage import register_stage
from tersenet.factorize.low_rank import WAYS, Decomposition, LowRank


@register_stage("factorize.depthwise")
class DepthwiseSeparable(LowRank):
    """`factorize.low_rank` with decomposition `depthwise` and, if nothing else is said, one kernel for each channel, as
    in MobileNet (Howard et al. 2017, arXiv 1704.04861): multiplications fall to 1/N + 1/k². Linear layers and 1×1
    convolutions stay. With nothing learned anew much is lost; give `finetune`.
    """

    decomposition: Decomposition = Field("depthwise", description="always 'depthwise'")

    @model_validator(mode="before")
    @classmethod
    def _one_kernel(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("decomposition", "depthwise") != "depthwise":
            raise ValueError(f"decomposition '{given['decomposition']}' belongs to factorize.low_rank")
        return {"rank": 1, **given} if isinstance(given, dict) and not any(given.get(way) for way in WAYS) else given
