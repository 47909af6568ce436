"""quantize.product: pieces of a weight become vectors of a few codebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log2, prod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Product, Target, attach, form_of, latent_of, match, per_target, weight_of
from tersenet.forms.codebook import Precision
from tersenet.forms.options import one_or_per_layer
from tersenet.forms.product import Layout, pieces
from tersenet.quantize.signs import not_settled
from tersenet.quantize.vectors import Metric, cluster, metric_of

Count = int | dict[str, int]


def compression(c_in: int, c_out: int, m: int, k: int) -> float:
    """32·C_in·C_out / (32·k·C_out + log₂(k)·C_in·m): fp32 weights over m codebooks of k vectors of C_out/m entries each
    and the codes, without entropy coding."""
    return 32 * c_in * c_out / (32 * k * c_out + log2(k) * c_in * m)


@register_stage("quantize.product")
class ProductQuantization(Stage):
    """Cut each weight into pieces, cluster them by k-means, store their codes, and train the codebooks.

    Gong et al. 2014, "Compressing Deep Convolutional Networks using Vector Quantization", arXiv 1412.6115, §3.3; Stock
    et al. 2020, "And the Bit Goes Down", arXiv 1907.05686 (pieces that are kernels; error of the outputs in place of
    that of the weights, §3.2). Jégou et al. 2011 for the idea.

    Layout `outputs` cuts what one input gives to all outputs (a column of the weight) into `groups` pieces, each group
    with k vectors of its own; `inputs` does the same with what one output reads (a row); `kernels` takes the kernels of
    a convolution as pieces of one group. What is pruned stays zero, at the cost of storing where.
    """

    phase = Phase.VALUES

    layout: Layout = Field("outputs", description="what is cut: columns, rows, or single kernels of a convolution")
    groups: Count | None = Field(None, description="m: pieces of each column or row, or {pattern: m}")
    size: Count | None = Field(None, description="in place of groups: entries of a piece, or {pattern: d}")
    k: Count = Field(description="vectors in each codebook, or {pattern: k}")
    objective: Literal["weights", "activations"] = Field(
        "weights", description="what is kept close: the weights, or the layer's outputs on data"
    )
    split: Literal["train", "validation"] = Field("train", description="objective activations: where batches come from")
    batches: int = Field(8, ge=1, description="objective activations: how many")
    batch_size: int = Field(32, ge=1, description="objective activations: examples in each")
    codebook: Precision = Field("float32", description="precision of the codebooks")
    finetune: Training | None = Field(None, description="trains the codebooks, with all that is not quantized")

    @field_validator("groups", "size", "k", mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        return None if value is None else one_or_per_layer(value, "a count", 0, float("inf"), whole=True)

    @model_validator(mode="after")
    def _fits_together(self) -> ProductQuantization:
        given = [name for name in ("groups", "size") if getattr(self, name) is not None]
        if self.layout == "kernels" and given:
            raise ValueError(f"layout 'kernels' takes whole kernels as pieces; leave out '{given[0]}'")
        if self.layout != "kernels" and len(given) != 1:
            raise ValueError(f"layout '{self.layout}' needs either 'groups' (pieces) or 'size' (entries of a piece)")
        return self

    def options_for(self) -> Iterable[str]:
        options = (self.groups, self.size, self.k)
        return tuple(pattern for option in options if isinstance(option, Mapping) for pattern in option)

    def check(self, model: nn.Module) -> None:
        targets = match(model, self.targets, self.ignore)
        for target in targets:
            if (settings := self._settings(targets, target)) is not None:
                _check(target, self.layout, *settings)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        left = not_settled(targets, context.note)
        chosen = {target: found for target in left if (found := self._settings(targets, target)) is not None}
        for target in left:
            if target not in chosen:
                context.note(f"{target.name} is left as it is, since no groups or k are given for it")
        for target, (groups, k) in chosen.items():
            _check(target, self.layout, groups, k)
        metrics = self._metrics(model, chosen, context)
        for target, (groups, k) in chosen.items():
            self._quantize(target, groups, k, metrics.get(target.name), context)
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _settings(self, targets: tuple[Target, ...], target: Target) -> tuple[int, int] | None:
        """(groups, k) of a weight, or None if the options leave it out. Raises RecipeError where d does not divide."""
        ks = per_target(self.k, targets)
        if self.layout == "kernels":
            return (1, ks[target.name]) if target.name in ks else None
        option = self.groups if self.size is None else self.size
        assert option is not None
        counts = per_target(option, targets)
        if target.name not in ks or target.name not in counts:
            return None
        length = _length(target, self.layout)
        if self.size is not None and length % counts[target.name]:
            raise RecipeError(f"{target.name}: pieces of {counts[target.name]} entries do not divide its {length}")
        return (counts[target.name] if self.size is None else length // counts[target.name]), ks[target.name]

    def _metrics(
        self, model: nn.Module, chosen: Mapping[Target, tuple[int, int]], context: RunContext
    ) -> dict[str, Metric]:
        if self.objective == "weights":
            return {}
        batches = [inputs for inputs, _ in context.batches(self.split, self.batches, self.batch_size)]
        if not batches:
            raise DataError(
                f"{self.method}: objective 'activations' looks at batches of the {self.split} data, and there are "
                "none; give at least one example, or take objective 'weights'"
            )
        return {
            target.name: metric_of(model, target, self.layout, groups, batches)
            for target, (groups, _) in chosen.items()
        }

    def _quantize(self, target: Target, groups: int, k: int, metric: Metric | None, context: RunContext) -> None:
        weight, old = weight_of(target), form_of(target)
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be clustered; lower the learning rate")
        vectors = pieces(weight, self.layout, groups).double().cpu().numpy()  # [groups, vectors, d]
        seed = int(torch.randint(2**31, (1,), generator=context.generator("product", target.name)))
        found = [
            cluster(own, k, seed + group, None if metric is None else metric.of(group))
            for group, own in enumerate(vectors)
        ]
        most = max(len(centroids) for centroids, _ in found)
        index = torch.from_numpy(np.stack([codes for _, codes in found])).to(weight.device)
        support = None if old is None else old.support
        form = Product(index, most, weight.shape, self.layout, support=support, precision=self.codebook)
        attach(target, form)
        if metric is not None and support is None:  # weighted means, where the form itself takes plain ones
            books = np.stack([np.pad(centroids, ((0, most - len(centroids)), (0, 0))) for centroids, _ in found])
            with torch.no_grad():
                latent_of(target).copy_(torch.from_numpy(books))


def _length(target: Target, layout: Layout) -> int:
    """Entries of what is cut: a column or a row of the weight as a matrix."""
    return target.shape[0] if layout == "outputs" else prod(target.shape[1:])


def _check(target: Target, layout: Layout, groups: int, k: int) -> None:
    """Raises RecipeError, naming the weight."""
    if len(target.shape) < 2 or 0 in target.shape:
        raise RecipeError(f"{target.name} has shape {list(target.shape)}, and nothing in it can be cut into pieces")
    if layout == "kernels" and len(target.shape) < 3:
        raise RecipeError(f"{target.name} ({target.kind}) has no kernels; leave it out with 'ignore'")
    noun, length = ("outputs" if layout == "outputs" else "inputs"), _length(target, layout)
    if layout != "kernels" and length % groups:
        raise RecipeError(f"{target.name} has {length} {noun}, which cannot be cut into {groups} equal pieces")
    size = prod(target.shape[2:]) if layout == "kernels" else length // groups
    vectors = prod(target.shape) // (groups * size)
    if k > vectors:
        raise RecipeError(f"{target.name}: k is {k}, but each codebook stands for {vectors} pieces only")
