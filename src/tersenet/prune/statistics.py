"""What batches of data say about the weights of a model: gradients, curvature, activations. Nothing of the model is
left changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tersenet.core.copying import copied
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import RunContext
from tersenet.forms import Target, detach, form_of, latent_of, weight_of, weights
from tersenet.models.build import load_weights
from tersenet.prune.activations import Activations
from tersenet.prune.scoring import Scoring
from tersenet.prune.second_order import BlockInverse
from tersenet.train.gradients import gradients, undisturbed
from tersenet.train.objectives import output_of

Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]
ByName = dict[str, torch.Tensor]


def _size(batch: Batch) -> int:
    return len(batch[0][0])


class Statistics:
    """Of the weights `targets` as they are now, each computed when first asked for and then kept: make another one
    after the model has changed.

    The model computes in eval mode. Gradients are those of the latents, also of frozen ones.
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[Target], context: RunContext, scoring: Scoring | None = None
    ) -> None:
        self.model, self.targets, self.context = model, tuple(targets), context
        self.scoring = scoring or Scoring()

    @cached_property
    def gradient(self) -> ByName:
        """∂L/∂w of the mean loss over all examples."""
        return self._mean(lambda batch: self._gradients(self.context.loss(self.model, batch)))

    @cached_property
    def fisher(self) -> ByName:
        """Mean over batches of the squared gradient of the batch's mean loss."""
        losses = self.context.loss
        return self._mean(lambda batch: [g.square() for g in self._gradients(losses(self.model, batch))], lambda _: 1)

    @cached_property
    def output_sensitivity(self) -> ByName:
        """Mean over examples of |∂‖F(x)‖²/∂w|, the gradient taken of each batch's mean."""

        def magnitudes(batch: Batch) -> list[torch.Tensor]:
            norm = output_of(self.model(*batch[0])).float().square().sum() / _size(batch)
            return [g.abs() for g in self._gradients(norm)]

        return self._mean(magnitudes)

    @cached_property
    def hessian(self) -> ByName:
        """Diagonal of the Hessian of the mean loss: the mean of z ⊙ Hz over random z of ±1."""
        noise = self.context.generator("hutchinson")

        def probed(batch: Batch) -> list[torch.Tensor]:
            gradients = self._gradients(self.context.loss(self.model, batch), again=True)
            probes = [self._probe(gradients, noise) for _ in range(self.scoring.probes)]
            return [torch.stack(found).mean(0) for found in zip(*probes, strict=True)]

        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            return self._mean(probed)

    @cached_property
    def inverse(self) -> dict[str, BlockInverse]:
        """Inverse of λI + 1/N Σ g_n g_nᵀ over the gradients of N batches, in blocks."""
        scoring = self.scoring
        found = {
            target.name: BlockInverse.start(latent.numel(), scoring.block, scoring.damping, latent)
            for target, latent in zip(self.targets, self._latents, strict=True)
        }
        total = sum(1 for _ in self._given())
        with self._undisturbed():
            for batch in self._batches():
                gradients = self._gradients(self.context.loss(self.model, batch))
                for target, gradient in zip(self.targets, gradients, strict=True):
                    found[target.name].add(gradient, total)
        return found

    @cached_property
    def activations(self) -> Activations:
        with self._undisturbed():
            inputs = (inputs for inputs, _ in self._batches())
            return Activations(self.model, self.targets, inputs, self.context.note)

    def initial(self, target: Target) -> torch.Tensor:
        """The weight before training; raises RecipeError where nobody knows it, or knows one of another shape."""
        found = self._initial.get(target.name)
        if found is None or tuple(found.shape) != target.shape:
            what = "is not among the initial weights" if found is None else "had another shape at the start"
            raise RecipeError(f"criterion 'movement': {target.name} {what}; leave it out with 'ignore'")
        weight = weight_of(target)
        return found.to(weight.device, weight.dtype)

    @cached_property
    def _initial(self) -> Mapping[str, torch.Tensor]:
        if self.scoring.initial is not None:
            twin = copied(self.model)
            for target in weights(twin):
                if form_of(target) is not None:
                    detach(target)
            load_weights(twin, self.scoring.initial)
            return {target.name: weight_of(target) for target in weights(twin)}
        found = self.context.initial_weights()
        if found is None:
            raise RecipeError(
                "criterion 'movement' needs the weights before training, and this recipe trains none ('train' is "
                "missing); name a file of them with scoring.initial"
            )
        return found

    @property
    def _latents(self) -> list[nn.Parameter]:
        return [latent_of(target) for target in self.targets]

    def _undisturbed(self) -> AbstractContextManager[None]:
        return undisturbed(self.model, self._latents)

    def _given(self) -> Iterator[Batch]:
        return self.context.batches(self.scoring.split, self.scoring.batches, self.scoring.batch_size)

    def _batches(self) -> Iterator[Batch]:
        """Raises DataError where there are none."""
        found = False
        for batch in self._given():
            found = True
            yield batch
        if not found:
            raise DataError("a criterion looks at batches of data, and there are none; choose one on weights alone")

    def _gradients(self, scalar: torch.Tensor, again: bool = False) -> list[torch.Tensor]:
        """Of each latent; `again`: to be differentiated once more."""
        return gradients(scalar, self._latents, again=again)

    def _probe(self, gradients: Sequence[torch.Tensor], noise: torch.Generator) -> list[torch.Tensor]:
        """z ⊙ Hz for one z of ±1."""
        z = [(torch.randint(2, g.shape, generator=noise) * 2 - 1).to(g) for g in gradients]
        product = sum(((g * sign).sum() for g, sign in zip(gradients, z, strict=True)), torch.zeros(()))
        if not product.requires_grad:  # the loss is linear in all weights
            return [torch.zeros_like(g) for g in gradients]
        found = torch.autograd.grad(product, self._latents, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(s) if h is None else s * h for s, h in zip(z, found, strict=True)]

    def _mean(
        self, values: Callable[[Batch], Sequence[torch.Tensor]], weight: Callable[[Batch], int] = _size
    ) -> ByName:
        """Mean over all batches of `values`, one tensor for each latent, weighted by their examples."""
        total = [w.new_zeros(w.shape, dtype=torch.promote_types(w.dtype, torch.float32)) for w in self._latents]
        weights = 0
        with self._undisturbed():
            for batch in self._batches():
                for sums, found in zip(total, values(batch), strict=True):
                    sums.add_(found.detach(), alpha=weight(batch))
                weights += weight(batch)
        return {t.name: sums / weights for t, sums in zip(self.targets, total, strict=True)}
