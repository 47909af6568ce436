"""One layer after the other becomes factors: ranks are chosen, weights decomposed, modules replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.stage import RunContext
from tersenet.factorize import ranks as choose
from tersenet.factorize.conv import Weights, compose, decompose, unfold
from tersenet.factorize.layers import Cost, cost, dense_cost, parts_of, too_dear
from tersenet.factorize.moments import Moment, moment_of
from tersenet.factorize.svd import square_root
from tersenet.forms import Target, detach, form_of, weight_of
from tersenet.graph.edits import change
from tersenet.graph.factors import RANKS, Ranks, largest, shape_of, spelt

Option = float | Ranks
"""What a recipe gives for one layer: ranks, a share, or true."""


class Options(Protocol):
    """What of the stage's options is used here."""

    @property
    def decomposition(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def objective(self) -> str: ...
    @property
    def samples(self) -> int: ...


class Factorization:
    """given: path → what the layer is given (`layers.tried`). batches: of inputs, for objective 'outputs'."""

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        given: Mapping[str, torch.Tensor],
        batches: Sequence[tuple[torch.Tensor, ...]],
        context: RunContext,
    ) -> None:
        self.model, self.options, self.given, self.batches, self.context = model, options, given, batches, context
        self.kind = options.decomposition

    def run(self, target: Target, value: Option) -> bool:
        """Factorise the layer of `target`, unless there is nothing to gain; whether it was done."""
        parts = parts_of(target)
        moment = self._moment(target)
        roots = None if moment is None else [square_root(each) for each in self._metric(target, moment)]
        matrices = [self._matrices(part, roots[i] if roots else None) for i, part in enumerate(parts)]
        ranks = self._ranks(target, value, matrices)
        if ranks is None:
            return False
        given = self.given.get(target.slots[0].layer)
        dense, small = dense_cost(target.module, given), cost(target.module, self.kind, ranks, given)
        if too_dear(target.module, dense, small):
            self._leave(target, f"factors of rank {spelt(ranks)} would have {small}, the layer has {dense}")
            return False
        found = [self._decomposed(target, part, ranks, roots[i] if roots else None) for i, part in enumerate(parts)]
        exact, near = torch.cat(parts), torch.cat([compose(self.kind, weights, ranks) for weights in found])
        self._tell_zeros(target)
        last = self._replaced(target, ranks, found)
        if moment is not None and self._has_own_bias(last):
            _shift(last, exact - near, moment.mean)
        self._tell(target, ranks, exact, near, dense, small)
        return True

    def _moment(self, target: Target) -> Moment | None:
        if self.options.objective == "weights":
            return None
        if isinstance(target.module, nn.Embedding):
            self.context.note(
                f"{target.name}: an embedding computes nothing from its input, so its rows are kept close"
            )
            return None
        draw = partial(self.context.generator, "low rank", target.name)
        moment = moment_of(self.model, target.module, self.batches, self.options.samples, draw)
        if moment is None:
            self.context.note(f"{target.name}: the model does not call the layer, so its weight is kept close")
        return moment

    def _metric(self, target: Target, moment: Moment) -> torch.Tensor:
        """[groups, M, M]: errors in the mean are made up for by a bias, where the layer has one of its own."""
        return moment.covariance if self._has_own_bias(target.module) else moment.second

    def _has_own_bias(self, module: Any) -> bool:
        bias = getattr(module, "bias", None)
        users = [m for m in self.model.modules() for p in m._parameters.values() if p is bias]
        return bias is not None and len(users) == 1

    def _matrices(self, part: torch.Tensor, root: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        found = unfold(self.kind, part)
        return found if root is None or not found else (found[0] @ root,)

    def _ranks(self, target: Target, value: Option, matrices: Sequence[Sequence[torch.Tensor]]) -> Ranks | None:
        """By the way of the recipe; None, with a note, where it finds none."""
        most, way = largest(self.kind, shape_of(target.module)), self.options.way
        if isinstance(value, tuple):
            return value
        if way == "keep":
            return choose.by_share(value, most)
        if way == "parameters":
            dense = dense_cost(target.module, None).parameters
            found = choose.by_parameters(
                value, most, lambda r: cost(target.module, self.kind, r, None).parameters, dense
            )
            if found is None:
                self._leave(target, f"no factors have as little as {value:g} of its {dense:,} parameters")
            return found
        spectra = [[torch.linalg.svdvals(matrix) for matrix in own] for own in matrices]
        if way == "vbmf":
            return self._by_vbmf(target, spectra, matrices)
        together = [torch.stack(each).square().sum(0).sqrt() for each in zip(*spectra, strict=True)]
        return choose.by_energy(value, together) if way == "energy" else choose.by_error(value, together)

    def _by_vbmf(
        self,
        target: Target,
        spectra: Sequence[Sequence[torch.Tensor]],
        matrices: Sequence[Sequence[torch.Tensor]],
    ) -> Ranks | None:
        """Of several groups the largest."""
        found = [choose.by_vbmf(values, [m.shape for m in own]) for values, own in zip(spectra, matrices, strict=True)]
        ranks = tuple(map(max, zip(*found, strict=True)))
        if min(ranks) == 0:
            self._leave(target, "variational Bayes finds nothing but noise in its weight")
            return None
        return ranks

    def _decomposed(self, target: Target, part: torch.Tensor, ranks: Ranks, root: torch.Tensor | None) -> Weights:
        if not bool(part.isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be factorised; lower the learning rate")
        seed = int(torch.randint(2**31, (1,), generator=self.context.generator("cp", target.name)))
        return decompose(self.kind, part, ranks, seed, root)

    @torch.no_grad()
    def _replaced(self, target: Target, ranks: Ranks, found: Sequence[Weights]) -> nn.Module:
        """The last of the layers that now stand in place of the target's."""
        path, table = target.slots[0].layer, isinstance(target.module, nn.Embedding)
        if form_of(target) is not None:
            detach(target)
        change(self.model, path, f"{self.kind}_factors", dict(zip(RANKS[self.kind], ranks, strict=True)))
        factors = self.model.get_submodule(path)
        weights = [torch.cat(each) for each in zip(*found, strict=True)]
        if table:
            weights = [weights[1], weights[0].T]  # rows are looked up in the factor of the outputs
        layers = list(factors.children())
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
        return layers[-1]

    def _leave(self, target: Target, reason: str) -> None:
        self.context.note(f"{target.name} is left as it is: {reason}")

    def _tell_zeros(self, target: Target) -> None:
        zeros = 1 - float(weight_of(target).count_nonzero()) / weight_of(target).numel()
        if form_of(target) is not None or zeros > 0.01:
            self.context.note(f"{target.name}: {zeros:.1%} of it was zero, its factors are dense")

    def _tell(
        self, target: Target, ranks: Ranks, exact: torch.Tensor, near: torch.Tensor, dense: Cost, small: Cost
    ) -> None:
        off, size = exact - near, float(exact.norm())
        self.context.note(
            f"{target.name}: rank {spelt(ranks)} of {spelt(largest(self.kind, shape_of(target.module)))}; mean error "
            f"{float(off.abs().mean()):.3g}, relative {float(off.norm()) / max(size, 1e-300):.3g}; {dense} before, "
            f"{small} now"
        )


@torch.no_grad()
def _shift(layer: Any, lost: torch.Tensor, mean: torch.Tensor) -> None:
    """b ← b + (W − Ŵ)·E[x]; mean [groups, M]."""
    rows = lost.reshape(len(mean), -1, mean.shape[1])
    layer.bias.add_((rows @ mean[:, :, None]).flatten().to(layer.bias.dtype))
