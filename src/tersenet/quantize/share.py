"""quantize.share: the weights of a layer take a few values that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import DataError, ModelError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Shared, Target, attach, form_of, latent_of, match, per_target, weight_of
from tersenet.forms.codebook import Precision
from tersenet.forms.options import one_or_per_layer
from tersenet.quantize.kmeans import Points, assign, cluster, fits_exact
from tersenet.quantize.signs import not_yet_signs
from tersenet.train.gradients import fisher


@register_stage("quantize.share")
class WeightSharing(Stage):
    """Cluster each weight's entries by k-means, store their codes, and train the centroids.

    Han et al. 2016, "Deep Compression", arXiv 1510.00149, §3. A centroid's gradient is the sum of its members'
    gradients (§3.3). With `importance`, Choi, El-Khamy & Lee 2017, "Towards the Limit of Network Quantization", arXiv
    1612.01543, §3.1: Hessian-weighted k-means, the Hessian's diagonal taken as that of the empirical Fisher matrix.

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
    codebook: Precision = Field("float32", description="precision of the shared values")
    importance: Literal["fisher"] | None = Field(
        None, description="fisher: entries count in k-means by the squared gradient of the loss (init linear, density)"
    )
    split: Literal["train", "validation"] = Field("train", description="importance: where batches come from")
    batches: int = Field(10, ge=1, description="importance: how many")
    batch_size: int = Field(32, ge=1, description="importance: examples in each")
    finetune: Training | None = Field(None, description="trains the values, with the biases and all that is not shared")

    @field_validator("bits", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return one_or_per_layer(value, "bits", 1, 16, whole=True, open_=False)

    @model_validator(mode="after")
    def _fits_together(self) -> WeightSharing:
        if self.importance is not None and self.init not in ("linear", "density"):
            raise ValueError(f"'importance' goes with init 'linear' or 'density', not '{self.init}'")
        foreign = sorted(self.model_fields_set & {"split", "batches", "batch_size"})
        if foreign and self.importance is None:
            raise ValueError(f"'{foreign[0]}' belongs to 'importance'")
        return self

    def options_for(self) -> Iterable[str]:
        return tuple(self.bits) if isinstance(self.bits, dict) else ()

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        bits = per_target(self.bits, targets)
        left = not_yet_signs(targets, context.note)
        importance = self._importance(model, [target for target in left if target.name in bits], context)
        for target in left:
            if target.name in bits:
                self._share(target, 2 ** bits[target.name], importance.get(target.name), context)
            else:
                context.note(f"{target.name} is left as it is, since no bits are given for it")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _importance(self, model: nn.Module, targets: list[Target], context: RunContext) -> dict[str, torch.Tensor]:
        """Of each entry, by weight; nothing unless it is asked for."""
        if self.importance is None:
            return {}
        for target in (target for target in targets if latent_of(target).shape != target.shape):
            context.note(f"{target.name} shares values already; its entries count alike")
        targets = [target for target in targets if latent_of(target).shape == target.shape]
        batches = list(context.batches(self.split, self.batches, self.batch_size))
        if not batches:
            raise DataError(
                f"{self.method}: importance is measured on batches of the {self.split} data, and there are none; "
                "give at least one example, or leave out 'importance'"
            )
        found = fisher(model, [latent_of(target) for target in targets], batches, context.loss)
        return {target.name: values for target, values in zip(targets, found, strict=True)}

    def _share(self, target: Target, k: int, importance: torch.Tensor | None, context: RunContext) -> None:
        weight, form = weight_of(target), form_of(target)
        support = None if form is None else form.support
        entries = (weight if support is None else weight[support]).double().cpu().numpy().reshape(-1)
        if not np.isfinite(entries).all():
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be clustered; lower the learning rate")
        points = Points.of(entries, None if importance is None else _counting(importance, support))
        centroids = self._centroids(target.name, points, k, context)
        codes = torch.from_numpy(assign(entries, centroids)).to(weight.device)
        index = _index(codes, support, weight.shape)
        attach(target, Shared(index, len(centroids), zero=support is not None, precision=self.codebook))
        if importance is not None:  # the form itself takes plain means
            with torch.no_grad():
                latent_of(target).copy_(torch.from_numpy(centroids))

    def _centroids(self, name: str, points: Points, k: int, context: RunContext) -> np.ndarray:
        start: str = self.init
        if start == "exact" and len(points.values) > k and not fits_exact(points, k):
            context.note(f"{name}: exact k-means with {k} values needs too much memory; started by density instead")
            start = "density"
        seed = int(torch.randint(2**62, (1,), generator=context.generator("share", name)))
        return cluster(points, k, start, np.random.default_rng(seed))


def _counting(importance: torch.Tensor, support: torch.Tensor | None) -> np.ndarray:
    """How much each entry counts, [m] in the order of the entries: none for nothing, so that every centroid is a mean.

    Raises ModelError where the importance is not finite.
    """
    own = (importance if support is None else importance[support]).double().cpu().numpy().reshape(-1)
    if not np.isfinite(own).all():
        raise ModelError("gradients on the data are NaN or infinite, so weights cannot be clustered by importance")
    mean = float(own.mean()) if own.size else 0.0
    return own / mean + 1e-6 if mean > 0 else np.ones_like(own)


def _index(codes: torch.Tensor, support: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """Codes in the weight's shape; with a support, 0 outside of it and 1… inside."""
    if support is None:
        return codes.reshape(shape)
    index = torch.zeros(shape, dtype=codes.dtype, device=codes.device)
    index[support] = codes + 1
    return index
