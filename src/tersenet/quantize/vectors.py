"""k-means on vectors, near in the sense of the weights or of the outputs that a layer makes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.forms import Target
from tersenet.forms.product import Layout

ITERATIONS = 100


@dataclass(frozen=True)
class Metric:
    """How much errors of pieces cost in outputs: weights [vectors], one for each piece (the mean square of its input),
    or grams [groups or 1, d, d], with (v − c)ᵀ G (v − c) for the pieces of a group."""

    weights: np.ndarray | None = None
    grams: np.ndarray | None = None

    def of(self, group: int) -> Metric:
        """That of one group."""
        if self.grams is None:
            return self
        return Metric(grams=self.grams[min(group, len(self.grams) - 1)][None])


def cluster(vectors: np.ndarray, k: int, seed: int, metric: Metric | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(at most k centroids, code of each of the `vectors` [n, d]) after k-means++ and Lloyd's steps.

    With no more than k different vectors, the centroids are these.
    """
    different, codes = np.unique(vectors, axis=0, return_inverse=True)
    if len(different) <= k:
        return different, codes.reshape(-1)
    root = _root(metric, vectors.shape[1])
    weights = None if metric is None else metric.weights
    if weights is not None and not weights.any():
        weights = None
    found = KMeans(k, n_init=1, max_iter=ITERATIONS, random_state=seed % 2**32).fit(vectors @ root, None, weights)
    labels = found.labels_.astype(np.int64)
    return _means(vectors, labels, k, weights), labels


def _root(metric: Metric | None, size: int) -> np.ndarray:
    """L with G = L Lᵀ: distances of v L are those of the metric."""
    if metric is None or metric.grams is None:
        return np.eye(size)
    values, axes = np.linalg.eigh(metric.grams[0])
    floor = 1e-6 * max(float(values.max()), 1e-30)  # directions that no input has still count a little
    return np.asarray(axes * np.sqrt(np.maximum(values, floor)))


def _means(vectors: np.ndarray, labels: np.ndarray, k: int, weights: np.ndarray | None) -> np.ndarray:
    """Weighted mean of each cluster's members, [k, d]; of members without weight, their plain mean."""
    share = np.ones(len(vectors)) if weights is None else weights + 1e-12 * float(weights.mean())
    sums = np.zeros((k, vectors.shape[1]))
    np.add.at(sums, labels, vectors * share[:, None])
    return np.asarray(sums / np.maximum(np.bincount(labels, share, k), 1e-300)[:, None])


@torch.no_grad()
def metric_of(
    model: nn.Module, target: Target, layout: Layout, groups: int, batches: Sequence[tuple[torch.Tensor, ...]]
) -> Metric:
    """What errors in `target` cost in its layer's outputs, mean over all positions of the batches (at least one).

    Raises RecipeError for layers that are neither linear nor a 2-d convolution, and where padding is given by name.
    """
    rows = _Rows(target, layout, groups)
    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_pre_hook(rows.take) for module, name in target.owners if name == "weight"]
    model.eval()
    try:
        for inputs in batches:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return rows.metric()


class _Rows:
    """Sums of x xᵀ over the rows that a layer multiplies with its weight."""

    def __init__(self, target: Target, layout: Layout, groups: int) -> None:
        if target.attribute != "weight" or not isinstance(target.module, nn.Linear | nn.Conv2d):
            raise RecipeError(f"{target.name} ({target.kind}): objective 'activations' knows linear layers and Conv2d")
        if isinstance(getattr(target.module, "padding", None), str):
            raise RecipeError(f"{target.name}: objective 'activations' needs padding that is given in numbers")
        self.layout, self.groups, self.shape, self.count = layout, groups, target.shape, 0
        self.sums: torch.Tensor | None = None

    def take(self, module: Any, inputs: Any) -> None:
        found = self._measure(_patches(module, inputs[0]).double())
        self.sums = found if self.sums is None else self.sums + found
        self.count += 1

    def _measure(self, rows: torch.Tensor) -> torch.Tensor:
        """rows: [n, columns of the weight as a matrix]."""
        if self.layout == "outputs":
            return rows.square().mean(0)
        parts = self.groups if self.layout == "inputs" else self.shape[1]
        own = rows.reshape(len(rows), parts, -1).movedim(1, 0)  # [parts, n, d]
        grams = own.mT @ own / len(rows)
        return grams if self.layout == "inputs" else grams.mean(0, keepdim=True)

    def metric(self) -> Metric:
        assert self.sums is not None
        mean = (self.sums / self.count).cpu().numpy()
        return Metric(weights=mean) if self.layout == "outputs" else Metric(grams=mean)


def _patches(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the layer multiplies with rows of its weight: [n, columns], of all groups of a grouped convolution."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
    unfolded = nn.functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    columns = unfolded.shape[1] // module.groups
    return unfolded.transpose(1, 2).reshape(-1, columns)
