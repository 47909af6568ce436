"""quantize.share: the weights of a layer take a few values that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Shared, Target, attach, form_of, match, per_target, weight_of
from tersenet.forms.options import one_or_per_layer
from tersenet.quantize.kmeans import Points, assign, cluster, fits_exact


@register_stage("quantize.share")
class WeightSharing(Stage):
    """Cluster each weight's entries by k-means, store their codes, and train the centroids.

    Han et al. 2016, "Deep Compression", arXiv 1510.00149, §3. A centroid's gradient is the sum of its members'
    gradients (§3.3).

    `bits` counts values other than zero: 2^bits of them. What is pruned keeps a code of its own beside them and stays
    zero, so a pruned weight has an alphabet of 2^bits + 1. In a weight that is not pruned, zero is a value like any
    other. A weight with fewer different values keeps exactly these; centroids that nothing is nearest to are dropped.
    """

    phase = Phase.VALUES

    bits: int | dict[str, int] = Field(
        5, description="2^bits values, 1 to 16, or {pattern: bits}; others are left alone"
    )
    init: Literal["linear", "density", "random", "exact"] = Field(
        "linear", description="where k-means starts: equal steps, quantiles, random weights, or at the optimum itself"
    )
    codebook: Literal["float32", "float16"] = Field("float32", description="precision of the shared values")
    finetune: Training | None = Field(None, description="trains the values, with the biases and all that is not shared")

    @field_validator("bits", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return one_or_per_layer(value, "bits", 1, 16, whole=True, open_=False)

    def options_for(self) -> Iterable[str]:
        return tuple(self.bits) if isinstance(self.bits, dict) else ()

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        bits = per_target(self.bits, targets)
        for target in targets:
            if target.name in bits:
                self._share(target, 2 ** bits[target.name], context)
            else:
                context.note(f"{self.method}: {target.name} is left as it is, since no bits are given for it")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _share(self, target: Target, k: int, context: RunContext) -> None:
        weight, form = weight_of(target), form_of(target)
        support = None if form is None else form.support
        entries = (weight if support is None else weight[support]).double().cpu().numpy().reshape(-1)
        if not np.isfinite(entries).all():
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be clustered; lower the learning rate")
        centroids = self._centroids(target.name, Points.of(entries), k, context)
        codes = torch.from_numpy(assign(entries, centroids)).to(weight.device)
        attach(target, Shared(_index(codes, support, weight.shape), len(centroids), **self._how(support)))

    def _how(self, support: torch.Tensor | None) -> dict[str, bool]:
        return {"zero": support is not None, "half": self.codebook == "float16"}

    def _centroids(self, name: str, points: Points, k: int, context: RunContext) -> np.ndarray:
        start: str = self.init
        if start == "exact" and len(points.values) > k and not fits_exact(points, k):
            context.note(f"{name}: exact k-means with {k} values needs too much memory; started by density instead")
            start = "density"
        seed = int(torch.randint(2**62, (1,), generator=context.generator("share", name)))
        return cluster(points, k, start, np.random.default_rng(seed))


def _index(codes: torch.Tensor, support: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """Codes in the weight's shape; with a support, 0 outside of it and 1… inside."""
    if support is None:
        return codes.reshape(shape)
    index = torch.zeros(shape, dtype=codes.dtype, device=codes.device)
    index[support] = codes + 1
    return index
