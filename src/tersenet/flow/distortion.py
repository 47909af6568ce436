"""The rate-distortion bound of a file against the weights it was made from, tensor by tensor and over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tersenet.bounds.density import laplace_scale, spacing_entropy
from tersenet.bounds.laplace import laplace_bits
from tersenet.bounds.rate_distortion import entropy_power, water_fill

ENOUGH = 32
"""Entries of a group that a scale is estimated from; a tensor with smaller channels is one group."""


@dataclass(frozen=True)
class TensorRate:
    """One tensor at the error it has in the file. Bytes; shannon: for the density that its values seem drawn from,
    laplace: for the Laplacian fitted to each channel. moved: mean squared error over the variance of the dense values.
    """

    name: str
    weights: int
    groups: int
    moved: float
    written: int
    shannon: float
    laplace: float


@dataclass(frozen=True)
class RateBound:
    """All tensors together, at the error they have in sum, divided in the way that costs the fewest bytes.

    dense: where the dense weights were found. weighted: whether squared errors weigh by Fisher information.
    byte_worth: what one more byte takes off ½·(weighted error) at best; where weighted, that is the loss predicted.
    """

    dense: str
    weighted: bool
    rows: tuple[TensorRate, ...]
    distortion: float
    written: int
    shannon: float
    laplace: float
    byte_worth: float


@dataclass(frozen=True)
class _Groups:
    """Channels of one tensor: how many entries, entropy power, variance of the Laplacian, weight; and error in all."""

    counts: np.ndarray
    powers: np.ndarray
    variances: np.ndarray
    weights: np.ndarray
    error: float


def rate_bound(
    dense: str,
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    written: Mapping[str, int],
    fisher: Mapping[str, torch.Tensor] | None,
    notes: list[str],
) -> RateBound | None:
    """None where no tensor is stored with an error. before, after: dense and decoded; written: bytes of each.

    Without Fisher information only tensors of two axes or more are compared: squared errors of weights, of biases and
    of running statistics are not of one kind.
    """
    groups: dict[str, _Groups] = {}
    moved: dict[str, float] = {}
    for name, tensor in before.items():
        known = tensor.ndim > 1 if fisher is None else name in fisher
        if not known or not tensor.is_floating_point() or tensor.numel() < ENOUGH:
            continue
        old, new = _rows(tensor), _rows(after[name])
        weight = np.ones(len(old)) if fisher is None else _per_group(fisher[name], len(old))
        error = float(weight @ np.square(old - new).sum(1))
        if not np.isfinite(error):
            continue
        if error > 0:
            groups[name] = _groups(old, weight, error)
            moved[name] = float(np.square(old - new).mean() / max(old.var(), 1e-300))
    if not groups:
        notes.append("no rate-distortion bound: every tensor is stored without error")
        return None
    _note_moved(moved, notes)
    rows = tuple(_row(name, found, moved[name], written[name]) for name, found in groups.items())
    whole = _together(list(groups.values()))
    filled = water_fill(whole.counts, whole.powers, whole.weights, whole.error)
    return RateBound(
        dense=dense,
        weighted=fisher is not None,
        rows=rows,
        distortion=whole.error,
        written=sum(row.written for row in rows),
        shannon=filled.bits / 8,
        laplace=laplace_bits(whole.counts, whole.variances, whole.weights, whole.error) / 8,
        byte_worth=0.5 * 8 * filled.slope,
    )


def _together(parts: Sequence[_Groups]) -> _Groups:
    return _Groups(
        counts=np.concatenate([part.counts for part in parts]),
        powers=np.concatenate([part.powers for part in parts]),
        variances=np.concatenate([part.variances for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        error=sum(part.error for part in parts),
    )


def _row(name: str, found: _Groups, moved: float, written: int) -> TensorRate:
    shannon = water_fill(found.counts, found.powers, found.weights, found.error).bits / 8
    laplace = laplace_bits(found.counts, found.variances, found.weights, found.error) / 8
    return TensorRate(name, int(found.counts.sum()), len(found.counts), moved, written, shannon, laplace)


def _rows(tensor: torch.Tensor) -> np.ndarray:
    """[channels, entries]: dimension 0 against all others, or one row where channels are too small."""
    values = tensor.detach().double().cpu().numpy()
    matrix = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    return matrix if matrix.shape[1] >= ENOUGH else matrix.reshape(1, -1)


def _per_group(fisher: torch.Tensor, groups: int) -> np.ndarray:
    """Its mean over each group, [groups]."""
    return np.asarray(fisher.double().cpu().numpy().reshape(groups, -1).mean(1))


def _groups(rows: np.ndarray, weights: np.ndarray, error: float) -> _Groups:
    """One density for the tensor, stretched by each channel's own root mean square, which costs the bound nothing."""
    scales = np.sqrt(np.square(rows).mean(1))
    alive = scales > 0
    powers = np.zeros(len(rows))
    if alive.any():
        shape = entropy_power(spacing_entropy(rows[alive] / scales[alive, None]))
        powers[alive] = shape * scales[alive] ** 2
    variances = 2 * np.array([laplace_scale(row) for row in rows]) ** 2
    return _Groups(np.full(len(rows), float(rows.shape[1])), powers, variances, weights, error)


def _note_moved(moved: Mapping[str, float], notes: list[str]) -> None:
    far = [name for name, share in moved.items() if share >= 1]
    if far:
        notes.append(
            f"{', '.join(far[:3])}{' and more' * (len(far) > 3)}: further from the dense weights than zero is, so "
            "trained anew rather than coded; the rate-distortion bound says nothing of such a tensor"
        )
