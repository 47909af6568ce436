"""`Evidence`: what is known of one weight beyond its values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tersenet.core.errors import ModelError
from tersenet.forms import Target
from tersenet.prune.scoring import Scoring
from tersenet.prune.second_order import BlockInverse
from tersenet.prune.statistics import Statistics


@dataclass(frozen=True)
class Evidence:
    """What `statistics` say of `target`; computed when it is first asked for, for all its weights at once.

    Tensors are on the device of the weight. Those of entries have its shape, those of filters are [filters] in the
    order of `groups.by_role`. Raises ModelError where a statistic is NaN or infinite.
    """

    target: Target
    statistics: Statistics

    @property
    def scoring(self) -> Scoring:
        return self.statistics.scoring

    @property
    def gradient(self) -> torch.Tensor:
        """∂L/∂w, of the mean loss over all batches."""
        return self._finite(self.statistics.gradient[self.target.name])

    @property
    def fisher(self) -> torch.Tensor:
        """Diagonal of the empirical Fisher matrix: the mean over batches of their squared gradients."""
        return self._finite(self.statistics.fisher[self.target.name])

    @property
    def hessian(self) -> torch.Tensor:
        """∂²L/∂w², of the mean loss over all batches, estimated (Hutchinson)."""
        return self._finite(self.statistics.hessian[self.target.name])

    @property
    def output_sensitivity(self) -> torch.Tensor:
        """Mean over batches of |∂‖F(x)‖²/∂w|, F the model's outputs."""
        return self._finite(self.statistics.output_sensitivity[self.target.name])

    @property
    def inverse(self) -> BlockInverse:
        """Inverse of the damped empirical Fisher matrix, block by block."""
        inverse = self.statistics.inverse[self.target.name]
        self._finite(inverse.blocks)
        return inverse

    @property
    def initial(self) -> torch.Tensor:
        """The weight before training."""
        return self.statistics.initial(self.target)

    @property
    def zeros(self) -> torch.Tensor:
        """Share of zeros in each filter's activations, [filters]."""
        return self._finite(self.statistics.activations.zeros(self.target))

    @property
    def mean_activation(self) -> torch.Tensor:
        """Mean |a| of each filter's activations, [filters]."""
        return self._finite(self.statistics.activations.mean(self.target))

    @property
    def gamma(self) -> torch.Tensor:
        """Scale of each filter in the batch norm that follows, [filters]."""
        return self.statistics.activations.gamma(self.target)

    def _finite(self, values: torch.Tensor) -> torch.Tensor:
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"{self.target.name}: gradients or activations on the data are NaN or infinite, so its weights cannot "
                "be scored by them; lower the learning rate"
            )
        return values
