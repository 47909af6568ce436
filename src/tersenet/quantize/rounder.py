"""All weights of a model rounded at one price per bit, by what is known of the model from calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pow, prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tersenet.artifact.tensor import encode_code
from tersenet.core.code import Code
from tersenet.core.errors import DataError, ModelError
from tersenet.core.stage import RunContext
from tersenet.forms import Form, Target, Uniform, attach, detach, form_of, latent_of, weight_of
from tersenet.forms.codebook import rounded
from tersenet.forms.dependent import Dependent
from tersenet.quantize.calibration import Calibration, Layer
from tersenet.quantize.correction import BiasCorrection
from tersenet.quantize.curvature import Moments, at_outputs
from tersenet.quantize.feedback import Grid, Harm, quantized
from tersenet.quantize.rates import Scan
from tersenet.quantize.searches import least_near

if TYPE_CHECKING:
    from tersenet.quantize.rdoq import RateDistortionQuantization

HIGHEST = 2**15 - 1
"""No index is larger."""

MAX_KERNEL = 64
"""Places of a convolution kernel, beyond which a coder sees them as columns like others."""

NO_INPUTS = "it is not in use by linear layers or convolutions alone"

MOST_COLUMNS = 12_000
"""Inputs of one output up to which errors are fed back: it takes a square matrix of them."""

DRY_STEP = 0.5
"""Of the standard deviation, where no value counts."""


@dataclass(frozen=True)
class Rounded:
    """Bytes of the coded weights with their steps, and the harm as estimated."""

    bytes: int
    harm: float


@dataclass(frozen=True, eq=False)
class _Choice:
    """A weight with one step: its form, what it holds, the coded bytes, and the harm."""

    form: Form
    weight: torch.Tensor
    bytes: int
    harm: float


class Rounder:
    """Rounds `targets` of `model`, from what they were when this object was made, each time that it is asked to."""

    def __init__(
        self, stage: RateDistortionQuantization, model: nn.Module, targets: Sequence[Target], context: RunContext
    ) -> None:
        self.stage, self.targets, self.context = stage, targets, context
        self.old = {target: weight_of(target).clone() for target in targets}
        forms = {target: form_of(target) for target in targets}
        self.support = {target: None if form is None else form.support for target, form in forms.items()}
        self.curvature = {target: np.ones(_matrix(self.old[target]).shape) for target in targets}
        self.gain: dict[Target, np.ndarray] = {}
        self.correctable: dict[Layer, list[nn.Module]] = {}
        self.biases: list[tuple[torch.Tensor, torch.Tensor]] = []
        if stage.weighting != "none" and not context.dry:
            self._calibrate(model)

    def round(self, price: float) -> Rounded:
        """Round all weights at `price`, harm per bit: with feedback, each layer by what the others before it give."""
        self._restore()
        in_order = {layer.target for layer in self.correctable}
        choices = [
            self._settle(target, Harm(_double(self.old[target]), self.curvature[target]), price)
            for target in self.targets
            if target not in in_order
        ]
        for layer, modules in self.correctable.items():
            centred = len(modules) == len(layer.modules)
            harm = self.moments.harm(layer, self.old[layer.target], self.gain[layer.target], centred=centred)
            choices.append(self._settle(layer.target, harm, price))
            self.correction.correct(layer, modules)
        return Rounded(sum(choice.bytes for choice in choices), sum(choice.harm for choice in choices))

    def least_bytes(self) -> int:
        """Of all weights when they are zero throughout."""
        nothing = [np.zeros(self.curvature[target].shape, np.int32) for target in self.targets]
        return sum(self._choice(t, n, n, 1.0, 0.0).bytes for t, n in zip(self.targets, nothing, strict=True))

    def first_price(self, budget: int) -> float:
        """About that at which `budget` bytes are taken: the slope of D = h σ² 2^(−2R) / 2, R bits for every entry."""
        sizes = np.array([self.old[target].numel() for target in self.targets])
        powers = [np.mean(self.curvature[t]) * float(self.old[t].float().square().mean()) for t in self.targets]
        mean = float(np.average(powers, weights=sizes))
        bits = 8 * budget / int(sizes.sum())
        return max(log(2) * mean * pow(4.0, -min(bits, 16.0)), 1e-100)

    # --- what is known of the model -----------------------------------------------------------------------------------

    def _calibrate(self, model: nn.Module) -> None:
        stage, context = self.stage, self.context
        batches = list(context.batches(stage.split, stage.batches, stage.batch_size))
        if not batches:
            raise DataError(
                f"{stage.method}: measures harm on batches of the {stage.split} data, and there are none; give at "
                "least one example"
            )
        calibration = Calibration(model, self.targets, [inputs for inputs, _ in batches])
        layers, self.moments = calibration.layers, Moments(calibration, context)
        plain = {layer.target for layer in layers}
        others = [target for target in self.targets if target not in plain]
        rows, entries = self._relative(layers, others)
        if stage.weighting == "fisher":
            found = at_outputs(model, layers, others, batches, context)
            if any(values.any() for part in found for values in part.values()):
                rows, entries = found
            else:
                context.note("the loss has no gradients on this data; errors of outputs are weighed in their place")
        self.gain = rows
        self.curvature = {layer.target: self.moments.curvature(layer, rows[layer.target]) for layer in layers}
        self.curvature |= {target: _matrix(torch.from_numpy(entries[target])).numpy() for target in others}
        for target, values in self.curvature.items():
            if not np.isfinite(values).all():
                raise ModelError(f"{target.name}: its layer reads or gives NaN or infinity on the calibration data")
        if stage.feedback:
            self._prepare_feedback(calibration, others)

    def _relative(
        self, layers: Sequence[Layer], others: Sequence[Target]
    ) -> tuple[dict[Target, np.ndarray], dict[Target, np.ndarray]]:
        """Errors of outputs, and of weights that are not those of layers, by their own power."""
        rows = {
            layer.target: np.full(layer.target.shape[0], 1 / max(self.moments.power(layer), 1e-30)) for layer in layers
        }
        powers = {target: max(float(self.old[target].double().square().sum()), 1e-30) for target in others}
        return rows, {target: np.full(target.shape, 1 / powers[target]) for target in others}

    def _prepare_feedback(self, calibration: Calibration, others: Sequence[Target]) -> None:
        note, wide = self.context.note, [layer for layer in calibration.layers if _columns(layer) > MOST_COLUMNS]
        for target in others:
            note(f"{target.name} ({target.kind}) is rounded without feedback: {NO_INPUTS}")
        for layer in wide:
            note(f"{layer.target.name} is rounded without feedback: it has more than {MOST_COLUMNS:,} inputs")
        self.correction = BiasCorrection(calibration, note)
        layers = [layer for layer in calibration.layers if layer not in wide]
        self.correctable = {layer: self.correction.correctable(layer) for layer in layers}
        modules = [module for layer in layers for module in layer.modules]
        norms = [norm.running_mean for layer in layers for norm in layer.norms.values()]
        changed = [*(module.bias for module in modules), *norms]
        self.biases = [(one, one.detach().clone()) for one in changed if isinstance(one, torch.Tensor)]

    @torch.no_grad()
    def _restore(self) -> None:
        for target in self.targets:
            if form_of(target) is not None:
                detach(target)
            latent_of(target).copy_(self.old[target])
        for bias, values in self.biases:
            bias.copy_(values)

    # --- one weight ---------------------------------------------------------------------------------------------------

    def _settle(self, target: Target, harm: Harm, price: float) -> _Choice:
        """Round this weight with its best step, and give it its form."""
        choice = self._best(target, harm, price)
        attach(target, choice.form)
        with torch.no_grad():
            latent_of(target).copy_(choice.weight)
        return choice

    def _best(self, target: Target, harm: Harm, price: float) -> _Choice:
        old = self.old[target].double()
        spread = float(old.std(correction=0)) or float(old.abs().max()) or 1.0
        if self.stage.step is not None or self.context.dry:
            return self._at(target, harm, price, spread * (self.stage.step or DRY_STEP))
        low, high = float(old.abs().max()) / HIGHEST, 4 * float(old.abs().max()) or 1.0
        curvature = float(np.mean(harm.curvature[harm.weight != 0])) if harm.weight.any() else 0.0
        first = (12 * price / (log(2) * curvature)) ** 0.5 if curvature else high
        first = min(max(first / (1 if self.stage.states is None else 1.5), 2 * low), high / 2)
        known: dict[int, _Choice] = {}

        def cost(quarter: int) -> float:
            step = first * 2 ** (quarter / 4)
            if not low <= step <= high:
                return float("inf")
            known[quarter] = self._at(target, harm, price, step)
            return known[quarter].harm + 8 * price * known[quarter].bytes

        return known[least_near(cost, 0, (2, 1))]

    def _at(self, target: Target, harm: Harm, price: float, step: float) -> _Choice:
        from tersenet.forms.kernels.trellis import ONE, TABLES

        states, support = self.stage.states, self.support[target]
        held = float(rounded(torch.tensor([step]), self.stage.precision))
        if abs(held / step - 1) > 0.01:
            raise ModelError(f"{target.name}: a step of {step:.2g} does not fit float16; use precision: float32")
        shape = harm.weight.shape
        allowed = np.ones(shape, np.bool_) if support is None else _matrix(support).cpu().numpy()
        reach = 1.5 * float(np.abs(harm.weight).max(initial=0)) / held / (1 if states is None else 2) + 3
        grid = Grid(held, min(int(reach), HIGHEST), allowed, ONE if states is None else TABLES[states])
        found = quantized(harm, grid, scan_of(self.old[target].shape), price)
        return self._choice(target, found.indices, found.numbers, held, found.harm)

    def _choice(self, target: Target, indices: np.ndarray, numbers: np.ndarray, step: float, harm: float) -> _Choice:
        old, steps = self.old[target], torch.tensor([step])
        form: Form
        if self.stage.states is None:
            low, high = min(int(indices.min()), 0), max(int(indices.max()), 0)
            lows = torch.tensor([low], dtype=torch.int32)
            form = Uniform(
                steps, lows, max(high - low + 1, 2), support=self.support[target], precision=self.stage.precision
            )
        else:
            most = max(int(np.abs(indices).max()), 1)
            form = Dependent(
                steps, most, self.stage.states, support=self.support[target], precision=self.stage.precision
            )
        weight = (torch.from_numpy(numbers).to(steps.dtype) * steps).reshape(old.shape).to(old)
        with torch.no_grad():
            size = coded_bytes(target.name, form.to(old.device).encode(weight), self.stage.coder)
        return _Choice(form, weight, size, harm)


def coded_bytes(name: str, code: Code, coder: str) -> int:
    """What a file's streams and tables of this weight take."""
    entry = encode_code(name, code, coder)
    return sum(len(payload) for payload in entry.payloads)


def scan_of(shape: Sequence[int]) -> Scan:
    """How a coder sees a weight: rows × channels × kernel."""
    if len(shape) < 2:
        return Scan(1, prod(shape), 1, 2)
    kernel = prod(shape[2:])
    if kernel == 1 or kernel > MAX_KERNEL:
        return Scan(shape[0], prod(shape[1:]), 1, 2)
    return Scan(shape[0], shape[1], kernel, max(shape[-1], 2))


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Rows, that is dimension 0, by all others."""
    return tensor.reshape(tensor.shape[0], -1)


def _columns(layer: Layer) -> int:
    return prod(layer.target.shape[1:])


def _double(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(_matrix(tensor).double().cpu().numpy())
