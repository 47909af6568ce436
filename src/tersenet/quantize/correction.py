"""Bias correction: what rounding has shifted in the mean, biases shift back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tersenet.quantize.calibration import Calibration, Call, Layer


class BiasCorrection:
    """Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
    §4.2, with expectations taken over data (appendix D).

    Layer by layer, the mean output of each channel becomes what it was in the model as it was when this object was
    made. A layer without a bias that a batch norm follows has the running mean shifted instead.
    """

    def __init__(self, calibration: Calibration, note: Callable[[str], None]) -> None:
        self.calibration, self.note = calibration, note
        self.wanted = means(calibration, calibration.layers)
        self.shared = Counter(
            id(module.bias) for layer in calibration.layers for module in layer.modules if module.bias is not None
        )

    def correctable(self, layer: Layer) -> list[nn.Module]:
        """Of the modules with this weight those whose mean output can be shifted; notes why others cannot."""
        reasons = {module: self._obstacle(layer, module) for module in layer.modules}
        for reason in dict.fromkeys(reason for reason in reasons.values() if reason is not None):
            self.note(f"the bias of {layer.target.name}'s layer is not corrected: {reason}")
        return [module for module, reason in reasons.items() if reason is None]

    def correct(self, layer: Layer, modules: Sequence[nn.Module]) -> None:
        """Shift the biases of `modules`, whose weight has just been quantized, all before it having been corrected."""
        for module in [called for called in self.wanted if called in modules]:  # the first called first
            amount = self.wanted[module] - means(self.calibration, [layer])[module]
            if bool(amount.isfinite().all()):
                _shift(layer, module, amount)
            else:
                self.note(f"the bias of {layer.target.name}'s layer is not corrected: it gives NaN or infinity")

    def _obstacle(self, layer: Layer, module: nn.Module) -> str | None:
        if module.bias is None:
            return None if module in layer.norms else "it has none, and no batch norm follows that could take it"
        if is_parametrized(module, "bias"):
            return "it is compressed itself"
        return "other layers share it" if self.shared[id(module.bias)] > 1 else None


def means(calibration: Calibration, layers: Sequence[Layer]) -> dict[nn.Module, torch.Tensor]:
    """Mean output of each channel, float64 [channels], over all positions and calls of the layers' modules."""
    sums: dict[nn.Module, torch.Tensor] = {}
    counts: Counter[nn.Module] = Counter()

    def add(call: Call) -> None:
        values = call.outputs
        total = values.sum(0, dtype=torch.float64)
        sums[call.module] = sums[call.module] + total if call.module in sums else total
        counts[call.module] += len(values)

    calibration.watch(layers, add)
    return {module: total / max(counts[module], 1) for module, total in sums.items()}


@torch.no_grad()
def _shift(layer: Layer, module: nn.Module, amount: torch.Tensor) -> None:
    """Add `amount` [channels] to what the module, or the batch norm after it, gives in the mean."""
    if module.bias is not None:
        assert isinstance(module.bias, nn.Parameter)
        module.bias.copy_(module.bias + amount)
        return
    mean = layer.norms[module].running_mean
    assert mean is not None
    mean.copy_(mean - amount)
