"""How the loss bends along the weights, on calibration data: second moments of inputs, gradients at outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.stage import RunContext
from tersenet.forms import Target, latent_of
from tersenet.quantize.calibration import Calibration, Call, Layer
from tersenet.quantize.feedback import Harm
from tersenet.train.gradients import gradients, undisturbed
from tersenet.train.objectives import output_of

Batches = Sequence[tuple[tuple[torch.Tensor, ...], torch.Tensor]]

DAMPING = 0.01
"""Share of the mean second moment that is added to each input's, as in GPTQ (arXiv 2210.17323, §3.3): what the data
does not tell shall not run away."""

POSITIONS = 8192
"""Of each layer's output that are looked at."""


def at_outputs(
    model: nn.Module, layers: Sequence[Layer], others: Sequence[Target], batches: Batches, context: RunContext
) -> tuple[dict[Target, np.ndarray], dict[Target, np.ndarray]]:
    """Fisher information per example: of each output of the layers [outputs], summed over positions, and of each entry
    of the others' weights.

    Where targets are classes, they are drawn from the model's own answers, so that it is the curvature of the loss and
    not the scatter of its gradients (Kunstner et al. 2019, arXiv 1905.12558); else they are those of the data. The loss
    is taken to be the mean over a batch's examples.
    """
    latents = [latent_of(target) for target in (*(layer.target for layer in layers), *others)]
    rows = {layer.target: np.zeros(layer.target.shape[0]) for layer in layers}
    entries = {target: np.zeros(target.shape) for target in others}
    examples, draws = 0, context.generator("fisher")
    with undisturbed(model, latents):
        for inputs, target in batches:
            drawn, size = _drawn(model, inputs, target, draws), len(target)
            with _outputs(layers) as seen:
                loss = context.loss(model, (inputs, drawn))
            values = [values for found in seen.values() for values in found]
            found = iter(gradients(loss, [*values, *latents[len(layers) :]]))  # type: ignore[list-item]
            for layer in seen:
                for _ in seen[layer]:
                    rows[layer.target] += size**2 * _by_output(layer, next(found))
            for other in others:
                entries[other] += size**2 * next(found).detach().double().square().cpu().numpy()
            examples += size
    return {t: g / examples for t, g in rows.items()}, {t: f / examples for t, f in entries.items()}


def _drawn(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], target: torch.Tensor, draws: torch.Generator
) -> torch.Tensor:
    """Classes of the same shape as `target`, from the model's answers (N, C, …); other targets are left, and so are
    negative ones, which mark what does not count."""
    if target.is_floating_point() or target.is_complex():
        return target
    with torch.no_grad():
        output = output_of(model(*inputs))
    if output.ndim != target.ndim + 1:
        return target
    shares = output.float().softmax(1).movedim(1, -1)
    found = torch.multinomial(shares.reshape(-1, shares.shape[-1]).cpu(), 1, generator=draws)
    return torch.where(target < 0, target, found.reshape(target.shape).to(target))


@contextmanager
def _outputs(layers: Sequence[Layer]) -> Iterator[dict[Layer, list[torch.Tensor]]]:
    """Within, what the layers give is kept."""
    seen: dict[Layer, list[torch.Tensor]] = {layer: [] for layer in layers}

    def keep(layer: Layer) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            seen[layer].append(output)
            return output.clone()  # what comes next may write into it

        return hook

    with ExitStack() as stack:
        for layer in layers:
            for module in layer.modules:
                stack.callback(module.register_forward_hook(keep(layer)).remove)
        yield seen


def _by_output(layer: Layer, gradient: torch.Tensor) -> np.ndarray:
    """Σ over positions of the squared gradient, [outputs]."""
    values = Call(layer, 0, layer.target.module, gradient, gradient).outputs
    return np.asarray(values.detach().double().square().sum(0).cpu().numpy())


class Moments:
    """What each layer gives in the model as it was when this object was made, and reads in the model as it is."""

    def __init__(self, calibration: Calibration, context: RunContext) -> None:
        self.calibration, self.context = calibration, context
        self.given: dict[Layer, list[torch.Tensor]] = {layer: [] for layer in calibration.layers}
        self.read: dict[Layer, list[torch.Tensor]] = {layer: [] for layer in calibration.layers}
        calibration.watch(calibration.layers, self._look)

    def power(self, layer: Layer) -> float:
        """Mean squared deviation of the outputs from their means, summed over outputs."""
        y = torch.cat(self.given[layer], 1).double()
        return float((y - y.mean(1, keepdim=True)).square().mean(1).sum())

    def curvature(self, layer: Layer, gain: np.ndarray) -> np.ndarray:
        """Of the harm along each entry of the weight alone, [rows, columns], with the inputs as they were."""
        squares = torch.stack(self.read[layer]).mean(0).double().cpu().numpy()
        return np.asarray(gain[:, None] * np.repeat(squares, gain.size // len(squares), 0))

    def harm(self, layer: Layer, weight: torch.Tensor, gain: np.ndarray, *, centred: bool) -> Harm:
        """Of changes of `weight`, with the inputs that the layer gets by now. The best weight is the one that gives
        with them what the layer gave before.

        centred: a bias takes the mean error of each output, which so does not count.
        """
        read: list[torch.Tensor] = []
        self.calibration.watch([layer], lambda call: read.append(call.rows_read(self._at(call))))
        x, y = torch.cat(read, 1).float(), torch.cat(self.given[layer], 1).float()
        if centred:
            x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        count = x.shape[1]
        gram = (x.mT @ x / count).double().cpu().numpy()
        cross = (y.mT @ x / count).double().cpu().numpy()
        ridge = DAMPING * gram.diagonal(axis1=1, axis2=2).mean(1) + np.finfo(np.float32).tiny
        gram = gram + ridge[:, None, None] * np.eye(gram.shape[1])
        old = layer.matrix(weight).double().cpu().numpy()
        best = np.linalg.solve(gram, (cross + ridge[:, None, None] * old).swapaxes(1, 2)).swapaxes(1, 2)
        rows, diagonal = gain.size, gram.diagonal(axis1=1, axis2=2)
        curvature = gain[:, None] * np.repeat(diagonal, rows // len(gram), 0)
        return Harm(np.ascontiguousarray(best.reshape(rows, -1)), curvature, gain, gram)

    def _look(self, call: Call) -> None:
        at = self._at(call)
        self.given[call.layer].append(call.rows_given(at))
        self.read[call.layer].append(call.rows_read(at).float().square().mean(1))

    def _at(self, call: Call) -> torch.Tensor:
        """Positions of the output, the same ones each time."""
        rows = len(call.outputs)
        most = -(-POSITIONS // (call.layer.calls * len(self.calibration.batches)))
        if rows <= most:
            return torch.arange(rows, device=call.y.device)
        generator = self.context.generator("positions", call.layer.target.name, call.number)
        return torch.randperm(rows, generator=generator)[:most].to(call.y.device)
